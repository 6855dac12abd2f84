"""The relative position representations of Shaw et al."""

from typing import Any

import keras

from keras_attention.layers._position_bias import PositionBias
from keras_attention.layers.projection import fresh_initializer
from keras_attention.ops.positions import distances
from keras_attention.ops.relative import relative_scores, relative_values


@keras.saving.register_keras_serializable("keras_attention")
class RelativePositionRepresentation(PositionBias):
    """Learned vectors for each distance, added to the keys and to the values.

    The score is q · (k + a) and the result a sum of v + b, where a and b are vectors
    for the key's distance from the query, the same for all heads. Distances beyond
    `max_distance` are treated as `max_distance`. Pass it to an attention layer as
    `position=`; a call of the scheme itself returns q · a.

    Reference: Shaw et al., "Self-Attention with Relative Position Representations",
    2018 (arXiv:1803.02155), equations 3 to 5.

    Args:
        max_distance: Largest distance with a vector of its own, k in the paper.
        use_values: Whether vectors are added to the values too. It costs a tensor of
            T · S · (2k + 1) numbers.
        value_dim: Size of a value head; the size of a key head when `None`.
        initializer: The initializer of the tables.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        query: Queries `[B, T, N, H]`.
        query_positions: Int `[T]` or `[B, T]`; 0, 1, 2, … when not given.
        key_positions: Int `[S]` or `[B, S]`; those of the queries when not given.

    Returns:
        `[B, N, T, S]` float32.

    Example:
    >>> layer = ka.RelativePositionRepresentation(max_distance=2)
    >>> query = np.random.rand(1, 5, 3, 4).astype("float32")
    >>> scores = layer(query)
    >>> tuple(scores.shape), tuple(layer.key_embeddings.shape)
    ((1, 3, 5, 5), (5, 4))
    >>> two_behind = query[0, 3, 0] @ np.array(layer.key_embeddings)[0]
    >>> bool(np.isclose(scores[0, 0, 3, 1], two_behind, atol=1e-6))
    True
    """

    looks_at_query = True

    def __init__(
        self,
        max_distance: int = 16,
        use_values: bool = True,
        *,
        value_dim: int | None = None,
        initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if max_distance < 1:
            raise ValueError(
                "`max_distance` must be 1 or more. "
                f"Received: max_distance={max_distance}"
            )
        self.max_distance = max_distance
        self.use_values = use_values
        self.value_dim = value_dim
        self.initializer = keras.initializers.get(initializer)
        self.needs_weights = use_values

    def build_weights(self, num_heads, key_dim):
        self.key_embeddings = self._table("key_embeddings", key_dim)
        if self.use_values:
            size = self.value_dim or key_dim
            self.value_embeddings = self._table("value_embeddings", size)

    def _table(self, name, size):
        return self.add_weight(
            name=name,
            shape=(2 * self.max_distance + 1, size),
            initializer=fresh_initializer(self.initializer),
            autocast=False,  # scores are float32
        )

    def bias(self, query, query_positions, key_positions):
        distance = distances(query_positions, key_positions)
        return relative_scores(query, self.key_embeddings, distance)

    def context(self, weights, query_positions, key_positions):
        if not self.use_values:
            return None
        distance = distances(query_positions, key_positions)
        return relative_values(weights, self.value_embeddings, distance)

    def get_config(self):
        return {
            **super().get_config(),
            "max_distance": self.max_distance,
            "use_values": self.use_values,
            "value_dim": self.value_dim,
            "initializer": keras.initializers.serialize(self.initializer),
        }
