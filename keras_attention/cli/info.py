"""`keras-attention info`."""

import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_attention.cli.console import (
    console,
    failing_clearly,
    json_option,
    print_json,
)
from keras_attention.untrusted import printable


def info(
    path: Annotated[
        Path,
        typer.Argument(help="An artifact, a Hugging Face folder or a .keras file."),
    ],
    as_json: bool = json_option(),
) -> None:
    """Describe an artifact or a model without loading it."""
    with failing_clearly(as_json):
        described = describe(path)
    if as_json:
        print_json(described)
        return
    for name, value in described.items():
        if name == "config" and "layers" in described:
            continue  # the layers are what it says; programs get all of it
        console.print(printable(name), style="bold", end=": ", markup=False)
        console.print(_in_words(value), markup=False)


def describe(path: Path) -> dict[str, Any]:
    """Describes what is at `path`, from its manifest, config or archive."""
    from keras_attention.export.artifact.folders import artifact_folder
    from keras_attention.export.artifact.manifest import MANIFEST_NAME

    if path.suffix == ".keras" and path.is_file():
        return _keras_file(path)
    if path.is_dir():
        folder = artifact_folder(path)
        if (folder / MANIFEST_NAME).is_file():
            return _artifact(folder)
        if (folder / "config.json").is_file():
            return _checkpoint(folder)
    raise FileNotFoundError(
        f"The path is neither an artifact (a folder with {MANIFEST_NAME}), nor a "
        "Hugging Face folder (with config.json), nor a .keras file. "
        f"Received: {path}"
    )


def _artifact(folder: Path) -> dict[str, Any]:
    from keras_attention.export.artifact.manifest import read_manifest

    manifest = read_manifest(folder)
    results = manifest.verification
    errors = [result["max_abs_error"] for result in results]
    return {
        "path": str(folder),
        "format": manifest.format,
        "created": manifest.created,
        "signatures": {
            name: {
                "inputs": {key: str(info) for key, info in one.inputs.items()},
                "outputs": {key: str(info) for key, info in one.outputs.items()},
            }
            for name, one in manifest.signatures.items()
        },
        "weights": f"{manifest.weights_bytes:,} bytes",
        "files": {name: entry["bytes"] for name, entry in manifest.files.items()},
        "verified": f"{len(results)} cases, worst error {max(errors, default=0):.1e}",
        "versions": manifest.versions,
        "op_libraries": manifest.op_libraries,
    }


def _checkpoint(folder: Path) -> dict[str, Any]:
    from keras_attention import untrusted
    from keras_attention.weights.files import open_tensors

    shapes = {k: tensor.shape for k, tensor in open_tensors(folder).items()}
    numbers = [_product(shape) for shape in shapes.values()]
    return {
        "path": str(folder),
        "format": "Hugging Face folder",
        "config": untrusted.read_json(folder / "config.json"),
        "tensors": f"{len(shapes)} with {sum(numbers):,} numbers",
        "files": {p.name: p.stat().st_size for p in sorted(folder.iterdir())},
    }


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _keras_file(path: Path) -> dict[str, Any]:
    from keras_attention import untrusted
    from keras_attention.export.scanning.keras_file import read_member

    damaged = (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError)
    try:
        with untrusted.open_plain(path) as file, zipfile.ZipFile(file) as archive:
            config = read_member(archive, "config.json", path)
            metadata = read_member(archive, "metadata.json", path)
            if not (isinstance(config, dict) and isinstance(metadata, dict)):
                raise KeyError("an object in config.json and metadata.json")
            parts = archive.infolist()
            weights = sum(x.file_size for x in parts if x.filename.endswith(".h5"))
    except (*damaged, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            "The file is not a complete .keras archive: "
            f"{untrusted.clip(error)}. Received: {untrusted.clip(path)}"
        ) from error
    arguments = config.get("config")
    arguments = arguments if isinstance(arguments, dict) else {}
    return {
        "path": str(path),
        "format": ".keras",
        "class": config.get("registered_name") or config.get("class_name"),
        "name": arguments.get("name"),
        "keras": metadata.get("keras_version"),
        "saved": metadata.get("date_saved"),
        "weights": f"{weights:,} bytes",
        **_layers(arguments),
        "config": config.get("config"),
    }


def _layers(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the inputs and the layers of a functional or sequential model.

    Of a class of its own, they are the arguments that are no other object.
    """
    layers = arguments.get("layers")
    if not isinstance(layers, list):
        plain = (str, int, float, bool, type(None))
        found = {k: v for k, v in arguments.items() if isinstance(v, plain)}
        return {"layers": "those of the class", "arguments": found}
    kinds: Counter[str] = Counter()
    inputs = {}
    for layer in layers:
        settings = layer.get("config") if isinstance(layer, dict) else None
        if not isinstance(settings, dict):
            raise ValueError(
                "The list of layers in config.json is damaged: expected an object with "
                f"'config'. Received: {printable(layer)[:200]}"
            )
        name = layer.get("class_name")
        if name == "InputLayer":
            shape = settings.get("batch_shape") or settings.get("batch_input_shape")
            sizes = ["?" if size is None else size for size in (shape or ())]
            dtype = settings.get("dtype")
            inputs[settings.get("name")] = f"{dtype} [{', '.join(map(str, sizes))}]"
        else:
            kinds[str(name)] += 1
    counts = dict(sorted(kinds.items()))
    return {"inputs": inputs, "layers": counts}


def _in_words(value: Any, indent: int = 2) -> str:
    """Formats nested dicts as indented lines."""
    if not isinstance(value, dict):
        return printable(value)
    pad = " " * indent
    lines = [
        f"{pad}{printable(k)}: {_in_words(v, indent + 2)}" for k, v in value.items()
    ]
    return "\n" + "\n".join(lines) if lines else "none"
