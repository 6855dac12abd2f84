"""BERT and the models of its shape: a bidirectional encoder."""

from typing import Any

import keras
from keras import ops

from keras_attention.blocks.encoder_block import EncoderBlock
from keras_attention.blocks.heads import FirstTokenPooler
from keras_attention.layers.checks import check_sizes
from keras_attention.layers.feed_forward import FeedForward
from keras_attention.layers.layer_normalization import LayerNormalization
from keras_attention.layers.multi_head_attention import MultiHeadAttention
from keras_attention.layers.position_embedding import PositionEmbedding
from keras_attention.layers.token_embedding import TokenEmbedding
from keras_attention.models.common import (
    base_config,
    check_divisible,
    documents_mask,
    from_base_config,
    initializer,
    run_encoder,
    table_rows,
    token_positions,
)
from keras_attention.models.inputs import standardize_ids
from keras_attention.ops.backend.replicas import ReplicaTraining


@keras.saving.register_keras_serializable("keras_attention")
class BertEncoder(ReplicaTraining, keras.Model):
    """An encoder of BERT's shape: embeddings, post-norm encoder blocks, a pooler.

    RoBERTa and XLM-R are this class with `position_offset=2, num_segments=1`;
    DistilBERT is this class with `num_segments=0, pooler=False`.

    Reference: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers
    for Language Understanding", 2018 (arXiv:1810.04805). Defaults follow it. Liu et
    al., "RoBERTa", 2019 (arXiv:1907.11692); Sanh et al., "DistilBERT", 2019
    (arXiv:1910.01108).

    Args:
        vocabulary_size: The number of tokens in the vocabulary.
        num_layers: The number of encoder blocks.
        num_heads: The number of attention heads in each block.
        hidden_dim: The size of the token vectors, a multiple of `num_heads`.
        intermediate_dim: The size inside the feed-forward networks.
        max_sequence_length: The number of positions that have a vector.
        num_segments: The number of segment (token type) vectors; 0 for none.
        position_offset: `None` numbers all tokens of a row, padding included, as
            BERT does. An int numbers only the non-padding tokens, beginning with this
            number, whichever side the padding is on. RoBERTa begins with 2; the rows
            0 and 1 of its table exist and are not used.
        dropout: The dropout rate after the embeddings and after each sub-layer.
        attention_dropout: The dropout rate on attention weights; `dropout` when
            `None`.
        activation: The activation of the feed-forward networks; `"gelu"` is the exact
            one.
        layer_norm_epsilon: The epsilon of the layer normalisations.
        pooler: Whether the model has a pooler.
        remat: Whether the blocks are computed a second time in the backward pass of a
            training, which saves most of its memory. It can be set later too:
            `model.remat = True`.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of all inputs with `[B, T]`.
        segment_ids: Int `[B, T]`; 0 when omitted. Tokenizers return them for every
            model; a model without segments ignores them.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at non-padding tokens. When it is
            omitted, no token is padding.
        training: Whether dropout is active.
        document_ids: Int `[B, T]`, the document that a token is of, for rows packed
            with several: a token attends only to its document's tokens, and positions
            begin anew in each. The tokens of a document are next to each other.
        return_hidden_states: Whether the vectors after each layer are returned too.

    Returns:
        A dict: `sequence_output` `[B, T, hidden_dim]` and, with a pooler,
        `pooled_output` `[B, hidden_dim]`. With `return_hidden_states=True` also
        `hidden_states`, a tuple of the vectors `[B, T, hidden_dim]` before the first
        block and after each block.

    Example:
    >>> encoder = ka.BertEncoder(
    ...     vocabulary_size=100,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> outputs = encoder(np.array([[1, 2, 3]]))
    >>> tuple(outputs["sequence_output"].shape)
    (1, 3, 16)
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int = 12,
        num_heads: int = 12,
        hidden_dim: int = 768,
        intermediate_dim: int = 3072,
        *,
        max_sequence_length: int = 512,
        num_segments: int = 2,
        position_offset: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        activation: Any = "gelu",
        layer_norm_epsilon: float = 1e-12,
        pooler: bool = True,
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
            max_sequence_length=max_sequence_length,
        )
        check_divisible(hidden_dim, num_heads)
        self.vocabulary_size = vocabulary_size
        self.num_layers, self.num_heads = num_layers, num_heads
        self.hidden_dim, self.intermediate_dim = hidden_dim, intermediate_dim
        self.max_sequence_length = max_sequence_length
        self.num_segments = num_segments
        self.position_offset = position_offset
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.pooler_wanted = pooler
        self.remat = remat
        self._make_embeddings()
        self.blocks = [self._make_block(index) for index in range(num_layers)]
        self.pooler = None
        if pooler:
            self.pooler = FirstTokenPooler(
                kernel_initializer=initializer(),
                name="pooler",
                dtype=self.dtype_policy,
            )
        self.build()

    def _make_embeddings(self):
        self.token_embedding = TokenEmbedding(
            self.vocabulary_size,
            self.hidden_dim,
            initializer=initializer(),
            name="token_embedding",
            dtype=self.dtype_policy,
        )
        self.segment_embedding = None
        if self.num_segments:
            self.segment_embedding = TokenEmbedding(
                self.num_segments,
                self.hidden_dim,
                initializer=initializer(),
                name="segment_embedding",
                dtype=self.dtype_policy,
            )
        self.position_embedding = PositionEmbedding(
            self.max_sequence_length + (self.position_offset or 0),
            initializer=initializer(),
            name="position_embedding",
            dtype=self.dtype_policy,
        )
        self.embedding_normalization = LayerNormalization(
            epsilon=self.layer_norm_epsilon,
            name="embedding_normalization",
            dtype=self.dtype_policy,
        )
        self.embedding_dropout = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy
        )

    def _make_block(self, index):
        rate = self.attention_dropout
        return EncoderBlock(
            attention=MultiHeadAttention(
                self.num_heads,
                self.hidden_dim // self.num_heads,
                dropout=self.dropout if rate is None else rate,
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
            norm="post",
            epsilon=self.layer_norm_epsilon,
            dropout=self.dropout,
            name=f"block_{index}",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape=None):
        shape = (None, None, self.hidden_dim)
        self.token_embedding.build()
        if self.segment_embedding is not None:
            self.segment_embedding.build()
        self.position_embedding.build(shape)
        self.embedding_normalization.build(shape)
        for block in self.blocks:
            block.build(shape)
        if self.pooler is not None:
            self.pooler.build(shape)
        self.built = True

    def call(
        self,
        token_ids,
        segment_ids=None,
        padding_mask=None,
        training=None,
        *,
        document_ids=None,
        return_hidden_states=False,
    ):
        others = {
            "segment_ids": segment_ids,
            "padding_mask": padding_mask,
            "document_ids": document_ids,
        }
        inputs = standardize_ids(token_ids, others)
        states = run_encoder(
            self.blocks,
            self._embed(inputs, training),
            padding_mask=inputs["padding_mask"],
            attention_mask=documents_mask(inputs["document_ids"]),
            training=training,
            remat=self.remat,
        )
        outputs: dict[str, Any] = {"sequence_output": states[-1]}  # [B, T, E]
        if self.pooler is not None:
            outputs["pooled_output"] = self.pooler(states[-1])  # [B, E]
        if return_hidden_states:
            outputs["hidden_states"] = tuple(states)
        return outputs

    def _embed(self, inputs, training):
        x = self.token_embedding(inputs["token_ids"])  # [B, T, E]
        segment_ids = inputs["segment_ids"]
        if self.segment_embedding is not None:
            if segment_ids is None:
                segment_ids = ops.zeros_like(inputs["token_ids"])
            x = x + self.segment_embedding(segment_ids)
        x = self.position_embedding(x, positions=self._positions(inputs))
        x = self.embedding_normalization(x)
        return self.embedding_dropout(x, training=training)

    def _positions(self, inputs):
        """Returns the table's rows `[B, T]`; `None` for the rows 0, 1, 2 and so on."""
        documents = inputs["document_ids"]
        if self.position_offset is None and documents is None:
            return None
        positions = token_positions(
            inputs["token_ids"], inputs["padding_mask"], document_ids=documents
        )
        return table_rows(positions + (self.position_offset or 0))

    def get_config(self):
        config = {
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "max_sequence_length": self.max_sequence_length,
            "num_segments": self.num_segments,
            "position_offset": self.position_offset,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "pooler": self.pooler_wanted,
            "remat": self.remat,
        }
        return {**base_config(self), **config}

    @classmethod
    def from_config(cls, config):
        return from_base_config(cls, config)
