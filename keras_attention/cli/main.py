"""`keras-attention`: the list of commands; `--help` does not load TensorFlow."""

import importlib

import typer

from keras_attention import __version__

app = typer.Typer(
    name="keras-attention",
    help="Train and export Keras models with attention, verify the artifacts.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keras-attention {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    pass


# Module of cli/ -> its commands, in the order of `--help`. The README's table lists
# them too; tests/cli/listed_test.py compares the two.
COMMANDS = {
    "demo": ["demo"],
    "export": ["export"],
    "verify": ["verify"],
    "info": ["info"],
    "scan": ["scan"],
    "serve": ["serve"],
    "quantize": ["quantize", "compare"],
    "train_tokenizer": ["train-tokenizer"],
    "fine_tune": ["fine-tune"],
    "publish": ["publish", "rollback", "restore"],
    "launch": ["launch"],
}

# The modules load neither TensorFlow nor Keras; their functions do.
for _module, _names in COMMANDS.items():
    _commands = importlib.import_module(f"keras_attention.cli.{_module}")
    for _name in _names:
        # What comes after the script of `launch` is for the script.
        _settings = {"allow_interspersed_args": _name != "launch"}
        _command = getattr(_commands, _name.replace("-", "_"))
        app.command(_name, context_settings=_settings)(_command)


def main() -> None:
    """Runs the command line."""
    app()


if __name__ == "__main__":
    main()
