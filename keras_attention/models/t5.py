"""T5: an encoder and a decoder with relative positions."""

from typing import Any

import keras
from keras import ops

from keras_attention.blocks.decoder_block import DecoderBlock
from keras_attention.blocks.encoder_block import EncoderBlock
from keras_attention.layers.checks import check_optional_sizes, check_sizes
from keras_attention.layers.feed_forward import FeedForward
from keras_attention.layers.multi_head_attention import MultiHeadAttention
from keras_attention.layers.relative_position_bias import RelativePositionBias
from keras_attention.layers.rms_normalization import RMSNormalization
from keras_attention.layers.token_embedding import TokenEmbedding
from keras_attention.models.common import base_config, initializer
from keras_attention.models.encoder_decoder import EncoderDecoderOfBlocks
from keras_attention.ops.linear import linear


@keras.saving.register_keras_serializable("keras_attention")
class T5EncoderDecoder(EncoderDecoderOfBlocks):
    """An encoder and a decoder of T5's shape: positions are a bias on the scores.

    It has RMS normalisations and no biases in projections. Each side has one table of
    relative positions, which its blocks share. The defaults are those of T5 small;
    T5 1.1 and FLAN are this class with `activation="gelu_tanh", gated=True,
    tied_head=False, scale_output=False`.

    For generation call `encode` once, `empty_cache` with its result, and `decode`
    with one more token in each step.

    Reference: Raffel et al., "Exploring the Limits of Transfer Learning with a
    Unified Text-to-Text Transformer", 2019 (arXiv:1910.10683).

    Args:
        vocabulary_size: The number of tokens in the vocabulary.
        num_layers: The number of encoder blocks.
        num_heads: The number of attention heads in each block of both sides.
        hidden_dim: The size of the token vectors.
        intermediate_dim: The size inside the feed-forward networks.
        head_dim: The size of each head's queries, keys and values (`key_dim` in other
            classes). `num_heads * head_dim` may differ from `hidden_dim`.
        num_decoder_layers: The number of decoder blocks; `num_layers` when `None`.
        num_buckets: The number of buckets of distances in each table of relative
            positions.
        max_distance: The distance from which on all distances share one bucket.
        activation: The activation of the feed-forward networks.
        gated: Whether the feed-forward networks have a gate.
        tied_head: Whether the table of the token vectors makes the logits too; a
            separate matrix makes them when `False`.
        scale_output: Whether the head's input is divided by sqrt(hidden_dim).
        dropout: The dropout rate, in all places.
        layer_norm_epsilon: The epsilon of the normalisations.
        remat: Whether the blocks are computed a second time in the backward pass of a
            training, which saves most of its memory. It can be set later too:
            `model.remat = True`.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        encoder_token_ids: Int `[B, S]`, or a dict of the first four inputs.
        encoder_padding_mask: Bool or 0 / 1 `[B, S]`, `True` at non-padding tokens.
        decoder_token_ids: Int `[B, T]`: a start token, then the target so far.
        decoder_padding_mask: Bool or 0 / 1 `[B, T]`.
        cache: The cache that `empty_cache` or the last call returned. With a cache,
            the encoder is not run.
        training: Whether dropout is active.
        return_hidden_states: Whether the vectors after each layer are returned too.

    Returns:
        A dict: `encoder_sequence_output` `[B, S, hidden_dim]`, `sequence_output`
        `[B, T, hidden_dim]` and `logits` `[B, T, vocabulary_size]`. If a `cache` was
        passed, the new `cache` takes the place of the encoder's. With
        `return_hidden_states=True` also `encoder_hidden_states` and
        `decoder_hidden_states`, tuples of the vectors before the first block and after
        each block; the last ones are normalised.

    Example:
    >>> model = ka.T5EncoderDecoder(
    ...     vocabulary_size=100,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ...     head_dim=8,
    ... )
    >>> source, target = np.array([[5, 6, 7, 1]]), np.array([[0, 8, 9]])
    >>> outputs = model(source, decoder_token_ids=target)
    >>> tuple(outputs["logits"].shape)
    (1, 3, 100)
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int = 6,
        num_heads: int = 8,
        hidden_dim: int = 512,
        intermediate_dim: int = 2048,
        *,
        head_dim: int = 64,
        num_decoder_layers: int | None = None,
        num_buckets: int = 32,
        max_distance: int = 128,
        activation: Any = "relu",
        gated: bool = False,
        tied_head: bool = True,
        scale_output: bool = True,
        dropout: float = 0.1,
        layer_norm_epsilon: float = 1e-6,
        remat: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_sizes(
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            head_dim=head_dim,
        )
        check_optional_sizes(num_decoder_layers=num_decoder_layers)
        self.vocabulary_size = vocabulary_size
        self.num_layers, self.num_heads = num_layers, num_heads
        self.hidden_dim, self.intermediate_dim = hidden_dim, intermediate_dim
        self.head_dim = head_dim
        self.num_decoder_layers = num_decoder_layers or num_layers
        self.max_sequence_length = None
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.activation, self.gated = activation, gated
        self.tied_head, self.scale_output = tied_head, scale_output
        self.dropout = dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.remat = remat
        self.token_embedding = TokenEmbedding(
            vocabulary_size,
            hidden_dim,
            initializer=initializer(),
            name="token_embedding",
            dtype=self.dtype_policy,
        )
        self.encoder_position = relative_position(self, "encoder")
        self.decoder_position = relative_position(self, "decoder")
        self.encoder_blocks = [
            EncoderBlock(**parts_of_block(self, "encoder", index))
            for index in range(num_layers)
        ]
        self.decoder_blocks = [
            DecoderBlock(
                cross_attention=_attention(self, "cross_attention", None),
                **parts_of_block(self, "decoder", index),
            )
            for index in range(self.num_decoder_layers)
        ]
        norms = {"epsilon": layer_norm_epsilon, "dtype": self.dtype_policy}
        self.encoder_normalization = RMSNormalization(
            name="encoder_normalization", **norms
        )
        self.decoder_normalization = RMSNormalization(
            name="decoder_normalization", **norms
        )
        self.outer_dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        self.build()

    def build(self, input_shape=None):
        shape = (None, None, self.hidden_dim)
        self.token_embedding.build()
        for block in self.encoder_blocks:
            block.build(shape)
        for block in self.decoder_blocks:
            block.build(shape, shape)
        self.encoder_normalization.build(shape)
        self.decoder_normalization.build(shape)
        self.head = None
        if not self.tied_head:
            self.head = self.add_weight(
                name="head",
                shape=(self.hidden_dim, self.vocabulary_size),
                initializer=initializer(),
            )
        self.built = True

    def _before(self, side, token_ids, positions, training):
        return self.outer_dropout(self.token_embedding(token_ids), training=training)

    def _after(self, side, x, training):
        normalized = getattr(self, f"{side}_normalization")(x)
        return self.outer_dropout(normalized, training=training)

    def _logits(self, x):
        if self.scale_output:
            x = x * self.hidden_dim**-0.5
        if self.head is None:
            return self.token_embedding(x, reverse=True)  # [B, T, V]
        return linear(x, ops.cast(self.head, x.dtype))  # [B, T, V]

    def get_config(self):
        names = (
            "vocabulary_size",
            "num_layers",
            "num_heads",
            "hidden_dim",
            "intermediate_dim",
            "head_dim",
            "num_decoder_layers",
            "num_buckets",
            "max_distance",
            "activation",
            "gated",
            "tied_head",
            "scale_output",
            "dropout",
            "layer_norm_epsilon",
            "remat",
        )
        return {**base_config(self), **{name: getattr(self, name) for name in names}}


def relative_position(model: Any, side: str) -> RelativePositionBias:
    """Returns the table of relative positions that the blocks of a side share.

    Args:
        model: A model with T5's attributes.
        side: `"encoder"` or `"decoder"`.
    """
    return RelativePositionBias(
        model.num_buckets,
        model.max_distance,
        bidirectional=side == "encoder",
        initializer=initializer(),
        name=f"{side}_relative_position",
        dtype=model.dtype_policy,
    )


def parts_of_block(model: Any, side: str, index: int) -> dict[str, Any]:
    """Returns the arguments of a block of T5 that both sides have.

    Args:
        model: A model with T5's attributes and `{side}_position`.
        side: `"encoder"` or `"decoder"`.
        index: The number of the block.
    """
    position = getattr(model, f"{side}_position")
    return {
        "attention": _attention(model, "attention", position),
        "feed_forward": FeedForward(
            model.intermediate_dim,
            model.activation,
            gated=model.gated,
            use_bias=False,
            dropout=model.dropout,
            kernel_initializer=initializer(),
            name="feed_forward",
            dtype=model.dtype_policy,
        ),
        "norm": "pre",
        "normalization": "rms",
        "epsilon": model.layer_norm_epsilon,
        "dropout": model.dropout,
        "name": f"{side}_block_{index}",
        "dtype": model.dtype_policy,
    }


def _attention(model: Any, name: str, position: Any) -> MultiHeadAttention:
    return MultiHeadAttention(
        model.num_heads,
        model.head_dim,
        position=position,
        scale=1.0,
        use_bias=False,
        dropout=model.dropout,
        kernel_initializer=initializer(),
        name=name,
        dtype=model.dtype_policy,
    )
