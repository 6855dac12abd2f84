"""Small questions about tensors that eager code and graph code answer alike."""

from typing import Any

import keras
import numpy as np
from keras import ops


def concrete(x: Any) -> np.ndarray | None:
    """The values of `x` where they are known now, else `None` (inside a graph)."""
    if x is None or isinstance(x, keras.KerasTensor):
        return None
    if isinstance(x, np.ndarray | np.generic | int | float | bool | list | tuple):
        return np.asarray(x)
    try:
        return ops.convert_to_numpy(x)
    except Exception:  # each backend has its own error for a traced tensor
        return None


def describe(x: Any) -> str:
    """`x` for an error message: its dtype and shape, or the value itself."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{keras.backend.standardize_dtype(x.dtype)} of shape {tuple(x.shape)}"
    return f"{x!r} (of type {type(x).__name__})"


def is_symbolic(size: Any) -> bool:
    """Whether a size is a name that nothing can be compared with (JAX, shapes only).

    Keras on JAX finds the shapes of a functional model that way; what is computed then
    does not matter, its shape does.
    """
    return size is not None and not isinstance(size, int)


def differ(left: int | None, right: int | None) -> bool:
    """Whether two static sizes are both known and not the same."""
    return left is not None and right is not None and left != right


def largest(x: Any, axis: Any, *, least: float, keepdims: bool = False) -> Any:
    """`ops.max`, and never less than `least`.

    With its own `initial=` Keras makes a tensor on the CPU on torch, wherever `x` is.
    """
    if keras.backend.backend() == "torch" and 0 not in x.shape:
        return ops.maximum(ops.max(x, axis=axis, keepdims=keepdims), least)
    return ops.max(x, axis=axis, keepdims=keepdims, initial=least)
