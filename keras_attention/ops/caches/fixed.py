"""A cache of a fixed number of slots."""

from typing import Any, NamedTuple

from keras import ops

from keras_attention.ops.backend.shapes import concrete
from keras_attention.ops.caches import storage as slots
from keras_attention.ops.caches.base import (
    Cache,
    check_count,
    float_dtypes,
    incoming,
    slots_to_keep,
    view_of,
)
from keras_attention.ops.positions import EMPTY, first_positions, positions_of_tokens


class _Fields(NamedTuple):
    key: Any
    value: Any
    positions: Any


class FixedKVCache(Cache, _Fields):
    """A cache whose shapes never change: for compiled loops, XLA and serving.

    The non-padding tokens of a row are written to the next free slots of that row;
    padding uses no slot. So rows can be padded on either side and use the same memory.

    Too many tokens are an error. Where lengths are known, it is raised and names the
    row; more new tokens than slots are always refused. Compiled code cannot raise an
    error: there the whole row becomes NaN, in this step and all later ones, until
    `crop` has emptied it. Other rows are not affected.

    Attributes:
        key: `[B, P, K * H]`; a `Quantized` if made with int8.
        value: `[B, P, K * V]`; a `Quantized` if made with int8.
        positions: `[B, P]` int32, the position of each token; -1 in empty slots.

    Example:
    >>> cache = ka.FixedKVCache.empty(
    ...     batch_size=1, key_size=8, value_size=8, capacity=4
    ... )
    >>> token = np.ones((1, 1, 8), "float32")
    >>> at = cache.next_positions(np.array([[True]]))
    >>> view, cache = cache.extend(
    ...     key=token, value=token, positions=at, query_positions=at
    ... )
    >>> ops.convert_to_numpy(cache.positions).tolist(), tuple(view.key.shape)
    ([[0, -1, -1, -1]], (1, 4, 8))
    """

    __slots__ = ()

    @classmethod
    def empty(
        cls,
        *,
        batch_size: int,
        key_size: int,
        value_size: int,
        capacity: int,
        dtype: str = "float32",
        num_heads: int | None = None,
    ) -> "FixedKVCache":
        """Returns a cache that holds no token.

        Args:
            batch_size: B.
            key_size: K * H, the number of key/value heads times the size of a key head.
            value_size: K * V.
            capacity: P, the number of tokens that a row can hold.
            dtype: The dtype of keys and values; `"int8"` stores them in 8 bits.
            num_heads: K, the number of heads; each has its own scale in int8.
        """
        check_count(capacity, "capacity", least=1)
        kind = {"dtype": dtype, "num_heads": num_heads}
        return cls(
            key=slots.empty_slots(batch_size, capacity, key_size, **kind),
            value=slots.empty_slots(batch_size, capacity, value_size, **kind),
            positions=ops.full((batch_size, capacity), EMPTY, dtype="int32"),
        )

    @property
    def capacity(self):
        return self.positions.shape[1]

    def extend(self, *, key, value, positions, query_positions):
        dtypes = float_dtypes(key, value)
        key, value, positions = incoming(self, key, value, positions)
        padding_mask = positions != EMPTY
        free = positions_of_tokens(self.positions == EMPTY)  # [B, P]: 0, 1, 2, …
        source = slots.tokens_by_number(padding_mask, free)
        new_positions = slots.write(self.positions, positions, source)
        beyond = self._beyond(padding_mask)
        if beyond is not None:
            # One NaN token in every slot of the row adds no pass over the cache.
            key, value = slots.poison(key, beyond), slots.poison(value, beyond)
            source = ops.where(beyond[:, None], 0, source)
        once = beyond is None
        cache = type(self)(
            key=slots.write(self.key, key, source, once=once),
            value=slots.write(self.value, value, source, once=once),
            positions=new_positions,
        )
        return view_of(cache, new_positions, query_positions, dtypes=dtypes), cache

    def crop(self, lengths):
        to_keep, _ = slots_to_keep(self.positions, lengths)
        return type(self)(
            key=slots.clear(self.key, to_keep),
            value=slots.clear(self.value, to_keep),
            positions=ops.where(to_keep, self.positions, EMPTY),
        )

    def _beyond(self, padding_mask):
        """Rows whose new tokens do not fit, bool `[B]`; `None` if all surely fit."""
        capacity = ops.shape(self.positions)[1]
        _check_static(padding_mask.shape[1], self.capacity)
        held, new = self.lengths, slots.count(padding_mask)
        beyond = held + new > capacity
        known = concrete(beyond)
        if known is None:
            return beyond
        if known.any():
            row = int(first_positions(len(known))[known][0])
            raise ValueError(
                f"The cache is full: row {row} holds {int(held[row])} tokens, "
                f"{int(new[row])} more do not fit. Make it larger with "
                "`FixedKVCache.empty(capacity=…)`, remove tokens with `crop`, or use a "
                f"`RollingKVCache`. Received: capacity={capacity}"
            )
        return None


class AmpleKVCache(FixedKVCache):
    """A `FixedKVCache` that is known to be large enough for all tokens.

    It does not check whether tokens fit. So compiled loops write in place, which saves
    one pass over the cache per token. It is for loops that choose the capacity
    themselves.
    """

    __slots__ = ()

    def _beyond(self, padding_mask):
        del padding_mask


def _check_static(length, capacity):
    if length is not None and capacity is not None and length > capacity:
        raise ValueError(
            f"{length} new tokens do not fit into a cache of {capacity} slots. Make it "
            "larger with `FixedKVCache.empty(capacity=…)`, or use a `RollingKVCache`. "
            f"Received: key of length {length}, capacity={capacity}"
        )
