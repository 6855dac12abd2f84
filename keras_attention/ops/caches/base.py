"""The interface of all caches, which layers use, and what their code shares."""

from typing import Any, ClassVar, NamedTuple, Self, cast

import keras
from keras import ops

from keras_attention.ops.backend.shapes import concrete, describe, differ
from keras_attention.ops.caches import storage as slots
from keras_attention.ops.masks import Mask
from keras_attention.ops.positions import EMPTY, positions_of_tokens


class CacheView(NamedTuple):
    """The keys and values that new queries attend to.

    Attributes:
        key: `[B, P, K * H]` float.
        value: `[B, P, K * V]` float.
        positions: Int32 `[B, P]`, the positions of the keys; -1 in empty slots, which
            are hidden.
        query_positions: Int32 `[B, T]`, the positions of the queries.
        mask: A mask of the algebra to combine with the caller's, or `None`.
    """

    key: Any
    value: Any
    positions: Any
    query_positions: Any
    mask: Mask | None = None


class Cache:
    """The base of the caches: values made of plain tensors, never changed in place.

    A cache is a named tuple: it passes through `tf.function`, `tf.while_loop`, JAX
    and Keras' tree functions. Its fixed sizes are the shapes of its tensors.

    Attributes:
        renumbers: Whether `extend` returns positions *within the cache*, which change
            from step to step. Keys are then stored unrotated, and rotary positions
            are applied to the keys of the view.
        positions: Int32 `[B, P]`, the position of the token in each slot; -1 in empty
            slots.
    """

    __slots__ = ()
    renumbers: ClassVar[bool] = False
    positions: Any

    def extend(
        self, *, key: Any, value: Any, positions: Any, query_positions: Any
    ) -> tuple[CacheView, Self]:
        """Adds new tokens.

        Args:
            key: `[B, T, K * H]`.
            value: `[B, T, K * V]`.
            positions: Int `[B, T]`, the positions of the new tokens; -1 for padding.
            query_positions: Int `[B, T]`, the positions of the queries.

        Returns:
            The view that the queries attend to, and the cache with the new tokens.
        """
        raise NotImplementedError

    def crop(self, lengths: Any) -> Self:
        """Removes all tokens at positions >= `lengths`.

        Args:
            lengths: An int, or int `[B]`.
        """
        raise NotImplementedError

    def reorder(self, rows: Any) -> Self:
        """Selects rows, for example those of the surviving beams.

        Args:
            rows: Int `[B']`: the number of the row that each new row continues.
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
        """Positions of new tokens, which continue each row where it ends.

        Args:
            keep: Bool `[B, T]`, `True` at non-padding tokens.

        Returns:
            Int32 `[B, T]`; -1 at padding.
        """
        new = positions_of_tokens(keep)
        # One slot is added, because ONNX Runtime returns a maximum over no slots in
        # another shape.
        padded = ops.pad(self.positions, [[0, 0], [0, 1]], constant_values=EMPTY)
        last = ops.max(padded, axis=-1, keepdims=True)  # [B, 1]
        return ops.where(keep, last + 1 + new, EMPTY)  # [B, T]

    @property
    def lengths(self) -> Any:
        """The number of tokens in each row, `[B]` int32."""
        return slots.count(self.positions != EMPTY)

    @property
    def capacity(self) -> int | None:
        """The number of tokens that a row can hold, or `None` if it is unbounded."""
        return None


def incoming(cache: Any, key: Any, value: Any, positions: Any) -> tuple:
    """Converts new tokens to the form of the cache, with 0 at padding.

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
    padding_mask = positions != EMPTY
    key = slots.encode(slots.clear(key, padding_mask), cache.key)
    value = slots.encode(slots.clear(value, padding_mask), cache.value)
    return key, value, positions


def view_of(
    cache: Any, positions: Any, query_positions: Any, *, dtypes: tuple[str, str]
) -> CacheView:
    """The view of all slots of a cache; int8 becomes `dtypes` (of key and value)."""
    return CacheView(
        key=slots.decode(cache.key, dtypes[0]),
        value=slots.decode(cache.value, dtypes[1]),
        positions=positions,
        query_positions=query_positions,
    )


def float_dtypes(key: Any, value: Any) -> tuple[str, str]:
    """The dtypes of new keys and values, which views of an int8 cache have too."""
    return tuple(keras.backend.standardize_dtype(x.dtype) for x in (key, value))  # pyright: ignore[reportReturnType]


def slots_to_keep(positions: Any, lengths: Any) -> tuple[Any, Any]:
    """The slots that `crop(lengths)` keeps.

    Returns:
        `(slots [B, P] bool, limits [B or 1, 1] int32)`.
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
    """Returns `value`; raises an error if it is no int of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"`{name}` must be an int of {least} or more. Received: {name}={value!r}"
        )
    return value


def _take_rows(field: Any, rows: Any) -> Any:
    return slots.map_leaves(lambda x: ops.take(x, rows, axis=0), field)
