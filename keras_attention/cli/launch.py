"""`keras-attention launch`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_attention.cli.console import failing_clearly


def launch(
    script: Annotated[Path, typer.Argument(help="The Python script of the training.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Its arguments, options too.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="The number of processes.")] = 2,
) -> None:
    """Run a training script in several processes of this machine.

    Each process gets its place in TF_CONFIG, for MultiWorkerMirroredStrategy. Options
    of this command come before the script. When one process fails the others are
    ended, and its exit status is that of the command.
    """
    with failing_clearly():
        from keras_attention.training import launcher

        status = launcher.launch(script, arguments or (), num_workers=workers)
    raise typer.Exit(status)
