"""Reads a FlatBuffer by hand, each field within the bounds of the file.

A FlatBuffer has tables of fields that are found by offsets. An offset outside of the
file is a ValueError.
"""

import struct
from collections.abc import Iterator
from typing import Any

_TIMES = 64  # how often a byte is read, on average


class FlatBuffer:
    """Reads a FlatBuffer; an offset outside of the file is a ValueError.

    Args:
        data: Bytes, or a file that is mapped into memory.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        # Lists can point to each other's tables, and make a small file endless.
        self._unread = _TIMES * len(data) + (1 << 20)

    @property
    def size(self) -> int:
        """The bytes of the file."""
        return len(self._data)

    def number(self, kind: str, at: int) -> int:
        """Returns a number; `kind` is a format of `struct`."""
        return struct.unpack(kind, self.bytes_at(at, struct.calcsize(kind)))[0]

    def bytes_at(self, at: int, size: int) -> bytes:
        """Returns `size` bytes of the file."""
        if at < 0 or at + size > len(self._data):
            raise ValueError(f"an offset points to {at}, outside of the file")
        self._unread -= size + 1
        if self._unread < 0:
            raise ValueError("its tables are contained in each other many times")
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

    def value(self, table: int, number: int, kind: str, default: int = 0) -> int:
        """Returns the number in a field, or the default of a field that is omitted."""
        at = self.field(table, number)
        return default if at is None else self.number(kind, at)

    def list_at(self, table: int, number: int) -> tuple[int, int]:
        """Returns where the list in a field begins, and how many entries it has."""
        at = self.field(table, number)
        if at is None:
            return 0, 0
        first = self.offset(at)
        return first + 4, self.number("<I", first)

    def numbers(self, table: int, number: int, kind: str = "i") -> tuple[int, ...]:
        """Returns a list of numbers."""
        first, count = self.list_at(table, number)
        size = struct.calcsize(kind)
        return struct.unpack(f"<{count}{kind}", self.bytes_at(first, count * size))

    def tables(self, table: int, number: int) -> Iterator[int]:
        """Yields the tables in a field that is a list of tables."""
        first, count = self.list_at(table, number)
        for index in range(count):
            yield self.offset(first + 4 * index)

    def text(self, at: int) -> str:
        """Returns the string a field points to, at most its first 100 bytes."""
        first = self.offset(at)
        size = self.number("<I", first)
        return self.bytes_at(first + 4, min(size, 100)).decode(errors="replace")
