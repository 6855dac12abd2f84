"""The tensors of caches, whose second axis is slots, in floats or in int8.

Every function takes a plain tensor `[B, P, D]` or a `Quantized` and returns the same
kind, so a cache need not know which it holds. Slots are filled by selection, because
XLA's operators that write to a slice or scatter have no counterpart in ONNX. Only
functions that `Compiled` compiles write in place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_attention.ops.backend.compiled import is_under_xla
from keras_attention.ops.backend.shapes import largest
from keras_attention.ops.heads import merge_features, split_features
from keras_attention.ops.positions import first_positions, positions_of_tokens

_LARGEST = 127  # of int8; -128 is not used, so that the grid is symmetric


class Quantized(NamedTuple):
    """Keys or values in int8, with one scale for each token and head.

    x' = values · scale with scale = max|x| / 127 over the head, so |x - x'| is at most
    scale / 2 (in float32; a view in half precision rounds once more). A number that is
    not finite makes its head NaN. The memory is a quarter of that of float32, plus one
    float32 per token and head.

    KIVI uses as few as 2 bits: it groups keys by channel, because outliers are in the
    same channels, groups values by token, and keeps the newest tokens in full
    precision. With 8 bits one scale per token and head is enough, and a token is
    quantized once.

    Reference: Liu et al., "KIVI", 2024 (arXiv:2402.02750).

    Attributes:
        values: `[B, P, K * H]` int8.
        scales: `[B, P, K]` float32.
    """

    values: Any
    scales: Any


def empty_slots(
    batch_size: Any, slots: int, size: int, *, dtype: str, num_heads: int | None
) -> Any:
    """Zeros `[B, P, size]`, in int8 with scales `[B, P, num_heads]`."""
    dtype = keras.backend.standardize_dtype(dtype)
    if dtype != "int8":
        if "float" not in dtype:
            raise ValueError(
                "`dtype` of a cache must be a float or 'int8'. "
                f"Received: dtype={dtype!r}"
            )
        return ops.zeros((batch_size, slots, size), dtype=dtype)
    if not num_heads or size % num_heads:
        raise ValueError(
            "An int8 cache has one scale for each key/value head: pass `num_heads=`, "
            "a divisor of `key_size` and of `value_size`. "
            f"Received: num_heads={num_heads}, size={size}"
        )
    return Quantized(
        values=ops.zeros((batch_size, slots, size), dtype="int8"),
        scales=ops.zeros((batch_size, slots, num_heads), dtype="float32"),
    )


def encode(x: Any, like: Any) -> Any:
    """Converts new keys or values `[B, T, D]` to the form of `like`."""
    if not isinstance(like, Quantized):
        return ops.cast(x, like.dtype)
    heads = split_features(
        ops.cast(x, "float32"), like.scales.shape[-1]
    )  # [B, T, K, H]
    scales = largest(ops.abs(heads), -1, least=0.0) / _LARGEST  # [B, T, K]
    steps = heads / ops.where(scales == 0.0, 1.0, scales)[..., None]
    values = ops.clip(ops.round(steps), -_LARGEST, _LARGEST)
    # The int8 value of NaN, and a maximum over NaN, are undefined.
    finite = ops.all(ops.isfinite(heads), axis=-1)
    scales = ops.where(finite, scales, float("nan"))
    return Quantized(ops.cast(merge_features(values), "int8"), scales)


def decode(store: Any, dtype: str) -> Any:
    """Converts keys or values to floats `[B, P, D]`; int8 becomes `dtype`."""
    if not isinstance(store, Quantized):
        return store
    heads = split_features(store.values, store.scales.shape[-1])  # [B, P, K, H]
    heads = ops.cast(heads, "float32") * store.scales[..., None]
    return ops.cast(merge_features(heads), dtype)  # [B, P, K * H]


def map_leaves(function: Callable, *stores: Any) -> Any:
    """Applies `function` to the tensors of stores of one kind."""
    if isinstance(stores[0], Quantized):
        return Quantized(*(function(*leaves) for leaves in zip(*stores, strict=True)))
    return function(*stores)


def append(old: Any, new: Any) -> Any:
    """Joins `[B, P, ...]` and `[B, T, ...]` to `[B, P + T, ...]`."""
    return map_leaves(lambda *both: ops.concatenate(both, axis=1), old, new)


def write(old: Any, new: Any, source: Any, *, once: bool = False) -> Any:
    """Returns `old` with new tokens in the slots that `source` names.

    A single token needs one pass over `old`; under XLA, if it is written to one slot,
    it needs none.

    Args:
        old: `[B, P, ...]`.
        new: `[B, T, ...]`.
        source: Int `[B, P]`: the number of the new token for each slot, -1 to keep the
            old one.
        once: Whether each token is written to at most one slot.
    """

    def choose(old, new):
        if once and new.shape[1] == 1 and is_under_xla():
            return _written_in_place(old, new, source)
        if new.shape[1] == 1:
            return ops.where(_with_features(source >= 0, old), new, old)
        length = ops.shape(old)[1]
        slots = ops.where(source >= 0, length + source, first_positions(length))
        return take_slots(ops.concatenate([old, new], axis=1), slots)

    return map_leaves(choose, old, new)


def _written_in_place(old, new, source):
    batch, length = ops.shape(old)[:2]
    # Rows without a slot get the slot after the last, which XLA does not write.
    slot = ops.min(ops.where(source >= 0, first_positions(length), length), axis=-1)
    where = ops.stack([first_positions(batch), slot], axis=-1)  # [B, 2]
    return ops.scatter_update(old, where, new[:, 0])


def take_slots(x: Any, slots: Any) -> Any:
    """Takes slots `[B, P]` of each row of `[B, S, ...]`, `[B, P, ...]`."""
    batch, length = ops.shape(x)[:2]
    starts = first_positions(batch)[:, None] * length
    flat = ops.reshape(x, (-1, *x.shape[2:]))  # [B * S, ...]
    return ops.take(flat, starts + slots, axis=0)


def tokens_by_number(padding_mask: Any, numbers: Any) -> Any:
    """The index of the n-th non-padding token of each row among its T tokens.

    Args:
        padding_mask: Bool `[B, T]`, `True` at non-padding tokens.
        numbers: Int `[B, P]`, n from 0.

    Returns:
        Int32 `[B, P]`, from 0 to T - 1; -1 where a row has no such token.
    """
    if padding_mask.shape[1] == 1:
        return ops.where(padding_mask & (numbers == 0), 0, -1)
    batch, length = ops.shape(padding_mask)
    # Sorts non-padding tokens to the front, in their order, and one extra token last.
    ranks = positions_of_tokens(padding_mask)
    first = ops.where(ranks >= 0, ranks, length + first_positions(length))
    last = ops.full((batch, 1), 2 * length, dtype="int32")
    order = ops.argsort(ops.concatenate([first, last], axis=1), axis=-1)  # [B, T + 1]
    order = ops.cast(order, "int32")
    counts = count(padding_mask)[:, None]
    found = take_slots(order, ops.clip(numbers, 0, length))  # [B, P]
    return ops.where((numbers >= 0) & (numbers < counts), found, -1)


def clear(store: Any, to_keep: Any) -> Any:
    """Sets slots to 0 where `to_keep`, bool `[B, P]`, is `False`, even if NaN."""
    return map_leaves(
        lambda x: ops.where(_with_features(to_keep, x), x, ops.zeros_like(x)), store
    )


def poison(store: Any, rows: Any) -> Any:
    """Sets rows to NaN where `rows`, bool `[B]`, is `True`."""
    if isinstance(store, Quantized):
        return Quantized(store.values, poison(store.scales, rows))
    return ops.where(rows[:, None, None], float("nan"), store)


def count(marked: Any) -> Any:
    """The number of `True` in each row, `[B]` int32."""
    return ops.sum(ops.cast(marked, "int32"), axis=-1)


def _with_features(condition: Any, x: Any) -> Any:
    """Makes `[B, P]` broadcastable to `x`, `[B, P]` or `[B, P, D]`."""
    return condition[..., None] if len(x.shape) == 3 else condition
