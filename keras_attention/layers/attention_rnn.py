"""A recurrent decoder over a memory."""

from typing import Any

import keras
from keras import ops

from keras_attention.layers._decoder_state import dropout_cells, reset_dropout_masks
from keras_attention.layers.attention_cell import AttentionCell
from keras_attention.layers.building import built_once


@keras.saving.register_keras_serializable("keras_attention")
class AttentionRNN(keras.layers.RNN):
    """A `keras.layers.RNN` for an `AttentionCell`, which is called with the memory.

    Use it for the decoder of a recurrent sequence-to-sequence model. In training it is
    called with all targets (teacher forcing); in generation with one token at a time
    and the states of the call before. The numbers are those of `keras.layers.RNN` with
    `cell.initial_state(memory)`. In addition this layer works in functional models,
    uses the masks that Keras carries on both sequences, and returns attention scores as
    an output of their own.

    Args:
        cell: An `AttentionCell`.
        return_sequences: Whether the outputs of all steps are returned, and not only
            the last one.
        return_state: Whether the last states are returned too.
        **kwargs: Arguments of `keras.layers.RNN`.

    Call arguments:
        sequences: `[B, T, E]`, the targets.
        memory: `[B, S, V]`, the sequence that is attended to. Omit it if
            `initial_state` holds the states of an earlier call, which contain it.
        initial_state: With `memory`, first states of the wrapped cell, zeros when not
            given. Without `memory`, all states that an earlier call returned.
        mask: Bool `[B, T]`; where it is `False`, the states do not change. Keras
            then copies all states in every step, the memory too, which costs time;
            padding at the end needs no mask if the last states are not used.
        memory_mask: Bool `[B, S]`, `True` at non-padding tokens.
        training: Whether dropout is active.

    Returns:
        `[B, T, O]`, or `[B, O]` without `return_sequences`. With
        `return_attention_scores=True` of the cell also the weights `[B, T, S]` or
        `[B, S]`. With `return_state=True` a tuple of all these and the states.

    Example:
    >>> cell = ka.AttentionCell(
    ...     keras.layers.LSTMCell(8),
    ...     ka.GlobalAttention("general", units=6),
    ...     return_attention_scores=True,
    ... )
    >>> decoder = ka.AttentionRNN(cell, return_sequences=True)
    >>> memory = np.random.rand(2, 5, 12).astype("float32")
    >>> targets = np.random.rand(2, 3, 4).astype("float32")
    >>> outputs, scores = decoder(targets, memory)
    >>> tuple(outputs.shape), tuple(scores.shape)
    ((2, 3, 6), (2, 3, 5))
    """

    def __init__(
        self,
        cell: AttentionCell,
        return_sequences: bool = False,
        return_state: bool = False,
        **kwargs: Any,
    ):
        if not isinstance(cell, AttentionCell):
            raise ValueError(
                "`cell` must be an `AttentionCell`; for other cells use "
                f"`keras.layers.RNN`. Received: cell={cell!r}"
            )
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            **kwargs,
        )

    @built_once
    def build(self, sequences_shape, memory_shape=None, initial_state_shape=None):
        if not self.cell.built:
            self.cell.build((sequences_shape[0], sequences_shape[-1]), memory_shape)
        super().build(sequences_shape)

    def call(
        self,
        sequences,
        memory=None,
        initial_state=None,
        *,
        mask=None,
        memory_mask=None,
        training=False,
    ):
        mask = getattr(sequences, "_keras_mask", None) if mask is None else mask
        if memory is not None:
            initial_state = self.cell.initial_state(memory, memory_mask, initial_state)
        # All steps share one dropout mask, which is drawn before the loop.
        reset_dropout_masks(self.cell.cell)
        if training and dropout_cells(self.cell.cell):
            self.cell(sequences[:, 0], initial_state, training=True)
        results = super().call(
            sequences, initial_state=initial_state, mask=mask, training=training
        )
        reset_dropout_masks(self.cell.cell)
        output, *states = results if self.return_state else (results,)
        outputs = [output]
        if self.cell.return_attention_scores:
            outputs = list(self.cell.split(output))
            if self.return_sequences:
                self.cell.attention.report(outputs[1])
        results = (*outputs, *states)
        return results if len(results) > 1 else output

    def inner_loop(self, sequences, initial_state, mask, training=False):
        """Runs a single step without a loop, which is faster and a simpler graph.

        Args:
            sequences: `[B, T, E]`.
            initial_state: A list of tensors.
            mask: Bool `[B, T]` or `None`.
            training: Whether dropout is active.
        """
        if sequences.shape[1] != 1:
            return super().inner_loop(sequences, initial_state, mask, training)
        output, states = self.cell(sequences[:, 0], initial_state, training=training)
        if mask is not None:
            before = keras.tree.flatten(initial_state)
            after = keras.tree.flatten(states)
            masked = [
                _where(mask, new, old) for new, old in zip(after, before, strict=True)
            ]
            states = keras.tree.pack_sequence_as(states, masked)
            output = _where(mask, output, ops.zeros_like(output))
        return output, output[:, None], states

    def compute_output_spec(self, *args, **kwargs):
        return keras.Operation.compute_output_spec(self, *args, **kwargs)


def _where(mask, new, old):
    """Selects rows of `new` where `mask` `[B, 1]` is True, else rows of `old`."""
    return ops.where(ops.reshape(mask, (-1, *[1] * (len(new.shape) - 1))), new, old)
