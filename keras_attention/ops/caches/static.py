"""Keys and values of a sequence that does not grow: an encoder's."""

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
        key: `[B, S, K * H]`, heads side by side.
        value: `[B, S, K * V]`, likewise.
        positions: Int32 `[B, S]`, the number of each real token in its row; -1 at
            padding.

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
        """The cache of projected keys and values.

        Args:
            key: `[B, S, K * H]`.
            value: `[B, S, K * V]`.
            keep: Bool `[B, S]`, `True` at real tokens; all when `None`.
        """
        if keep is None:
            keep = ops.ones(ops.shape(key)[:2], dtype="bool")
        return cls(key, value, positions_of_tokens(keep))

    @property
    def keep(self) -> Any:
        """Bool `[B, S]`, `True` at real tokens."""
        return self.positions != EMPTY

    def extend(self, *, key, value, positions, query_positions):
        raise ValueError(
            "A StaticKVCache holds an encoder's sequence and takes no new tokens in: "
            "it is for cross-attention. For self-attention use `ka.KVCache`. "
            f"Received: {key.shape[1]} new tokens"
        )

    def crop(self, lengths):
        return self  # the encoder's sequence is there whatever was decoded


class _Pair(NamedTuple):
    past: Any
    memory: Any


class EncoderDecoderCache(_Pair):
    """What one decoder layer with cross-attention remembers.

    It answers what a loop over steps asks of a cache: positions are those of the
    tokens decoded so far, and both parts are reordered together.

    Attributes:
        past: The self-attention's cache of decoded tokens.
        memory: The cross-attention's `StaticKVCache`.
    """

    __slots__ = ()

    def crop(self, lengths: Any) -> "EncoderDecoderCache":
        """Forgets all decoded tokens at positions >= `lengths`.

        Args:
            lengths: An int, or int `[B]`.
        """
        return EncoderDecoderCache(self.past.crop(lengths), self.memory)

    def reorder(self, rows: Any) -> "EncoderDecoderCache":
        """The cache with other rows.

        Args:
            rows: Int `[B']`: which row each new row continues.
        """
        return EncoderDecoderCache(self.past.reorder(rows), self.memory.reorder(rows))

    def next_positions(self, keep: Any) -> Any:
        """Positions of new tokens: they continue each row where it ends.

        Args:
            keep: Bool `[B, T]`, `True` at real tokens.

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
        """Number of decoded tokens each row holds, `[B]` int32."""
        return self.past.lengths

    @property
    def capacity(self) -> int | None:
        """How many tokens a row can hold; `None` where that has no bound."""
        return self.past.capacity
