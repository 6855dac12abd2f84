"""The position-wise feed-forward network."""

from collections.abc import Callable
from typing import Any

import keras

from keras_attention.layers.building import built_once
from keras_attention.layers.checks import check_sizes
from keras_attention.layers.projection import Projection, fresh_initializer
from keras_attention.ops.activations import get_activation


@keras.saving.register_keras_serializable("keras_attention")
class FeedForward(keras.layers.Layer):
    """Two linear maps with an activation between them, applied to each position.

    Reference: Vaswani et al., 2017 (arXiv:1706.03762), section 3.3; gated: Shazeer,
    "GLU Variants Improve Transformer", 2020 (arXiv:2002.05202).

    Args:
        intermediate_dim: Size of the output of the first map.
        activation: `"gelu"` (exact), `"gelu_tanh"`, any name of
            `keras.activations`, or a callable.
        dropout: Rate of dropout after the activation.
        kernel_initializer: The initializer of both kernels.
        seed: Seed of the dropout.
        gated: Whether the output of the first map is multiplied by that of a third
            map, to which the activation is then applied: SwiGLU with `"silu"`, GEGLU
            with `"gelu"`.
        use_bias: Whether the maps have biases.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: `[..., E]`.
        training: Whether dropout is active.

    Returns:
        `[..., E]`.

    Example:
    >>> layer = ka.FeedForward(intermediate_dim=32)
    >>> tuple(layer(np.ones((2, 5, 8), "float32")).shape)
    (2, 5, 8)
    """

    def __init__(
        self,
        intermediate_dim: int,
        activation: str | Callable = "gelu",
        *,
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        seed: int | None = None,
        gated: bool = False,
        use_bias: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_sizes(intermediate_dim=intermediate_dim)
        self.intermediate_dim = intermediate_dim
        self.activation = get_activation(activation)
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = seed
        self.gated, self.use_bias = gated, use_bias
        self.supports_masking = True
        self._dropout_layer = keras.layers.Dropout(
            dropout, seed=seed, dtype=self.dtype_policy
        )

    @built_once
    def build(self, input_shape):
        self.intermediate = self._projection("intermediate", self.intermediate_dim)
        self.gate = None
        if self.gated:
            self.gate = self._projection("gate", self.intermediate_dim)
            self.gate.build(input_shape)
        self.output_projection = self._projection("output", input_shape[-1])
        self.intermediate.build(input_shape)
        self.output_projection.build((*input_shape[:-1], self.intermediate_dim))
        self.built = True

    def _projection(self, name, size):
        return Projection(
            (size,),
            use_bias=self.use_bias,
            kernel_initializer=fresh_initializer(self.kernel_initializer),
            name=name,
            dtype=self.dtype_policy,
        )

    def call(self, inputs, training=None):
        x = self.intermediate(inputs)  # [..., F]
        if self.gate is None:
            x = self.activation(x)
        else:
            x = self.activation(self.gate(inputs)) * x  # [..., F]
        x = self._dropout_layer(x, training=training)
        return self.output_projection(x)  # [..., E]

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "activation": serialize_activation(self.activation),
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
            "gated": self.gated,
            "use_bias": self.use_bias,
        }


def serialize_activation(activation: Callable) -> Any:
    """An activation as a config entry."""
    name = getattr(activation, "__name__", None)
    if name in ("gelu", "gelu_tanh") and get_activation(name) is activation:
        return name
    return keras.activations.serialize(activation)
