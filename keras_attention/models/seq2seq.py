"""The Transformer: an encoder and a decoder."""

from typing import Any, Literal

import keras
from keras import ops

from keras_attention.blocks.decoder_block import DecoderBlock
from keras_attention.blocks.encoder_block import EncoderBlock
from keras_attention.layers.checks import check_optional_sizes, check_sizes
from keras_attention.layers.feed_forward import FeedForward
from keras_attention.layers.layer_normalization import LayerNormalization
from keras_attention.layers.multi_head_attention import MultiHeadAttention
from keras_attention.layers.position_embedding import PositionEmbedding
from keras_attention.layers.sinusoidal_encoding import SinusoidalEncoding
from keras_attention.layers.token_embedding import TokenEmbedding
from keras_attention.models.common import base_config, check_divisible, initializer
from keras_attention.models.encoder_decoder import EncoderDecoderOfBlocks
from keras_attention.ops.positions import LAYOUTS

LEARNED = "learned"
POSITIONS = (LEARNED, *LAYOUTS)


@keras.saving.register_keras_serializable("keras_attention")
class Seq2SeqTransformer(EncoderDecoderOfBlocks):
    """An encoder and a decoder with the shape of the Transformer, BART or Marian.

    The defaults are those of the original Transformer: sinusoids, normalisation after
    the residual, token vectors scaled by sqrt(hidden_dim). BART: `positions="learned",
    position_offset=2, scale_embedding=False, normalize_embedding=True,
    use_logits_bias=True`. Marian: `positions="concatenated", use_logits_bias=True`.

    For generation call `encode` once, `empty_cache` with its result, and `decode`
    with one more token in each step.

    Reference: Vaswani et al., 2017 (arXiv:1706.03762); Lewis et al., "BART", 2019
    (arXiv:1910.13461); Junczys-Dowmunt et al., "Marian", 2018 (arXiv:1804.00344).

    Args:
        vocabulary_size: The number of tokens in the vocabulary, which both sides
            share.
        num_layers: The number of encoder blocks.
        num_heads: The number of attention heads in each block.
        hidden_dim: The size of the token vectors, a multiple of `num_heads`.
        intermediate_dim: The size inside the feed-forward networks.
        decoder: The sizes of the decoder that differ from the encoder's: a dict with
            any of `num_layers`, `num_heads` and `intermediate_dim`.
        max_sequence_length: The number of positions; sinusoids need none.
        positions: `"interleaved"`, `"concatenated"` or `"tensor2tensor"` sinusoids, or
            `"learned"`.
        position_offset: The row of the first position in a learned table.
        norm: Where the layer normalisations are: `"post"`, after each residual; or
            `"pre"`, before each sub-layer, and one more at the end of each side.
        scale_embedding: Whether token vectors are multiplied by sqrt(hidden_dim).
        normalize_embedding: Whether token vectors are normalised after the positions
            were added.
        use_logits_bias: Whether each token's logit has a bias.
        dropout: The dropout rate after the embeddings and after each sub-layer.
        attention_dropout: The dropout rate on attention weights; `dropout` when
            `None`.
        activation_dropout: The dropout rate inside the feed-forward networks.
        activation: The activation of the feed-forward networks.
        layer_norm_epsilon: The epsilon of the layer normalisations.
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
    >>> model = ka.Seq2SeqTransformer(
    ...     vocabulary_size=100,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> source, target = np.array([[5, 6, 7, 2]]), np.array([[1, 8, 9]])
    >>> whole = model(source, decoder_token_ids=target)
    >>> cache = model.empty_cache(model.encode(source))
    >>> first = model.decode(target[:, :2], cache=cache)
    >>> step = model.decode(target[:, 2:], cache=first["cache"])
    >>> bool(np.allclose(step["logits"][:, 0], whole["logits"][:, 2], atol=1e-5))
    True
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int = 6,
        num_heads: int = 8,
        hidden_dim: int = 512,
        intermediate_dim: int = 2048,
        *,
        decoder: dict[str, int] | None = None,
        max_sequence_length: int | None = None,
        positions: Literal[
            "learned", "interleaved", "concatenated", "tensor2tensor"
        ] = "interleaved",
        position_offset: int = 0,
        norm: Literal["pre", "post"] = "post",
        scale_embedding: bool = True,
        normalize_embedding: bool = False,
        use_logits_bias: bool = False,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        activation_dropout: float = 0.0,
        activation: Any = "relu",
        layer_norm_epsilon: float = 1e-5,
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
        )
        check_optional_sizes(max_sequence_length=max_sequence_length)
        self.vocabulary_size = vocabulary_size
        self.num_layers, self.num_heads = num_layers, num_heads
        self.hidden_dim, self.intermediate_dim = hidden_dim, intermediate_dim
        self.decoder = dict(decoder or {})
        self.max_sequence_length = max_sequence_length
        if positions not in POSITIONS:
            names = ", ".join(map(repr, POSITIONS))
            raise ValueError(
                f"`positions` must be one of {names}. Received: positions={positions!r}"
            )
        self.positions, self.position_offset = positions, position_offset
        self.norm = norm
        self.scale_embedding = scale_embedding
        self.normalize_embedding = normalize_embedding
        self.use_logits_bias = use_logits_bias
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.activation_dropout = activation_dropout
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.remat = remat
        sizes = self._sizes()
        self.token_embedding = TokenEmbedding(
            vocabulary_size,
            hidden_dim,
            initializer=initializer(),
            name="token_embedding",
            dtype=self.dtype_policy,
        )
        self.encoder_parts = self._outer_layers("encoder")
        self.decoder_parts = self._outer_layers("decoder")
        self.encoder_blocks = [
            EncoderBlock(**self._parts("encoder", index, sizes[0]))
            for index in range(sizes[0]["num_layers"])
        ]
        self.decoder_blocks = [
            DecoderBlock(
                cross_attention=self._attention("cross_attention", sizes[1]),
                **self._parts("decoder", index, sizes[1]),
            )
            for index in range(sizes[1]["num_layers"])
        ]
        self.build()

    def _sizes(self):
        """Checks and returns the sizes of the encoder's and the decoder's blocks."""
        names = ("num_layers", "num_heads", "intermediate_dim")
        encoder = {name: getattr(self, name) for name in names}
        unknown = set(self.decoder) - set(names)
        if unknown:
            raise ValueError(
                f"`decoder` may have the entries {', '.join(names)}. "
                f"Received: decoder={self.decoder}"
            )
        if self.positions == LEARNED and self.max_sequence_length is None:
            raise ValueError(
                "Learned positions need a `max_sequence_length`. "
                "Received: positions='learned', max_sequence_length=None"
            )
        decoder = {**encoder, **self.decoder}
        for sizes in (encoder, decoder):
            check_divisible(self.hidden_dim, sizes["num_heads"])
        return encoder, decoder

    def _outer_layers(self, side):
        """Makes the layers before and after the blocks of one side."""
        named = {"dtype": self.dtype_policy}
        norms = {"epsilon": self.layer_norm_epsilon, **named}
        if self.positions == LEARNED:
            position = PositionEmbedding(
                (self.max_sequence_length or 0) + self.position_offset,
                initializer=initializer(),
                name=f"{side}_position_embedding",
                **named,
            )
        else:
            name = f"{side}_position_encoding"
            layout: Any = self.positions
            position = SinusoidalEncoding(layout=layout, name=name, **named)
        embedded = normalized = None
        if self.normalize_embedding:
            name = f"{side}_embedding_normalization"
            embedded = LayerNormalization(name=name, **norms)
        if self.norm == "pre":
            name = f"{side}_final_normalization"
            normalized = LayerNormalization(name=name, **norms)
        dropout = keras.layers.Dropout(self.dropout, **named)
        return {
            "position": position,
            "embedding_normalization": embedded,
            "dropout": dropout,
            "final_normalization": normalized,
        }

    def _attention(self, name, sizes):
        rate = self.attention_dropout
        return MultiHeadAttention(
            sizes["num_heads"],
            self.hidden_dim // sizes["num_heads"],
            dropout=self.dropout if rate is None else rate,
            kernel_initializer=initializer(),
            name=name,
            dtype=self.dtype_policy,
        )

    def _parts(self, side, index, sizes):
        return {
            "attention": self._attention("attention", sizes),
            "feed_forward": FeedForward(
                sizes["intermediate_dim"],
                self.activation,
                dropout=self.activation_dropout,
                kernel_initializer=initializer(),
                name="feed_forward",
                dtype=self.dtype_policy,
            ),
            "norm": self.norm,
            "epsilon": self.layer_norm_epsilon,
            "dropout": self.dropout,
            "name": f"{side}_block_{index}",
            "dtype": self.dtype_policy,
        }

    def build(self, input_shape=None):
        shape = (None, None, self.hidden_dim)
        self.token_embedding.build()
        for parts in (self.encoder_parts, self.decoder_parts):
            for part in parts.values():
                if part is not None:
                    part.build(shape)
        for block in self.encoder_blocks:
            block.build(shape)
        for block in self.decoder_blocks:
            block.build(shape, shape)
        self.logits_bias = None
        if self.use_logits_bias:
            self.logits_bias = self.add_weight(
                name="logits_bias", shape=(self.vocabulary_size,), initializer="zeros"
            )
        self.built = True

    def _before(self, side, token_ids, positions, training):
        parts = getattr(self, f"{side}_parts")
        x = self.token_embedding(token_ids)  # [B, T, E]
        if self.scale_embedding:
            x = x * self.hidden_dim**0.5
        if self.positions == LEARNED and self.position_offset:
            if positions is None:
                positions = ops.arange(ops.shape(x)[1], dtype="int32")
            positions = positions + self.position_offset
        x = parts["position"](x, positions=positions)
        if parts["embedding_normalization"] is not None:
            x = parts["embedding_normalization"](x)
        return parts["dropout"](x, training=training)

    def _after(self, side, x, training):
        final = getattr(self, f"{side}_parts")["final_normalization"]
        return x if final is None else final(x)

    def _logits(self, x):
        logits = self.token_embedding(x, reverse=True)  # [B, T, V]
        if self.logits_bias is None:
            return logits
        return logits + ops.cast(self.logits_bias, logits.dtype)

    def get_config(self):
        names = (
            "vocabulary_size",
            "num_layers",
            "num_heads",
            "hidden_dim",
            "intermediate_dim",
            "max_sequence_length",
            "positions",
            "position_offset",
            "norm",
            "scale_embedding",
            "normalize_embedding",
            "use_logits_bias",
            "dropout",
            "attention_dropout",
            "activation_dropout",
            "activation",
            "layer_norm_epsilon",
            "remat",
        )
        config = {name: getattr(self, name) for name in names}
        return {**base_config(self), **config, "decoder": dict(self.decoder)}
