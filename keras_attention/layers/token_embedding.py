"""Token embeddings that refuse ids outside the vocabulary."""

from typing import Any

import keras
from keras import ops

from keras_attention.layers.building import built_once
from keras_attention.layers.checks import check_sizes
from keras_attention.ops.linear import linear_of_table
from keras_attention.ops.lookup import lookup


@keras.saving.register_keras_serializable("keras_attention")
class TokenEmbedding(keras.layers.Layer):
    """A learned vector per token; optionally the output head with the same table.

    Unlike `keras.layers.Embedding` it refuses ids outside the vocabulary, also negative
    ones, instead of returning a wrong row.

    Args:
        vocabulary_size: Number of tokens.
        embedding_dim: Size of each vector.
        initializer: The table's initializer.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Integers of any shape, from 0 to `vocabulary_size - 1`.
        reverse: Whether to map features `[..., embedding_dim]` to one logit per token
            instead, by the same table (Press & Wolf, 2017, arXiv:1608.05859).

    Returns:
        `[..., embedding_dim]`, or `[..., vocabulary_size]` for `reverse=True`.

    Example:
    >>> layer = TokenEmbedding(vocabulary_size=100, embedding_dim=8)
    >>> tuple(layer(np.array([[1, 2, 3]])).shape)
    (1, 3, 8)
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_dim: int,
        *,
        initializer: Any = "uniform",
        **kwargs: Any,
    ):
        # Ids are integers: Keras must not cast them to the compute dtype.
        super().__init__(autocast=False, **kwargs)
        check_sizes(vocabulary_size=vocabulary_size, embedding_dim=embedding_dim)
        self.vocabulary_size = vocabulary_size
        self.embedding_dim = embedding_dim
        self.initializer = keras.initializers.get(initializer)
        self._allow_non_tensor_positional_args = True

    @built_once
    def build(self, token_ids_shape=None):
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.vocabulary_size, self.embedding_dim),
            initializer=self.initializer,
        )
        self.built = True

    def call(self, token_ids, reverse=False):
        if reverse:
            table = ops.cast(self.embeddings, token_ids.dtype)
            return linear_of_table(token_ids, table)  # [..., V]
        return ops.cast(lookup(self.embeddings, token_ids), self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "embedding_dim": self.embedding_dim,
            "initializer": keras.initializers.serialize(self.initializer),
        }
