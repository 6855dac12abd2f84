"""Reads a LiteRT file as data: its operators, and whether its weights are inside it.

A .tflite file is a FlatBuffer: tables of fields that are found by offsets. The few
fields that matter here are read by hand, each within the bounds of the file, so that
neither TensorFlow nor a runtime opens a file before it is found to be harmless.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_attention.export.scanning import allowed_operators as allowed

IDENTIFIER = b"TFL3"
# Field numbers of the schema: first those of the model, then those of an operator.
_OPERATOR_CODES, _SUBGRAPHS, _EXTERNAL_GROUPS, _EXTERNAL_BUFFERS = 1, 2, 8, 9
_OLD_CODE, _CUSTOM_NAME, _CODE = 0, 1, 3
_CUSTOM = 32


def inspect_litert(file: Path) -> tuple[set[str], list[str]]:
    """Reads a LiteRT file; returns `(operators, problems)`.

    Operators of nested graphs are included: the file has one list of all.
    """
    try:
        with (
            file.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _inspect(_FlatBuffer(data))
    except (ValueError, struct.error) as error:  # an empty file, or an offset outside
        return set(), [f"it is not a LiteRT file ({error})"]


def _inspect(data: "_FlatBuffer") -> tuple[set[str], list[str]]:
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
    for code in data.tables(model, _OPERATOR_CODES):
        name, known = _operator(data, code)
        operators.add(name)
        problems += [] if known else [f"operator {name}"]
    return operators, problems


def _operator(data: "_FlatBuffer", code: int) -> tuple[str, bool]:
    """Returns the operator's name, and whether it is allowed."""
    # Codes from 127 on are in a second field; runtimes use the larger of the two.
    old, new = data.field(code, _OLD_CODE), data.field(code, _CODE)
    number = max(
        0 if old is None else data.number("<b", old),
        0 if new is None else data.number("<i", new),
    )
    custom = data.field(code, _CUSTOM_NAME)
    if custom is not None or number == _CUSTOM:
        return f"custom {'' if custom is None else data.text(custom)}".strip(), False
    name = allowed.LITERT.get(number) or allowed.LITERT_REFUSED.get(number)
    return name or f"number {number} of the schema", number in allowed.LITERT


class _FlatBuffer:
    """Reads a FlatBuffer; an offset outside of the file is a ValueError.

    Args:
        data: Bytes, or a file that is mapped into memory.
    """

    def __init__(self, data: Any) -> None:
        self._data = data

    def number(self, kind: str, at: int) -> int:
        """Returns a number; `kind` is a format of `struct`."""
        return struct.unpack(kind, self.bytes_at(at, struct.calcsize(kind)))[0]

    def bytes_at(self, at: int, size: int) -> bytes:
        """Returns `size` bytes of the file."""
        if at < 0 or at + size > len(self._data):
            raise ValueError(f"an offset points to {at}, outside of the file")
        return self._data[at : at + size]

    def offset(self, at: int) -> int:
        """Returns the place that the offset at `at` points to."""
        return at + self.number("<I", at)

    def field(self, table: int, number: int) -> int | None:
        """Returns the place of a table's field, or `None` if the table omits it."""
        fields = table - self.number("<i", table)
        entry = 4 + 2 * number
        if entry + 2 > self.number("<H", fields):
            return None
        relative = self.number("<H", fields + entry)
        return table + relative if relative else None

    def tables(self, table: int, number: int) -> Iterator[int]:
        """Yields the tables in a field that is a list of tables."""
        at = self.field(table, number)
        if at is None:
            return
        first = self.offset(at)
        for index in range(self.number("<I", first)):
            yield self.offset(first + 4 + 4 * index)

    def text(self, at: int) -> str:
        """Returns the string a field points to, at most its first 100 bytes."""
        first = self.offset(at)
        size = self.number("<I", first)
        return self.bytes_at(first + 4, min(size, 100)).decode(errors="replace")
