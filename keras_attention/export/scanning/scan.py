"""Is an artifact what was exported, and harmless to load? Asked before loading it.

Every file is compared with the manifest, then the graphs are read as data: operators
outside an allow-list are refused, in nested functions and graphs too. A manifest is no
signature: who can change the files can change the manifest. It finds accidents; the
allow-list limits what an attacker could do.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_attention.export.artifact.manifest import (
    MANIFEST_NAME,
    artifact_folder,
    check_files,
    read_manifest,
)
from keras_attention.export.scanning import allowed_operators as allowed

_SINGLE_FILES = {".keras": "keras", ".onnx": "onnx", ".tflite": "litert"}


@dataclass(frozen=True)
class Scan:
    """What was looked at, and found in order.

    Attributes:
        path: The artifact.
        format: `"saved_model"`, `"onnx"`, `"litert"` or `"keras"`.
        checksums: Whether the files were compared with a manifest; a single `.onnx`,
            `.tflite` or `.keras` file has none.
        operators: The operators it uses; of `.keras` the classes.
    """

    path: Path
    format: str
    checksums: bool
    operators: tuple[str, ...]


def scan_artifact(path: str | Path) -> Scan:
    """Refuses an artifact that was changed or could do more than compute.

    Nothing is loaded or run. A folder must have exactly the files of its manifest.json,
    with their sha256. A SavedModel may use only known operators that read and write no
    file; ONNX only operators of the standard and of onnxruntime, with weights inside
    the folder; a `.keras` file only classes of Keras, KerasHub and this library, no
    `Lambda`, and no zip bomb; a LiteRT file only built-in operators without a state,
    and its weights inside it.

    Args:
        path: An artifact's folder (of a base folder the highest version), or a single
            `.onnx`, `.tflite` or `.keras` file.

    Returns:
        What was looked at.

    Raises:
        FileNotFoundError: If there is no artifact.
        ValueError: If it is refused, with every reason found.

    Example:
    ```python
    ka.scan_artifact("served/minilm").operators
    ```
    """
    path = Path(path)
    if path.is_file() and path.suffix in _SINGLE_FILES:
        kind = _SINGLE_FILES[path.suffix]
        return Scan(path, kind, False, _checked(path, _contents(path)))
    folder = artifact_folder(path)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    files = [folder / name for name in manifest.files]
    graphs = [f for f in files if f.suffix in (*_SINGLE_FILES, ".pbtxt")]
    # Also a graph in a subfolder: some loader may be pointed at it.
    graphs += [f for f in files if f.name in ("saved_model.pb", "saved_model.cpb")]
    if not graphs:
        raise ValueError(
            "There is nothing to open in the artifact. Expected a saved_model.pb, "
            f".onnx or .tflite files. Received: {sorted(manifest.files)}, in {folder}"
        )
    found: set[str] = set()
    for graph in graphs:
        found |= set(_checked(graph, _contents(graph)))
    return Scan(folder, manifest.format, True, tuple(sorted(found)))


def refuse_unsafe(path: Path) -> None:
    """Scan an artifact that has a manifest, as one is loaded; others pass."""
    folder = path if path.is_dir() else path.parent
    if (folder / MANIFEST_NAME).exists():
        scan_artifact(folder)


def _contents(file: Path) -> tuple[set[str], list[str]]:
    """`(operators or classes, what is wrong)` of one file."""
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
    return _inspect_saved_model(file)


def _checked(file: Path, contents: tuple[set[str], list[str]]) -> tuple[str, ...]:
    operators, problems = contents
    if problems:
        raise ValueError(
            "The artifact is refused: it could do more than compute, or cannot be "
            "read. Expected only operators and classes that are known to be harmless. "
            f"Received: {'; '.join(sorted(set(problems)))}, in {file}"
        )
    return tuple(sorted(operators))


def _inspect_saved_model(file: Path) -> tuple[set[str], list[str]]:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2  # pyright: ignore

    try:
        saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except DecodeError as error:
        return set(), [f"it is not a SavedModel ({error})"]
    operators: set[str] = set()
    problems: list[str] = []
    for graph in saved.meta_graphs:
        names, wrong = _inspect_graph(graph)
        operators |= names
        problems += wrong
    if not saved.meta_graphs:
        problems.append("it has no graph")
    return operators, problems


def _inspect_graph(meta: Any) -> tuple[set[str], list[str]]:
    library = meta.graph_def.library
    functions = {one.signature.name: one.node_def for one in library.function}
    operators = {node.op for node in meta.graph_def.node}
    for nodes in functions.values():
        operators |= {node.op for node in nodes}
    # A function may be called by its name, as if it were an operator.
    operators -= functions.keys()
    saving = allowed.SAVING | allowed.RESTORING
    known = allowed.TENSORFLOW | allowed.TENSORFLOW_TEXT | saving
    problems = [f"operator {name}" for name in operators - known]
    saver = meta.saver_def
    save = saver.save_tensor_name.partition(":")[0]
    load = saver.restore_op_name
    for kind, caller in ((allowed.SAVING, save), (allowed.RESTORING, load)):
        if any(node.op in kind for node in meta.graph_def.node):
            problems.append(f"one of {sorted(kind)} outside the saver's functions")
        own = {n for n, nodes in functions.items() if any(x.op in kind for x in nodes)}
        callers = _callers(meta.graph_def.node, functions, own)
        # Whom the saver calls, nobody else may: not an initialiser, not a signature.
        wrong = callers - {caller}
        wrong |= own & _python_functions(meta.object_graph_def)
        problems += [f"{name} uses the files of the saver" for name in wrong]
        if caller and _is_used(meta, caller) and own:
            problems.append(f"{caller}, of the saver, is used by another operator")
    return operators, problems


def _callers(nodes: Iterable[Any], functions: dict[str, Any], own: set[str]):
    """The nodes of the main graph, and functions, that refer to one of `own`."""
    found = {node.name for node in nodes if _refers(node, own)}
    for name, body in functions.items():
        if any(_refers(node, own) for node in body):
            found.add(f"function {name}")
    return found


def _refers(node: Any, functions: set[str]) -> bool:
    if node.op in functions:
        return True
    for value in node.attr.values():
        named = [value.func, *value.list.func]
        if any(one.name in functions for one in named):
            return True
    return False


def _python_functions(objects: Any) -> set[str]:
    """The functions that `tf.saved_model.load` gives to Python, initialisers too."""
    found = set(objects.concrete_functions)
    for node in objects.nodes:
        found.add(node.bare_concrete_function.concrete_function_name)
        found |= set(node.function.concrete_functions)
    return found


def _is_used(meta: Any, name: str) -> bool:
    inputs = {
        text.removeprefix("^").partition(":")[0]
        for node in meta.graph_def.node
        for text in node.input
    }
    signed = {
        info.name.partition(":")[0]
        for signature in meta.signature_def.values()
        for side in (signature.inputs, signature.outputs)
        for info in side.values()
    }
    run = {
        text.partition(":")[0]
        for collection in meta.collection_def.values()
        for text in collection.node_list.value
    }
    return name in inputs | signed | run
