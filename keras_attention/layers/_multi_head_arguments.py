"""Checks of the arguments of multi-head attention, and its weights."""

from typing import Any

import keras
from keras import ops

from keras_attention.layers.checks import (
    check_optional_sizes,
    check_positive,
    check_sizes,
)
from keras_attention.layers.position_scheme import PositionScheme
from keras_attention.layers.projection import Projection, fresh_initializer
from keras_attention.ops.backend.shapes import describe, differ
from keras_attention.ops.caches.static import StaticKVCache


def check_heads(
    num_heads: Any, key_dim: Any, value_dim: Any, num_key_value_heads: Any, scale: Any
) -> None:
    """Refuses numbers and sizes of heads that are invalid or do not fit together."""
    check_sizes(num_heads=num_heads, key_dim=key_dim)
    check_optional_sizes(num_key_value_heads=num_key_value_heads, value_dim=value_dim)
    if scale is not None:
        check_positive(scale=scale)
    if num_heads % (num_key_value_heads or num_heads):
        raise ValueError(
            "`num_heads` must be a multiple of `num_key_value_heads`: each key/value "
            "head serves a group of query heads of one size. Received: "
            f"num_heads={num_heads}, num_key_value_heads={num_key_value_heads}"
        )


def check_position(position: Any) -> Any:
    """Returns the position scheme, or refuses what is none."""
    if position is not None and not isinstance(position, PositionScheme):
        raise ValueError(
            "`position` must be a position scheme, such as `ka.RotaryEmbedding()`, or "
            f"`None`. Received: position={position!r}"
        )
    return position


def standardize_window(window: Any) -> tuple[int, int] | None:
    """Returns `sliding_window` as a pair `(behind, ahead)`."""
    if window is None:
        return None
    pair = (window - 1, window - 1) if isinstance(window, int) else tuple(window)
    if len(pair) != 2 or min(pair) < 0:
        raise ValueError(
            "`sliding_window` must be an int of 1 or more (keys with |i - j| < w) or "
            "a pair of counts `(behind, ahead)` of 0 or more. "
            f"Received: sliding_window={window!r}"
        )
    return pair


def standardize_bias(use_bias: Any) -> bool | str:
    """Returns `use_bias` if it is valid."""
    if not isinstance(use_bias, bool) and use_bias != INNER_BIASES:
        raise ValueError(
            f"`use_bias` must be True, False or '{INNER_BIASES}'. "
            f"Received: use_bias={use_bias!r}"
        )
    return use_bias


def has_bias(use_bias: bool | str, name: str) -> bool:
    """Whether the projection of that name has a bias."""
    if use_bias == INNER_BIASES:
        return name in ("query", "key", "value")
    return bool(use_bias)


INNER_BIASES = "query_key_value"


def standardize_sizes(output_shape: Any) -> tuple[int, ...] | None:
    """Returns `output_shape` as a tuple of sizes."""
    if output_shape is None:
        return None
    listed = isinstance(output_shape, list | tuple)
    sizes = tuple(output_shape) if listed else (output_shape,)
    if not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(
            "`output_shape` must be a positive integer or a tuple of them. "
            f"Received: output_shape={output_shape!r}"
        )
    return sizes


def mask_heads(head_mask: Any, num_heads: int, context: Any, weights: Any) -> tuple:
    """Multiplies each head's weights, and so its output, by a number.

    Args:
        head_mask: Float or bool `[N]` or `[B, N]`.
        num_heads: N.
        context: `[B, T, N * V]`.
        weights: `[B, N, T, S]` or `None`.

    Returns:
        `(context, weights)`.
    """
    head_mask = ops.convert_to_tensor(head_mask)
    if len(head_mask.shape) not in (1, 2) or differ(head_mask.shape[-1], num_heads):
        raise ValueError(
            f"`head_mask` must have shape [heads] or [batch, heads], here with "
            f"{num_heads} heads. Received: head_mask={describe(head_mask)}"
        )
    if len(head_mask.shape) == 1:
        head_mask = head_mask[None]  # [1, N]
    size = context.shape[-1] // num_heads
    wide = ops.repeat(head_mask, size, axis=-1)[:, None]  # [B or 1, 1, N * V]
    context = context * ops.cast(wide, context.dtype)
    if weights is not None:
        weights = weights * ops.cast(head_mask, weights.dtype)[:, :, None, None]
    return context, weights


def check_memory(memory: Any, cache: Any, *, query: Any, **replaced: Any) -> None:
    """Refuses a memory as `cache`, and arguments that a memory replaces.

    Args:
        memory: The argument of the call.
        cache: The argument of the call.
        query: The argument of the call, a tensor or a list of inputs.
        **replaced: The arguments of the call that a memory replaces.
    """
    if isinstance(cache, StaticKVCache):
        raise ValueError(
            "`cache` holds past tokens of the sequence itself. Pass the keys and "
            "values of another sequence, which `remember` returned, as `memory=`, "
            "without a `value`. Received: cache=StaticKVCache"
        )
    if memory is None:
        return
    if not isinstance(memory, StaticKVCache):
        received = describe(memory) if hasattr(memory, "shape") else repr(memory)
        raise ValueError(
            "`memory` must be what `layer.remember(value)` returned. Pass a sequence "
            f"that is not projected yet as `value`. Received: memory={received}"
        )
    given = [name for name, argument in replaced.items() if argument is not None]
    given += ["cache"] if cache is not None else []
    given += ["a list of inputs"] if isinstance(query, list | tuple) else []
    if given:
        raise ValueError(
            "`memory` holds projected keys and values with their mask. A call with it "
            "takes no `value`, `key`, `value_mask`, `key_mask` and `cache`: omit them, "
            f"or omit `memory`. Received: memory and {', '.join(given)}"
        )


def config_of(layer: Any) -> dict[str, Any]:
    """Returns the constructor arguments of a layer in a form that JSON can hold.

    Args:
        layer: The `MultiHeadAttention`.
    """
    config = {
        "num_heads": layer.num_heads,
        "key_dim": layer.key_dim,
        "value_dim": layer.value_dim,
        "num_key_value_heads": layer.num_key_value_heads,
        "sliding_window": layer.sliding_window,
        "position": keras.saving.serialize_keras_object(layer.position),
        "talking_heads": layer.talking_heads,
        "use_gate": layer.use_gate,
        "chunked": layer.chunked,
        "scale": layer.scale,
        "use_bias": layer.use_bias,
        "output_shape": layer.output_sizes,
        "attention_axes": layer.attention_axes,
        "activity_regularizer": keras.regularizers.serialize(
            layer.projection_regularizer
        ),
    }
    for name in ("kernel", "bias"):
        for module in ("initializers", "regularizers", "constraints"):
            option = f"{name}_{module[:-1]}"
            config[option] = getattr(keras, module).serialize(getattr(layer, option))
    return config


def make_gate(layer: Any, query_shape: tuple) -> Projection:
    """Makes and builds the projection whose sigmoid scales the heads' outputs.

    Args:
        layer: The `MultiHeadAttention`.
        query_shape: `(B, T, E)`.
    """
    sizes = layer.num_heads, layer.value_dim
    gate = make_projection(layer, "gate", sizes, activation="sigmoid")
    gate.build(query_shape)
    return gate


def make_mixing(layer: Any) -> tuple[Any, Any]:
    """Makes the matrices that mix the heads' scores and their weights.

    Args:
        layer: The `MultiHeadAttention`.
    """
    settings = {"shape": (layer.num_heads,) * 2, "initializer": "identity"}
    return (
        layer.add_weight(name="mix_scores", **settings),
        layer.add_weight(name="mix_weights", **settings),
    )


def make_projection(
    layer: Any, name: str, output_axes: tuple[int, ...], **kwargs: Any
) -> Projection:
    """Makes one of the linear maps of a `MultiHeadAttention`, with its settings.

    Args:
        layer: The `MultiHeadAttention`.
        name: The projection's name.
        output_axes: The argument of `Projection`.
        **kwargs: Other arguments of `Projection`.
    """
    return Projection(
        output_axes,
        use_bias=has_bias(layer.use_bias, name),
        kernel_initializer=fresh_initializer(layer.kernel_initializer),
        bias_initializer=fresh_initializer(layer.bias_initializer),
        kernel_regularizer=layer.kernel_regularizer,
        bias_regularizer=layer.bias_regularizer,
        activity_regularizer=layer.projection_regularizer,
        kernel_constraint=layer.kernel_constraint,
        bias_constraint=layer.bias_constraint,
        name=name,
        dtype=layer.dtype_policy,
        **kwargs,
    )
