"""The base class of all attention layers: one call, dropout, observers, single steps.

A kind of attention is a subclass that implements one method, `attend_to`. It can then
be called like every other attention layer and used in an `AttentionCell`.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_attention.layers._arguments import (
    check_bias,
    clear_padding,
    standardize_shapes,
)
from keras_attention.layers._axes import axes_of
from keras_attention.layers._visibility import join_masks, visibility
from keras_attention.layers.building import built_once
from keras_attention.layers.projection import dtype_config
from keras_attention.ops.backend.shapes import refuse_ragged

Observer = Callable[["AttentionLayer", Any], None]

_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


@contextlib.contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Calls `observer(layer, weights)` for every attention call inside the block."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


@dataclass(frozen=True)
class AttentionInputs:
    """The arguments of `attend_to`: checked, with masks combined and padding cleared.

    The last three are given only in a step of a recurrent decoder, where T = 1. A kind
    that does not use them is still computed correctly.

    Attributes:
        query: `[B, T, E]`, 0 at padding.
        key: `[B, S, E']`, 0 at padding.
        value: `[B, S, E'']`, 0 at padding.
        mask: Bool, broadcastable to `[B, T, S]` or `[B, N, T, S]`; or `None`. It
            includes the padding masks.
        bias: Float, broadcastable to the same shapes; or `None`.
        query_mask: Bool `[B, T]` or `None`.
        key_mask: Bool `[B, S]` or `None`.
        training: Whether dropout is active.
        need_weights: Whether the weights must be returned.
        soft_cap: Bound of the scores, or `None`.
        prepared_key: What `prepare_key` returned for `key`; `None` outside of steps.
        step: Int `[B, 1]`, the number of the step; `None` outside of steps.
        previous: `[B, S]`, the alignment of the step before; `None` outside of steps.
    """

    query: Any
    key: Any
    value: Any
    mask: Any = None
    bias: Any = None
    query_mask: Any = None
    key_mask: Any = None
    training: bool | None = None
    need_weights: bool = False
    soft_cap: float | None = None
    prepared_key: Any = None
    step: Any = None
    previous: Any = None

    def seeing_only(self, visible: Any) -> "AttentionInputs":
        """The same inputs; keys outside `visible` (bool `[B, T, S]`) are hidden too."""
        return replace(self, mask=join_masks(self.mask, visible))


class StepState(NamedTuple):
    """What an attention layer needs from one step of a recurrent decoder to the next.

    Attributes:
        alignment: `[B, S]`, the weights of the last step.
        step: Int32 `[B, 1]`, the number of the next step.
        value: `[B, S, V]`, the memory, 0 at padding.
        key: `[B, S, K]`, what `prepare_key` returned for the memory.
        mask: Bool `[B, S]`, `True` at non-padding tokens of the memory.
    """

    alignment: Any
    step: Any
    value: Any
    key: Any
    mask: Any


class AttentionLayer(keras.layers.Layer):
    """Base of all attention layers. Subclasses implement `attend_to`.

    A recurrent decoder attends step by step: `start` once, then `step` for each
    query. Both work for every subclass. A subclass overrides `prepare_key` if a part
    of its scores depends on the keys alone, and `start` or `step` if its steps depend
    on each other.

    Attributes:
        key_term_size: Size K of the vectors `[B, S, K]` that may be added to what
            `prepare_key` returned, as coverage does; `None` if nothing may be added.
        attentional_vector: Whether the output contains the query too, as
            tanh(W [context; query]) does, and not only the context.

    Args:
        dropout: Rate of dropout on the attention weights.
        seed: Seed of that dropout.
        logits_soft_cap: Scores s become cap · tanh(s / cap), so that none is larger
            (Gemma 2); `None` does not change them.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.
    """

    key_term_size: int | None = None
    attentional_vector: bool = False

    def __init__(
        self,
        *,
        dropout: float = 0.0,
        seed: int | None = None,
        logits_soft_cap: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if logits_soft_cap is not None and not logits_soft_cap > 0:
            raise ValueError(
                "`logits_soft_cap` bounds the scores and must be above 0, or `None`. "
                f"Received: logits_soft_cap={logits_soft_cap}"
            )
        self.logits_soft_cap = logits_soft_cap
        if not 0.0 <= dropout < 1.0:
            raise ValueError(
                "`dropout` is the share of attention weights dropped in training, "
                f"from 0 up to but not including 1. Received: dropout={dropout}"
            )
        self.dropout = dropout
        self.seed = seed
        self.supports_masking = True
        self._dropout_layer = (
            keras.layers.Dropout(dropout, seed=seed, dtype="float32")
            if dropout
            else None
        )

    def attend_to(self, inputs: AttentionInputs) -> tuple[Any, Any]:
        """Computes this kind of attention.

        Args:
            inputs: Checked inputs, see `AttentionInputs`.

        Returns:
            `(output [B, T, E], weights)`, the weights `[B, T, S]` or `[B, N, T, S]`.
            They may be `None` unless `inputs.need_weights`.
        """
        raise NotImplementedError

    def prepare_key(self, key: Any) -> Any:
        """Computes the part of the scores that depends on the keys alone.

        A recurrent decoder calls it once, before its first step.

        Args:
            key: `[B, S, E']`, 0 at padding.

        Returns:
            `[B, S, K]`; by default the keys themselves.
        """
        return key

    def start(self, memory: Any, memory_mask: Any = None) -> StepState:
        """Returns the state before the first step of a recurrent decoder.

        Args:
            memory: `[B, S, V]`, keys and values of all steps.
            memory_mask: Bool `[B, S]`, `True` at non-padding tokens; all are when
                `None`.
        """
        memory = clear_padding(memory, memory_mask)
        alignment = ops.zeros_like(memory[:, :, 0])  # [B, S]
        if memory_mask is None:
            memory_mask = ops.ones_like(alignment, dtype="bool")
        return StepState(
            alignment=alignment,
            step=ops.zeros((ops.shape(memory)[0], 1), dtype="int32"),
            value=memory,
            key=self.prepare_key(memory),
            mask=memory_mask,
        )

    def step(
        self, query: Any, state: StepState, training: bool | None = None
    ) -> tuple[Any, Any, StepState]:
        """Attends to the memory with one query of a recurrent decoder.

        Args:
            query: `[B, E]`.
            state: What `start` or the last `step` returned.
            training: Whether dropout is active.

        Returns:
            `(output [B, A], weights [B, S], state)`. The weights of heads are their
            mean.
        """
        output, weights = self.attend_to(
            AttentionInputs(
                query=query[:, None],  # [B, 1, E]
                key=state.value,
                value=state.value,
                mask=state.mask[:, None],
                key_mask=state.mask,
                training=training,
                need_weights=True,
                soft_cap=self.logits_soft_cap,
                prepared_key=state.key,
                step=state.step,
                previous=state.alignment,
            )
        )
        if weights is None:
            raise ValueError(
                "`attend_to` must return its weights where `inputs.need_weights` is "
                "True, as in a step of a recurrent decoder. Received: weights=None "
                f"from {type(self).__name__}"
            )
        if len(weights.shape) == 4:
            weights = ops.mean(weights, axis=1)  # [B, 1, S]
        output, weights = output[:, 0], weights[:, 0]
        after = state._replace(alignment=weights, step=state.step + 1)
        return output, weights, after

    @built_once
    def build(self, query_shape, value_shape=None, key_shape=None):
        shapes = standardize_shapes(query_shape, value_shape, key_shape)
        self.build_weights(*shapes)
        self.built = True

    def build_weights(self, query_shape, value_shape, key_shape) -> None:
        """Creates the weights, once shapes are known. Nothing by default."""

    def call(
        self,
        query,
        value=None,
        key=None,
        *,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        attention_bias=None,
        use_causal_mask=False,
        return_attention_scores=False,
        mask=None,
        training=None,
    ):
        # As in Keras, images [B, ..., T, E] are attended over their last axis alone.
        axes = axes_of((-2,), query, value, key)
        query, value, key, query_mask, value_mask, key_mask = axes.unpack(
            query,
            value,
            key,
            mask=mask,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            name=self.name,
        )
        visible = visibility(
            query,
            key,
            query_mask=query_mask,
            key_mask=key_mask,
            attention_mask=axes.fold_mask(
                attention_mask, "attention_mask", heads=False
            ),
            use_causal_mask=use_causal_mask,
            max_rank=3,
        )
        bias = axes.fold_mask(attention_bias, "attention_bias", heads=False)
        output, weights = self.attend_to(
            AttentionInputs(
                query=clear_padding(query, query_mask),
                key=clear_padding(key, key_mask),
                value=clear_padding(value, key_mask),
                mask=visible.tensor(query, key),
                bias=check_bias(bias, query, key, max_rank=3),
                query_mask=query_mask,
                key_mask=key_mask,
                training=training,
                need_weights=self.needs_weights(return_attention_scores),
                soft_cap=self.logits_soft_cap,
            )
        )
        output, weights = axes.unfold(output), axes.unfold_weights(weights)
        self.report(weights)
        return (output, weights) if return_attention_scores else output

    def needs_weights(self, return_attention_scores: bool) -> bool:
        """Whether the caller or an observer uses the weights."""
        return return_attention_scores or _observer.get() is not None

    def report(self, weights: Any) -> None:
        """Passes the weights to the observer of this call, if there is one."""
        observer = _observer.get()
        if observer is not None:
            observer(self, weights)

    def active_dropout(self, training: bool | None) -> Callable | None:
        """Dropout for the weights; `None` unless it is configured and training.

        Inference is therefore the same computation whatever rate was configured.
        """
        layer = self._dropout_layer
        if layer is None or not training:
            return None
        return lambda weights: layer(weights, training=True)

    def output_sizes_of(self, query_shape, value_shape, key_shape) -> tuple[int, ...]:
        """Returns the sizes of the output's last axes: by default those of the value.

        A subclass with an output of another size overrides it.

        Args:
            query_shape: The shape of the query.
            value_shape: The shape of the value.
            key_shape: The shape of the key.
        """
        return (value_shape[-1],)

    def compute_output_shape(self, query_shape, value_shape=None, key_shape=None):
        shapes = standardize_shapes(query_shape, value_shape, key_shape)
        return (*shapes[0][:-1], *self.output_sizes_of(*shapes))

    def compute_output_spec(self, *args, **kwargs):
        refuse_ragged(**dict(zip(("query", "value", "key"), args, strict=False)))
        # Weights and caches are outputs too, which a shape alone does not tell.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_mask(self, inputs, previous_mask):
        listed = isinstance(previous_mask, list | tuple)
        mask = previous_mask[0] if listed else previous_mask
        query = inputs[0] if isinstance(inputs, list | tuple) else inputs
        carried = getattr(query, "_keras_mask", None)
        return mask if mask is carried else join_masks(mask, carried)

    def get_config(self):
        config = {"dropout": self.dropout, "seed": self.seed}
        config["logits_soft_cap"] = self.logits_soft_cap
        return {**super().get_config(), **config, **dtype_config(self)}
