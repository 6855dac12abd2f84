"""Reads and writes TF Serving's JSON: rows (`instances`), columns (`inputs`), b64.

It is as strict as TF Serving: 1.0 is not an integer, true is not a number. An error
names the input, and the row if the request has rows.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_attention.export.artifact.description import SignatureInfo, TensorInfo
from keras_attention.serving.errors import ServingError, invalid


class Call(NamedTuple):
    """A request body that was read."""

    signature: str
    inputs: dict[str, np.ndarray]
    by_rows: bool


def read_call(
    body: bytes | bytearray, signatures: Mapping[str, SignatureInfo], default: str
) -> Call:
    """Read the body of a predict request.

    Args:
        body: JSON.
        signatures: The manifest's signatures.
        default: The signature to run if the body names none.

    Raises:
        ValueError: If a value does not fit its input.
    """
    request = _loads(body)
    if not isinstance(request, dict):
        raise invalid(f"The body must be a JSON object. Received: {_brief(request)}")
    name = request.get("signature_name") or default
    entry = signatures.get(name) if isinstance(name, str) else None
    if entry is None:
        raise no_signature(name, signatures)
    by_rows = "instances" in request
    if by_rows == ("inputs" in request):
        raise invalid(
            "The body must have one of the keys 'instances' (rows) and 'inputs' "
            f"(columns). Received: {sorted(request)}"
        )
    read = _rows if by_rows else _columns
    values = read(name, entry.inputs, request["instances" if by_rows else "inputs"])
    entry.check_names(name, values)
    inputs = {key: _array(key, entry.inputs[key], values[key]) for key in values}
    return Call(name, inputs, by_rows)


def no_signature(name: Any, signatures: Mapping[str, Any]) -> ServingError:
    """The error of a signature that does not exist."""
    return invalid(
        f"Serving signature name: {json.dumps(name)[:200]} not found in signature def. "
        f"Expected one of: {', '.join(sorted(signatures))}"
    )


def write_answer(outputs: dict[str, np.ndarray], *, by_rows: bool) -> bytes:
    """The response's body: `predictions`, one per row, or `outputs` by name."""
    lists = {name: _listed(name, array) for name, array in outputs.items()}
    if not by_rows:
        value = next(iter(lists.values())) if len(lists) == 1 else lists
        return _dumps({"outputs": value})
    sizes = {name: array.shape[:1] for name, array in outputs.items()}
    if len(set(sizes.values())) != 1 or () in sizes.values():
        raise invalid(
            "This signature has outputs that are not one per row. Expected: a request "
            f"with 'inputs' instead of 'instances'. Received: first axes {sizes}"
        )
    if len(lists) == 1:
        return _dumps({"predictions": next(iter(lists.values()))})
    rows = zip(*lists.values(), strict=True)
    return _dumps({"predictions": [dict(zip(lists, row, strict=True)) for row in rows]})


# What no request for a model needs, and what takes a long time to read.
MAX_DEPTH = 32
MAX_LISTS = 1_000_000
MAX_EMPTY_LISTS = 1000
MAX_NAMES = 200_000
_PART = 1 << 20


def _check_structure(body: bytes | bytearray) -> None:
    """Refuse lists that are too deep or too many, before any object is made of them."""
    # Without escapes, each quote begins or ends a string.
    text = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    data = np.frombuffer(text, np.uint8)
    inside, depth, deepest, last = False, 0, 0, 0
    lists, empty, names = 0, 0, 0
    for start in range(0, len(data), _PART):
        part = data[start : start + _PART]
        strings = np.logical_xor.accumulate(part == ord('"'))
        strings = ~strings if inside else strings
        inside = bool(strings[-1])
        part = part[~strings & (part > ord(" "))]
        if not part.size:
            continue
        opens, closes = _is_one_of(part, "[{"), _is_one_of(part, "]}")
        depths = depth + np.cumsum(opens.astype(np.int32) - closes)
        depth, deepest = int(depths[-1]), max(deepest, int(depths.max()))
        lists += np.count_nonzero(opens)
        empty += np.count_nonzero(opens[:-1] & closes[1:])
        empty += bool(closes[0]) and chr(last) in "[{"
        names += np.count_nonzero(part == ord(":"))
        last = int(part[-1])
    for count, most, what in (
        (deepest, MAX_DEPTH, "lists inside each other"),
        (lists, MAX_LISTS, "lists and objects"),
        (empty, MAX_EMPTY_LISTS, "empty lists and objects"),
        (names, MAX_NAMES, "names"),
    ):
        if count > most:
            raise invalid(
                "JSON Parse error: the body cannot be read. Expected: at most "
                f"{most} {what}. Received: {count}"
            )


def _is_one_of(part: np.ndarray, characters: str) -> np.ndarray:
    first, second = map(ord, characters)
    return (part == first) | (part == second)


def _loads(body: bytes | bytearray) -> Any:
    _check_structure(body)
    try:
        # Bytes could be UTF-16, of which the structure is not checked.
        return json.loads(body.decode())
    except ValueError as error:  # not JSON, not UTF-8, a number of 5,000 digits
        reason = str(error)
    raise invalid(f"JSON Parse error: the body cannot be read. Received: {reason}")


def _rows(name: str, inputs: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    if not isinstance(rows, list) or not rows:
        raise invalid(
            "Expecting 'instances' to be a list of one or more rows, each for the "
            f"inputs {sorted(inputs)}. Received: {_brief(rows)}"
        )
    named = [isinstance(row, dict) and not _is_b64(row) for row in rows]
    if not any(named):
        return {_only(name, inputs): rows}
    for number, row in enumerate(rows):
        if not named[number]:
            raise invalid(
                f"Row {number} of 'instances' must name the inputs {sorted(inputs)}, "
                f"as the other rows do. Received: {_brief(row)}"
            )
        if row.keys() != rows[0].keys():
            wrong = sorted(row.keys() ^ rows[0].keys())
            raise invalid(
                f"Row {number} of 'instances' must have the inputs of row 0: "
                f"{sorted(rows[0])}. Received: input {', '.join(map(repr, wrong))} in "
                "only one of them"
            )
    return {key: [row[key] for row in rows] for key in rows[0]}


def _columns(name: str, inputs: Mapping[str, Any], value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and not _is_b64(value):
        return value
    return {_only(name, inputs): value}


def _only(name: str, inputs: Mapping[str, Any]) -> str:
    if len(inputs) != 1:
        raise invalid(
            f"Signature '{name}' has several inputs, so each value must be named. "
            f"Expected: an object with the inputs {sorted(inputs)}. Received: a value "
            "without a name"
        )
    return next(iter(inputs))


_LEAVES: dict[str, set[type]] = {
    "b": {bool},
    "i": {int},
    "u": {int},
    "f": {int, float},
    "V": {int, float},  # bfloat16
}


def _array(key: str, info: TensorInfo, value: Any) -> np.ndarray:
    """The value in its input's dtype. Nothing is rounded or converted to a number."""
    try:
        leaves = np.array(value, dtype=object)
    except ValueError as error:  # too deep
        raise info.misfit(key, str(error)) from error
    types = {type(leaf) for leaf in leaves.flat}
    if list in types:
        raise info.misfit(key, "rows of different lengths or depths")
    if info.dtype == "string":
        return _texts(key, info, leaves)
    dtype = np.dtype(info.dtype)
    wrong = types - _LEAVES[dtype.kind]
    if wrong:
        names = {dict: "object", type(None): "null"}
        kinds = ", ".join(sorted(names.get(kind, kind.__name__) for kind in wrong))
        raise info.misfit(key, f"values of type {kinds}")
    if dtype.kind in "iu" and leaves.size:
        lowest, highest = min(leaves.flat), max(leaves.flat)
        if lowest < np.iinfo(dtype).min or highest > np.iinfo(dtype).max:
            raise info.misfit(key, f"values {lowest:.6g} to {highest:.6g}")
    try:
        with np.errstate(over="raise"):
            return leaves.astype(dtype)
    except (OverflowError, FloatingPointError) as error:
        raise info.misfit(key, f"a number too large ({error})") from error


def _texts(key: str, info: TensorInfo, leaves: np.ndarray) -> np.ndarray:
    texts = np.empty(leaves.size, dtype=object)
    for number, leaf in enumerate(leaves.flat):
        if isinstance(leaf, dict) and _is_b64(leaf):
            try:
                leaf = base64.b64decode(leaf["b64"], validate=True).decode()  # noqa: PLW2901
            except (binascii.Error, ValueError, TypeError) as error:
                got = f"a b64 that is not base64 of UTF-8 ({error})"
                raise info.misfit(key, got) from error
        if not isinstance(leaf, str):
            raise info.misfit(key, _brief(leaf))
        try:
            leaf.encode()
        except UnicodeEncodeError as error:  # JSON can write "\ud800"
            raise info.misfit(key, str(error)) from error
        texts[number] = leaf
    return texts.reshape(leaves.shape)


def _is_b64(value: dict[str, Any]) -> bool:
    return value.keys() == {"b64"}


def _listed(name: str, array: np.ndarray) -> Any:
    if array.dtype.kind != "O":
        return array.tolist()
    raw = [text.encode("utf-8", "surrogateescape") for text in array.flat]
    if name.endswith("_bytes"):
        texts = [{"b64": base64.b64encode(item).decode()} for item in raw]
    else:
        texts = [item.decode("utf-8", "replace") for item in raw]
    written = np.empty(len(texts), dtype=object)
    written[:] = texts
    return written.reshape(array.shape).tolist()


def _dumps(value: Any) -> bytes:
    # NaN and Infinity are written by their names, as by TF Serving.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _brief(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.100}"
