"""The linear map as one region, so that it is one matrix product in every runtime."""

import math
from typing import Any

from keras import ops

from keras_attention.ops.backend.compiled import optimization_barrier
from keras_attention.ops.backend.regions import region


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


def linear_of_table(x: Any, table: Any, bias: Any = None) -> Any:
    """`x @ table.T + bias` over the last axis: a score for each row of a table.

    Args:
        x: `[..., E]`.
        table: `[V, E]`.
        bias: `[V]` or `None`.

    Returns:
        `[..., V]`.
    """
    *outer, size = x.shape
    if None in outer or math.prod(outer) != 1:
        return linear(x, ops.transpose(table), bias)
    # For one vector the table is not transposed: TensorFlow would copy it, and XLA
    # would read it at 3/4 of the speed.
    y = optimization_barrier(ops.matmul(table, ops.reshape(x, (size, 1))))  # [V, 1]
    y = ops.reshape(y, (*outer, -1))
    return y if bias is None else ops.add(y, bias)


def _linear(x: Any, kernel: Any, bias: Any) -> Any:
    # Compilers fuse product and sum of matrices.
    *outer, size = ops.shape(x)
    y = optimization_barrier(ops.matmul(ops.reshape(x, (-1, size)), kernel))
    y = y if bias is None else ops.add(y, bias)
    return ops.reshape(y, (*outer, kernel.shape[-1]))  # [..., F]
