"""Patch embedding of images."""

from typing import Any, Literal

import keras
from keras import ops

from keras_attention.layers.building import built_once
from keras_attention.layers.checks import check_sizes
from keras_attention.layers.projection import Projection


@keras.saving.register_keras_serializable("keras_attention")
class PatchEmbedding(keras.layers.Layer):
    """Cuts images into square patches and maps each to a vector, row by row.

    It is a convolution whose stride is its kernel size, computed as one matrix product.

    Reference: Dosovitskiy et al., 2020 (arXiv:2010.11929), section 3.1.

    Args:
        patch_size: Height and width of a patch, an int or a pair.
        hidden_dim: Size of the vectors.
        kernel_initializer: The initializer of the map.
        output: `"sequence"`, or `"grid"` for what `SinusoidalEncoding2D` and attention
            over axes of images take.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        images: `[B, height, width, channels]`, with sides that are multiples of the
            patch's.

    Returns:
        `[B, number of patches, hidden_dim]`, or with `output="grid"`
        `[B, rows, columns, hidden_dim]`.

    Example:
    >>> layer = ka.PatchEmbedding(patch_size=4, hidden_dim=16)
    >>> tuple(layer(np.zeros((2, 8, 12, 3), "float32")).shape)
    (2, 6, 16)
    >>> grid = ka.PatchEmbedding(4, 16, output="grid")
    >>> encoded = ka.SinusoidalEncoding2D()(grid(np.zeros((2, 8, 12, 3), "float32")))
    >>> tuple(encoded.shape)
    (2, 2, 3, 16)
    """

    def __init__(
        self,
        patch_size: int | tuple[int, int],
        hidden_dim: int,
        *,
        kernel_initializer: Any = "glorot_uniform",
        output: Literal["sequence", "grid"] = "sequence",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_sizes(hidden_dim=hidden_dim)
        if output not in ("sequence", "grid"):
            raise ValueError(
                f"`output` must be 'sequence' or 'grid'. Received: output={output!r}"
            )
        pair = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        self.patch_size = tuple(pair)
        self.hidden_dim = hidden_dim
        self.output_form = output  # Keras has an attribute `output`
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    @built_once
    def build(self, images_shape):
        height, width = self.patch_size
        sides = images_shape[1:3]
        if None in sides or sides[0] % height or sides[1] % width:
            raise ValueError(
                "Images need known sides that are multiples of the patch's, "
                f"{height} and {width}: crop or resize them. "
                f"Received: images of shape {tuple(images_shape)}"
            )
        self.projection = Projection(
            (self.hidden_dim,),
            kernel_initializer=self.kernel_initializer,
            name="projection",
            dtype=self.dtype_policy,
        )
        self.projection.build((None, None, height * width * images_shape[-1]))
        self.built = True

    def call(self, images):
        batch = ops.shape(images)[0]
        _, height, width, channels = images.shape
        down, right = self.patch_size
        rows, columns = height // down, width // right
        x = ops.reshape(images, (batch, rows, down, columns, right, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        x = ops.reshape(x, (batch, rows * columns, down * right * channels))
        x = self.projection(x)  # [B, P, E]
        if self.output_form == "sequence":
            return x
        return ops.reshape(x, (batch, rows, columns, self.hidden_dim))

    def compute_output_shape(self, images_shape):
        batch, height, width, _ = images_shape
        rows, columns = height // self.patch_size[0], width // self.patch_size[1]
        if self.output_form == "grid":
            return (batch, rows, columns, self.hidden_dim)
        return (batch, rows * columns, self.hidden_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "patch_size": self.patch_size,
            "hidden_dim": self.hidden_dim,
            "output": self.output_form,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
