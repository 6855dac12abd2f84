"""One layer of an encoder."""

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


@keras.saving.register_keras_serializable("keras_attention")
class EncoderBlock(keras.layers.Layer):
    """Self-attention, then a feed-forward network, each with a residual.

    `attention` may be any attention layer of this library.

    Reference: Vaswani et al., 2017 (arXiv:1706.03762), section 3.1; `norm="pre"`:
    Xiong et al., 2020 (arXiv:2002.04745).

    Args:
        attention: An attention layer whose output has the size of its query.
        feed_forward: A layer `[B, T, E]` to `[B, T, E]`, e.g. `FeedForward`.
        norm: The place of the normalisation: `"post"` (after the residual; BERT) or
            `"pre"` (before the sub-layer; GPT-2).
        epsilon: The epsilon of the normalisations.
        dropout: Rate of dropout on the output of each sub-layer.
        seed: Seed of that dropout.
        normalization: The kind of normalisation: `"layer"` or `"rms"` (T5).
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        x: `[B, T, E]`.
        padding_mask: Bool `[B, T]`, `True` at non-padding tokens; the mask that Keras
            carries on `x` when not given.
        attention_mask: Bool `[B, T, T]`, `True` where a query can attend to a key; or
            a mask of `ka.masks`.
        attention_bias: Float `[B, T, T]`, added to the scores.
        training: Whether dropout is active.
        return_attention_scores: Whether the attention weights are returned too.

    Returns:
        `[B, T, E]`; with `return_attention_scores=True` also the weights of
        `attention`, `[B, N, T, T]`, or `[B, T, T]` for a kind without heads.

    Example:
    >>> block = ka.EncoderBlock(
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
        *,
        norm: Literal["pre", "post"] = "post",
        epsilon: float = 1e-5,
        dropout: float = 0.0,
        seed: int | None = None,
        normalization: Literal["layer", "rms"] = "layer",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_layers(attention=attention, feed_forward=feed_forward)
        self.attention = attention
        self.feed_forward = feed_forward
        self.norm, self.epsilon, self.dropout, self.seed = norm, epsilon, dropout, seed
        self.normalization = normalization
        self.supports_masking = True
        residual = {"norm": norm, "epsilon": epsilon, "dropout": dropout, "seed": seed}
        residual |= {"normalization": normalization, "dtype": self.dtype_policy}
        self.attention_residual = Residual(name="attention_residual", **residual)
        self.feed_forward_residual = Residual(name="feed_forward_residual", **residual)

    @built_once
    def build(self, x_shape):
        build_once(self.attention, x_shape, x_shape)
        build_once(self.feed_forward, x_shape)
        build_once(self.attention_residual, x_shape)
        build_once(self.feed_forward_residual, x_shape)
        self.built = True

    def call(
        self,
        x,
        padding_mask=None,
        attention_mask=None,
        attention_bias=None,
        training=None,
        *,
        return_attention_scores=False,
    ):
        padding_mask = padding_mask_of(x, padding_mask)
        entered = self.attention_residual.enter(x)
        attended, *weights = attend(
            self.attention,
            return_attention_scores,
            query=entered,
            value=entered,
            query_mask=padding_mask,
            value_mask=padding_mask,
            attention_mask=attention_mask,
            attention_bias=attention_bias,
            training=training,
        )
        x = self.attention_residual.leave(x, attended, training)
        fed = self.feed_forward(self.feed_forward_residual.enter(x), training=training)
        x = self.feed_forward_residual.leave(x, fed, training)  # [B, T, E]
        return (x, *weights) if weights else x

    def compute_output_shape(self, x_shape):
        return x_shape

    def compute_output_spec(self, *args, **kwargs):
        # The weights are an output too, which a shape alone does not tell.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "attention": serialize(self.attention),
            "feed_forward": serialize(self.feed_forward),
            "norm": self.norm,
            "epsilon": self.epsilon,
            "dropout": self.dropout,
            "seed": self.seed,
            "normalization": self.normalization,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**with_layers(config, "attention", "feed_forward"))
