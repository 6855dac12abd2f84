"""The matrix products of this library's layers."""

import math
from typing import Any

import keras
from keras import ops

from keras_attention.ops.linear import linear


@keras.saving.register_keras_serializable("keras_attention")
class Projection(keras.layers.EinsumDense):
    """A linear map whose kernel may have several input or output axes.

    Weights are those of `keras.layers.EinsumDense`, so LoRA, quantisation and
    weights of `keras.layers.MultiHeadAttention` work unchanged; the product itself
    is one matrix product over the last axis, which every runtime does best.

    Args:
        input_axes: Sizes the last axis is cut into, e.g. `(num_heads, value_dim)`;
            left whole when `None`.
        output_axes: Sizes of the result, laid side by side in one last axis, e.g.
            `(num_heads, key_dim)`.
        use_bias: Whether a bias is added.
        activation: Applied to the result.
        **kwargs: Those of `keras.layers.EinsumDense`: initializers, regularizers,
            constraints, `name`, `dtype`.

    Input shape: `[..., E]`. Output shape: `[..., prod(output_axes)]`.

    Example:
    >>> from keras_attention.layers.projection import Projection
    >>> layer = Projection(output_axes=(2, 4))
    >>> tuple(layer(np.ones((1, 3, 5), "float32")).shape), tuple(layer.kernel.shape)
    ((1, 3, 8), (5, 2, 4))
    """

    def __init__(
        self,
        output_axes: tuple[int, ...],
        *,
        input_axes: tuple[int, ...] | None = None,
        use_bias: bool = True,
        **kwargs: Any,
    ):
        self.input_axes = None if input_axes is None else tuple(input_axes)
        self.output_axes = tuple(output_axes)
        self.use_bias = use_bias
        inputs = "cd"[: len(self.input_axes or "c")]
        outputs = "efg"[: len(self.output_axes)]
        kwargs.pop("bias_axes", None)
        super().__init__(
            f"...{inputs},{inputs}{outputs}->...{outputs}",
            output_shape=output_axes,
            bias_axes=outputs if use_bias else None,
            **kwargs,
        )

    def build(self, input_shape):
        super().build(self._cut(input_shape))
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def call(self, inputs, training=None):
        rows = inputs.shape[-1]
        columns = math.prod(self.output_axes)
        self._cut(inputs.shape)
        bias = None if self.bias is None else ops.reshape(self.bias, (columns,))
        y = linear(inputs, ops.reshape(self.kernel, (rows, columns)), bias)
        return y if self.activation is None else self.activation(y)  # [..., F]

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], math.prod(self.output_axes))

    def _cut(self, input_shape):
        *outer, size = input_shape
        axes = self.input_axes or (size,)
        if size != math.prod(axes):
            raise ValueError(
                f"The last axis of the input of '{self.name}' must have size "
                f"{math.prod(axes)}. Received: input of shape {tuple(input_shape)}"
            )
        return (*outer, *axes)

    def get_config(self):
        config = super().get_config()
        for name in ("equation", "output_shape", "bias_axes"):
            config.pop(name)
        return {
            **config,
            "output_axes": self.output_axes,
            "input_axes": self.input_axes,
            "use_bias": self.use_bias,
        }


def fresh_initializer(initializer: Any) -> Any:
    """A copy: an initializer used twice draws the same numbers twice.

    Args:
        initializer: What `keras.initializers.get` returned.
    """
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    return initializer.clone()
