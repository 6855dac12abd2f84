"""Everything that hides keys from queries, combined in one place.

A `Visibility` holds the parts of a mask. Dense attention builds one tensor from them.
Attention to long sequences builds a piece at a time, and skips pieces in which the
parts hide every key.
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
    """Which keys each query can attend to.

    Attributes:
        algebra: A mask of the algebra, or `None`.
        query_positions: Int `[T]` or `[B, T]`; 0, 1, 2, … when `None`.
        key_positions: Int `[S]` or `[B, S]`, -1 for empty slots; 0, 1, 2, … when
            `None`.
        attention_mask: Bool `[B, T, S]` or `[B, N, T, S]`, or `None`.
        query_mask: Bool `[B, T]` or `None`; padding queries see no key.
        key_mask: Bool `[B, S]` or `None`; no query sees padding keys.
    """

    algebra: masks.Mask | None = None
    query_positions: Any = None
    key_positions: Any = None
    attention_mask: Any = None
    query_mask: Any = None
    key_mask: Any = None

    def tensor(self, query: Any, key: Any) -> Any:
        """The mask, bool `[B or 1, T, S]` or `[B, N, T, S]`; `None` hides nothing.

        Axes may have size 1.

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
        """The same visibility, with an algebra that depends on positions only.

        A mask that holds tensors is built whole, into `attention_mask`.

        Args:
            query: `[B, T, ...]`.
            key: `[B, S, ...]`.
        """
        if self.algebra is None or self.algebra.of_positions:
            return self
        whole = replace(self, query_mask=None, key_mask=None).tensor(query, key)
        return replace(self, algebra=None, attention_mask=whole)

    def _without_padding(self, key_positions):
        """The positions of keys, -1 for those that are padding."""
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
            algebra = algebra.restrict_to(self._without_padding(key_positions))
            mask = algebra.build(query_positions, key_positions)
        else:
            algebra = algebra.restrict_to(self._without_padding(key_positions))
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
    """Checks everything that hides keys, and combines it.

    Args:
        query: `[B, T, ...]`.
        key: `[B, S, ...]`.
        patterns: Masks of the algebra, such as that of a window, or `None`.
        query_mask: Bool `[B, T]`.
        key_mask: Bool `[B, S]`.
        attention_mask: A mask of the algebra, or bool `[B, T, S]`, or
            `[B, N, T, S]` if `max_rank` is 4.
        use_causal_mask: Whether keys after the query are hidden.
        query_positions: Int `[T]` or `[B, T]`; 0, 1, 2, … when `None`.
        key_positions: Int `[S]` or `[B, S]`, -1 for empty slots; 0, 1, 2, … when
            `None`.
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
    """The AND of two masks. Either may have an axis of heads, or be `None`."""
    if left is None or right is None:
        return right if left is None else left
    if len(left.shape) < len(right.shape):
        left = left[:, None]
    elif len(right.shape) < len(left.shape):
        right = right[:, None]
    return left & right


def check_alignment(query, key, query_positions, key_positions):
    """Raises an error if the positions of the queries among the keys are unknown.

    Args:
        query: `[B, T, ...]`.
        key: `[B, S, ...]`.
        query_positions: The caller's positions of the queries, or `None`.
        key_positions: The positions of the keys, or `None`.
    """
    guessing = query_positions is None and key_positions is None
    if guessing and differ(query.shape[1], key.shape[1]):
        raise ValueError(
            "Masks and position schemes need the position of each token. With queries "
            "and keys of different lengths the position of the first query is "
            "unknown. Pass `positions=` or `cache=` (MultiHeadAttention), or the "
            "finished bool mask as "
            f"`attention_mask=`. Received: query={describe(query)}, "
            f"key={describe(key)}"
        )
