"""Reads the files of a checkpoint folder. Imports neither TensorFlow nor Keras."""

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_attention import untrusted

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# dtype in a safetensors header -> numpy's; bfloat16 comes with ml_dtypes.
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000
MAX_INDEX_BYTES = 1 << 26
MAX_RANK = 8


def require_file(folder: Path, name: str) -> Path:
    """Returns the path of a file; the error about a missing one lists the folder."""
    path = folder / name
    if path.is_file():
        return path
    there = "no such folder"
    if folder.is_dir():
        there = ", ".join(sorted(p.name for p in folder.iterdir())) or "an empty folder"
        there = untrusted.clip(there, 1000)
    hint = ""
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if name == WEIGHTS and pickles:
        hint = (
            f" Pickled weights ({untrusted.clip(pickles[0])}) can run code when opened "
            "and are not read; convert them to safetensors."
        )
    raise FileNotFoundError(
        f"A Hugging Face folder needs {name}.{hint} "
        f"Received: {untrusted.clip(folder)} with {there}"
    )


@dataclass(frozen=True)
class Tensor:
    """A tensor of a safetensors file, which `np.asarray` reads.

    It is read with plain input and not memory-mapped: the pages of a mapped file count
    as memory in use, in addition to the model's.

    Attributes:
        path: The path of the file.
        shape: The tensor's shape.
        dtype: The name of its dtype.
        start: The offset of its first byte in the file.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: str
    start: int

    def __array__(self, dtype=None, copy=None):
        count = math.prod(self.shape)
        array = np.fromfile(self.path, _numpy(self.dtype), count, offset=self.start)
        array = array.reshape(self.shape)
        return array if dtype is None else array.astype(dtype, copy=False)


def open_tensors(folder: Path) -> dict[str, Tensor]:
    """Returns the tensors of model.safetensors or of its shards, without reading them.

    Raises:
        FileNotFoundError: If the file or a shard is missing.
        ValueError: If a file is damaged or does not fit the index.
    """
    index = folder / INDEX
    if (folder / WEIGHTS).is_file() or not index.is_file():
        return read_header(require_file(folder, WEIGHTS))
    places = untrusted.read_object(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(
            f"{INDEX} must name the file of each tensor in `weight_map`. Fetch it "
            f"again. Received: weight_map={untrusted.show(places)} in "
            f"{untrusted.clip(index)}"
        )
    by_shard: dict[Path, set[str]] = {}
    for name, place in places.items():
        path = untrusted.inside(folder, place, INDEX)
        by_shard.setdefault(path, set()).add(name)
    missing = sorted(path.name for path in by_shard if not path.is_file())
    if missing:
        raise FileNotFoundError(
            f"The weights are in {len(by_shard)} files, and some of them are missing. "
            "Nothing was loaded; fetch them too. Received: "
            f"{untrusted.clip(folder)} without {untrusted.clip(', '.join(missing[:8]))}"
        )
    tensors = {}
    for shard, expected in sorted(by_shard.items()):
        found = read_header(shard)
        if differing := sorted(expected ^ set(found)):
            raise ValueError(
                f"{INDEX} and {untrusted.clip(shard.name)} do not name the same "
                "tensors: they are from different downloads. Nothing was loaded. "
                f"Received: {untrusted.clip(folder)} with "
                f"{untrusted.clip(', '.join(differing[:8]), 800)} in only one of them"
            )
        tensors |= found
    return tensors


def read_header(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of one safetensors file, from its header.

    The tensors must cover all bytes after the header, each byte once.
    """
    with untrusted.open_plain(path) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise _damaged(path, size, "its header is incomplete")
        text = file.read(length)
    try:
        header = untrusted.parse_json(text, path, most_deep=3)
        if not isinstance(header, dict):
            raise ValueError(f"it is a {type(header).__name__}")
        header.pop("__metadata__", None)
        parts = [
            _tensor(path, name, entry, 8 + length) for name, entry in header.items()
        ]
        end = 8 + length
        for tensor in sorted(parts, key=lambda part: (part.start, part.end)):
            if tensor.start != end:
                raise ValueError(
                    f"tensor {untrusted.show(tensor.name)} begins at byte "
                    f"{tensor.start} and not after the one before it, at {end}"
                )
            end = tensor.end
    except ValueError as error:
        reason = f"its header cannot be read: {untrusted.clip(error, 1000)}"
        raise _damaged(path, size, reason) from None
    if end != size:
        raise _damaged(path, size, f"its header describes {end} bytes")
    return {
        part.name: Tensor(path, part.shape, part.dtype, part.start) for part in parts
    }


class _Part(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    end: int


def _tensor(path: Path, name: str, entry: Any, data: int) -> _Part:
    what = f"tensor {untrusted.show(name)}"
    if not isinstance(entry, dict) or entry.keys() != {
        "dtype",
        "shape",
        "data_offsets",
    }:
        raise ValueError(f"{what} must have dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for numbers, most in ((shape, MAX_RANK), (offsets, 2)):
        plain = isinstance(numbers, list) and len(numbers) <= most
        if not plain or any(type(n) is not int or not 0 <= n < 2**63 for n in numbers):
            raise ValueError(f"{what} has shape or offsets {untrusted.show(numbers)}")
    named = entry["dtype"]
    dtype = DTYPES.get(named, "") if isinstance(named, str) else ""
    if not dtype or len(offsets) != 2:
        raise ValueError(
            f"{what} has dtype {untrusted.show(named)}, {len(offsets)} offsets"
        )
    start, end = offsets
    size = math.prod(shape) * _numpy(dtype).itemsize
    if end - start != size:
        raise ValueError(f"{what} has {end - start} bytes, not {size}")
    return _Part(name, tuple(shape), dtype, data + start, data + end)


def _numpy(name: str) -> np.dtype:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def _damaged(path: Path, size: int, reason: str) -> ValueError:
    return ValueError(
        f"{untrusted.clip(path.name)} is damaged or incomplete: {reason}. Nothing was "
        "loaded; fetch the file again. "
        f"Received: {untrusted.clip(path)} of {size} bytes"
    )


def plan_shards(sizes: Iterable[tuple[str, int]], limit: int) -> list[list[str]]:
    """Divides the names of tensors, in order, into files of at most `limit` bytes.

    Args:
        sizes: The name and the number of bytes of each tensor.
        limit: The largest number of bytes. A larger tensor gets a separate file.
    """
    shards, room = [[]], limit
    for name, size in sizes:
        if size > room and shards[-1]:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    return shards
