"""What all caches share: the one interface that layers use."""

from typing import Any, ClassVar, NamedTuple, Self, cast

import keras
from keras import ops

from keras_attention.ops.backend.shapes import concrete, describe, differ
from keras_attention.ops.caches import storage as slots
from keras_attention.ops.masks import Mask
from keras_attention.ops.positions import EMPTY, positions_of_tokens


class CacheView(NamedTuple):
    """What new queries attend to.

    Attributes:
        key: `[B, P, K * H]` float.
        value: `[B, P, K * V]` float.
        positions: Int32 `[B, P]`, of the keys; -1 in empty slots, seen by nobody.
        query_positions: Int32 `[B, T]`, of the queries among these keys.
        mask: A mask of the algebra that must hold beside the caller's, or `None`.
    """

    key: Any
    value: Any
    positions: Any
    query_positions: Any
    mask: Mask | None = None


class Cache:
    """Base of the caches: values made of plain tensors, never changed in place.

    A cache is a named tuple: it passes through `tf.function`, `tf.while_loop`, JAX
    and Keras' tree functions. What is fixed about it stands in its shapes.

    Attributes:
        renumbers: Whether `extend` gives positions *within the cache*, which change
            from step to step. Keys are then stored unrotated, and rotary positions
            are applied to the view's keys.
        positions: Int32 `[B, P]`, the position of the token in each slot; -1 in empty
            slots.
    """

    __slots__ = ()
    renumbers: ClassVar[bool] = False
    positions: Any

    def extend(
        self, *, key: Any, value: Any, positions: Any, query_positions: Any
    ) -> tuple[CacheView, Self]:
        """Takes new tokens in.

        Args:
            key: `[B, T, K * H]`.
            value: `[B, T, K * V]`.
            positions: Int `[B, T]`, of the new tokens; -1 for padding.
            query_positions: Int `[B, T]`, of the queries of these tokens.

        Returns:
            What the queries attend to, and the cache that holds the new tokens.
        """
        raise NotImplementedError

    def crop(self, lengths: Any) -> Self:
        """Forgets all tokens at positions >= `lengths`.

        Args:
            lengths: An int, or int `[B]`.
        """
        raise NotImplementedError

    def reorder(self, rows: Any) -> Self:
        """The cache with other rows: those of the surviving beams, for example.

        Args:
            rows: Int `[B']`: which row each new row continues.
        """
        rows = ops.convert_to_tensor(rows, dtype="int32")
        known, batch = concrete(rows), self.positions.shape[0]
        if known is not None and batch is not None:
            wrong = known[(known < 0) | (known >= batch)]
            if wrong.size:
                raise ValueError(
                    f"`rows` must be from 0 to {batch - 1}: the cache has {batch} rows."
                    f" Received: rows with {wrong.size} outside, the first {wrong[0]}"
                )
        return type(self)(*(_take_rows(field, rows) for field in cast(tuple, self)))

    def next_positions(self, keep: Any) -> Any:
        """Positions of new tokens: they continue each row where it ends.

        Args:
            keep: Bool `[B, T]`, `True` at real tokens.

        Returns:
            Int32 `[B, T]`; -1 at padding.
        """
        new = positions_of_tokens(keep)
        # One slot more: a maximum over none has another shape in ONNX Runtime.
        padded = ops.pad(self.positions, [[0, 0], [0, 1]], constant_values=EMPTY)
        last = ops.max(padded, axis=-1, keepdims=True)  # [B, 1]
        return ops.where(keep, last + 1 + new, EMPTY)  # [B, T]

    @property
    def lengths(self) -> Any:
        """Number of tokens each row holds, `[B]` int32."""
        return slots.count(self.positions != EMPTY)

    @property
    def capacity(self) -> int | None:
        """How many tokens a row can hold; `None` where that has no bound."""
        return None


def incoming(cache: Any, key: Any, value: Any, positions: Any) -> tuple:
    """New tokens in the form of the cache, cleared where they are padding.

    Returns:
        `(key, value, positions)`, positions as int32.
    """
    key, value = ops.convert_to_tensor(key), ops.convert_to_tensor(value)
    positions = ops.cast(ops.convert_to_tensor(positions), "int32")
    for name, new, old in (("key", key, cache.key), ("value", value, cache.value)):
        held = old.values if isinstance(old, slots.Quantized) else old
        if differ(new.shape[0], held.shape[0]) or differ(new.shape[2], held.shape[2]):
            raise ValueError(
                f"`{name}` must have the batch size and the features of the cache. "
                "Make one with `empty(batch_size=, key_size=, value_size=)`. "
                f"Received: {name}={describe(new)}, a cache of shape "
                f"{tuple(held.shape)}"
            )
    keep = positions != EMPTY
    key = slots.encode(slots.clear(key, keep), cache.key)
    return key, slots.encode(slots.clear(value, keep), cache.value), positions


def view_of(
    cache: Any, positions: Any, query_positions: Any, *, dtypes: tuple[str, str]
) -> CacheView:
    """All slots of a cache, as floats, in `dtypes` of key and value where int8."""
    return CacheView(
        key=slots.decode(cache.key, dtypes[0]),
        value=slots.decode(cache.value, dtypes[1]),
        positions=positions,
        query_positions=query_positions,
    )


def float_dtypes(key: Any, value: Any) -> tuple[str, str]:
    """Those in which a view of int8 is given: those of the new keys and values."""
    return tuple(keras.backend.standardize_dtype(x.dtype) for x in (key, value))  # pyright: ignore[reportReturnType]


def kept_slots(positions: Any, lengths: Any) -> tuple[Any, Any]:
    """Which slots `crop(lengths)` keeps.

    Returns:
        `(kept [B, P] bool, limits [B or 1, 1] int32)`.
    """
    known = concrete(lengths)
    if known is not None and (known < 0).any():
        raise ValueError(
            "`lengths` must be 0 or more: a row keeps its tokens at positions below "
            f"it. Received: lengths={lengths}"
        )
    limits = ops.convert_to_tensor(lengths, dtype="int32")
    limits = ops.reshape(limits, (-1, 1))
    return (positions != EMPTY) & (positions < limits), limits


def check_count(value: Any, name: str, *, least: int) -> int:
    """Returns `value` if it is an int of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"`{name}` must be an int of {least} or more. Received: {name}={value!r}"
        )
    return value


def _take_rows(field: Any, rows: Any) -> Any:
    return slots.map_leaves(lambda x: ops.take(x, rows, axis=0), field)
