"""`scan_artifact`: checks an artifact before it is loaded.

Every file is compared with the manifest. Then the graphs are read as data: operators
outside an allow-list are refused, in nested functions and graphs too. A manifest is not
a digital signature: whoever can change the files can change the manifest. It detects
accidents; the allow-list limits what an attacker could do.

The reading itself is in one file per format next to this one.
"""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from keras_attention.export.artifact.folders import GRAPH_NAMES, artifact_folder
from keras_attention.export.artifact.manifest import (
    MANIFEST_NAME,
    Manifest,
    check_files,
    read_manifest,
)
from keras_attention.export.artifact.private_copy import (
    add_to_copy,
    private_copy,
)
from keras_attention.untrusted import clip, printable

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


def scan_artifact(path: str | Path, *, max_tensor_bytes: int | None = None) -> Scan:
    """Refuses an artifact that was changed or could do more than compute.

    Nothing is loaded or run. A folder must have exactly the files of its manifest.json,
    with their sha256, and must not contain another artifact. A SavedModel may use only
    known operators that read and write no file but its own checkpoint, and whose
    signatures change no variable or table. ONNX may use only operators of the standard
    and of onnxruntime, with weights inside the folder. A `.keras` file may use only
    classes of Keras, KerasHub and this library, without `Lambda`, and must not be a zip
    bomb. A LiteRT file may use only built-in operators without a state, with weights
    inside the file. In every format, what the graph alone needs of memory is limited,
    and a loop whose condition never changes is refused.

    Args:
        path: An artifact's folder, a base folder (its highest version is scanned), or
            a single `.onnx`, `.tflite` or `.keras` file.
        max_tensor_bytes: The largest tensor that constants of a graph may determine, in
            bytes. By default that of the environment variable
            `KERAS_ATTENTION_MAX_TENSOR_BYTES`, or 2 GiB.

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
        found = _checked(path, max_tensor_bytes=max_tensor_bytes)
        return Scan(path, kind, False, found)
    folder = artifact_folder(path)
    manifest = read_manifest(folder)
    graphs = {
        folder / name: folder / name for name in manifest.files if _is_graph(Path(name))
    }
    found = _compared_and_scanned(folder, manifest, None, graphs, max_tensor_bytes)
    if not graphs:
        raise ValueError(
            "There is nothing to open in the artifact. Expected a saved_model.pb, "
            f".onnx or .tflite files. Received: {sorted(manifest.files)}, in "
            f"{printable(folder)}"
        )
    return Scan(folder, manifest.format, True, found)


def _compared_and_scanned(
    folder: Path,
    manifest: Manifest,
    copies: dict[str, Path] | None,
    graphs: dict[Path, Path],
    most: int | None,
) -> tuple[str, ...]:
    """Compares the files with the manifest, and meanwhile scans the graphs.

    Args:
        folder: The artifact.
        manifest: Its manifest.
        copies: See `check_files`.
        graphs: File to the path that errors show.
        most: See `scan_artifact`.
    """
    found: set[str] = set()
    error = None
    with ThreadPoolExecutor(1) as pool:  # to hash does not hold Python's lock
        compared = pool.submit(check_files, folder, manifest, copies)
        try:
            for file, shown in graphs.items():
                if file.is_file() and not file.is_symlink():
                    more = _checked(file, folder, shown=shown, max_tensor_bytes=most)
                    found |= set(more)
        except Exception as raised:
            error = raised
        compared.result()  # that a file was changed is the first thing to know
    if error is not None:
        raise error
    return tuple(sorted(found))


@contextlib.contextmanager
def checked_copy(
    graph: Path,
    *,
    allow_unverified: bool = False,
    max_tensor_bytes: int | None = None,
) -> Iterator[tuple[Path, Manifest | None]]:
    """Yields a private copy of an artifact that was found to be in order.

    The copy is compared with the manifest and scanned, so what is loaded from it is
    what was checked. It is removed at the end.

    Args:
        graph: The folder of a SavedModel, or an `.onnx` or `.tflite` file.
        allow_unverified: Whether an artifact without a manifest is scanned and copied
            too, instead of refused.
        max_tensor_bytes: See `scan_artifact`.

    Yields:
        The path of the copy, and the manifest or `None`.
    """
    folder = graph if graph.is_dir() else graph.parent
    manifest = None
    if (folder / MANIFEST_NAME).exists():
        manifest = read_manifest(folder)
    elif not allow_unverified:
        raise ValueError(
            f"There is no {MANIFEST_NAME}, so nothing shows that these are the files "
            "that were exported. Expected an artifact of `export_model`; if you trust "
            "whoever wrote the files, pass allow_unverified=True (on the command line "
            f"--allow-unverified). Received: {printable(graph)}"
        )
    names = _needed(folder) if graph.is_dir() else [graph.name]
    with _checked_copies(folder, names, manifest, max_tensor_bytes) as copy:
        yield copy if graph.is_dir() else copy / graph.name, manifest


@contextlib.contextmanager
def whole_copy(folder: Path, *, scan: bool = True) -> Iterator[tuple[Path, Manifest]]:
    """Yields a private copy of all files of an artifact that was found to be in order.

    Whoever opens several signatures, or reads its cases too, copies and compares the
    files once. The copy is removed at the end.

    Args:
        folder: The artifact.
        scan: Whether the graphs are scanned too. If not, whoever opens the copy calls
            `scan_graphs`.

    Yields:
        The path of the copy, and the manifest.
    """
    manifest = read_manifest(folder)
    names = list(manifest.files)
    with _checked_copies(folder, names, manifest, None, scan=scan) as copy:
        yield copy, manifest


def scan_graphs(folder: Path) -> None:
    """Refuses a folder with a graph that could do more than compute.

    Args:
        folder: An artifact that nobody else can change. Its files are not compared
            with a manifest.
    """
    for file in sorted(folder.rglob("*")):
        if _is_graph(file) and not file.is_dir():
            _checked(file)


@contextlib.contextmanager
def _checked_copies(
    folder: Path,
    names: list[str],
    manifest: Manifest | None,
    most: int | None,
    *,
    scan: bool = True,
) -> Iterator[Path]:
    """Yields a copy of files, scanned, and compared with a manifest if there is one."""
    if manifest is not None:  # another file is not copied: `check_files` refuses it
        names = [name for name in names if name in manifest.files]
        if not all(os.path.lexists(folder / name) for name in names):
            check_files(folder, manifest)  # its error names every missing file
    with private_copy(folder, names) as copy:
        copies = {name: copy / name for name in names}
        graphs = [one for one in copies.values() if _is_graph(one)]
        files = [one for one in graphs if one.suffix == ".onnx"]
        weights = {name for one in files for name in _weights_of(one)}
        if manifest is not None:
            # Only names of the manifest are copied before they are judged: they are
            # known to be inside the folder.
            listed = [x for x in weights if x in manifest.files and x not in copies]
            copies |= add_to_copy(folder, listed, copy)
        shown = {one: folder / one.relative_to(copy) for one in graphs if scan}
        if manifest is None:
            for one, name in shown.items():
                _checked(one, folder, shown=name, max_tensor_bytes=most)
        else:
            _compared_and_scanned(folder, manifest, copies, shown, most)
        rest = [name for name in weights if name not in copies]
        add_to_copy(folder, rest, copy)
        yield copy


def _needed(folder: Path) -> list[str]:
    """Returns the files of a SavedModel that its loader reads, or could read."""
    from keras_attention.export.cases.grid import CASES_NAME  # imports NumPy

    found = []
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        other = name.startswith("assets.extra/") or name in (CASES_NAME, MANIFEST_NAME)
        if not other and (file.is_symlink() or not file.is_dir()):
            found.append(name)
    return found


def _weights_of(file: Path) -> list[str]:
    """Returns the other files that an ONNX file takes weights from."""
    from keras_attention.export.scanning.onnx import external_files

    return external_files(file)


def _is_graph(file: Path) -> bool:
    return file.suffix in _SINGLE_FILES or file.name in GRAPH_NAMES


def inspect_file(
    file: Path, weights: Path | None = None, *, max_tensor_bytes: int | None = None
) -> tuple[set[str], list[str]]:
    """Reads one file; returns `(operators or classes, problems)`.

    Args:
        file: A file of one of the formats that are known here.
        weights: The folder of an ONNX file's other files; default: that of the file.
        max_tensor_bytes: See `scan_artifact`.
    """
    if file.suffix == ".keras":
        from keras_attention.export.scanning.keras_file import inspect_keras

        return inspect_keras(file)
    if file.suffix == ".onnx":
        from keras_attention.export.scanning.onnx import inspect_onnx

        return inspect_onnx(file, weights, max_tensor_bytes)
    if file.suffix == ".tflite":
        from keras_attention.export.scanning.litert import inspect_litert

        return inspect_litert(file, max_tensor_bytes)
    if file.suffix in (".pbtxt", ".cpb"):
        return set(), [f"{file.name} is a form of SavedModel that is not scanned"]
    from keras_attention.export.scanning.saved_model import inspect_saved_model

    return inspect_saved_model(file, max_tensor_bytes)


def _checked(
    file: Path,
    weights: Path | None = None,
    *,
    shown: Path | None = None,
    max_tensor_bytes: int | None = None,
) -> tuple[str, ...]:
    operators, problems = inspect_file(file, weights, max_tensor_bytes=max_tensor_bytes)
    if problems:
        raise ValueError(
            "The artifact is refused: it could do more than compute, or cannot be "
            "read. Expected only operators and classes that are known to be harmless. "
            f"Received: {clip('; '.join(sorted(set(problems))), 1400)}, in "
            f"{clip(shown or file)}"
        )
    return tuple(sorted(operators))
