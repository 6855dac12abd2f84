"""Keras' own layers, traced as regions, so that they too become one operator each.

The layers of this library name their regions themselves. Those of Keras, and of
KerasHub, which builds on them, do not: while an ONNX file is traced, a few of Keras'
functions are replaced by ones that compute the same numbers inside a region.
"""

import contextlib
import inspect
import math
import threading
from collections.abc import Callable, Iterator
from unittest import mock

import keras
from keras import ops

from keras_attention.layers.layer_normalization import LayerNormalization
from keras_attention.ops.attend import BLOCKED, dot_product_attention
from keras_attention.ops.backend.regions import region
from keras_attention.ops.heads import HeadSettings
from keras_attention.ops.linear import linear

_ONE_AT_A_TIME = threading.RLock()  # what is replaced belongs to all threads


@contextlib.contextmanager
def stock_layers_as_regions() -> Iterator[None]:
    """Inside the block Keras' own layers call regions; their numbers stay the same."""
    layers = keras.layers
    replaced = [
        (layers.MultiHeadAttention, "_compute_attention", _attention),
        (layers.GroupQueryAttention, "_compute_attention", _attention),
        (layers.LayerNormalization, "call", _layer_normalization),
        (layers.Dense, "call", _dense),
        (layers.EinsumDense, "call", _einsum_dense),
    ]
    with _ONE_AT_A_TIME, contextlib.ExitStack() as stack:
        for owner, name, make in replaced:
            function = make(getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, function))
        stack.enter_context(_gelu())
        yield


def _attention(original: Callable) -> Callable:
    parameters = inspect.signature(original)

    def compute(*args, **kwargs):
        call = parameters.bind(*args, **kwargs).arguments
        if len(call["query"].shape) != 4 or call.get("training"):
            return original(*args, **kwargs)
        layer = call.pop("self")
        asked = call.get("return_attention_scores")
        asked = bool(asked) or getattr(layer, "_return_attention_scores", False)
        return _attend(layer, call, need_weights=asked)

    return compute


def _attend(layer, call, *, need_weights):
    query, key, value = call["query"], call["key"], call["value"]
    mask = _mask_of(layer, query, key, call)
    # Keras has two answers for a row that may look at nothing: 0 where it applies its
    # softmax layer, and the mean of all where it calls its fused function. The file
    # says what the model says.
    bias = None
    rate = getattr(layer, "_dropout", getattr(layer, "dropout", 0.0))
    if mask is not None and not need_weights and not rate > 0:
        mask, bias = None, ops.where(mask, 0.0, BLOCKED)
    output, weights = dot_product_attention(
        query=_side_by_side(query),
        key=_side_by_side(key),
        value=_side_by_side(value),
        heads=HeadSettings(query.shape[2], key.shape[2], query.shape[-1] ** -0.5),
        mask=mask,
        bias=bias,
        return_weights=need_weights,
    )
    batch, length = ops.shape(query)[:2]
    heads = (batch, length, query.shape[2], value.shape[-1])
    return ops.reshape(output, heads), weights  # [B, T, N, V]


def _mask_of(layer, query, key, call):
    """Bool `[B, 1 or N, T, S]`, or `None`."""
    mask = call.get("attention_mask")
    if mask is not None:
        mask = ops.cast(mask, "bool")
        mask = mask if len(mask.shape) == 4 else mask[:, None]  # [B, 1, T, S]
    if not call.get("use_causal_mask"):
        return mask
    # Of the layer, which may be a subclass with a mask of its own.
    own = ops.cast(layer._compute_causal_mask(query, key), "bool")[:, None]
    return own if mask is None else ops.logical_and(mask, own)


def _side_by_side(heads):
    batch, length = ops.shape(heads)[:2]
    size = heads.shape[2] * heads.shape[3]
    return ops.reshape(heads, (batch, length, size))  # [B, T, N * H]


def _layer_normalization(original: Callable) -> Callable:
    def call(self, inputs):
        axes = [self.axis] if isinstance(self.axis, int) else list(self.axis)
        last = [axis % len(inputs.shape) for axis in axes] == [len(inputs.shape) - 1]
        plain = last and self.center and self.scale and not self.rms_scaling
        ours = isinstance(self, LayerNormalization)
        return (
            original(self, inputs) if ours or not plain else _normalized(self, inputs)
        )

    return call


def _normalized(layer, inputs):
    def normalize(x, gamma, beta, *, epsilon):
        return ops.cast(ops.layer_normalization(x, gamma, beta, -1, epsilon), x.dtype)

    settings = {"epsilon": layer.epsilon}
    weights = (layer.gamma, layer.beta)
    x = region("layer_normalization", normalize, inputs, *weights, **settings)
    return ops.cast(x, layer.compute_dtype)


def _dense(original: Callable) -> Callable:
    def call(self, inputs, training=None):
        x = linear(inputs, self.kernel, self.bias)
        return x if self.activation is None else self.activation(x)

    return call


def _einsum_dense(original: Callable) -> Callable:
    def call(self, inputs, training=None):
        contracted = _contracted(self.equation)
        if contracted is None:
            return original(self, inputs)
        kernel, bias = ops.convert_to_tensor(self.kernel), self.bias
        into = kernel.shape[contracted:]
        batch = list(ops.shape(inputs))[: len(inputs.shape) - contracted]
        size = math.prod(kernel.shape[:contracted])
        x = ops.reshape(inputs, (*batch, size))
        y = linear(x, ops.reshape(kernel, (size, math.prod(into))))
        y = ops.reshape(y, (*batch, *into))
        y = y if bias is None else y + ops.cast(bias, y.dtype)
        return y if self.activation is None else self.activation(y)

    return call


def _contracted(equation: str) -> int | None:
    """How many last axes of the input are the first of the kernel; `None` if not so."""
    given, result = equation.replace(" ", "").split("->")
    inputs, kernel = given.split(",")
    if "." in equation:
        return None
    for count in range(1, len(kernel)):
        batch, into = inputs[: len(inputs) - count], kernel[count:]
        if inputs.endswith(kernel[:count]) and result == batch + into:
            return count
    return None


@contextlib.contextmanager
def _gelu() -> Iterator[None]:
    """The activation by name or function, wherever Keras looks it up."""
    from keras.src.backend.tensorflow import nn

    original = nn.gelu

    def body(x, *, approximate):
        return original(x, approximate=approximate)

    def gelu(x, approximate=True):
        return region("gelu", body, ops.convert_to_tensor(x), approximate=approximate)

    with mock.patch.object(nn, "gelu", gelu):
        yield
