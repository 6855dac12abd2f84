"""Rows of a table by id, with wrong ids refused."""

from typing import Any

import keras
from keras import ops

from keras_attention.ops.backend.regions import region
from keras_attention.ops.backend.shapes import concrete


def lookup(table: Any, ids: Any, *, what: str = "token_ids") -> Any:
    """`table[ids]`, refusing ids outside the table.

    Where the values of the ids are known, a wrong id raises an error with its value. In
    a graph the runtime refuses a wrong id, also one below 0. XLA cannot refuse an id:
    its row is NaN there.

    Args:
        table: `[V, E]`.
        ids: Integers of any shape.
        what: The name of the ids, for the message.

    Returns:
        `[..., E]`.
    """
    size = table.shape[0]
    dtype = keras.backend.standardize_dtype(ids.dtype)
    if "int" not in dtype:
        raise ValueError(f"`{what}` must be integers. Received: {what} of {dtype}")
    values = concrete(ids)
    if values is not None:
        wrong = values[(values < 0) | (values >= size)]
        if wrong.size:
            raise ValueError(
                f"`{what}` must be from 0 to {size - 1}: the table has {size} rows. "
                f"Received: {what} with {wrong.size} outside, the first {wrong[0]}"
            )
        return ops.take(table, ids, axis=0)
    return region("lookup", _lookup, table, ids)


def _lookup(table: Any, ids: Any) -> Any:
    size = table.shape[0]
    # Many runtimes count a negative id from the end of the table. `size` is refused by
    # all of them.
    rows = ops.take(table, ops.where(ids < 0, size, ids), axis=0)  # [..., E]
    known = ops.logical_and(ids >= 0, ids < size)
    return ops.where(ops.expand_dims(known, -1), rows, float("nan"))
