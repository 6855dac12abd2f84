"""The gradient of softmax attention, written out for the paths that hold few tensors.

For one row of scores s with weights w = softmax(s), output o = w · V and upstream
gradient g, the gradient of the scores is w * (V · g - g · o).
"""

from collections.abc import Callable
from typing import Any

from keras import ops


def with_gradient(function: Callable) -> Callable:
    """A function whose gradient is written out, on every backend.

    Args:
        function: Called with tensors; returns `(output, gradient)`. `gradient` is
            called with the gradient of the output, and returns a tuple with the
            gradient of each tensor.

    Returns:
        A function from the tensors to the output.
    """

    def forward(*tensors):
        output, gradient = function(*tensors)

        def backward(*upstreams, upstream=None):
            # torch passes the tensors again, and the gradient by name.
            return gradient(upstreams[0] if upstream is None else upstream)

        return output, backward

    return ops.custom_gradient(forward)


def row_products(upstream: Any, output: Any) -> Any:
    """G · o for each row, `[..., T, 1]`.

    Args:
        upstream: The gradient of the output, `[..., T, V]`.
        output: `[..., T, V]`.
    """
    return ops.sum(upstream * output, axis=-1, keepdims=True)


def score_gradients(*, weights: Any, value: Any, upstream: Any, products: Any) -> Any:
    """The gradient of the scores, after bias and mask, `[..., T, S]`.

    Args:
        weights: `[..., T, S]`.
        value: `[..., S, V]`.
        upstream: The gradient of the output, `[..., T, V]`.
        products: What `row_products` returns, `[..., T, 1]`.
    """
    slopes = ops.matmul(upstream, ops.swapaxes(value, -2, -1))
    return weights * (slopes - products)
