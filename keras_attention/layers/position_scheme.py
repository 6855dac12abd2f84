"""The interface between multi-head attention and a position scheme."""

from typing import Any

import keras


class PositionScheme(keras.layers.Layer):
    """Base of the position schemes, the `position` of `MultiHeadAttention`.

    A scheme may rotate queries and keys (`rotate`), add to the scores (`bias`), or add
    to the result (`context`). Multi-head attention builds it and calls all three; by
    default each does nothing.

    Positions are int `[T]` or `[B, T]`. At position -1, an empty slot, results are
    finite but have no meaning.

    Attributes:
        needs_weights: Whether `context` adds something, which needs the weights.
        looks_at_query: Whether `bias` depends on the query. If not, it depends on the
            difference of the positions only.
        depends_on_length: Whether `rotate` changes as a sequence grows. A cache then
            holds the keys without rotation.
    """

    needs_weights = False
    looks_at_query = False
    depends_on_length = False

    def build(self, heads_shape):
        """Creates the weights. Layers that share a scheme each call it.

        Args:
            heads_shape: `(batch, length, num_heads, key_dim)` of the queries.
        """
        if len(heads_shape) != 4:
            raise ValueError(
                f"'{self.name}' is built and called with queries `[batch, length, "
                "num_heads, key_dim]`; attention layers take it as `position=`. "
                f"Received: heads_shape={tuple(heads_shape)}"
            )
        heads = tuple(heads_shape[-2:])
        if getattr(self, "_heads", heads) != heads:
            raise ValueError(
                f"'{self.name}' was built for {self._heads[0]} heads of size "
                f"{self._heads[1]}; layers that share it must have the same. "
                f"Received: heads_shape={tuple(heads_shape)}"
            )
        if not hasattr(self, "_heads"):
            self._heads = heads
            self.build_weights(*heads)
        self.built = True

    def build_weights(self, num_heads: int, key_dim: int) -> None:
        """Creates the weights, once. Nothing by default."""

    def rotate(self, heads: Any, positions: Any) -> Any:
        """Returns queries or keys that depend on their positions.

        Args:
            heads: `[B, T, N * H]`, all heads in one axis; keys may have fewer heads.
            positions: Int `[T]` or `[B, T]`.

        Returns:
            The same shape and dtype.
        """
        return heads

    def bias(self, query: Any, query_positions: Any, key_positions: Any) -> Any:
        """Returns the term that is added to the scores.

        Args:
            query: `[B, T, N * H]`, scaled: times 1/sqrt(H). Only a scheme that
                `looks_at_query` uses it.
            query_positions: Int `[T]` or `[B, T]`.
            key_positions: Int `[S]` or `[B, S]`.

        Returns:
            `[B or 1, N, T, S]` in float32 (float64 for float64), or `None`.
        """
        return None

    def context(self, weights: Any, query_positions: Any, key_positions: Any) -> Any:
        """Returns the term that is added to the result.

        Args:
            weights: `[B, N, T, S]`, after softmax and dropout.
            query_positions: Int `[T]` or `[B, T]`.
            key_positions: Int `[S]` or `[B, S]`.

        Returns:
            `[B, T, N * V]`, or `None`.
        """
        return None

    @property
    def adds_bias(self) -> bool:
        """Whether the scheme has a `bias` of its own."""
        return type(self).bias is not PositionScheme.bias

    @property
    def bias_dtype(self) -> str:
        """Dtype of a bias: float32, or float64 in a float64 layer."""
        return "float64" if self.compute_dtype == "float64" else "float32"
