"""The relative position bias of T5."""

from typing import Any

import keras
from keras import ops

from keras_attention.layers._position_bias import PositionBias
from keras_attention.ops.positions import distances
from keras_attention.ops.relative import bias_by_distance, t5_buckets


@keras.saving.register_keras_serializable("keras_attention")
class RelativePositionBias(PositionBias):
    """T5's bias: a learned number for each head and bucket of distances.

    Small distances have a bucket each, larger ones share buckets of equal logarithmic
    width. Pass it to an attention layer as `position=`, or call it and pass the result
    as `attention_bias=`. T5 shares one such layer between all layers of a stack: pass
    the same object to each.

    T5 does not scale its scores by 1/sqrt(H).

    Reference: Raffel et al., 2019 (arXiv:1910.10683), section 2.1.

    Args:
        num_buckets: Number of buckets, for both directions together.
        max_distance: Distance from which all keys share one bucket.
        bidirectional: Whether keys ahead have buckets of their own (encoders). If not,
            they share the bucket of distance 0 (decoders).
        initializer: The table's initializer.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        query: Queries `[B, T, N, H]`; only their shape is used.
        query_positions: Int `[T]` or `[B, T]`; 0, 1, 2, … when not given.
        key_positions: Int `[S]` or `[B, S]`; those of the queries when not given.

    Returns:
        `[B or 1, N, T, S]` float32.

    Example:
    >>> layer = ka.RelativePositionBias()
    >>> bias = layer(np.zeros((1, 5, 12, 64), "float32"))
    >>> tuple(bias.shape), tuple(layer.embeddings.shape)
    ((1, 12, 5, 5), (32, 12))
    """

    def __init__(
        self,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        *,
        initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        sides = 2 if bidirectional else 1
        if num_buckets < 2 * sides or num_buckets % sides:
            raise ValueError(
                "`num_buckets` must be 2 or more, and even and 4 or more for both "
                f"directions. Received: num_buckets={num_buckets}, "
                f"bidirectional={bidirectional}"
            )
        if max_distance <= num_buckets // sides // 2:
            raise ValueError(
                "`max_distance` must be larger than the number of distances with a "
                f"bucket each, {num_buckets // sides // 2}. "
                f"Received: max_distance={max_distance}"
            )
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.initializer = keras.initializers.get(initializer)
        self._buckets = t5_buckets(
            num_buckets, max_distance, bidirectional=bidirectional
        )

    def build_weights(self, num_heads, key_dim):
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.num_buckets, num_heads),
            initializer=self.initializer,
            autocast=False,  # scores are float32
        )

    def bias(self, query, query_positions, key_positions):
        table = ops.cast(self.embeddings, self.bias_dtype)
        table = ops.take(table, self._buckets, axis=0)  # [2 * max_distance + 1, N]
        return bias_by_distance(table, distances(query_positions, key_positions))

    def get_config(self):
        return {
            **super().get_config(),
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
            "bidirectional": self.bidirectional,
            "initializer": keras.initializers.serialize(self.initializer),
        }
