"""`scan_artifact`: checks an artifact before it is loaded.

Every file is compared with the manifest. Then the graphs are read as data: operators
outside an allow-list are refused, in nested functions and graphs too. A manifest is not
a digital signature: whoever can change the files can change the manifest. It detects
accidents; the allow-list limits what an attacker could do.

The reading itself is in one file per format next to this one.
"""

from dataclasses import dataclass
from pathlib import Path

from keras_attention.export.artifact.manifest import (
    MANIFEST_NAME,
    artifact_folder,
    check_files,
    read_manifest,
)

_SINGLE_FILES = {".keras": "keras", ".onnx": "onnx", ".tflite": "litert"}


@dataclass(frozen=True)
class Scan:
    """What `scan_artifact` read, and did not refuse.

    Attributes:
        path: The artifact.
        format: `"saved_model"`, `"onnx"`, `"litert"` or `"keras"`.
        checksums: Whether the files were compared with a manifest; a single `.onnx`,
            `.tflite` or `.keras` file has none.
        operators: The operators that the artifact uses; the classes of a `.keras` file.
    """

    path: Path
    format: str
    checksums: bool
    operators: tuple[str, ...]


def scan_artifact(path: str | Path) -> Scan:
    """Refuses an artifact that was changed or could do more than compute.

    Nothing is loaded or run. A folder must have exactly the files of its manifest.json,
    with their sha256. A SavedModel may use only known operators that read and write no
    file. ONNX may use only operators of the standard and of onnxruntime, with weights
    inside the folder. A `.keras` file may use only classes of Keras, KerasHub and this
    library, without `Lambda`, and must not be a zip bomb. A LiteRT file may use only
    built-in operators without a state, with weights inside the file.

    Args:
        path: An artifact's folder, a base folder (its highest version is scanned), or
            a single `.onnx`, `.tflite` or `.keras` file.

    Returns:
        The format and the operators that were found.

    Raises:
        FileNotFoundError: If there is no artifact.
        ValueError: If the artifact is refused. The error lists every reason.

    Example:
    ```python
    ka.scan_artifact("served/minilm").operators
    ```
    """
    path = Path(path)
    if path.is_file() and path.suffix in _SINGLE_FILES:
        kind = _SINGLE_FILES[path.suffix]
        return Scan(path, kind, False, _checked(path))
    folder = artifact_folder(path)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    files = [folder / name for name in manifest.files]
    graphs = [f for f in files if f.suffix in (*_SINGLE_FILES, ".pbtxt")]
    # A graph in a subfolder is scanned too: a loader could be pointed to it.
    graphs += [f for f in files if f.name in ("saved_model.pb", "saved_model.cpb")]
    if not graphs:
        raise ValueError(
            "There is nothing to open in the artifact. Expected a saved_model.pb, "
            f".onnx or .tflite files. Received: {sorted(manifest.files)}, in {folder}"
        )
    found: set[str] = set()
    for graph in graphs:
        found |= set(_checked(graph))
    return Scan(folder, manifest.format, True, tuple(sorted(found)))


def refuse_unsafe(path: Path) -> None:
    """Scans an artifact that is about to be loaded, if it has a manifest."""
    folder = path if path.is_dir() else path.parent
    if (folder / MANIFEST_NAME).exists():
        scan_artifact(folder)


def inspect_file(file: Path) -> tuple[set[str], list[str]]:
    """Reads one file; returns `(operators or classes, problems)`.

    Args:
        file: A file of one of the formats that are known here.
    """
    if file.suffix == ".keras":
        from keras_attention.export.scanning.keras_file import inspect_keras

        return inspect_keras(file)
    if file.suffix == ".onnx":
        from keras_attention.export.scanning.onnx import inspect_onnx

        return inspect_onnx(file)
    if file.suffix == ".tflite":
        from keras_attention.export.scanning.litert import inspect_litert

        return inspect_litert(file)
    if file.suffix in (".pbtxt", ".cpb"):
        return set(), [f"{file.name} is a form of SavedModel that is not scanned"]
    from keras_attention.export.scanning.saved_model import inspect_saved_model

    return inspect_saved_model(file)


def _checked(file: Path) -> tuple[str, ...]:
    operators, problems = inspect_file(file)
    if problems:
        raise ValueError(
            "The artifact is refused: it could do more than compute, or cannot be "
            "read. Expected only operators and classes that are known to be harmless. "
            f"Received: {'; '.join(sorted(set(problems)))}, in {file}"
        )
    return tuple(sorted(operators))
