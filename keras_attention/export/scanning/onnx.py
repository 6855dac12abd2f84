"""Reads an ONNX file as data: its operators, and the files of its weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_attention.export.scanning import allowed_operators as allowed

_MICROSOFT = "com.microsoft"


def inspect_onnx(file: Path) -> tuple[set[str], list[str]]:
    """Reads an ONNX file; returns `(operators, problems)`.

    Operators of functions and nested graphs are included.
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
    standard = {schema.name for schema in onnx.defs.get_all_schemas()}
    own = {(one.domain, one.name) for one in model.functions}
    operators: set[str] = set()
    problems: list[str] = [] if model.graph.node else ["its graph is empty"]
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
            problems += _external(message, file.parent)
    return operators, problems


def _messages(root: Any) -> Iterator[Any]:
    """Yields every message inside a message, in any field, without recursion."""
    waiting = [root]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                single = hasattr(value, "ListFields")
                waiting += [value] if single else list(value)


def _external(tensor: Any, folder: Path) -> list[str]:
    """Returns the problems of a weight that is stored in another file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    about = f"external data {location!r} of {tensor.name!r}"
    parts = location.replace("\\", "/").split("/")
    if not location or ":" in location or {"", ".", ".."} & set(parts):
        return [f"{about} is not a path inside the folder"]
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            return [f"{about} is a link"]
    if not path.is_file():
        return [f"{about} is not there"]
    status = path.stat()
    if status.st_nlink > 1:
        return [f"{about} is a hard link to a file that may be elsewhere"]
    try:
        start, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
    except ValueError:
        return [f"{about} has an offset or length that is no number"]
    if start < 0 or length < 0 or start + length > status.st_size:
        return [f"{about} ends after the file"]
    return []
