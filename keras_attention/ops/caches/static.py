"""The cache of a sequence that does not grow, such as an encoder's."""

from typing import Any, NamedTuple

from keras import ops

from keras_attention.ops.caches.base import Cache
from keras_attention.ops.positions import EMPTY, positions_of_tokens


class _Fields(NamedTuple):
    key: Any
    value: Any
    positions: Any


class StaticKVCache(Cache, _Fields):
    """Projected keys and values of an encoder's sequence, for cross-attention.

    `MultiHeadAttention.remember` makes one. A layer called with it as `memory` attends
    to these keys and projects none again.

    Attributes:
        key: `[B, S, K * H]`.
        value: `[B, S, K * V]`.
        positions: Int32 `[B, S]`, the number of each non-padding token in its row; -1
            at padding.

    Example:
    >>> layer = ka.MultiHeadAttention(num_heads=2, key_dim=4)
    >>> x = np.random.rand(1, 3, 8).astype("float32")
    >>> source = np.random.rand(1, 5, 8).astype("float32")
    >>> whole = layer(x, source)
    >>> memory = layer.remember(source)
    >>> step = layer(x[:, 2:], memory=memory)
    >>> bool(np.allclose(step[:, 0], whole[:, 2], atol=1e-6))
    True
    """

    __slots__ = ()

    @classmethod
    def of(cls, *, key: Any, value: Any, keep: Any = None) -> "StaticKVCache":
        """Returns the cache of projected keys and values.

        Args:
            key: `[B, S, K * H]`.
            value: `[B, S, K * V]`.
            keep: Bool `[B, S]`, `True` at non-padding tokens; all when `None`.
        """
        if keep is None:
            keep = ops.ones(ops.shape(key)[:2], dtype="bool")
        return cls(key, value, positions_of_tokens(keep))

    @property
    def keep(self) -> Any:
        """The padding mask: bool `[B, S]`, `True` at non-padding tokens."""
        return self.positions != EMPTY

    def extend(self, *, key, value, positions, query_positions):
        raise ValueError(
            "A StaticKVCache holds an encoder's sequence for cross-attention: it takes "
            "no new tokens. For self-attention use `ka.KVCache`. "
            f"Received: {key.shape[1]} new tokens"
        )

    def crop(self, lengths):
        return self  # the encoder's sequence does not depend on decoded tokens


class _Pair(NamedTuple):
    past: Any
    memory: Any


class EncoderDecoderCache(_Pair):
    """The two caches of one decoder layer with cross-attention.

    It has the methods that a loop over steps calls on a cache: positions are those of
    the tokens decoded so far, and both parts are reordered together.

    Attributes:
        past: The cache of decoded tokens, of the self-attention.
        memory: The `StaticKVCache` of the cross-attention.
    """

    __slots__ = ()

    def crop(self, lengths: Any) -> "EncoderDecoderCache":
        """Removes all decoded tokens at positions >= `lengths`.

        Args:
            lengths: An int, or int `[B]`.
        """
        return EncoderDecoderCache(self.past.crop(lengths), self.memory)

    def reorder(self, rows: Any) -> "EncoderDecoderCache":
        """Selects rows.

        Args:
            rows: Int `[B']`: the number of the row that each new row continues.
        """
        return EncoderDecoderCache(self.past.reorder(rows), self.memory.reorder(rows))

    def next_positions(self, keep: Any) -> Any:
        """Positions of new tokens, which continue each row where it ends.

        Args:
            keep: Bool `[B, T]`, `True` at non-padding tokens.

        Returns:
            Int32 `[B, T]`; -1 at padding.
        """
        return self.past.next_positions(keep)

    @property
    def positions(self) -> Any:
        """Int32 `[B, P]`, the position of each decoded token; -1 in empty slots."""
        return self.past.positions

    @property
    def lengths(self) -> Any:
        """The number of decoded tokens in each row, `[B]` int32."""
        return self.past.lengths

    @property
    def capacity(self) -> int | None:
        """The number of tokens that a row can hold, or `None` if it is unbounded."""
        return self.past.capacity
