"""Does a request fit its signature? Asked before any runtime sees it.

The manifest says what fits: dtypes, axes, the vocabulary and the longest sequence. So
the same mistake has the same answer, which names the input, in every format.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_attention.serving.errors import invalid, misfit


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        max_body_bytes: Of an HTTP body or a gRPC message.
        max_batch: Rows of one request.
        max_length: Of every other dynamic axis, where the model has no limit itself.
        max_pending: Requests that wait or are being answered, all together.
        timeout_seconds: From the last byte of a request to its answer.
    """

    max_body_bytes: int = 16 * 1024 * 1024
    max_batch: int = 1024
    max_length: int = 8192
    max_pending: int = 512
    timeout_seconds: float = 30.0


def check_request(
    name: str, signature: Mapping[str, Any], arrays: dict[str, Any], limits: Limits
) -> None:
    """Refuse arrays that do not fit a signature.

    Args:
        name: Of the signature.
        signature: Its entry in the manifest.
        arrays: Name to NumPy array, text as objects.
        limits: Of the server.
    """
    check_names(name, signature["inputs"], arrays)
    sizes: dict[str, tuple[int, str]] = {}
    for key, info in signature["inputs"].items():
        array = arrays[key]
        if dtype_name(array) != info["dtype"]:
            raise misfit(key, described(info), f"dtype {dtype_name(array)}")
        if array.ndim != len(info["shape"]):
            raise misfit(key, described(info), f"shape {list(array.shape)}")
        for axis, size in zip(info["shape"], array.shape, strict=True):
            if isinstance(axis, int):
                if axis != size:
                    raise misfit(key, described(info), f"shape {list(array.shape)}")
                continue
            _check_size(key, axis, size, signature["max_lengths"], limits)
            first, other = sizes.setdefault(axis, (size, key))
            if first != size:
                raise invalid(
                    f"Inputs '{other}' and '{key}' must have the same {axis} size. "
                    f"Received: {first} and {size}"
                )
    for key, limit in signature["limits"].items():
        lowest, highest = int(arrays[key].min()), int(arrays[key].max())
        if lowest < 0 or highest >= limit:
            raise invalid(
                f"Input '{key}' must be in [0, {limit}): ids of the vocabulary of "
                f"this model. Received: ids from {lowest} to {highest}"
            )


def check_names(name: str, inputs: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse a request with an input too few or too many."""
    wrong = [f"input '{key}' is missing" for key in inputs if key not in given]
    wrong += [f"input '{key}' is unknown" for key in given if key not in inputs]
    if wrong:
        expected = ", ".join(f"{key}: {described(x)}" for key, x in inputs.items())
        raise invalid(
            f"The inputs do not fit signature '{name}': {'; '.join(wrong)}. "
            f"Expected: {expected}. Received: {sorted(map(str, given))}"
        )


def described(info: Mapping[str, Any]) -> str:
    """A tensor of the manifest in words: `int32 [batch, sequence]`."""
    return f"{info['dtype']} [{', '.join(map(str, info['shape']))}]"


def dtype_name(array: np.ndarray) -> str:
    """The dtype as the manifest writes it."""
    return "string" if array.dtype.kind in "OSU" else array.dtype.name


def _check_size(
    key: str, axis: str, size: int, max_lengths: Mapping[str, int], limits: Limits
) -> None:
    if axis == "batch":
        limit, whose = limits.max_batch, "rows this server takes at once"
    elif axis in max_lengths:
        limit, whose = max_lengths[axis], "positions of this model"
    else:
        limit, whose = limits.max_length, "entries this server takes"
    if not 1 <= size <= limit:
        raise invalid(
            f"Input '{key}' has a {axis} size outside the 1 to {limit} {whose}. "
            f"Received: {size}"
        )
