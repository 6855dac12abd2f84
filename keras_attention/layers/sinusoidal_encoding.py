"""Sinusoidal position encoding."""

from typing import Any, Literal

import keras
from keras import ops

from keras_attention.layers.building import built_once
from keras_attention.ops.attend import score_dtype
from keras_attention.ops.backend.shapes import refuse_ragged
from keras_attention.ops.positions import (
    check_even,
    check_layout,
    sinusoids,
    standardize_positions,
)


@keras.saving.register_keras_serializable("keras_attention")
class SinusoidalEncoding(keras.layers.Layer):
    """Adds sines and cosines of each position to its features.

    The output is the input *plus* the encoding, with the input's Keras mask. Angles are
    computed in float32 from integer positions for every dtype, so that positions up to
    1e5 and more are distinct and correct in half precision.

    Reference: Vaswani et al., 2017 (arXiv:1706.03762), section 3.5.

    Args:
        max_wavelength: Longest wavelength divided by 2π.
        layout: `"interleaved"` (sin, cos, sin, cos, …; the paper), `"concatenated"`
            (all sines, then all cosines; Marian) or `"tensor2tensor"` (as that, but the
            exponents of the wavelength are i / (E / 2 − 1) and not 2i / E: the code of
            the paper's authors).
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: `[B, T, E]`, E even.
        positions: Int `[T]` or `[B, T]`; 0, 1, 2, … when not given.

    Returns:
        `[B, T, E]`.

    Example:
    >>> layer = ka.SinusoidalEncoding()
    >>> encoded = layer(np.zeros((1, 2, 4), "float32"))
    >>> np.array(encoded)[0].round(2).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.8399999737739563, 0.5400000214576721, 0.009999999776482582, 1.0]]
    """  # noqa: E501

    def __init__(
        self,
        max_wavelength: float = 10000.0,
        layout: Literal["interleaved", "concatenated", "tensor2tensor"] = "interleaved",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if max_wavelength <= 0:
            raise ValueError(
                "`max_wavelength` must be positive. "
                f"Received: max_wavelength={max_wavelength}"
            )
        self.max_wavelength = max_wavelength
        self.layout = check_layout(layout)
        self.supports_masking = True

    @built_once
    def build(self, inputs_shape):
        check_even(inputs_shape[-1], self.name)
        self.built = True

    def call(self, inputs, positions=None):
        refuse_ragged(inputs=inputs)
        positions = standardize_positions(positions, length=ops.shape(inputs)[1])
        encoding = sinusoids(
            positions,
            inputs.shape[-1],
            max_wavelength=self.max_wavelength,
            layout=self.layout,
            dtype=score_dtype(inputs),
        )
        return inputs + ops.cast(encoding, inputs.dtype)  # [B, T, E]

    def compute_output_shape(self, inputs_shape):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "max_wavelength": self.max_wavelength,
            "layout": self.layout,
        }
