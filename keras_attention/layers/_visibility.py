"""Everything that hides keys from queries, combined in one place.

A `Visibility` is kept in parts until somebody needs the tensor: long attention builds
it a piece at a time, and computes nothing where a pattern says that nothing is seen.
"""

from dataclasses import dataclass, replace
from typing import Any

from keras import ops

from keras_attention.layers._arguments import check_attention_mask
from keras_attention.ops import masks
from keras_attention.ops.backend.shapes import describe, differ
from keras_attention.ops.positions import EMPTY, first_positions


@dataclass(frozen=True)
class Visibility:
    """Who may look at what.

    Attributes:
        algebra: A mask of the algebra, or `None`.
        query_positions: Int `[T]` or `[B, T]`; 0, 1, 2, … when `None`.
        key_positions: Int `[S]` or `[B, S]`, -1 for empty slots; likewise.
        attention_mask: Bool `[B, T, S]` or `[B, N, T, S]`, or `None`.
        query_mask: Bool `[B, T]` or `None`; padding queries see nothing.
        key_mask: Bool `[B, S]` or `None`; padding keys are seen by nobody.
    """

    algebra: masks.Mask | None = None
    query_positions: Any = None
    key_positions: Any = None
    attention_mask: Any = None
    query_mask: Any = None
    key_mask: Any = None

    def tensor(self, query: Any, key: Any) -> Any:
        """Bool `[B or 1, T, S]` or `[B, N, T, S]` (axes may be 1); `None` for all.

        Args:
            query: `[B, T, ...]`.
            key: `[B, S, ...]`.
        """
        mask = None
        if self.algebra is not None or self.key_positions is not None:
            mask = self._from_positions(query, key)
        mask = join_masks(mask, self.attention_mask)
        if self.key_mask is not None:
            mask = join_masks(mask, self.key_mask[:, None, :])
        if self.query_mask is not None:
            mask = join_masks(mask, self.query_mask[:, :, None])
        return mask

    def by_positions(self, query: Any, key: Any) -> "Visibility":
        """The same, with an algebra that can be built for any part of the positions.

        A mask that holds tensors cannot: it is built whole, into `attention_mask`.

        Args:
            query: `[B, T, ...]`.
            key: `[B, S, ...]`.
        """
        if self.algebra is None or self.algebra.of_positions:
            return self
        whole = replace(self, query_mask=None, key_mask=None).tensor(query, key)
        return replace(self, algebra=None, attention_mask=whole)

    def _real(self, key_positions):
        """Positions of keys that are no padding; -1 for the rest."""
        if self.key_mask is None:
            return key_positions
        return ops.where(self.key_mask, key_positions, EMPTY)

    def _from_positions(self, query, key):
        algebra = masks.full if self.algebra is None else self.algebra
        query_positions, key_positions = self.query_positions, self.key_positions
        if query_positions is None:
            query_positions = first_positions(ops.shape(query)[1])
        if key_positions is None:
            key_positions = first_positions(ops.shape(key)[1])
            algebra = algebra.among(self._real(key_positions))
            mask = algebra.build(query_positions, key_positions)
        else:
            algebra = algebra.among(self._real(key_positions))
            mask = algebra.visible(query_positions, key_positions)
        return mask[None] if len(mask.shape) == 2 else mask  # [B or 1, T, S]


def visibility(
    query: Any,
    key: Any,
    *,
    patterns: tuple[masks.Mask | None, ...] = (),
    query_mask: Any = None,
    key_mask: Any = None,
    attention_mask: Any = None,
    use_causal_mask: bool = False,
    query_positions: Any = None,
    key_positions: Any = None,
    max_rank: int = 4,
) -> Visibility:
    """Everything that hides keys, checked.

    Args:
        query: `[B, T, ...]`.
        key: `[B, S, ...]`.
        patterns: Masks of the algebra, that of a window for one; `None` is no mask.
        query_mask: Bool `[B, T]`.
        key_mask: Bool `[B, S]`.
        attention_mask: A mask of the algebra, or bool `[B, T, S]`, or
            `[B, N, T, S]` if `max_rank` is 4.
        use_causal_mask: Whether keys after the query are hidden.
        query_positions: Int `[T]` or `[B, T]`; 0, 1, 2, … when `None`.
        key_positions: Int `[S]` or `[B, S]`, -1 for empty slots; likewise.
        max_rank: 4 for layers with heads, else 3.
    """
    parts = [masks.causal if use_causal_mask else None, *patterns]
    if isinstance(attention_mask, masks.Mask):
        parts.append(attention_mask)
        attention_mask = None
    algebra = None
    for part in parts:
        if part is not None:
            algebra = part if algebra is None else algebra & part
    if algebra is not None:
        check_alignment(query, key, query_positions, key_positions)
    if attention_mask is not None:
        attention_mask = check_attention_mask(attention_mask, query, key, max_rank)
    return Visibility(
        algebra=algebra,
        query_positions=query_positions,
        key_positions=key_positions,
        attention_mask=attention_mask,
        query_mask=query_mask,
        key_mask=key_mask,
    )


def join_masks(left: Any, right: Any) -> Any:
    """AND of two masks, of which either may have a head axis or be `None`."""
    if left is None or right is None:
        return right if left is None else left
    if len(left.shape) < len(right.shape):
        left = left[:, None]
    elif len(right.shape) < len(left.shape):
        right = right[:, None]
    return left & right


def check_alignment(query, key, query_positions, key_positions):
    """Refuses to guess where the queries stand among keys of another length.

    Args:
        query: `[B, T, ...]`.
        key: `[B, S, ...]`.
        query_positions: As they were given; or `None`.
        key_positions: Likewise.
    """
    guessing = query_positions is None and key_positions is None
    if guessing and differ(query.shape[1], key.shape[1]):
        raise ValueError(
            "Masks and positions need to know where each token stands, and with "
            "queries and keys of different lengths the position of the first query is "
            "unknown. Pass `positions=` or `cache=` (MultiHeadAttention), or the "
            "finished bool mask as "
            f"`attention_mask=`. Received: query={describe(query)}, "
            f"key={describe(key)}"
        )
