"""GPT: a causal decoder."""

from typing import Any

import keras
from keras import ops

from keras_attention.blocks.decoder_block import DecoderBlock
from keras_attention.layers.feed_forward import FeedForward
from keras_attention.layers.layer_normalization import LayerNormalization
from keras_attention.layers.multi_head_attention import MultiHeadAttention
from keras_attention.layers.position_embedding import PositionEmbedding
from keras_attention.layers.token_embedding import TokenEmbedding
from keras_attention.models.bert import base_config, check_divisible, initializer
from keras_attention.models.inputs import standardize_ids
from keras_attention.ops.cache import KVCache
from keras_attention.ops.positions import positions_of_tokens


@keras.saving.register_keras_serializable("keras_attention")
class GPTDecoder(keras.Model):
    """GPT-2-shaped decoder: embeddings, pre-norm causal blocks, tied output head.

    One call does a whole sequence, a prompt, or one more token: pass a list of
    caches (`empty_cache`) and they come back longer. Prompts of different lengths
    may be padded on either side.

    Reference: Radford et al., "Language Models are Unsupervised Multitask Learners",
    2019. Defaults are GPT-2 small.

    Args:
        vocabulary_size: Number of tokens.
        num_layers: Number of decoder blocks.
        num_heads: Attention heads in each.
        hidden_dim: Size of the token vectors, a multiple of `num_heads`.
        intermediate_dim: Size inside the feed-forward networks.
        num_key_value_heads: Key/value heads; `num_heads` when `None`.
        max_sequence_length: Number of positions that have a vector.
        dropout: Rate of dropout on embeddings, attention weights and sub-layers.
        activation: Of the feed-forward networks.
        layer_norm_epsilon: Of the layer normalisations.
        **kwargs: Those of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of `token_ids` and `padding_mask`.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at real tokens.
        cache: One `KVCache` a layer, in a list; see `empty_cache`.
        training: Whether dropout is active.

    Returns:
        A dict: `sequence_output` `[B, T, hidden_dim]`, `logits`
        `[B, T, vocabulary_size]` and, with a `cache`, the new `cache`.

    Example:
    >>> decoder = ka.GPTDecoder(
    ...     vocabulary_size=100,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> prompt = decoder(np.array([[1, 2, 3]]), cache=decoder.empty_cache(1))
    >>> step = decoder(np.array([[4]]), cache=prompt["cache"])
    >>> whole = decoder(np.array([[1, 2, 3, 4]]))
    >>> bool(np.allclose(step["logits"][:, 0], whole["logits"][:, 3], atol=1e-5))
    True
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int = 12,
        num_heads: int = 12,
        hidden_dim: int = 768,
        intermediate_dim: int = 3072,
        *,
        num_key_value_heads: int | None = None,
        max_sequence_length: int = 1024,
        dropout: float = 0.1,
        activation: Any = "gelu_tanh",
        layer_norm_epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_divisible(hidden_dim, num_heads)
        self.vocabulary_size = vocabulary_size
        self.num_layers, self.num_heads = num_layers, num_heads
        self.hidden_dim, self.intermediate_dim = hidden_dim, intermediate_dim
        self.num_key_value_heads = num_key_value_heads or num_heads
        self.max_sequence_length = max_sequence_length
        self.dropout = dropout
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.token_embedding = TokenEmbedding(
            vocabulary_size,
            hidden_dim,
            initializer=initializer(),
            name="token_embedding",
            dtype=self.dtype_policy,
        )
        self.position_embedding = PositionEmbedding(
            max_sequence_length,
            initializer=initializer(),
            name="position_embedding",
            dtype=self.dtype_policy,
        )
        self.embedding_dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        self.blocks = [self._make_block(index) for index in range(num_layers)]
        self.final_normalization = LayerNormalization(
            epsilon=layer_norm_epsilon,
            name="final_normalization",
            dtype=self.dtype_policy,
        )
        self.build()

    def _make_block(self, index):
        return DecoderBlock(
            attention=MultiHeadAttention(
                self.num_heads,
                self.hidden_dim // self.num_heads,
                num_key_value_heads=self.num_key_value_heads,
                dropout=self.dropout,
                kernel_initializer=initializer(),
                name="attention",
                dtype=self.dtype_policy,
            ),
            feed_forward=FeedForward(
                self.intermediate_dim,
                self.activation,
                kernel_initializer=initializer(),
                name="feed_forward",
                dtype=self.dtype_policy,
            ),
            norm="pre",
            epsilon=self.layer_norm_epsilon,
            dropout=self.dropout,
            name=f"block_{index}",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape=None):
        shape = (None, None, self.hidden_dim)
        self.token_embedding.build()
        self.position_embedding.build(shape)
        for block in self.blocks:
            block.build(shape)
        self.final_normalization.build(shape)
        self.built = True

    def empty_cache(
        self, batch_size: int, kind: Any = KVCache, **settings: Any
    ) -> list[Any]:
        """One empty cache a layer, for the `cache` argument.

        Args:
            batch_size: B.
            kind: `ka.KVCache`, `ka.FixedKVCache` or `ka.RollingKVCache`.
            **settings: Of its `empty`: `capacity=64` or `window=128`, for example, or
                `dtype="int8"`.
        """
        heads = self.num_key_value_heads
        size = heads * (self.hidden_dim // self.num_heads)
        settings = {"dtype": self.compute_dtype, "num_heads": heads, **settings}
        sizes = {"batch_size": batch_size, "key_size": size, "value_size": size}
        return [kind.empty(**sizes, **settings) for _ in self.blocks]

    def call(self, token_ids, padding_mask=None, cache=None, training=None):
        inputs = standardize_ids(token_ids, {"padding_mask": padding_mask})
        token_ids, keep = inputs["token_ids"], inputs["padding_mask"]
        positions = self._positions(token_ids, keep, cache)
        x = self.token_embedding(token_ids)  # [B, T, E]
        # A padding token's position is -1; any row of the table does for it.
        x = self.position_embedding(x, positions=ops.maximum(positions, 0))
        x = self.embedding_dropout(x, training=training)
        caches = [None] * self.num_layers if cache is None else cache
        new_caches = []
        for block, past in zip(self.blocks, caches, strict=True):
            x = block(
                x,
                padding_mask=keep,
                cache=past,
                positions=positions,
                training=training,
            )
            if past is not None:
                x, past = x  # noqa: PLW2901
            new_caches.append(past)
        x = self.final_normalization(x)  # [B, T, E]
        logits = self.token_embedding(x, reverse=True)  # [B, T, V]
        outputs = {"sequence_output": x, "logits": logits}
        return outputs if cache is None else {**outputs, "cache": new_caches}

    def _positions(self, token_ids, keep, cache):
        """Positions `[B, T]`, counted over real tokens only; -1 at padding."""
        if keep is None:
            keep = ops.ones_like(token_ids, dtype="bool")
        if cache is None:
            return positions_of_tokens(keep)
        return cache[0].next_positions(keep)

    def get_config(self):
        config = {
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "num_key_value_heads": self.num_key_value_heads,
            "max_sequence_length": self.max_sequence_length,
            "dropout": self.dropout,
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }
        return {**base_config(self), **config}
