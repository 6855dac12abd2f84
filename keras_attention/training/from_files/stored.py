"""Rows of arrays in temporary files, for batches of more data than memory holds."""

import tempfile
import weakref
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class StoredArrays(Sequence):
    """Arrays of one dtype and different lengths, in a temporary file.

    Args:
        folder: Where the file is; the system's folder of such files when `None`.
    """

    def __init__(self, folder: str | Path | None = None):
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._ends, self._map = array("q", [0]), None
        self._shape, self._dtype = (), np.dtype("int32")

    def append(self, values: np.ndarray) -> None:
        """Writes an array.

        Args:
            values: The array; only its first axis may differ in length.
        """
        # A number has the shape (), of what is longer the first axis is free.
        self._shape = (-1, *values.shape[1:]) if values.ndim else ()
        self._dtype = values.dtype
        self._file.write(np.ascontiguousarray(values).tobytes())
        self._ends.append(self._ends[-1] + values.size)

    def __len__(self):
        return len(self._ends) - 1

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError(index)
        if self._map is None:
            self._file.flush()
            self._map = np.memmap(self._file, self._dtype, mode="r")
            self._file.close()  # the map holds what it needs
        values = self._map[self._ends[index] : self._ends[index + 1]]
        return np.asarray(values).reshape(self._shape)


class StoredRows(Sequence):
    """Dicts of arrays in temporary files.

    Args:
        folder: Where the files are; the system's folder of such files when `None`.
    """

    def __init__(self, folder: str | Path | None = None):
        self._folder, self._arrays = folder, {}

    def append(self, row: dict[str, np.ndarray]) -> None:
        """Writes a row.

        Args:
            row: The arrays of the row, by name.
        """
        for name, values in row.items():
            if name not in self._arrays:
                self._arrays[name] = StoredArrays(self._folder)
            self._arrays[name].append(values)

    def __len__(self):
        return max(map(len, self._arrays.values()), default=0)

    def __getitem__(self, index):
        return {name: values[index] for name, values in self._arrays.items()}
