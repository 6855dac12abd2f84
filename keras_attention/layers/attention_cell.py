"""A recurrent cell that attends to a memory in each step."""

from typing import Any

import keras
from keras import ops

from keras_attention.layers._decoder_state import (
    DecoderState,
    cast_floats,
    fit_cell_state,
    output_of_state,
    output_size_of,
    reset_dropout_masks,
)
from keras_attention.layers.base import AttentionLayer, StepState
from keras_attention.layers.building import built_once
from keras_attention.layers.checks import check_optional_sizes
from keras_attention.layers.global_attention import attentional_projection
from keras_attention.ops import masks
from keras_attention.ops.backend.shapes import describe, refuse_ragged


@keras.saving.register_keras_serializable("keras_attention")
class AttentionCell(keras.layers.Layer):
    """An RNN cell with attention: one step of a recurrent decoder.

    Use it in an `AttentionRNN`, which takes the memory as an argument, or in
    `keras.layers.RNN`, which takes it as part of the initial states. The memory (the
    encoder's sequence) and its mask are part of the states and are not stored on the
    cell. The part of the scores that depends on the memory alone is computed once.

    Luong's order, the default: the cell reads [x_t; a_{t-1}] and returns h_t, the query
    of a_t. Bahdanau's order, `attend_first=True`: the query of the context c_t is the
    state h_{t-1}, and the cell reads [x_t; c_t] and returns h_t.

    The output is the attentional vector if the attention returns one, else
    [h_t; context]. So a `Dense` after it depends on both, as in both papers.

    Reference: Luong et al., 2015 (arXiv:1508.04025), section 3.3; Bahdanau et al.,
    2014 (arXiv:1409.0473), appendix A.1. `coverage`: See et al., "Get To The Point",
    2017 (arXiv:1704.04368), equation 11; Tu et al., 2016 (arXiv:1601.04811).

    Args:
        cell: `keras.layers.GRUCell`, `LSTMCell`, `StackedRNNCells`, or another one.
        attention: Any attention layer, also a subclass of yours. `LocalAttention` is
            aligned with the number of the step; `MonotonicAttention` continues from the
            alignment of the step before.
        input_feeding: Whether the cell reads the last attention with its input. In
            Bahdanau's order it always reads the context.
        attend_first: Whether the order is Bahdanau's.
        attention_vector_size: If given, the output is tanh(W [context; h_t]) of that
            size, and input feeding feeds this output. For attention that returns a
            context.
        attention_vector_activation: The activation of that output; `"linear"` for
            W [context; h_t], the `attention_layer` of `tfa.seq2seq.AttentionWrapper`.
        coverage: Whether the score of each position depends on the sum of its weights
            so far. For attention with a `key_term_size`: additive scores, which are
            `AdditiveAttention`, and `GlobalAttention` and `LocalAttention` with
            `"concat"`.
        return_attention_scores: Whether the weights are returned with the output:
            as a second output by `AttentionRNN`, after it in the same tensor by
            `keras.layers.RNN`; `split` separates them.
        **kwargs: Arguments of `keras.layers.Layer`. States are float32 in every dtype
            policy (or float64), because half precision loses small terms of long sums.

    Call arguments:
        inputs: `[B, E]`.
        states: The states that `initial_state` or the last call returned.
        training: Whether dropout is active.

    Returns:
        `(output [B, output_size], states)`.

    Example:
    >>> cell = ka.AttentionCell(keras.layers.GRUCell(8), ka.AdditiveAttention(16))
    >>> memory = np.random.rand(2, 5, 12).astype("float32")
    >>> targets = np.random.rand(2, 3, 4).astype("float32")
    >>> states = cell.initial_state(memory)
    >>> rnn = keras.layers.RNN(cell, return_sequences=True)
    >>> tuple(rnn(targets, initial_state=states).shape)
    (2, 3, 20)
    """

    def __init__(
        self,
        cell: Any,
        attention: AttentionLayer,
        *,
        input_feeding: bool = True,
        attend_first: bool = False,
        attention_vector_size: int | None = None,
        coverage: bool = False,
        return_attention_scores: bool = False,
        attention_vector_activation: Any = "tanh",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not isinstance(attention, AttentionLayer):
            raise ValueError(
                "`attention` must be an attention layer of keras_attention, or a "
                f"subclass of its `AttentionLayer`. Received: attention={attention!r}"
            )
        if not hasattr(cell, "state_size"):
            raise ValueError(
                "`cell` must be an RNN cell, such as `keras.layers.GRUCell(8)`. "
                f"Received: cell={cell!r}"
            )
        check_optional_sizes(attention_vector_size=attention_vector_size)
        self.cell = cell
        self.attention = attention
        self.input_feeding = input_feeding
        self.attend_first = attend_first
        self.attention_vector_size = attention_vector_size
        self.attention_vector_activation = keras.activations.get(
            attention_vector_activation
        )
        self.coverage = coverage
        self.return_attention_scores = return_attention_scores
        self.input_size: int | None = None
        self.memory_shape: Any = None
        self.attention_size: int | None = None
        self.combine = None
        if attention_vector_size is not None:
            self.combine = attentional_projection(
                attention_vector_size,
                self.dtype_policy,
                activation=self.attention_vector_activation,
            )

    @property
    def compute_dtype(self):
        """The dtype of the states."""
        return "float64" if super().compute_dtype == "float64" else "float32"

    @property
    def state_size(self) -> list:
        """Sizes of the states in the order of `initial_state`; `None` if not known."""
        known = DecoderState(
            self.cell.state_size, self._fed_size(), None, 1, None, None, None
        )
        return list(known)

    @property
    def output_size(self) -> int | None:
        """Size of the output, without attention scores; `None` before the build."""
        if self.attention_vector_size is not None:
            return self.attention_vector_size
        if self.attention_size is None or self._mixes():
            return self.attention_size
        return output_size_of(self.cell) + self.attention_size

    @built_once
    def build(self, input_shape, memory_shape=None):
        memory_shape = self.memory_shape if memory_shape is None else memory_shape
        if memory_shape is None:
            raise ValueError(_MEMORY_MISSING + "Received: memory_shape=None")
        self.build_attention(memory_shape)
        size = input_shape[-1]
        if self.attend_first:
            size += self.attention_size
        elif self.input_feeding:
            size += self._fed_size()
        if not self.cell.built:
            self.cell.build((input_shape[0], size))
            self.cell.built = True
        self.input_size = input_shape[-1]
        self.built = True

    def build_attention(self, memory_shape: tuple) -> None:
        """Creates the weights that do not depend on the input, unless they exist.

        Args:
            memory_shape: `(B, S, V)`.
        """
        if self.attention_size is not None:
            return
        query_size = output_size_of(self.cell)
        query_shape = (None, 1, query_size)
        if not self.attention.built:
            self.attention.build(query_shape, memory_shape)
        spec = self.attention.compute_output_spec(
            keras.KerasTensor(query_shape), keras.KerasTensor((None, *memory_shape[1:]))
        )
        size = spec.shape[-1]
        if self.combine is not None and not self.combine.built:
            self.combine.build((None, size + query_size))
        if self.coverage:
            self.coverage_vector = self.add_weight(
                name="coverage_vector", shape=(self._key_term_size(),)
            )
        self.memory_shape = (None, None, memory_shape[-1])
        self.attention_size = size

    def initial_state(
        self, memory: Any, memory_mask: Any = None, cell_state: Any = None
    ) -> list:
        """Returns the states before the first step.

        In a functional model use `AttentionRNN`, which calls this method.

        Args:
            memory: `[B, S, V]`, the sequence that is attended to.
            memory_mask: Bool `[B, S]`, `True` at non-padding tokens. A mask that Keras
                carries on `memory` is used too.
            cell_state: First states of the wrapped cell, such as the last ones of an
                encoder; zeros when not given.

        Returns:
            A list of tensors, `initial_state=` of `keras.layers.RNN`.
        """
        memory, memory_mask = _check_memory(memory, memory_mask)
        self.build_attention(memory.shape)
        memory = ops.cast(memory, self.compute_dtype)
        start = self.attention.start(memory, memory_mask)
        batch = ops.shape(memory)[0]
        reset_dropout_masks(self.cell)
        state = DecoderState(
            cell=fit_cell_state(self.cell, cell_state, batch),
            attention=ops.zeros((batch, self._fed_size())),
            alignment=start.alignment,
            step=start.step,
            value=start.value,
            key=start.key,
            memory_mask=start.mask,
        )
        return list(cast_floats(state, self.compute_dtype))

    def get_initial_state(self, batch_size=None):
        """Raises an error: there is no first state without a memory."""
        raise ValueError(_MEMORY_MISSING + f"Received: batch_size={batch_size}")

    def call(self, inputs, states, training=False):
        state = DecoderState(*states)
        if self.attend_first:
            query = output_of_state(self.cell, state.cell)
            attention, weights, after = self._attend(query, state, training)
            output, cell_state = self._run(inputs, attention, state, training)
        else:
            fed = state.attention if self.input_feeding else None
            output, cell_state = self._run(inputs, fed, state, training)
            attention, weights, after = self._attend(output, state, training)
        output, attention = self._result(output, attention)
        state = state._replace(
            cell=cell_state,
            attention=ops.cast(attention, self.compute_dtype),
            alignment=ops.cast(after.alignment, self.compute_dtype),
            step=state.step + 1.0,
            value=ops.cast(after.value, self.compute_dtype),
            key=ops.cast(after.key, self.compute_dtype),
        )
        if self.return_attention_scores:
            weights = ops.cast(weights, output.dtype)
            output = ops.concatenate([output, weights], axis=1)  # [B, O + S]
        return output, list(state)

    def split(self, outputs: Any) -> tuple[Any, Any]:
        """Separates outputs and attention scores of a `keras.layers.RNN`.

        Args:
            outputs: `[B, T, O + S]` or `[B, O + S]`.

        Returns:
            `[B, T, O]` and `[B, T, S]`, or both without T.
        """
        size = self.output_size
        output = ops.reshape(outputs[..., :size], (*ops.shape(outputs)[:-1], size))
        return output, outputs[..., size:]

    def _run(self, inputs, attention, state, training):
        """Runs one step of the wrapped cell; returns its output and new states."""
        if attention is not None:
            attention = ops.cast(attention, inputs.dtype)
            inputs = ops.concatenate([inputs, attention], axis=1)  # [B, E + A]
        takes_training = isinstance(self.cell, keras.layers.Layer)
        kwargs = {"training": training} if takes_training else {}
        output, cell_state = self.cell(inputs, state.cell, **kwargs)
        if not keras.tree.is_nested(cell_state):
            cell_state = [cell_state]
        cell_state = keras.tree.pack_sequence_as(
            state.cell, keras.tree.flatten(cell_state)
        )
        cell_state = cast_floats(cell_state, self.compute_dtype)
        return ops.cast(output, self.compute_dtype), cell_state

    def _attend(self, query, state, training):
        """Runs one step of the attention: `[B, A]`, weights `[B, S]`, its new state."""
        key = state.key
        if self.coverage:
            covered = state.alignment[..., None]  # [B, S, 1]
            key = key + covered * ops.cast(self.coverage_vector, key.dtype)
        before = StepState(
            alignment=state.alignment,
            step=ops.cast(state.step, "int32"),
            value=state.value,
            key=key,
            mask=state.memory_mask > 0.5,
        )
        attention, weights, after = self.attention.step(query, before, training)
        if self.coverage:
            after = after._replace(alignment=state.alignment + weights, key=state.key)
        return attention, weights, after

    def _result(self, output, attention):
        """Returns the step's output, and the attention that is fed to the next step."""
        attention = ops.cast(attention, output.dtype)
        if self.combine is not None:
            both = ops.concatenate([attention, output], axis=1)
            vector = ops.cast(self.combine(both), output.dtype)
            return vector, vector
        if self._mixes():
            return attention, attention
        return ops.concatenate([output, attention], axis=1), attention

    def _mixes(self) -> bool:
        """Whether the output of the attention contains h_t already."""
        return self.attention.attentional_vector and not self.attend_first

    def _fed_size(self) -> int | None:
        return self.attention_vector_size or self.attention_size

    def _key_term_size(self) -> int:
        size = self.attention.key_term_size
        if size is None:
            raise ValueError(
                "`coverage` is a term inside an additive score. Use "
                "`AdditiveAttention`, or `GlobalAttention` or `LocalAttention` with "
                f"score='concat'. Received: attention={self.attention!r}"
            )
        return size

    def get_build_config(self):
        if not self.built:
            return None
        return {"input_size": self.input_size, "memory_shape": self.memory_shape}

    def build_from_config(self, config):
        self.build((None, config["input_size"]), tuple(config["memory_shape"]))

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "cell": serialize(self.cell),
            "attention": serialize(self.attention),
            "input_feeding": self.input_feeding,
            "attend_first": self.attend_first,
            "attention_vector_size": self.attention_vector_size,
            "coverage": self.coverage,
            "return_attention_scores": self.return_attention_scores,
            "attention_vector_activation": keras.activations.serialize(
                self.attention_vector_activation
            ),
        }

    @classmethod
    def from_config(cls, config):
        for part in ("cell", "attention"):
            config[part] = keras.saving.deserialize_keras_object(config[part])
        return cls(**config)


_MEMORY_MISSING = (
    "An attention cell needs the memory it attends to. Call `AttentionRNN(cell)"
    "(targets, memory)`, or pass `keras.layers.RNN` the `initial_state` that "
    "`cell.initial_state(memory)` returns. "
)


def _check_memory(memory, memory_mask):
    if isinstance(memory, keras.KerasTensor):
        raise ValueError(
            "`initial_state` has weights, so it cannot be a step of a functional "
            "model. Use `AttentionRNN(cell)(targets, memory)`, which calls it. "
            f"Received: memory={describe(memory)}"
        )
    refuse_ragged(memory=memory)
    carried = getattr(memory, "_keras_mask", None)
    memory = ops.convert_to_tensor(memory)
    if len(memory.shape) != 3:
        raise ValueError(
            "`memory` must have shape [batch, length, features]. "
            f"Received: memory={describe(memory)}"
        )
    if memory_mask is None or memory_mask is carried:
        return memory, carried
    shape = "[batch, length]"
    mask = masks.require_bool(memory_mask, "memory_mask", rank=2, shape=shape)
    return memory, mask if carried is None else mask & carried
