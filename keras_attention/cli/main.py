"""`keras-attention`: the commands, without loading TensorFlow to list them."""

import importlib

import typer

from keras_attention import __version__

app = typer.Typer(
    name="keras-attention",
    help="Export Keras models with attention, prove the export, look inside.",
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


# The modules load neither TensorFlow nor Keras; their functions do.
for _name in ("demo", "export", "verify", "info", "scan", "serve"):
    _module = importlib.import_module(f"keras_attention.cli.{_name}")
    app.command(_name)(getattr(_module, _name))
_quantize = importlib.import_module("keras_attention.cli.quantize")
for _name in ("quantize", "compare"):
    app.command(_name)(getattr(_quantize, _name))
_train = importlib.import_module("keras_attention.cli.train_tokenizer")
app.command("train-tokenizer")(_train.train_tokenizer)
_publish = importlib.import_module("keras_attention.cli.publish")
for _name in ("publish", "rollback", "restore"):
    app.command(_name)(getattr(_publish, _name))


def main() -> None:
    """Runs the command line."""
    app()


if __name__ == "__main__":
    main()
