"""Reads an ONNX file as data: its operators, and the files of its weights."""

import mmap
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from keras_attention.export.scanning import allowed_operators as allowed
from keras_attention.export.scanning import limits
from keras_attention.export.scanning import onnx_sizes as sizes

_STANDARD = ("", "ai.onnx")
# Domains in which runtimes have operators of their own.
_RESERVED = ("ai.onnx.", "com.microsoft", "com.ms.", "org.pytorch.", "onnxruntime")
_MICROSOFT = "com.microsoft"
_ADDRESS = "_ORT_MEM_ADDR_"  # onnxruntime reads memory there, not a file


def inspect_onnx(
    file: Path, weights: Path | None = None, most: int | None = None
) -> tuple[set[str], list[str]]:
    """Reads an ONNX file; returns `(operators, problems)`.

    Operators of functions and nested graphs are included.

    Args:
        file: The file.
        weights: The folder of the weights that are in other files; default: its own.
        most: The largest tensor that the graph may make of constants, in bytes.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "Scanning an ONNX file needs onnx. Expected: pip install "
            f'"keras-attention-layers[onnx]". Received: {error}'
        ) from error
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(file.read_bytes())
    except DecodeError as error:
        return set(), [f"it is not an ONNX file ({error})"]
    # Those of another domain, such as ai.onnx.ml, are not operators of the standard's.
    schemas = onnx.defs.get_all_schemas()
    standard = {schema.name for schema in schemas if schema.domain in _STANDARD}
    own = {(one.domain, one.name) for one in model.functions}
    operators: set[str] = set()
    order, problems = _functions_in_order(model)
    if not problems:
        problems += sizes.size_problems(model, order, limits.max_bytes(most))
    problems += sizes.sparse_problems(model, limits.max_bytes(most))
    problems += ["information for training"] if model.training_info else []
    problems += [] if model.graph.node else ["its graph is empty"]
    for message in _messages(model):
        if isinstance(message, onnx.NodeProto):
            domain, name = message.domain, message.op_type
            operators.add(f"{domain}.{name}" if domain else name)
            lists = {"": standard, "ai.onnx": standard, _MICROSOFT: allowed.MICROSOFT}
            if (domain, name) not in own and name not in lists.get(domain, ()):
                problems.append(f"operator {domain or 'ai.onnx'}.{name}")
        elif isinstance(message, onnx.TensorProto) and (
            message.data_location == onnx.TensorProto.EXTERNAL
        ):
            problems += _external(message, weights or file.parent)
    return operators, problems


def external_files(file: Path) -> list[str]:
    """Returns the other files that an ONNX file takes weights from."""
    if not file.stat().st_size:  # an empty file cannot be mapped into memory
        return []
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        if data.find(b"location") < 0:  # to search costs a tenth of reading the graph
            return []
    content = file.read_bytes()
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        return []
    found = {
        entry.value
        for message in _messages(model)
        if isinstance(message, onnx.TensorProto)
        and message.data_location == onnx.TensorProto.EXTERNAL
        for entry in message.external_data
        if entry.key == "location"
    }
    return sorted(found)


def _functions_in_order(model: Any) -> tuple[list[tuple[str, str]], list[str]]:
    """Returns the functions, each after those that it calls, and their problems."""
    import onnx

    own = {(one.domain, one.name): one for one in model.functions}
    if len(own) != len(model.functions):
        return [], ["two functions with the same name"]
    # A runtime may run an operator of its own in the place of the function.
    hidden = [
        f"function {name} of the domain {domain or 'ai.onnx'}, which is a runtime's own"
        for domain, name in own
        if domain in _STANDARD or domain.startswith(_RESERVED)
    ]
    calls = {
        key: {
            (node.domain, node.op_type)
            for node in _messages(one)
            if isinstance(node, onnx.NodeProto) and (node.domain, node.op_type) in own
        }
        for key, one in own.items()
    }
    try:
        return list(TopologicalSorter(calls).static_order()), hidden
    except CycleError as error:
        return [], [f"function {error.args[1][0][1]} calls itself"]


def _messages(root: Any) -> Iterator[Any]:
    """Yields every message inside a message, in any field, without recursion."""
    import onnx

    # A weight contains no other message that matters, and its bytes would be copied.
    whole = (onnx.TensorProto, onnx.ValueInfoProto)
    waiting = [root]
    while waiting:
        message = waiting.pop()
        yield message
        if isinstance(message, whole):
            continue
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                single = hasattr(value, "ListFields")
                waiting += [value] if single else list(value)


def _external(tensor: Any, folder: Path) -> list[str]:
    """Returns the problems of a weight that is stored in another file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) != len(tensor.external_data):
        return [f"weight {tensor.name!r} has an entry of its external data twice"]
    location = entries.get("location", "")
    about = f"external data {location!r} of {tensor.name!r}"
    if "*" in location or _ADDRESS in location:
        return [f"{about} is an address in memory"]
    parts = location.replace("\\", "/").split("/")
    if not location or ":" in location or {"", ".", ".."} & set(parts):
        return [f"{about} is not a path inside the folder"]
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            return [f"{about} is a link"]
    return [f"{about} {problem}" for problem in _wrong_file(path, entries)]


def _wrong_file(path: Path, entries: dict[str, str]) -> list[str]:
    if not path.is_file():
        return ["is not there"]
    status = path.stat()
    if status.st_nlink > 1:
        return ["is a hard link to a file that may be elsewhere"]
    try:
        start, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
    except ValueError:
        return ["has an offset or length that is no number"]
    if start < 0 or length < 0 or start + length > status.st_size:
        return ["ends after the file"]
    return []
