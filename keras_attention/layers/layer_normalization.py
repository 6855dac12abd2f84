"""Layer normalisation, exported as one operator."""

from typing import Any

import keras
from keras import ops

from keras_attention.ops.backend.regions import region


@keras.saving.register_keras_serializable("keras_attention")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` over the last axis; one operator in ONNX.

    Weights, arguments and numbers are those of Keras.

    Reference: Ba et al., "Layer Normalization", 2016 (arXiv:1607.06450).

    Args:
        epsilon: Number that is added to the variance.
        **kwargs: Arguments of `keras.layers.LayerNormalization`, except `axis`.

    Example:
    >>> layer = LayerNormalization()
    >>> np.array(layer(np.array([[1.0, 3.0]], "float32"))).round(2).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(self, *, epsilon: float = 1e-5, **kwargs: Any):
        kwargs.pop("axis", None)
        super().__init__(axis=-1, epsilon=epsilon, **kwargs)

    def call(self, inputs):
        normalized = region(
            "layer_normalization",
            _normalize,
            inputs,
            self.gamma,
            self.beta,
            epsilon=self.epsilon,
        )
        # Keras casts no inputs of its normalizations: float32 ones come as they are.
        return ops.cast(normalized, self.compute_dtype)


def _normalize(x: Any, gamma: Any, beta: Any, *, epsilon: float) -> Any:
    normalized = ops.layer_normalization(x, gamma, beta, -1, epsilon)
    return ops.cast(normalized, x.dtype)
