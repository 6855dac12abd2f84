"""Reads the files of a checkpoint folder. Imports neither TensorFlow nor Keras."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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


def read_json(path: Path) -> Any:
    """Reads a JSON file; the error about a damaged one says where."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path.name} is not valid JSON: {error}. Fetch the file again. "
            f"Received: {path}"
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file that must hold an object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path.name} must hold a JSON object {{…}}. Fetch the file again. "
            f"Received: a {type(content).__name__} in {path}"
        )
    return content


def require_file(folder: Path, name: str) -> Path:
    """Returns the path of a file; the error about a missing one lists the folder."""
    path = folder / name
    if path.is_file():
        return path
    there = "no such folder"
    if folder.is_dir():
        there = ", ".join(sorted(p.name for p in folder.iterdir())) or "an empty folder"
    hint = ""
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if name == WEIGHTS and pickles:
        hint = (
            f" Pickled weights ({pickles[0]}) can run code when opened and are not "
            "read; convert them to safetensors."
        )
    raise FileNotFoundError(
        f"A Hugging Face folder needs {name}.{hint} Received: {folder} with {there}"
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
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(
            f"{INDEX} must name the file of each tensor in `weight_map`. Fetch it "
            f"again. Received: weight_map={places!r} in {index}"
        )
    shards = sorted(set(places.values()))
    missing = [name for name in shards if not (folder / Path(name).name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"The weights are in {len(shards)} files, and some of them are missing. "
            f"Nothing was loaded; fetch them too. Received: {folder} without "
            f"{', '.join(missing)}"
        )
    tensors = {}
    for shard in shards:
        found = read_header(folder / Path(shard).name)
        expected = {name for name, place in places.items() if place == shard}
        if differing := sorted(expected ^ set(found)):
            raise ValueError(
                f"{INDEX} and {shard} do not name the same tensors: they are from "
                f"different downloads. Nothing was loaded. Received: {folder} with "
                f"{', '.join(differing[:8])} in only one of them"
            )
        tensors |= found
    return tensors


def read_header(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of one safetensors file, from its header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise _damaged(path, "its header is incomplete")
        try:
            header = json.loads(file.read(length).decode("utf-8"))
            header.pop("__metadata__", None)
            tensors = {
                name: _tensor(path, name, entry, 8 + length)
                for name, entry in header.items()
            }
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise _damaged(path, f"its header cannot be read: {error}") from error
    end = max(
        (8 + length + entry["data_offsets"][1] for entry in header.values()),
        default=8 + length,
    )
    if end != size:
        raise _damaged(path, f"its header describes {end} bytes")
    return tensors


def _tensor(path, name, entry, data):
    start, end = entry["data_offsets"]
    shape, dtype = tuple(entry["shape"]), DTYPES.get(entry["dtype"], "")
    if not dtype:
        raise ValueError(f"tensor '{name}' has dtype {entry['dtype']}")
    size = math.prod(shape) * _numpy(dtype).itemsize
    if min(start, *shape, 0) < 0 or end - start != size:
        raise ValueError(f"tensor '{name}' has {end - start} bytes, not {size}")
    return Tensor(path, shape, dtype, data + start)


def _numpy(name: str) -> np.dtype:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path.name} is damaged or incomplete: {reason}. Nothing was loaded; fetch "
        f"the file again. Received: {path} of {path.stat().st_size} bytes"
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
