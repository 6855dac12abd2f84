"""Sinusoidal position encoding of images."""

from typing import Any, Literal

import keras
from keras import ops

from keras_attention.ops.attend import score_dtype
from keras_attention.ops.positions import check_layout, first_positions, sinusoids


@keras.saving.register_keras_serializable("keras_attention")
class SinusoidalEncoding2D(keras.layers.Layer):
    """Adds sines and cosines of row and column to the features of a grid.

    The first half of the features encodes the row, the second half the column, each
    like `SinusoidalEncoding`. DETR uses the interleaved layout (and also normalises
    positions), Tensor2Tensor the one of its name. ViT-MAE's table is the concatenated
    one with row and column exchanged.

    Reference: Parmar et al., "Image Transformer", 2018 (arXiv:1802.05751); Carion et
    al., "DETR", 2020 (arXiv:2005.12872).

    Args:
        max_wavelength: Longest wavelength divided by 2π.
        layout: `"interleaved"` (sin, cos, sin, cos, …), `"concatenated"` (all sines,
            then all cosines) or `"tensor2tensor"`, in each half; see
            `SinusoidalEncoding`.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: `[B, height, width, E]`, E a multiple of 4.

    Returns:
        `[B, height, width, E]`.

    Example:
    >>> encoded = ka.SinusoidalEncoding2D()(np.zeros((1, 2, 3, 4), "float32"))
    >>> np.array(encoded)[0, 1, 2].round(2).tolist()  # sin 1, cos 1, sin 2, cos 2
    [0.84, 0.54, 0.91, -0.42]
    """

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

    def build(self, inputs_shape):
        if len(inputs_shape) != 4 or inputs_shape[-1] is None or inputs_shape[-1] % 4:
            raise ValueError(
                f"'{self.name}' needs inputs `[batch, height, width, features]` with "
                "features a known multiple of 4: half for the row, half for the "
                "column, each in pairs of sine and cosine. "
                f"Received: inputs of shape {tuple(inputs_shape)}"
            )
        self.built = True

    def call(self, inputs):
        _, height, width, _ = ops.shape(inputs)
        half = inputs.shape[-1] // 2
        rows = inputs[..., :half] + self._encoding(height, inputs)[:, None]
        columns = inputs[..., half:] + self._encoding(width, inputs)
        return ops.concatenate([rows, columns], axis=-1)  # [B, height, width, E]

    def _encoding(self, length, inputs):
        encoding = sinusoids(
            first_positions(length),
            inputs.shape[-1] // 2,
            max_wavelength=self.max_wavelength,
            layout=self.layout,
            dtype=score_dtype(inputs),
        )
        return ops.cast(encoding, inputs.dtype)  # [length, E / 2]

    def compute_output_shape(self, inputs_shape):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "max_wavelength": self.max_wavelength,
            "layout": self.layout,
        }
