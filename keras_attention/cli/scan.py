"""`keras-attention scan`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_attention.cli.console import (
    console,
    failing_clearly,
    json_option,
    print_json,
    shown,
)

_FILES = (".onnx", ".tflite", ".keras")


def scan(
    path: Annotated[
        Path,
        typer.Argument(help="An artifact, a base folder, a .onnx, .tflite or .keras."),
    ],
    max_tensor_bytes: Annotated[
        int | None,
        typer.Option(
            min=1, help="The largest tensor that constants may make. Default: 2 GiB."
        ),
    ] = None,
    as_json: bool = json_option(),
) -> None:
    """Refuse, before loading, an artifact that was changed or could do harm.

    Exit status: 0 if it is in order, 1 if it is refused or cannot be read.
    """
    from keras_attention.export.scanning.scan import scan_artifact

    with failing_clearly(as_json):
        _check_kind(path)
        found = scan_artifact(path, max_tensor_bytes=max_tensor_bytes)
    if as_json:
        print_json({**vars(found), "path": str(found.path)})
        return
    files = "files as exported" if found.checksums else "no manifest to compare with"
    console.print(
        f"{shown(found.path)}: [green]in order[/green] ({files}, "
        f"{len(found.operators)} kinds of operators, all known)"
    )


def _check_kind(path):
    if path.is_file() and path.suffix not in _FILES:
        raise ValueError(
            "This file is of no kind that can be scanned. Expected the folder of an "
            f"artifact, a base folder, or a file that ends in {', '.join(_FILES)}. "
            f"Received: {path}"
        )
