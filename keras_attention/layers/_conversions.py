"""Conversion of Keras' layers to layers of this library, with the same weights."""

from typing import Any

import keras
import numpy as np
from keras import ops

# Options of Keras' layers that this library has too, with the same meaning.
_MULTI_HEAD = {
    "num_heads",
    "key_dim",
    "value_dim",
    "num_key_value_heads",
    "dropout",
    "use_bias",
    "use_gate",
    "seed",
    "sliding_window",
    "attention_axes",
    "output_shape",
    "kernel_initializer",
    "bias_initializer",
    "kernel_regularizer",
    "bias_regularizer",
    "activity_regularizer",
    "kernel_constraint",
    "bias_constraint",
}
_ONE_HEAD = {"dropout", "seed", "activity_regularizer"}
_EVERY_LAYER = {"name", "trainable", "dtype"}


def from_keras_multi_head(cls: Any, layer: Any) -> Any:
    """Makes a `cls` with the options and weights of a multi-head layer of Keras.

    Args:
        cls: `MultiHeadAttention` of this library.
        layer: A built `keras.layers.MultiHeadAttention` or `GroupQueryAttention`.
    """
    kinds = keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention
    shapes = _check(layer, *kinds)
    config = layer.get_config()
    if type(layer) is keras.layers.GroupQueryAttention:
        config["num_heads"] = config.pop("num_query_heads")
        config["key_dim"] = config.pop("head_dim")
    axes, rank = config.get("attention_axes"), len(shapes[0])
    if axes is not None and tuple(axes) == tuple(range(1, rank - 1)):
        config["attention_axes"] = None  # Keras stores the axes that None means
    ours = cls(**_options(layer, config, _MULTI_HEAD))
    ours.build(*shapes)
    ours.set_weights(layer.get_weights())
    return ours


def from_keras_attention(cls: Any, layer: Any) -> Any:
    """Makes a `cls` with the options and weights of a `keras.layers.Attention`.

    Args:
        cls: `DotProductAttention` of this library.
        layer: A built layer of Keras with `score_mode="dot"`.
    """
    shapes = _check(layer, keras.layers.Attention)
    if layer.score_mode != "dot":
        raise ValueError(
            "A keras.layers.Attention whose score is not a product is an "
            "`AdditiveAttention`: use its `from_keras`, or `ka.from_keras`. "
            f"Received: score_mode={layer.score_mode!r}"
        )
    config = layer.get_config()
    config.pop("score_mode")
    ours = cls("dot", **_options(layer, config, _ONE_HEAD | {"use_scale"}))
    ours.build(*shapes)
    ours.set_weights(layer.get_weights())
    return ours


def from_keras_additive(cls: Any, layer: Any) -> Any:
    """Makes a `cls` with the options and numbers of an additive layer of Keras.

    Args:
        cls: `AdditiveAttention` of this library.
        layer: A built `keras.layers.AdditiveAttention`, or a `keras.layers.Attention`
            with `score_mode="concat"`.
    """
    shapes = _check(layer, keras.layers.AdditiveAttention, keras.layers.Attention)
    concat = type(layer) is keras.layers.Attention
    if concat and layer.score_mode != "concat":
        raise ValueError(
            "A keras.layers.Attention whose score is a product is a "
            "`DotProductAttention`: use its `from_keras`, or `ka.from_keras`. "
            f"Received: score_mode={layer.score_mode!r}"
        )
    units = shapes[0][-1]
    scale = 1.0 if layer.scale is None else np.array(layer.scale)
    if concat:  # c * sum(tanh(scale * (q + k)))
        identity, vector = scale * np.eye(units), np.array(layer.concat_score_weight)
    else:  # sum(scale * tanh(q + k))
        identity, vector = np.eye(units), scale
    config = layer.get_config()
    config.pop("score_mode", None)
    config.pop("use_scale")
    ours = cls(units, **_options(layer, config, _ONE_HEAD))
    ours.build(*shapes)
    numbers = {"kernel": identity, "bias": np.zeros(units)}
    numbers["score_vector"] = np.full(units, vector)
    ours.set_weights([numbers[weight.name] for weight in ours.weights])
    return ours


def with_fewer_key_value_heads(layer: Any, num_key_value_heads: int) -> Any:
    """Returns a copy whose key and value heads are means of groups of heads.

    Args:
        layer: A built `MultiHeadAttention` of this library.
        num_key_value_heads: Number of key/value heads of the copy.
    """
    _check_built(layer)
    before = layer.num_key_value_heads
    if num_key_value_heads < 1 or before % num_key_value_heads:
        raise ValueError(
            f"`to_grouped` takes the mean of groups of equal size of the layer's "
            f"{before} key/value heads: pass a divisor of that number. "
            f"Received: num_key_value_heads={num_key_value_heads}"
        )
    config = {**layer.get_config(), "num_key_value_heads": num_key_value_heads}
    grouped = type(layer).from_config(config)
    grouped.build_from_config(layer.get_build_config())
    for new, old in zip(grouped.weights, layer.weights, strict=True):
        value = ops.convert_to_numpy(old)
        same = new.shape == old.shape
        new.assign(value if same else _mean_of_heads(value, new.shape))
    return grouped


def _mean_of_heads(value, shape):
    """Reduces `[..., K, H]` to the shape `[..., K', H]`, in float64."""
    *outer, groups, size = shape
    grouped = value.astype("float64").reshape(*outer, groups, -1, size)
    return grouped.mean(axis=-2)  # [..., K', H]


def _check(layer, *kinds):
    """Refuses other layers; returns the shapes of query, value and key."""
    if type(layer) not in kinds:
        names = " or ".join(f"keras.layers.{kind.__name__}" for kind in kinds)
        raise ValueError(
            f"This `from_keras` converts a {names}, and no subclass of it, which may "
            f"compute something else. Received: layer={layer!r}"
        )
    _check_built(layer)
    config = layer.get_build_config()
    shapes = config.get("input_shape") or config["shapes_dict"].values()
    return [tuple(shape) for shape in shapes if shape is not None]


def _check_built(layer):
    if not layer.built:
        raise ValueError(
            "Only a layer that has weights can be converted: call it, or its `build`, "
            "first. Received: built=False"
        )
    for each in layer._flatten_layers():
        if getattr(each, "lora_enabled", False) or each.quantization_mode:
            raise ValueError(
                "A layer must be converted before `enable_lora` and `quantize`; saving "
                "and loading a model merges LoRA into the kernels. Received: "
                f"'{each.path}' with quantization_mode={each.quantization_mode!r}"
            )


def _options(layer, config, supported):
    """Returns the options of Keras' layer; refuses those that are not supported."""
    supported = supported | _EVERY_LAYER
    unknown = {name: value for name, value in config.items() if name not in supported}
    if any(unknown.values()):
        raise ValueError(
            f"keras.layers.{type(layer).__name__} {keras.__version__} has options "
            f"that this library does not have. Received: {unknown}"
        )
    return {name: value for name, value in config.items() if name in supported}
