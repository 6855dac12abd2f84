"""The arguments of an attention layer's call: unpacked and checked.

Wrong arguments are refused here; `_visibility.py` combines the masks.
"""

from typing import Any

import keras
from keras import ops

from keras_attention.ops import masks
from keras_attention.ops.backend.shapes import describe, differ
from keras_attention.ops.caches.base import Cache
from keras_attention.ops.positions import standardize_positions


def standardize_shapes(query_shape, value_shape, key_shape):
    if query_shape and isinstance(query_shape[0], list | tuple):
        if len(query_shape) not in (2, 3):
            received = f"{len(query_shape)} tensors in a list"
            raise ValueError(_VALUE_MISSING.format(received))
        query_shape, value_shape, *rest = query_shape
        key_shape = rest[0] if rest else None
    if value_shape is None:
        raise ValueError(_VALUE_MISSING.format("value_shape=None"))
    key_shape = value_shape if key_shape is None else key_shape
    _check_shapes(query=query_shape, value=value_shape, key=key_shape)
    return query_shape, value_shape, key_shape


def _check_shapes(**shapes):
    """Refuses shapes that no call could have, in the words of the call."""
    received = ", ".join(f"{name}={shape}" for name, shape in shapes.items())
    for name, shape in shapes.items():
        if not hasattr(shape, "__len__") or len(shape) < 3:
            raise ValueError(
                f"`{name}` must have shape [batch, length, features], or more axes "
                f"before the features. Received: {name}={shape}, of {received}"
            )
    query, value, key = shapes.values()
    if len({*map(len, shapes.values())}) > 1:
        raise ValueError(
            "`query`, `key` and `value` must have the same number of axes. "
            f"Received: {received}"
        )
    if differ(query[0], value[0]) or differ(query[0], key[0]):
        raise ValueError(
            "`query`, `key` and `value` must have the same batch size. "
            f"Received: {received}"
        )
    if any(map(differ, value[1:-1], key[1:-1])):
        raise ValueError(
            "`key` and `value` must have the same length: they describe the same "
            f"positions. Received: {received}"
        )


_VALUE_MISSING = (
    "Attention needs a query and a value: `layer(query, value)`, "
    "`layer(query, value, key)` or `layer([query, value, key])`; for "
    "self-attention pass the sequence twice: `layer(x, x)`. Received: {}"
)


def unpack(query, value, key, *, query_mask, value_mask, key_mask, name, mask=None):
    """Unpacks both call forms and finds every padding mask.

    Keras passes the mask that it carries on a tensor only if the argument for that mask
    is not given, and never for tensors in a list. Here both are combined.

    Returns:
        `query, value, key, query_mask, key_mask, key_mask`; the last two are the same
        mask: a key is visible if neither its key nor its value is padding.
    """
    (query, value, key), (query_mask, value_mask, key_mask) = separate(
        query,
        value,
        key,
        mask=mask,
        query_mask=query_mask,
        value_mask=value_mask,
        key_mask=key_mask,
    )
    if value is None:
        raise ValueError(_VALUE_MISSING.format("value=None"))
    other_key = key is not None and key is not value
    key = value if key is None else key
    _check_inputs(query, value, key, name)
    query_mask = _padding_mask(query, query_mask, "query")
    value_mask = _padding_mask(value, value_mask, "value")
    if other_key or key_mask is not None:
        value_mask = _both(value_mask, _padding_mask(key, key_mask, "key"))
    return query, value, key, query_mask, value_mask, value_mask


def separate(query, value, key, *, query_mask, value_mask, key_mask, mask=None):
    """Unpacks the call forms `(query, value, key)` and `([query, value, key])`.

    Args:
        query: The query, or a list of two or three inputs.
        value: The value, or `None` with a list.
        key: The key or `None`.
        query_mask: The query's padding mask; with a list of inputs a list of masks.
        value_mask: The value's padding mask, or `None`.
        key_mask: The key's padding mask, or `None`.
        mask: A list of masks in the order of the inputs, an argument of Keras' layers.

    Returns:
        `((query, value, key), (query_mask, value_mask, key_mask))`.
    """
    given = {"query_mask": query_mask, "value_mask": value_mask, "key_mask": key_mask}
    if isinstance(query, list | tuple):
        if value is not None or len(query) not in (2, 3):
            raise ValueError(_VALUE_MISSING.format(f"{len(query)} tensors in a list"))
        query, value, key = (*query, None)[:3]
        if isinstance(query_mask, list | tuple):
            given = _join_listed(query_mask, {**given, "query_mask": None})
    if mask is not None and value is not None:
        if not isinstance(mask, list | tuple) or len(mask) not in (2, 3):
            received = describe(mask) if hasattr(mask, "shape") else repr(mask)
            raise ValueError(
                "`mask` must be a list of padding masks, `[query_mask, value_mask]` or "
                "`[query_mask, value_mask, key_mask]`. A mask of which keys a query "
                "can attend to is passed as `attention_mask=`. "
                f"Received: mask={received}"
            )
        given = _join_listed(mask, given)
    return (query, value, key), tuple(given.values())


def _join_listed(listed, given):
    """Combines padding masks given by name with those of a list in the same order."""
    joined = dict(given)
    for name, mask in zip(given, listed, strict=False):
        if given[name] is None:
            joined[name] = mask
        elif mask is not None and mask is not given[name]:
            pair = (masks.require_bool(each, name) for each in (given[name], mask))
            joined[name] = _both(*pair)
    return joined


def _check_inputs(query, value, key, name):
    for argument, tensor in {"query": query, "value": value, "key": key}.items():
        if len(tensor.shape) != 3:
            raise ValueError(
                f"`{argument}` of layer '{name}' must have shape [batch, length, "
                f"features]. Received: {argument}={describe(tensor)}"
            )
    if differ(key.shape[1], value.shape[1]):
        raise ValueError(
            "`key` and `value` must have the same length: they describe the same "
            f"positions. Received: key={describe(key)}, value={describe(value)}"
        )
    for other in (key, value):
        if differ(query.shape[0], other.shape[0]):
            raise ValueError(
                "`query`, `key` and `value` must have the same batch size. Received: "
                f"query={describe(query)}, key={describe(key)}, "
                f"value={describe(value)}"
            )


def _padding_mask(tensor, explicit, argument):
    """Combines the explicit mask with the one that Keras carries; or `None`."""
    implicit = getattr(tensor, "_keras_mask", None)
    if explicit is None or explicit is implicit:
        return implicit
    name = f"{argument}_mask"
    mask = masks.require_bool(explicit, name, rank=2, shape="[batch, length]")
    for axis, what in ((0, "batch size"), (1, "length")):
        if differ(mask.shape[axis], tensor.shape[axis]):
            raise ValueError(
                f"`{name}` must have the {what} of `{argument}`. Received: "
                f"{name}={describe(mask)}, {argument}={describe(tensor)}"
            )
    return _both(mask, implicit)


def _both(left, right):
    if left is None or right is None or left is right:
        return right if left is None else left
    return left & right


def clear_padding(tensor: Any, mask: Any) -> Any:
    """Sets vectors to 0 where `mask` is False.

    A weight of 0 is not enough, because 0 · NaN is NaN.
    """
    return tensor if mask is None else ops.where(mask[..., None], tensor, 0)


def check_attention_mask(mask, query, key, max_rank):
    shapes = "[batch, query length, key length]"
    shapes += ", or [batch, heads, query length, key length]" if max_rank > 3 else ""
    mask = masks.require_bool(mask, "attention_mask")
    if not 3 <= len(mask.shape) <= max_rank:
        hint = (
            " A mask of padding, [batch, key length], is passed as `value_mask=`; a "
            "mask for all rows of the batch, [query length, key length], as "
            "`attention_mask=mask[None]`."
        )
        raise ValueError(
            f"`attention_mask` must have shape {shapes}."
            f"{hint if len(mask.shape) == 2 else ''} "
            f"Received: attention_mask={describe(mask)}"
        )
    _check_fits(mask, query, key, "attention_mask", shapes)
    return mask


def check_bias(bias: Any, query: Any, key: Any, *, max_rank: int = 4) -> Any:
    """Returns `attention_bias` as a float tensor of rank 3 or `max_rank`."""
    if bias is None:
        return None
    bias = ops.convert_to_tensor(bias)
    dtype = keras.backend.standardize_dtype(bias.dtype)
    if "float" not in dtype:
        raise ValueError(
            "`attention_bias` is added to the scores and must be float. To hide keys, "
            f"pass a bool `attention_mask=`. Received: attention_bias={describe(bias)}"
        )
    shapes = "[batch, query length, key length]"
    shapes += ", or [batch, heads, query length, key length]" if max_rank > 3 else ""
    if not 3 <= len(bias.shape) <= max_rank:
        raise ValueError(
            f"`attention_bias` must have shape {shapes} (axes may be 1). "
            f"Received: attention_bias={describe(bias)}"
        )
    _check_fits(bias, query, key, "attention_bias", shapes)
    return bias


def _check_fits(tensor, query, key, name, shapes):
    wanted = (query.shape[0], query.shape[1], key.shape[1])
    actual = (tensor.shape[0], tensor.shape[-2], tensor.shape[-1])
    for got, want in zip(actual, wanted, strict=True):
        if got != 1 and differ(got, want):
            raise ValueError(
                f"`{name}` must have shape {shapes}, here with batch {wanted[0]}, "
                f"query length {wanted[1]} and key length {wanted[2]} (axes may be "
                f"1). Received: {name}={describe(tensor)}"
            )


def cached_positions(
    cache: Cache, positions: Any, query: Any, key: Any, key_mask: Any
) -> tuple[Any, Any]:
    """Returns positions `[B, T]` of queries and of the keys they add to the cache.

    Returns:
        `(query positions, positions of the new keys)`; the new keys' positions
        are -1 at padding.
    """
    if differ(query.shape[1], key.shape[1]):
        raise ValueError(
            "A `cache` holds the past of one sequence, so query and key must be the "
            "same new tokens. For cross-attention pass the whole `value`, without a "
            f"cache. Received: query={describe(query)}, key={describe(key)}"
        )
    batch, length = ops.shape(query)[:2]
    if key_mask is None:
        key_mask = ops.ones((batch, length), dtype="bool")
    if positions is None:
        new = cache.next_positions(key_mask)
        return new, new
    positions = standardize_positions(positions, length=length)
    positions = ops.broadcast_to(positions, (batch, length))
    return positions, ops.where(key_mask, positions, -1)
