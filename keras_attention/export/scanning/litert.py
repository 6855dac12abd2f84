"""Reads a LiteRT file as data: its operators, and whether its weights are inside it.

A .tflite file is a FlatBuffer. The few fields that matter here are read by hand, each
within the bounds of the file, so that neither TensorFlow nor a runtime opens a file
before it is found to be harmless.
"""

import mmap
import struct
from pathlib import Path

from keras_attention.export.scanning import allowed_operators as allowed
from keras_attention.export.scanning import limits
from keras_attention.export.scanning.flatbuffer import FlatBuffer
from keras_attention.export.scanning.litert_graph import LiteRtGraph

IDENTIFIER = b"TFL3"
# Field numbers of the schema: first those of the model, then those of an operator.
_OPERATOR_CODES, _SUBGRAPHS, _EXTERNAL_GROUPS, _EXTERNAL_BUFFERS = 1, 2, 8, 9
_OLD_CODE, _CUSTOM_NAME, _CODE = 0, 1, 3
_CUSTOM = 32


def inspect_litert(file: Path, most: int | None = None) -> tuple[set[str], list[str]]:
    """Reads a LiteRT file; returns `(operators, problems)`.

    Operators of nested graphs are included: the file has one list of all.

    Args:
        file: The file.
        most: The largest tensor that the graph may have, in bytes.
    """
    try:
        with (
            file.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _inspect(FlatBuffer(data), limits.max_bytes(most))
    except (ValueError, struct.error) as error:  # an empty file, or an offset outside
        return set(), [f"it is not a LiteRT file ({error})"]


def _inspect(data: FlatBuffer, most: int) -> tuple[set[str], list[str]]:
    if data.bytes_at(4, 4) != IDENTIFIER:
        raise ValueError(f"it does not begin with {IDENTIFIER.decode()}")
    model = data.offset(0)
    operators: set[str] = set()
    problems = []
    for number in (_EXTERNAL_GROUPS, _EXTERNAL_BUFFERS):
        if data.field(model, number) is not None:
            problems.append("weights in another file")
    if data.field(model, _SUBGRAPHS) is None:
        problems.append("it has no graph")
    numbers = []
    for code in data.tables(model, _OPERATOR_CODES):
        name, known, number = _operator(data, code)
        operators.add(name)
        numbers.append(number)
        problems += [] if known else [f"operator {name}"]
    return operators, problems + LiteRtGraph(data, model, numbers, most).problems()


def _operator(data: FlatBuffer, code: int) -> tuple[str, bool, int]:
    """Returns the operator's name, whether it is allowed, and its number."""
    # Codes from 127 on are in a second field; runtimes use the larger of the two.
    old, new = data.field(code, _OLD_CODE), data.field(code, _CODE)
    number = max(
        0 if old is None else data.number("<b", old),
        0 if new is None else data.number("<i", new),
    )
    custom = data.field(code, _CUSTOM_NAME)
    if custom is not None or number == _CUSTOM:
        name = f"custom {'' if custom is None else data.text(custom)}".strip()
        return name, False, _CUSTOM
    name = allowed.LITERT.get(number) or allowed.LITERT_REFUSED.get(number)
    return name or f"number {number} of the schema", number in allowed.LITERT, number
