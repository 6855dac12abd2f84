"""Padding of one axis with zeros."""

from typing import Any

from keras import ops


def pad_to(x: Any, length: Any, *, axis: int = 1) -> Any:
    """Appends zeros (`False` for bools) until `axis` has `length` entries.

    Args:
        x: A tensor.
        length: The new size of `axis`, at least its present size.
        axis: The axis to extend.
    """
    shape = list(ops.shape(x))
    shape[axis] = length - shape[axis]
    return ops.concatenate([x, ops.zeros(shape, dtype=x.dtype)], axis=axis)
