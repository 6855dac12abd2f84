"""Attention with linear biases."""

from typing import Any

import keras

from keras_attention.layers._position_bias import PositionBias
from keras_attention.ops.positions import distances
from keras_attention.ops.relative import alibi_bias, alibi_slopes


@keras.saving.register_keras_serializable("keras_attention")
class AlibiBias(PositionBias):
    """ALiBi: scores decrease linearly with the distance of the key.

    It has no weights: each head has a fixed slope, and models run on sequences longer
    than those they were trained on. Pass it to an attention layer as `position=`, or
    call it and pass the result as `attention_bias=`.

    The bias of a key `d` positions behind its query is −slope · d, and that of a key
    ahead is 0. In the paper attention is causal, so that there are no keys ahead.

    Reference: Press et al., 2021 (arXiv:2108.12409).

    Args:
        symmetric: Whether keys ahead count like keys behind, −slope · |d|, for
            attention that sees both.
        max_bias: Minus log2 of the smallest slope.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        query: Queries `[B, T, N, H]`; only their shape is used.
        query_positions: Int `[T]` or `[B, T]`; 0, 1, 2, … when not given.
        key_positions: Int `[S]` or `[B, S]`; those of the queries when not given.

    Returns:
        `[B or 1, N, T, S]` float32.

    Example:
    >>> bias = ka.AlibiBias()(np.zeros((1, 3, 8, 4), "float32"))
    >>> np.array(bias)[0, 0].tolist()
    [[0.0, 0.0, 0.0], [-0.5, 0.0, 0.0], [-1.0, -0.5, 0.0]]
    """

    def __init__(
        self, *, symmetric: bool = False, max_bias: float = 8.0, **kwargs: Any
    ):
        super().__init__(**kwargs)
        if max_bias <= 0:
            raise ValueError(
                f"`max_bias` must be positive. Received: max_bias={max_bias}"
            )
        self.symmetric = symmetric
        self.max_bias = max_bias

    def build_weights(self, num_heads, key_dim):
        self._slopes = alibi_slopes(num_heads, max_bias=self.max_bias)

    def bias(self, query, query_positions, key_positions):
        return alibi_bias(
            distances(query_positions, key_positions),
            self._slopes,
            symmetric=self.symmetric,
            dtype=self.bias_dtype,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "symmetric": self.symmetric,
            "max_bias": self.max_bias,
        }
