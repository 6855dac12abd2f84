"""Small functions of tensors that work in eager code and in graph code."""

from typing import Any

import keras
import numpy as np
from keras import ops


def concrete(x: Any) -> np.ndarray | None:
    """The values of `x` if they are known, or `None` inside a graph."""
    if x is None or isinstance(x, keras.KerasTensor):
        return None
    if isinstance(x, np.ndarray | np.generic | int | float | bool | list | tuple):
        return np.asarray(x)
    try:
        return ops.convert_to_numpy(x)
    except Exception:  # each backend has its own error for a traced tensor
        return None


def describe(x: Any) -> str:
    """Describes `x` for an error message: its dtype and shape, or its value."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{keras.backend.standardize_dtype(x.dtype)} of shape {tuple(x.shape)}"
    return f"{x!r} (of type {type(x).__name__})"


def refuse_ragged(**tensors: Any) -> None:
    """Refuses RaggedTensors: rows of different lengths are padded, with a mask.

    Args:
        **tensors: The inputs by name; `None` where there is none.
    """
    for name, tensor in tensors.items():
        ragged = getattr(tensor, "ragged", False) or hasattr(
            tensor, "nested_row_splits"
        )
        if ragged:
            raise ValueError(
                f"`{name}` must be a dense tensor with a padding mask, not a "
                "RaggedTensor. Pass `x.to_tensor()`, and "
                "`tf.sequence_mask(x.row_lengths())` as its mask. "
                f"Received: {name}=RaggedTensor of shape {tuple(tensor.shape)}"
            )


def is_symbolic(size: Any) -> bool:
    """Whether a size is symbolic, so that it cannot be compared (JAX only).

    Keras on JAX computes the shapes of a functional model with symbolic sizes. Only the
    shapes of the results matter then.
    """
    return size is not None and not isinstance(size, int)


def differ(left: int | None, right: int | None) -> bool:
    """Whether two static sizes are both known and different."""
    return left is not None and right is not None and left != right


def largest(x: Any, axis: Any, *, least: float, keepdims: bool = False) -> Any:
    """`ops.max`, with `least` as the smallest result.

    On torch, the `initial=` of Keras becomes a tensor on the CPU even if `x` is not.
    """
    if keras.backend.backend() == "torch" and 0 not in x.shape:
        return ops.maximum(ops.max(x, axis=axis, keepdims=keepdims), least)
    return ops.max(x, axis=axis, keepdims=keepdims, initial=least)


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
