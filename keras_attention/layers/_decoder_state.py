"""The state of a recurrent decoder."""

from typing import Any, NamedTuple

import keras
from keras import ops


class DecoderState(NamedTuple):
    """States of an `AttentionCell`, in their order.

    The memory is part of the state and is not stored on a layer.

    Attributes:
        cell: States of the wrapped cell.
        attention: `[B, A]`, the last output of the attention.
        alignment: `[B, S]`, the last weights; with coverage the sum of all so far.
        step: `[B, 1]`, number of the next step. Float, as all states of an RNN are.
        value: `[B, S, V]`, the memory, 0 at padding.
        key: `[B, S, K]`, what `AttentionLayer.prepare_key` returned for the memory.
        memory_mask: `[B, S]`, 1 at non-padding tokens of the memory, 0 at padding.
    """

    cell: Any
    attention: Any
    alignment: Any
    step: Any
    value: Any
    key: Any
    memory_mask: Any


def fit_cell_state(cell: Any, given: Any, batch_size: Any) -> Any:
    """Returns states in the structure of the wrapped cell's own states.

    Args:
        cell: The wrapped cell.
        given: A tensor or a structure of tensors, such as the final states of an
            encoder; zeros when `None`.
        batch_size: B.
    """
    start = cell.get_initial_state(batch_size=batch_size)
    start = start if keras.tree.is_nested(start) else [start]
    if given is None:
        return start
    flat = keras.tree.flatten(given)
    expected = keras.tree.flatten(start)
    sizes, wanted = ([x.shape[-1] for x in each] for each in (flat, expected))
    if sizes != wanted:
        raise ValueError(
            "`cell_state` must hold the states of the wrapped cell, in its order. A "
            "bidirectional encoder has twice as many: concatenate or project them. "
            f"Expected tensors of sizes {wanted}. Received: sizes {sizes}"
        )
    return keras.tree.pack_sequence_as(start, flat)


def output_of_state(cell: Any, state: Any) -> Any:
    """Returns the tensor of a cell's state that was its last output.

    In a stack it is the last output of the top cell.
    """
    if isinstance(cell, keras.layers.StackedRNNCells):
        return output_of_state(cell.cells[-1], state[-1])
    return keras.tree.flatten(state)[0]


def output_size_of(cell: Any) -> int:
    """Returns the size of a cell's output."""
    size = getattr(cell, "output_size", None)
    return keras.tree.flatten(cell.state_size)[0] if size is None else size


def dropout_cells(cell: Any) -> list:
    """Returns the cells that use one dropout mask for a whole sequence."""
    cells = getattr(cell, "cells", [cell])
    return [each for each in cells if hasattr(each, "reset_dropout_mask")]


def reset_dropout_masks(cell: Any) -> None:
    """Makes the cells draw new dropout masks for the next sequence."""
    for each in dropout_cells(cell):
        each.reset_dropout_mask()
        each.reset_recurrent_dropout_mask()


def cast_floats(structure: Any, dtype: str) -> Any:
    """Returns the structure with all tensors cast to one dtype."""
    return keras.tree.map_structure(lambda x: ops.cast(x, dtype), structure)
