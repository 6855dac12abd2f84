"""`keras-attention export`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_attention.cli.console import (
    console,
    failing_clearly,
    json_option,
    print_json,
    start_tensorflow,
    working,
)


def export(
    model: Annotated[
        Path,
        typer.Argument(help="A Hugging Face folder, or a .keras file."),
    ],
    path: Annotated[
        Path,
        typer.Argument(help="Base folder of a SavedModel, or folder of the files."),
    ],
    format: Annotated[
        str, typer.Option("--format", "-f", help="saved_model, onnx or litert.")
    ] = "saved_model",
    signature: Annotated[
        list[str] | None,
        typer.Option("--signature", "-s", help="Export only this one; repeatable."),
    ] = None,
    version: Annotated[
        int | None, typer.Option(help="Version folder of a SavedModel; default: next.")
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX operator set, 18 to 26.")] = 23,
    static_axis: Annotated[
        list[str] | None,
        typer.Option(help="LiteRT: an axis and its size, sequence=128; repeatable."),
    ] = None,
    jit_compile: Annotated[
        bool, typer.Option("--jit-compile", help="SavedModel: compile it with XLA.")
    ] = False,
    length_bucket: Annotated[
        list[int] | None,
        typer.Option(help="SavedModel: a length to round up to; repeatable."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest error allowed; 1e-5, or 5e-2 in half precision."),
    ] = None,
    as_json: bool = json_option(),
) -> None:
    """Export a model, verify that its outputs are the same, then put it in place."""
    with failing_clearly(as_json):
        sizes = dict(map(_axis_size, static_axis)) if static_axis else None
        with working("Loading TensorFlow and the model", quiet=as_json):
            start_tensorflow()
            loaded = load_model(model)
        from keras_attention.export.api import export_model
        from keras_attention.export.artifact.manifest import read_manifest

        with working("Exporting", quiet=as_json) as update:
            folder = export_model(
                loaded,
                path,
                format,
                version=version,
                signatures=signature or None,
                opset=opset,
                static_axes=sizes,
                jit_compile=jit_compile,
                length_buckets=sorted(length_bucket or ()),
                tolerance=tolerance,
                on_progress=update,
            )
        manifest = read_manifest(folder)
        if as_json:
            print_json({"path": str(folder), "verification": manifest.verification})
            return
        from keras_attention.cli.verify import print_results

        print_results(manifest.verification)
        console.print(f"Exported to [bold]{folder}[/bold]")


def _axis_size(text: str) -> tuple[str, int]:
    name, _, size = text.partition("=")
    if not name or not size.isdecimal():
        raise ValueError(
            "`--static-axis` takes the name of an axis and its size, e.g. "
            f"--static-axis sequence=128. Received: {text!r}"
        )
    return name, int(size)


def load_model(path: Path) -> Any:
    """Loads a model from a Hugging Face folder or a `.keras` file."""
    from keras_attention.models.loading import load_model as load_keras_file
    from keras_attention.weights.pretrained import from_pretrained

    if path.is_dir():
        return from_pretrained(path)
    if path.suffix == ".keras":
        return load_keras_file(path)
    raise ValueError(
        "The model must be a folder in Hugging Face's format or a .keras file. "
        f"Received: {path}"
    )
