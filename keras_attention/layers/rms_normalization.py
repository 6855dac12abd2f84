"""Root mean square normalisation, exported as one operator."""

from typing import Any

import keras
from keras import ops

from keras_attention.layers.building import built_once
from keras_attention.layers.checks import check_positive
from keras_attention.ops.attend import score_dtype
from keras_attention.ops.backend.regions import region


@keras.saving.register_keras_serializable("keras_attention")
class RMSNormalization(keras.layers.Layer):
    """x / √(mean(x²) + ε) · γ over the last axis, without mean and bias.

    Llama and T5 use it. It is computed in float32, or float64 for float64.

    Reference: Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019
    (arXiv:1910.07467).

    Args:
        epsilon: Number that is added to the mean of the squares.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: `[..., E]`.

    Returns:
        `[..., E]`.

    Example:
    >>> layer = ka.RMSNormalization()
    >>> np.array(layer(np.array([[1.0, 7.0]], "float32"))).round(2).tolist()
    [[0.2, 1.4]]
    """

    def __init__(self, *, epsilon: float = 1e-6, **kwargs: Any):
        super().__init__(**kwargs)
        check_positive(epsilon=epsilon)
        self.epsilon = epsilon
        self.supports_masking = True

    @built_once
    def build(self, input_shape):
        self.gamma = self.add_weight(
            name="gamma", shape=(input_shape[-1],), initializer="ones"
        )
        self.built = True

    def call(self, inputs):
        return region(
            "rms_normalization", _normalize, inputs, self.gamma, epsilon=self.epsilon
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


def _normalize(x: Any, gamma: Any, *, epsilon: float) -> Any:
    dtype = score_dtype(x)
    wide = ops.cast(x, dtype)
    squares = ops.mean(ops.square(wide), axis=-1, keepdims=True)
    normalized = wide * ops.rsqrt(squares + epsilon) * ops.cast(gamma, dtype)
    return ops.cast(normalized, x.dtype)
