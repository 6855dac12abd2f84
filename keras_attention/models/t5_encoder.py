"""The encoder of T5 alone: vectors of texts without a decoder."""

from typing import Any

import keras

from keras_attention.blocks.encoder_block import EncoderBlock
from keras_attention.layers.checks import check_sizes
from keras_attention.layers.rms_normalization import RMSNormalization
from keras_attention.layers.token_embedding import TokenEmbedding
from keras_attention.models.common import (
    base_config,
    from_base_config,
    initializer,
    run_encoder,
)
from keras_attention.models.inputs import standardize_ids
from keras_attention.models.t5 import parts_of_block, relative_position
from keras_attention.ops.backend.replicas import ReplicaTraining


@keras.saving.register_keras_serializable("keras_attention")
class T5Encoder(ReplicaTraining, keras.Model):
    """The encoder of a `T5EncoderDecoder` alone, as an encoder of texts.

    It is the backbone of Sentence-T5 and GTR (Ni et al., 2021, arXiv:2108.08877), and
    of tasks such as `ka.TextClassifier` with `pooling="mean"`.

    Reference: Raffel et al., "Exploring the Limits of Transfer Learning with a
    Unified Text-to-Text Transformer", 2019 (arXiv:1910.10683).

    Args:
        vocabulary_size: The number of tokens in the vocabulary.
        num_layers: The number of encoder blocks.
        num_heads: The number of attention heads in each block.
        hidden_dim: The size of the token vectors.
        intermediate_dim: The size inside the feed-forward networks.
        head_dim: The size of each head's queries, keys and values.
        num_buckets: The number of buckets of distances in the table of relative
            positions.
        max_distance: The distance from which on all distances share one bucket.
        activation: The activation of the feed-forward networks.
        gated: Whether the feed-forward networks have a gate.
        dropout: The dropout rate, in all places.
        layer_norm_epsilon: The epsilon of the normalisations.
        remat: Whether the blocks are computed a second time in the backward pass of a
            training, which saves most of its memory. It can be set later too:
            `model.remat = True`.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of `token_ids` and `padding_mask`.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at non-padding tokens.
        training: Whether dropout is active.
        return_hidden_states: Whether the vectors after each layer are returned too.

    Returns:
        A dict: `sequence_output` `[B, T, hidden_dim]`. With
        `return_hidden_states=True` also `hidden_states`, a tuple of the vectors before
        the first block and after each block; the last one is the `sequence_output`.

    Example:
    >>> encoder = ka.T5Encoder(100, 2, 2, 16, 32, head_dim=8)
    >>> tuple(encoder(np.array([[5, 6, 1]]))["sequence_output"].shape)
    (1, 3, 16)
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
        num_buckets: int = 32,
        max_distance: int = 128,
        activation: Any = "relu",
        gated: bool = False,
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
        self.vocabulary_size = vocabulary_size
        self.num_layers, self.num_heads = num_layers, num_heads
        self.hidden_dim, self.intermediate_dim = hidden_dim, intermediate_dim
        self.head_dim = head_dim
        self.max_sequence_length = None
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.activation, self.gated = activation, gated
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
        self.encoder_blocks = [
            EncoderBlock(**parts_of_block(self, "encoder", index))
            for index in range(num_layers)
        ]
        self.encoder_normalization = RMSNormalization(
            epsilon=layer_norm_epsilon,
            name="encoder_normalization",
            dtype=self.dtype_policy,
        )
        self.outer_dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        self.build()

    def build(self, input_shape=None):
        shape = (None, None, self.hidden_dim)
        self.token_embedding.build()
        for block in self.encoder_blocks:
            block.build(shape)
        self.encoder_normalization.build(shape)
        self.built = True

    def call(
        self, token_ids, padding_mask=None, training=None, *, return_hidden_states=False
    ):
        inputs = standardize_ids(token_ids, {"padding_mask": padding_mask})
        x = self.token_embedding(inputs["token_ids"])  # [B, T, E]
        x = self.outer_dropout(x, training=training)
        mask = inputs["padding_mask"]
        states = run_encoder(
            self.encoder_blocks,
            x,
            padding_mask=mask,
            training=training,
            remat=self.remat,
        )
        x = self.encoder_normalization(states[-1])
        x = self.outer_dropout(x, training=training)
        outputs: dict[str, Any] = {"sequence_output": x}  # [B, T, E]
        if return_hidden_states:
            outputs["hidden_states"] = (*states[:-1], x)
        return outputs

    def get_config(self):
        names = (
            "vocabulary_size",
            "num_layers",
            "num_heads",
            "hidden_dim",
            "intermediate_dim",
            "head_dim",
            "num_buckets",
            "max_distance",
            "activation",
            "gated",
            "dropout",
            "layer_norm_epsilon",
            "remat",
        )
        return {**base_config(self), **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_config(cls, config):
        return from_base_config(cls, config)
