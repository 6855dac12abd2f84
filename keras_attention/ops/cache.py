"""Keys and values of past tokens, as a value that is passed in and returned."""

from typing import Any, NamedTuple

from keras import ops

from keras_attention.ops.positions import EMPTY, positions_of_tokens


class KVCache(NamedTuple):
    """What attention remembers of past tokens: plain tensors, never stored.

    A layer called with `cache=` returns a new, longer cache; the one passed in is
    unchanged. Rows may hold different numbers of tokens: a slot whose position is
    -1 holds nothing and is seen by no query. Being a named tuple, it passes through
    `tf.while_loop`, `tf.function` signatures and Keras' tree functions.

    Attributes:
        key: `[B, P, K * H]`, heads side by side.
        value: `[B, P, K * V]`.
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

    key: Any
    value: Any
    positions: Any

    @classmethod
    def empty(
        cls,
        *,
        batch_size: int,
        key_size: int,
        value_size: int,
        dtype: str = "float32",
    ) -> "KVCache":
        """A cache that holds no token.

        Args:
            batch_size: B.
            key_size: K * H, key/value heads times the size of a key head.
            value_size: K * V.
            dtype: Of keys and values.
        """
        return cls(
            key=ops.zeros((batch_size, 0, key_size), dtype=dtype),
            value=ops.zeros((batch_size, 0, value_size), dtype=dtype),
            positions=ops.zeros((batch_size, 0), dtype="int32"),
        )

    def append(self, *, key: Any, value: Any, positions: Any) -> "KVCache":
        """The cache with new tokens behind the old ones.

        Args:
            key: `[B, T, K * H]`.
            value: `[B, T, K * V]`.
            positions: `[B, T]` int32; -1 for a token that is padding.
        """
        positions = ops.cast(positions, self.positions.dtype)
        return KVCache(
            key=ops.concatenate([self.key, ops.cast(key, self.key.dtype)], axis=1),
            value=ops.concatenate(
                [self.value, ops.cast(value, self.value.dtype)], axis=1
            ),
            positions=ops.concatenate([self.positions, positions], axis=1),
        )

    def next_positions(self, keep: Any) -> Any:
        """Positions of new tokens: they continue each row where it ends.

        Args:
            keep: Bool `[B, T]`, `True` at real tokens.

        Returns:
            Int32 `[B, T]`; -1 at padding.
        """
        new = positions_of_tokens(keep)
        last = ops.max(self.positions, axis=-1, keepdims=True, initial=EMPTY)  # [B, 1]
        return ops.where(keep, last + 1 + new, EMPTY)  # [B, T]

    @property
    def lengths(self) -> Any:
        """Number of tokens each row holds, `[B]` int32."""
        return ops.sum(ops.cast(self.positions != EMPTY, "int32"), axis=-1)
