"""What every attention layer shares: its call, its dropout, its observers.

A kind of attention is a subclass with one method, `attend_to`.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import keras

from keras_attention.layers._arguments import (
    check_bias,
    clear_padding,
    standardize_shapes,
    unpack,
)
from keras_attention.layers._visibility import join_masks, visibility
from keras_attention.layers.projection import dtype_config

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
    """What `attend_to` works on: checked, with masks combined and padding cleared.

    Attributes:
        query: `[B, T, E]`, 0 at padding.
        key: `[B, S, E']`, 0 at padding.
        value: `[B, S, E'']`, 0 at padding.
        mask: Bool, broadcastable to `[B, T, S]` or `[B, N, T, S]`; or `None`.
        bias: Float, likewise; or `None`.
        query_mask: Bool `[B, T]` or `None`.
        key_mask: Bool `[B, S]` or `None`.
        training: Whether dropout is on.
        need_weights: Whether the weights will be used.
        soft_cap: Bound of the scores, or `None`.
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

    def seeing_only(self, seen: Any) -> "AttentionInputs":
        """The same, with keys outside `seen` (bool `[B, T, S]`) hidden as well."""
        return replace(self, mask=join_masks(self.mask, seen))


class AttentionLayer(keras.layers.Layer):
    """Base of all attention layers. Subclasses implement `attend_to`.

    Args:
        dropout: Rate of dropout on the attention weights.
        seed: Seed of that dropout.
        logits_soft_cap: Scores s become cap · tanh(s / cap), so that none is larger
            (Gemma 2); `None` leaves them as they are.
        **kwargs: Those of `keras.layers.Layer`: `name`, `dtype`, `trainable`.
    """

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
        """One kind of attention: `(output [B, T, E], weights or None)`."""
        raise NotImplementedError

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
        query, value, key, query_mask, value_mask, key_mask = unpack(
            query,
            value,
            key,
            mask=mask,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            name=self.name,
        )
        seen = visibility(
            query,
            key,
            query_mask=query_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            use_causal_mask=use_causal_mask,
            max_rank=3,
        )
        output, weights = self.attend_to(
            AttentionInputs(
                query=clear_padding(query, query_mask),
                key=clear_padding(key, key_mask),
                value=clear_padding(value, key_mask),
                mask=seen.tensor(query, key),
                bias=check_bias(attention_bias, query, key, max_rank=3),
                query_mask=query_mask,
                key_mask=key_mask,
                training=training,
                need_weights=self.needs_weights(return_attention_scores),
                soft_cap=self.logits_soft_cap,
            )
        )
        self.report(weights)
        return (output, weights) if return_attention_scores else output

    def needs_weights(self, return_attention_scores: bool) -> bool:
        """Whether somebody will look at the weights."""
        return return_attention_scores or _observer.get() is not None

    def report(self, weights: Any) -> None:
        """Shows the weights to whoever observes this call."""
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
