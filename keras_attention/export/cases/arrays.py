"""Reads the arrays of a `.npz` file that somebody else wrote.

The sizes, the dtypes and the shapes are read from the headers and checked before an
array is read, so that a small file cannot fill the memory. Objects, which can run code,
are refused. This module needs neither TensorFlow nor Keras.
"""

import io
import math
import zipfile
from pathlib import Path

import numpy as np

from keras_attention import untrusted

MAX_FILE_BYTES = 1 << 34
MAX_MEMBERS = 100_000
MAX_RATIO = 100  # bytes of the arrays per byte of the file
LEAST_LIMIT = 1 << 28  # a file whose arrays have fewer bytes may have any ratio
MAX_NPY_HEADER = 10_000
_KINDS = "biufcSUV"  # V without fields: bfloat16 in files of NumPy
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_arrays(file: Path, max_bytes: int | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of a `.npz` file by name.

    Args:
        file: The path of the file.
        max_bytes: The largest number of bytes of all arrays together. By default 256
            MiB, or 100 times the size of the file if that is more.

    Raises:
        ValueError: If the file is missing, damaged, too large or holds anything other
            than plain arrays.
    """
    try:
        with untrusted.open_plain(file) as opened:
            size = opened.seek(0, io.SEEK_END)
            if size > MAX_FILE_BYTES:
                raise ValueError(f"the file is larger than {MAX_FILE_BYTES:,} bytes")
            most = (
                max(LEAST_LIMIT, MAX_RATIO * size) if max_bytes is None else max_bytes
            )
            with zipfile.ZipFile(opened) as archive:
                return _read(archive, most)
    except Exception as error:  # zipfile, zlib and NumPy's tokenizer have their own
        raise ValueError(
            "The artifact's verification cases cannot be read: the file is damaged or "
            f"missing. Export again. Received: {untrusted.clip(file)}: "
            f"{untrusted.clip(error, 1000)}"
        ) from None


def _read(archive: zipfile.ZipFile, most: int) -> dict[str, np.ndarray]:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"it has {len(members)} members, at most {MAX_MEMBERS:,}")
    total = sum(member.file_size for member in members)
    if total > most:
        raise ValueError(
            f"its arrays have {total:,} bytes, more than the limit of {most:,} for a "
            "file of this size. If you trust the file, raise `MAX_RATIO` in "
            "keras_attention.export.cases.arrays"
        )
    arrays = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in arrays or name == member.filename:
            raise ValueError(f"the member {untrusted.show(name)} is no array, or twice")
        with archive.open(member) as opened:
            _check_header(opened, member)
        with archive.open(member) as opened:
            arrays[name] = np.lib.format.read_array(opened, allow_pickle=False)
    return arrays


def _check_header(opened, member: zipfile.ZipInfo) -> None:
    # Only the start: NumPy would read as many bytes as the header announces.
    start = io.BytesIO(opened.read(MAX_NPY_HEADER + 12))
    version = np.lib.format.read_magic(start)
    if version not in _READERS:
        raise ValueError(f"an array has the version {version} of the npy format")
    shape, _, dtype = _READERS[version](start, max_header_size=MAX_NPY_HEADER)
    what = f"the array {untrusted.show(member.filename)}"
    if dtype.hasobject or dtype.kind not in _KINDS or dtype.fields or dtype.subdtype:
        raise ValueError(f"{what} has the dtype {untrusted.clip(dtype)}")
    if len(shape) > 32 or any(
        type(size) is not int or not 0 <= size < 2**63 for size in shape
    ):
        raise ValueError(f"{what} has the shape {untrusted.show(shape)}")
    size = start.tell() + math.prod(shape) * dtype.itemsize
    if size != member.file_size:
        raise ValueError(f"{what} has {member.file_size:,} bytes, not {size}")
