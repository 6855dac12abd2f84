"""The linear map, as one region: one matrix product in every runtime."""

from typing import Any

from keras import ops

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
    y = ops.matmul(x, kernel)  # [..., F]
    return y if bias is None else ops.add(y, bias)
