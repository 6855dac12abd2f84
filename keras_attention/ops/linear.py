"""The linear map, as one region: one matrix product in every runtime."""

from typing import Any

from keras import ops

from keras_attention.ops.compiled import apart
from keras_attention.ops.regions import region


def linear(x: Any, kernel: Any, bias: Any = None) -> Any:
    """`x @ kernel + bias` over the last axis.

    Args:
        x: `[..., E]`.
        kernel: `[E, F]`.
        bias: `[F]` or `None`.

    Returns:
        `[..., F]`.
    """
    return region("linear", _linear, x, kernel, bias)


def _linear(x: Any, kernel: Any, bias: Any) -> Any:
    # In two axes, where compilers fuse the product and the sum.
    *outer, size = ops.shape(x)
    y = apart(ops.matmul(ops.reshape(x, (-1, size)), kernel))
    y = y if bias is None else ops.add(y, bias)
    return ops.reshape(y, (*outer, kernel.shape[-1]))  # [..., F]
