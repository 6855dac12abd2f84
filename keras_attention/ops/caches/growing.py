"""A cache that grows with every call."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_attention.ops.backend.shapes import concrete
from keras_attention.ops.caches import storage as slots
from keras_attention.ops.caches.base import (
    Cache,
    float_dtypes,
    incoming,
    slots_to_keep,
    view_of,
)
from keras_attention.ops.positions import EMPTY


class _Fields(NamedTuple):
    key: Any
    value: Any
    positions: Any


class KVCache(Cache, _Fields):
    """The keys and values of past tokens, as plain tensors that no layer stores.

    A layer called with `cache=` returns a new, longer cache; the one passed in is
    unchanged. Rows can hold different numbers of tokens: a slot whose position is
    -1 is empty, and hidden from every query. It is a named tuple, so it passes through
    `tf.while_loop`, `tf.function` signatures and Keras' tree functions.

    It grows with every call, so shapes change with each call. Use `FixedKVCache` where
    shapes must not change (compiled loops), and `RollingKVCache` where memory must not
    grow.

    Attributes:
        key: `[B, P, K * H]`; a `Quantized` if made with int8.
        value: `[B, P, K * V]`; a `Quantized` if made with int8.
        positions: `[B, P]` int32, the position of each token; -1 in empty slots.

    Example:
    >>> layer = ka.MultiHeadAttention(num_heads=2, key_dim=4)
    >>> x = np.random.rand(1, 3, 8).astype("float32")
    >>> full = layer(x, x, use_causal_mask=True)
    >>> cache = ka.KVCache.empty(batch_size=1, key_size=8, value_size=8)
    >>> steps = []
    >>> for t in range(3):
    ...     token = x[:, t : t + 1]
    ...     step, cache = layer(token, token, use_causal_mask=True, cache=cache)
    ...     steps.append(step)
    >>> bool(np.allclose(np.concatenate(steps, axis=1), full, atol=1e-6))
    True
    """

    __slots__ = ()

    @classmethod
    def empty(
        cls,
        *,
        batch_size: int,
        key_size: int,
        value_size: int,
        dtype: str = "float32",
        num_heads: int | None = None,
    ) -> "KVCache":
        """Returns a cache that holds no token.

        Args:
            batch_size: B.
            key_size: K * H, the number of key/value heads times the size of a key head.
            value_size: K * V.
            dtype: The dtype of keys and values; `"int8"` stores them in 8 bits.
            num_heads: K, the number of heads; each has its own scale in int8.
        """
        kind = {"dtype": dtype, "num_heads": num_heads}
        return cls(
            key=slots.empty_slots(batch_size, 0, key_size, **kind),
            value=slots.empty_slots(batch_size, 0, value_size, **kind),
            positions=ops.zeros((batch_size, 0), dtype="int32"),
        )

    def append(self, *, key: Any, value: Any, positions: Any) -> "KVCache":
        """Returns the cache with new tokens after the old ones.

        Args:
            key: `[B, T, K * H]`.
            value: `[B, T, K * V]`.
            positions: `[B, T]` int32; -1 at padding.
        """
        key = slots.encode(ops.convert_to_tensor(key), self.key)
        value = slots.encode(ops.convert_to_tensor(value), self.value)
        return self._followed_by(key, value, ops.cast(positions, "int32"))

    def extend(self, *, key, value, positions, query_positions):
        dtypes = float_dtypes(key, value)
        cache = self._followed_by(*incoming(self, key, value, positions))
        return view_of(cache, cache.positions, query_positions, dtypes=dtypes), cache

    def crop(self, lengths):
        # Last slots that are known to be unused in every row are removed.
        to_keep, _ = slots_to_keep(self.positions, lengths)
        end, known = None, concrete(to_keep)
        if known is not None:
            end = int(np.flatnonzero(known.any(axis=0)).max(initial=-1)) + 1
        to_keep, positions = to_keep[:, :end], self.positions[:, :end]

        def cut(store):
            store = slots.map_leaves(lambda x: x[:, :end], store)
            return slots.clear(store, to_keep)

        positions = ops.where(to_keep, positions, EMPTY)
        return KVCache(cut(self.key), cut(self.value), positions)

    def _followed_by(self, *new):
        return KVCache(*(slots.append(*both) for both in zip(self, new, strict=True)))
