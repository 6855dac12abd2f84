"""The linear map that all layers use."""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops

from keras_attention.layers.low_rank_update import LowRankUpdate
from keras_attention.ops.linear import linear

_STORED: ContextVar[bool] = ContextVar("stored_kernels", default=False)
_LORA = "lora"  # the entry of saved variables that holds the settings of an update


@keras.saving.register_keras_serializable("keras_attention")
class Projection(keras.layers.EinsumDense):
    """A linear map whose kernel may have several input or output axes.

    Weights are those of `keras.layers.EinsumDense`, so `enable_lora`, `quantize` and
    weights of `keras.layers.MultiHeadAttention` work unchanged; for LoRA on whole
    models there is `ka.enable_lora`. It is computed as one
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
        self.lora: LowRankUpdate | None = None

    def build(self, input_shape):
        self._check_size(input_shape)
        if isinstance(self.dtype_policy, keras.dtype_policies.DTypePolicyMap):
            # Keras' quantised layers read the map's name and mode, not their entry's.
            self._dtype_policy = self.dtype_policy[self.path]
        super().build((None, *(self.input_axes or input_shape[-1:])))
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.kernel.matrix_shape = self._matrix_shape  # for `ops/backend/compiled.py`

    @property
    def kernel(self):
        """The kernel; of an int4 one the unpacked integers, as in Keras."""
        return self._kernel if _STORED.get() else super().kernel

    @property
    def _matrix_shape(self):
        columns = math.prod(self.output_axes)
        return math.prod(self.kernel.shape) // columns, columns

    def call(self, inputs, training=None):
        self._check_size(inputs.shape)
        matrix = self._matrix_shape
        bias = None if self.bias is None else ops.reshape(self.bias, matrix[1:])
        y = linear(inputs, ops.reshape(self.kernel, matrix), bias)
        if self.lora is not None:
            y = y + self.lora(inputs, training=training)
        return y if self.activation is None else self.activation(y)  # [..., F]

    def add_lora(self, rank: int, *, scale: float = 1.0, dropout: float = 0.0) -> None:
        """Adds a `LowRankUpdate`, and freezes the kernel and the bias.

        Unlike `enable_lora` of Keras, whose second matrix is shared by the heads, the
        update has the rank `rank` in the matrix of all heads, as in the paper and in
        PEFT. `ka.enable_lora` calls it for whole models.

        Args:
            rank: The rank of the update.
            scale: The factor of the update, `alpha / rank`.
            dropout: The rate of dropout on the input of the update.
        """
        self.check_lora()
        rows, columns = self._matrix_shape
        narrow = self.compute_dtype in ("float16", "bfloat16")
        self._tracker.unlock()
        with contextlib.ExitStack() as scopes:  # so that its variables have our path
            for part in (self.path or self.name).split("/"):
                scopes.enter_context(keras.name_scope(part))
            # Narrow floats would lose the small steps of training.
            self.lora = LowRankUpdate(
                rank,
                columns,
                scale=scale,
                dropout=dropout,
                name=_LORA,
                dtype=f"mixed_{self.compute_dtype}" if narrow else self.compute_dtype,
            )
            self.lora.build((None, rows))
        self._tracker.lock()
        self._freeze_own()
        self._kernel.low_rank_update = self.lora  # for `weights/rules.py`

    def check_lora(self) -> None:
        """Refuses a projection to which `add_lora` can add nothing."""
        if self.lora is not None or self.lora_enabled:
            raise ValueError(
                "There is LoRA on this projection already: call `ka.merge_lora` first. "
                f"Received: layer '{self.path}'"
            )
        if self.quantization_mode and self.activation is not keras.activations.linear:
            raise ValueError(
                "A quantised projection with an activation cannot have LoRA: choose "
                f"other targets. Received: layer '{self.path}' with "
                f"quantization_mode={self.quantization_mode!r}"
            )

    def merge_lora(self) -> None:
        """Adds the update to the kernel, and removes it."""
        if self.lora is None:
            return
        if self.quantization_mode:
            raise ValueError(
                "LoRA cannot be merged into a quantised kernel without an error of "
                "rounding: save it with `ka.save_adapter`, load the model in float, "
                "then `ka.load_adapter` and `ka.merge_lora`. Received: layer "
                f"'{self.path}' with quantization_mode={self.quantization_mode!r}"
            )
        update = ops.reshape(self.lora.matrix(), self._kernel.shape)
        self._kernel.assign(self._kernel + ops.cast(update, self._kernel.dtype))
        self._kernel.low_rank_update = None
        self._tracker.unlock()
        self._tracker.untrack(self.lora)
        self.lora = None
        self._tracker.lock()

    def _freeze_own(self):
        for variable in self._trainable_variables:
            variable.trainable = False

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
        y = ops.reshape(y, (*sizes[:-1], math.prod(self.output_axes)))
        return y if self.lora is None else y + self.lora(inputs, training=training)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self.lora is not None:
            store[_LORA] = [*self.lora.settings().values()]

    def load_own_variables(self, store):
        # A layer, a block or a model of a user makes its projections unquantised and
        # without LoRA, also when it is loaded. What was saved says what they were.
        saved = {name: store[name] for name in store.keys()}  # noqa: SIM118
        settings = saved.pop(_LORA, None)
        mode, config = self._quantization_of(saved)
        if self.built and mode and self.quantization_mode is None:
            self.quantize(mode, config=config)
        super().load_own_variables(saved)
        if settings is not None and self.lora is None:
            rank, scale, dropout = (float(number) for number in settings)
            self.add_lora(int(rank), scale=scale, dropout=dropout)

    def _quantization_of(self, saved) -> tuple[str | None, Any]:
        """The mode and the config of a quantisation, from what is saved."""
        plain = 1 if self.bias is None else 2
        if not self.built or len(saved) <= plain:
            return None, None
        if str(saved["0"].dtype) != "int8":
            return "float8", None
        if len(saved) == plain + 1:
            same_shape = tuple(saved["0"].shape) == tuple(self._kernel.shape)
            per_channel = keras.quantizers.Int4QuantizationConfig(block_size=-1)
            return ("int8", None) if same_shape else ("int4", per_channel)
        groups = saved[str(len(saved) - 1)][()]  # the group of each row of the kernel
        size = int((groups == 0).sum())
        return "int4", keras.quantizers.Int4QuantizationConfig(block_size=size)

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


@contextlib.contextmanager
def stored_kernels() -> Iterator[None]:
    """Inside it the kernel of a projection is the variable, quantised or not.

    So a rule for a kernel tells which projection it belongs to.
    """
    token = _STORED.set(True)
    try:
        yield
    finally:
        _STORED.reset(token)


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
