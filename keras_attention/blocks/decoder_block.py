"""One layer of a decoder."""

from typing import Any, Literal

import keras

from keras_attention.blocks.common import (
    attend,
    build_once,
    padding_mask_of,
    with_layers,
)
from keras_attention.blocks.residual import Residual
from keras_attention.layers.building import built_once
from keras_attention.layers.checks import check_layers
from keras_attention.ops.caches.static import EncoderDecoderCache


@keras.saving.register_keras_serializable("keras_attention")
class DecoderBlock(keras.layers.Layer):
    """Causal self-attention, optional cross-attention, then a feed-forward network.

    Reference: Vaswani et al., 2017 (arXiv:1706.03762), section 3.1; `norm="pre"`:
    Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.

    Args:
        attention: The self-attention: an attention layer whose output has the size
            of its query.
        feed_forward: A layer `[B, T, E]` to `[B, T, E]`, e.g. `FeedForward`.
        cross_attention: Attention to an encoder's sequence, or `None`.
        norm: The place of the normalisation: `"pre"` (before the sub-layer; GPT-2) or
            `"post"` (after the residual; the original Transformer).
        epsilon: The epsilon of the normalisations.
        dropout: Rate of dropout on the output of each sub-layer.
        seed: Seed of that dropout.
        normalization: The kind of normalisation: `"layer"` or `"rms"` (Llama).
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        x: `[B, T, E]`.
        encoder_sequence: `[B, S, E']`; required if and only if there is a
            `cross_attention`, and not with an `EncoderDecoderCache`.
        padding_mask: Bool `[B, T]`, `True` at non-padding tokens; the mask that Keras
            carries on `x` when not given.
        encoder_padding_mask: Bool `[B, S]`, the same for `encoder_sequence`.
        attention_mask: Bool `[B, T, T]` or a mask of `ka.masks`, in addition to the
            causal one.
        cache: A `KVCache` of past tokens for the self-attention; or an
            `EncoderDecoderCache`, which contains the encoder's keys and values too.
        positions: Int `[T]` or `[B, T]`; they continue the cache when not given.
        training: Whether dropout is active.
        return_attention_scores: Whether the attention weights are returned too.

    Returns:
        `[B, T, E]`. With `return_attention_scores=True` also the weights of
        `attention`, `[B, N, T, T]` (past and new keys with a cache), and those of
        `cross_attention`, `[B, N, T, S]`, if there is one; kinds without heads have no
        N. With a `cache` also the new cache, as the last.

    Example:
    >>> block = ka.DecoderBlock(
    ...     attention=ka.MultiHeadAttention(num_heads=2, key_dim=4),
    ...     feed_forward=ka.FeedForward(intermediate_dim=32),
    ... )
    >>> tuple(block(np.random.rand(2, 5, 8).astype("float32")).shape)
    (2, 5, 8)
    """

    def __init__(
        self,
        attention: keras.layers.Layer,
        feed_forward: keras.layers.Layer,
        cross_attention: keras.layers.Layer | None = None,
        *,
        norm: Literal["pre", "post"] = "pre",
        epsilon: float = 1e-5,
        dropout: float = 0.0,
        seed: int | None = None,
        normalization: Literal["layer", "rms"] = "layer",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_layers(attention=attention, feed_forward=feed_forward)
        if cross_attention is not None:
            check_layers(cross_attention=cross_attention)
        self.attention = attention
        self.feed_forward = feed_forward
        self.cross_attention = cross_attention
        self.norm, self.epsilon, self.dropout, self.seed = norm, epsilon, dropout, seed
        self.normalization = normalization
        self.supports_masking = True
        residual = {"norm": norm, "epsilon": epsilon, "dropout": dropout, "seed": seed}
        residual |= {"normalization": normalization, "dtype": self.dtype_policy}
        self.attention_residual = Residual(name="attention_residual", **residual)
        self.feed_forward_residual = Residual(name="feed_forward_residual", **residual)
        self.cross_residual = None
        if cross_attention is not None:
            self.cross_residual = Residual(name="cross_residual", **residual)

    @built_once
    def build(self, x_shape, encoder_sequence_shape=None):
        self._check_encoder(encoder_sequence_shape)
        build_once(self.attention, x_shape, x_shape)
        build_once(self.feed_forward, x_shape)
        build_once(self.attention_residual, x_shape)
        build_once(self.feed_forward_residual, x_shape)
        if self.cross_attention is not None:
            build_once(self.cross_attention, x_shape, encoder_sequence_shape)
            build_once(self.cross_residual, x_shape)
        self.built = True

    def call(
        self,
        x,
        encoder_sequence=None,
        *,
        padding_mask=None,
        encoder_padding_mask=None,
        attention_mask=None,
        cache=None,
        positions=None,
        training=None,
        return_attention_scores=False,
    ):
        past, memory = self._parts(cache)
        self._check_encoder(encoder_sequence if memory is None else memory)
        padding_mask = padding_mask_of(x, padding_mask)
        scored = {"return_attention_scores": return_attention_scores}
        x, weights, past = self._attend_to_self(
            x,
            padding_mask,
            attention_mask=attention_mask,
            cache=past,
            positions=positions,
            training=training,
            **scored,
        )
        if self.cross_attention is not None and self.cross_residual is not None:
            entered = self.cross_residual.enter(x)
            value_mask = padding_mask_of(encoder_sequence, encoder_padding_mask)
            source = {"value": encoder_sequence, "value_mask": value_mask}
            attended, *of_encoder = attend(
                self.cross_attention,
                query=entered,
                query_mask=padding_mask,
                training=training,
                **scored,
                **(source if memory is None else {"memory": memory}),
            )
            x = self.cross_residual.leave(x, attended, training)
            weights = [*weights, *of_encoder]
        fed = self.feed_forward(self.feed_forward_residual.enter(x), training=training)
        x = self.feed_forward_residual.leave(x, fed, training)  # [B, T, E]
        results = [x, *weights]
        if cache is not None:
            new = past if memory is None else EncoderDecoderCache(past, memory)
            results.append(new)
        return tuple(results) if len(results) > 1 else x

    def _parts(self, cache):
        """Returns the past of self-attention and the memory of cross-attention."""
        if isinstance(cache, EncoderDecoderCache):
            return cache
        return cache, None

    def _attend_to_self(self, x, padding_mask, *, cache, positions, training, **call):
        entered = self.attention_residual.enter(x)
        # Only multi-head attention has these two arguments.
        steps = {"cache": cache, "positions": positions}
        attended, *others = attend(
            self.attention,
            query=entered,
            value=entered,
            query_mask=padding_mask,
            value_mask=padding_mask,
            use_causal_mask=True,
            training=training,
            **call,
            **{name: step for name, step in steps.items() if step is not None},
        )
        if cache is not None:
            *others, cache = others
        return self.attention_residual.leave(x, attended, training), others, cache

    def _check_encoder(self, given):
        if (self.cross_attention is None) == (given is None):
            return
        raise ValueError(
            "A DecoderBlock needs an `encoder_sequence` if and only if it was built "
            "with a `cross_attention`. Received: "
            f"cross_attention={self.cross_attention}, "
            f"encoder_sequence {'not given' if given is None else 'given'}"
        )

    def compute_output_shape(self, x_shape, encoder_sequence_shape=None):
        return x_shape

    def compute_output_spec(self, *args, **kwargs):
        # With a cache there are two outputs, which a shape alone does not tell.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_mask(self, inputs, previous_mask):
        return previous_mask

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "attention": serialize(self.attention),
            "feed_forward": serialize(self.feed_forward),
            "cross_attention": serialize(self.cross_attention),
            "norm": self.norm,
            "epsilon": self.epsilon,
            "dropout": self.dropout,
            "seed": self.seed,
            "normalization": self.normalization,
        }

    @classmethod
    def from_config(cls, config):
        return cls(
            **with_layers(config, "attention", "feed_forward", "cross_attention")
        )
