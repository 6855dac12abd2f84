"""A cache that keeps the first and the last tokens, in constant memory."""

from typing import Any, ClassVar, NamedTuple

from keras import ops

from keras_attention.ops import masks
from keras_attention.ops.backend.shapes import concrete, largest
from keras_attention.ops.caches import storage as slots
from keras_attention.ops.caches.base import (
    Cache,
    CacheView,
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
    sink_positions: Any
    window_positions: Any
    counts: Any


class RollingKVCache(Cache, _Fields):
    """StreamingLLM: endless text in the memory of a window and a few first tokens.

    Each row keeps its first `num_sink_tokens` non-padding tokens and its last `window`
    ones. The first tokens are attention sinks: models put weight on them whatever they
    are, and fail without them. A query sees the sinks and the last `window` tokens, its
    own included. The queries of a prompt attend to it before tokens are evicted. So
    chunks of any size, single tokens and dense attention under
    `causal & (window(window - 1, 0) | sinks)` see the same keys.

    Positions (`renumbers`). As in the paper, distances are counted within the cache: a
    view numbers the sinks 0, 1, …, and the tokens after them follow without a gap, even
    if tokens between them were evicted. Keys are stored unrotated, and rotary positions
    are applied to the view. For one token this is exact. In a chunk of T > 1 tokens the
    sinks would need another position for each query, but a key has one position only:
    that of the chunk's first query. Distances to all tokens but the sinks are exact for
    every query. Distances to the sinks are exact for the first query, and for all
    queries until tokens are evicted; after that, the sinks are up to t positions too
    far away from query t of the chunk. Attention without positions in its scores is
    always exact. Where rotary chunks must equal single steps to the last digit, pass
    tokens one by one once the cache is full.

    Tokens must arrive in the order of their positions, which can have gaps; the window
    counts tokens, not positions.

    Reference: Xiao et al., "Efficient Streaming Language Models with Attention Sinks",
    2023 (arXiv:2309.17453).

    Attributes:
        key: `[B, P, K * H]` with P = sinks + window; a `Quantized` if made with int8.
        value: `[B, P, K * V]`; a `Quantized` if made with int8.
        sink_positions: `[B, num_sink_tokens]` int32, true positions; -1 in empty slots.
        window_positions: `[B, window]` int32, true positions, in a ring.
        counts: `[B]` int32, the number of tokens ever added.

    Example:
    >>> cache = ka.RollingKVCache.empty(
    ...     batch_size=1, key_size=8, value_size=8, window=3, num_sink_tokens=1
    ... )
    >>> token = np.ones((1, 1, 8), "float32")
    >>> for _ in range(9):
    ...     at = cache.next_positions(np.array([[True]]))
    ...     view, cache = cache.extend(
    ...         key=token, value=token, positions=at, query_positions=at
    ...     )
    >>> ops.convert_to_numpy(cache.positions).tolist()  # true ones, in slots
    [[0, 7, 8, 6]]
    >>> ops.convert_to_numpy(view.positions).tolist()  # counted within the cache
    [[0, 2, 3, 1]]
    """

    __slots__ = ()
    renumbers: ClassVar[bool] = True

    @classmethod
    def empty(
        cls,
        *,
        batch_size: int,
        key_size: int,
        value_size: int,
        window: int,
        num_sink_tokens: int = 4,
        dtype: str = "float32",
        num_heads: int | None = None,
    ) -> "RollingKVCache":
        """Returns a cache that holds no token.

        Args:
            batch_size: B.
            key_size: K * H, the number of key/value heads times the size of a key head.
            value_size: K * V.
            window: The number of last tokens to keep.
            num_sink_tokens: The number of first tokens to keep.
            dtype: The dtype of keys and values; `"int8"` stores them in 8 bits.
            num_heads: K, the number of heads; each has its own scale in int8.
        """
        check_count(window, "window", least=1)
        check_count(num_sink_tokens, "num_sink_tokens", least=0)
        kind = {"dtype": dtype, "num_heads": num_heads}
        size = num_sink_tokens + window
        return cls(
            key=slots.empty_slots(batch_size, size, key_size, **kind),
            value=slots.empty_slots(batch_size, size, value_size, **kind),
            sink_positions=ops.full((batch_size, num_sink_tokens), EMPTY, "int32"),
            window_positions=ops.full((batch_size, window), EMPTY, "int32"),
            counts=ops.zeros((batch_size,), dtype="int32"),
        )

    @property
    def positions(self):
        """The true positions `[B, P]` of the tokens in all slots; -1 in empty ones."""
        return ops.concatenate([self.sink_positions, self.window_positions], axis=1)

    @property
    def window(self) -> int:
        """The number of last tokens that are kept."""
        return _static(self.window_positions, "window_positions")

    @property
    def num_sink_tokens(self) -> int:
        """The number of first tokens that are kept."""
        return _static(self.sink_positions, "sink_positions")

    @property
    def capacity(self):
        return self.num_sink_tokens + self.window

    def extend(self, *, key, value, positions, query_positions):
        dtypes = float_dtypes(key, value)
        key, value, positions = incoming(self, key, value, positions)
        padding_mask = positions != EMPTY
        counts = self.counts + slots.count(padding_mask)
        wanted = self._ordinals(counts)  # [B, P]
        source = slots.tokens_by_number(padding_mask, wanted - self.counts[:, None])
        cache = self._with(
            key=slots.write(self.key, key, source),
            value=slots.write(self.value, value, source),
            positions=slots.write(self.positions, positions, source),
            counts=counts,
        )
        new = positions_of_tokens(padding_mask)
        new = ops.where(padding_mask, self.counts[:, None] + new, EMPTY)  # [B, T]
        query_positions = self._renumber(new)
        if padding_mask.shape[1] == 1:  # it sees the tokens that are left
            at = self._renumber(cache._held_ordinals())
            return view_of(cache, at, query_positions, dtypes=dtypes), cache
        at = self._renumber(slots.append(self._held_ordinals(), new))  # [B, P + T]
        joined = CacheView(
            key=slots.decode(slots.append(self.key, key), dtypes[0]),
            value=slots.decode(slots.append(self.value, value), dtypes[1]),
            positions=at,
            query_positions=query_positions,
            mask=self._mask(),
        )
        return joined, cache

    def crop(self, lengths):
        # The next query must see the same tokens as if the cropped ones had never come.
        to_keep, limits = slots_to_keep(self.positions, lengths)
        sinks, window = self.num_sink_tokens, self.window
        kept_sinks, in_window = (
            slots.count(to_keep[:, :sinks]),
            slots.count(to_keep[:, sinks:]),
        )
        held = slots.count(self.window_positions != EMPTY)
        counts = self.counts - (held - in_window)
        counts = ops.where(in_window == 0, kept_sinks, counts)
        after = self._ordinals(counts)
        oldest = counts[:, None] - max(window - 1, 1)
        needed = (after >= oldest) | (first_positions(sinks + window) < sinks)
        present = to_keep & (after == self._ordinals(self.counts))
        lost = ops.any((after != EMPTY) & needed & ~present, axis=-1)  # [B]
        # If the whole window is removed, the tokens before it may be evicted already.
        last_sink = largest(self.sink_positions, -1, least=EMPTY)
        evicted = self.counts > sinks + window
        lost |= evicted & (in_window == 0) & (limits[:, 0] > last_sink + 1)
        key, value = slots.clear(self.key, to_keep), slots.clear(self.value, to_keep)
        if not _known_to_be_held(lost, lengths):
            key, value = slots.poison(key, lost), slots.poison(value, lost)
        positions = ops.where(to_keep, self.positions, EMPTY)
        return self._with(key=key, value=value, positions=positions, counts=counts)

    def _with(self, *, key, value, positions, counts):
        sinks = self.num_sink_tokens
        return RollingKVCache(
            key, value, positions[:, :sinks], positions[:, sinks:], counts
        )

    def _ordinals(self, counts):
        """The number of the token that is in each slot after `counts` tokens.

        Returns:
            Int32 `[B, P]`, counted from 0; -1 in slots that are empty.
        """
        sinks, window = self.num_sink_tokens, self.window
        slot, counts = first_positions(sinks + window), counts[:, None]
        # The number of tokens since the ring was at a slot. A multiple of `window` is
        # added, because runtimes disagree on the remainder of negative numbers.
        ahead = window * -(-(sinks + window + 1) // window)
        newest = counts - 1
        in_ring = newest - (newest - slot + ahead) % window
        at = ops.where(slot < sinks, slot, in_ring)
        valid = ops.where(slot < sinks, slot < counts, in_ring >= sinks)
        return ops.where(valid, at, EMPTY)

    def _held_ordinals(self):
        return ops.where(
            self.positions != EMPTY, self._ordinals(self.counts), EMPTY
        )  # [B, P]

    def _renumber(self, ordinals):
        """Positions within the cache after one more token, of these ordinals."""
        sinks = self.num_sink_tokens
        gone = ops.maximum(self.counts + 1 - self.capacity, 0)[:, None]
        moved = ordinals - gone
        # A token that would move to a sink is evicted by the next token: it is hidden.
        moved = ops.where(moved >= sinks, moved, EMPTY)
        return ops.where(ordinals < sinks, ordinals, moved)

    def _mask(self):
        near = masks.window(self.window - 1, 0)
        if self.num_sink_tokens:
            near = near | masks.global_tokens(range(self.num_sink_tokens))
        return masks.causal & near


def _static(positions, name):
    size = positions.shape[1]
    if size is None:
        raise ValueError(
            "The sizes of a rolling cache are read from its shapes: its tensors must "
            f"have a static second axis. Received: {name} of shape "
            f"{tuple(positions.shape)}"
        )
    return size


def _known_to_be_held(lost, lengths):
    """Whether it is known that nothing is lost; an error if something is lost."""
    known = concrete(lost)
    if known is not None and known.any():
        raise ValueError(
            "A rolling cache cannot go back to tokens that it has evicted: the window "
            f"before the new end of row {int(known.argmax())} is no longer held. Crop "
            "fewer tokens, use a larger `window`, or start from an empty cache. "
            f"Received: lengths={lengths}"
        )
    return known is not None
