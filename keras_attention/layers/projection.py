"""The linear map that all layers use."""

import math
from typing import Any

import keras
from keras import ops

from keras_attention.ops.linear import linear


@keras.saving.register_keras_serializable("keras_attention")
class Projection(keras.layers.EinsumDense):
    """A linear map whose kernel may have several input or output axes.

    Weights are those of `keras.layers.EinsumDense`, so `enable_lora`, `quantize` and
    weights of `keras.layers.MultiHeadAttention` work unchanged. It is computed as one
    matrix product over the last axis, which is fastest in every runtime.

    Args:
        input_axes: Sizes that the last axis is split into, e.g.
            `(num_heads, value_dim)`; it is not split when `None`.
        output_axes: Sizes of the result, merged into one last axis, e.g.
            `(num_heads, key_dim)`.
        use_bias: Whether a bias is added.
        activation: The activation of the result.
        **kwargs: Arguments of `keras.layers.EinsumDense`: initializers, regularizers,
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
        # The equation has one axis of rows, because Keras cannot quantise an ellipsis.
        super().__init__(
            f"a{inputs},{inputs}{outputs}->a{outputs}",
            output_shape=output_axes,
            bias_axes=outputs if use_bias else None,
            **kwargs,
        )

    def build(self, input_shape):
        self._check_size(input_shape)
        if isinstance(self.dtype_policy, keras.dtype_policies.DTypePolicyMap):
            # Keras' quantised layers read the map's name and mode, not their entry's.
            self._dtype_policy = self.dtype_policy[self.path]
        super().build((None, *(self.input_axes or input_shape[-1:])))
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.kernel.matrix_shape = self._matrix_shape  # for `ops/backend/compiled.py`

    @property
    def _matrix_shape(self):
        columns = math.prod(self.output_axes)
        return math.prod(self.kernel.shape) // columns, columns

    def call(self, inputs, training=None):
        self._check_size(inputs.shape)
        matrix = self._matrix_shape
        bias = None if self.bias is None else ops.reshape(self.bias, matrix[1:])
        y = linear(inputs, ops.reshape(self.kernel, matrix), bias)
        return y if self.activation is None else self.activation(y)  # [..., F]

    def quantize(self, mode=None, type_check=True, config=None):
        """Quantises the kernel, as `keras.layers.EinsumDense` does.

        Args:
            mode: `"int8"`, `"int4"` or `"float8"`.
            type_check: Not used.
            config: A `keras.quantizers.QuantizationConfig`.
        """
        # Keras refuses subclasses, because it would replace their `call`. Here `call`
        # is the same product, and `quantized_call` converts the axes.
        super().quantize(mode, type_check=False, config=config)

    def quantized_call(self, inputs, training=None):
        """Replaces `call` when the kernel is quantised.

        Args:
            inputs: `[..., E]`.
            training: Whether statistics for float8 are collected.
        """
        sizes = ops.shape(inputs)
        rows = ops.reshape(inputs, (-1, *(self.input_axes or sizes[-1:])))
        y = super().quantized_call(rows, training=training)  # [rows, *output_axes]
        return ops.reshape(y, (*sizes[:-1], math.prod(self.output_axes)))

    def load_own_variables(self, store):
        # A layer, a block or a model of a user makes its projections unquantised, also
        # when it is loaded. What was saved says how they were quantised.
        mode = self._mode_of(store)
        if self.built and mode and self.quantization_mode is None:
            self.quantize(mode)
        super().load_own_variables(store)

    def _mode_of(self, store) -> str | None:
        """The quantisation of saved variables, from what is saved."""
        if "0" not in store:
            return None
        kernel = store["0"]
        if str(kernel.dtype) == "int8":
            same_shape = tuple(kernel.shape) == tuple(self._kernel.shape)
            return "int8" if same_shape else "int4"  # two numbers in a byte
        plain = 1 if self.bias is None else 2
        return "float8" if len(store.keys()) > plain else None

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], math.prod(self.output_axes))

    def _check_size(self, input_shape):
        size = math.prod(self.input_axes or input_shape[-1:])
        if input_shape[-1] != size:
            raise ValueError(
                f"The last axis of the input of '{self.name}' must have size {size}. "
                f"Received: input of shape {tuple(input_shape)}"
            )

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


def dtype_config(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns `{"dtype": …}` for the config of a layer with quantised projections.

    A layer makes its projections from its own dtype policy. Keras stores the policies
    of quantised sub-layers in a `DTypePolicyMap`; without one, a saved model could not
    be loaded.

    Args:
        layer: The layer that has the config.

    Returns:
        An empty dict where nothing is quantised.
    """
    quantized = {
        part.path: part.dtype_policy
        for part in layer._flatten_layers(include_self=False)
        if part.quantization_mode is not None
    }
    if not quantized:
        return {}
    policy = layer.dtype_policy
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        quantized = {**{path: policy[path] for path in policy}, **quantized}
        policy = policy.default_policy
    policies = keras.dtype_policies.DTypePolicyMap(policy.name, quantized)
    return {"dtype": keras.dtype_policies.serialize(policies)}


def fresh_initializer(initializer: Any) -> Any:
    """Returns a copy, because an initializer that is used twice draws the same numbers.

    Args:
        initializer: What `keras.initializers.get` returned.
    """
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    return initializer.clone()
