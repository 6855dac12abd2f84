"""Projected heads of multi-head attention, and where they stand.

Positions, caches and position schemes meet here and only here.
"""

from dataclasses import dataclass
from typing import Any

from keras import ops

from keras_attention.layers._arguments import cached_positions
from keras_attention.layers._position_scheme import PositionScheme
from keras_attention.layers._visibility import check_alignment
from keras_attention.ops.masks import Mask
from keras_attention.ops.positions import first_positions, standardize_positions


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values of all heads, side by side in the last axis.

    Attributes:
        query: `[B, T, N * H]`.
        key: `[B, S, K * H]`; with a cache, past and new keys.
        value: `[B, S, K * V]`; likewise.
        query_positions: Int `[T]` or `[B, T]`; 0, 1, 2, … when `None`.
        key_positions: Int `[S]` or `[B, S]`, -1 in empty slots; likewise.
        mask: What the cache hides, a mask of the algebra; or `None`.
    """

    query: Any
    key: Any
    value: Any
    query_positions: Any = None
    key_positions: Any = None
    mask: Mask | None = None

    def all_positions(self) -> tuple[Any, Any]:
        """Positions of queries and keys as tensors."""
        query_positions, key_positions = self.query_positions, self.key_positions
        if query_positions is None:
            query_positions = first_positions(ops.shape(self.query)[1])
        if key_positions is None:
            key_positions = first_positions(ops.shape(self.key)[1])
        return query_positions, key_positions


def stand(
    heads: Heads, *, cache: Any, key_mask: Any, **where: Any
) -> tuple[Heads, Any, Any]:
    """Heads with their positions, among those of a cache if there is one.

    Args:
        heads: As they are projected.
        cache: The cache of past tokens, or `None`.
        key_mask: Bool `[B, S]` or `None`.
        **where: `scheme`, `positions` and `inputs` of `place`.

    Returns:
        `(heads, cache, key_mask)`. With a cache its positions say which slots are
        empty, and there is no mask.
    """
    if cache is None:
        return place(heads, **where), None, key_mask
    return *place_in_cache(heads, cache=cache, key_mask=key_mask, **where), None


def place(
    heads: Heads, *, scheme: PositionScheme | None, positions: Any, inputs: tuple
) -> Heads:
    """Heads of one call without a cache, rotated if the scheme rotates.

    Args:
        heads: As they are projected.
        scheme: The position scheme, if any.
        positions: Of the queries, as the caller gave them; or `None`.
        inputs: The layer's query and key.
    """
    query_positions = key_positions = None
    if positions is not None:
        query_positions = standardize_positions(positions, length=None)
        key_positions = _same_positions(query_positions, *inputs)
    placed = Heads(heads.query, heads.key, heads.value, query_positions, key_positions)
    if scheme is None:
        return placed
    query, key = inputs
    check_alignment(query, key, query_positions, key_positions)
    query_at, key_at = placed.all_positions()
    query, key = scheme.rotate(heads.query, query_at), scheme.rotate(heads.key, key_at)
    return Heads(query, key, heads.value, query_positions, key_positions)


def place_in_cache(
    heads: Heads,
    *,
    scheme: PositionScheme | None,
    positions: Any,
    inputs: tuple,
    cache: Any,
    key_mask: Any,
) -> tuple[Heads, Any]:
    """Heads of past and new tokens, and the cache that holds them all.

    A key is rotated before it is stored, unless its position may still change.
    """
    query, key = inputs
    query_at, key_at = cached_positions(cache, positions, query, key, key_mask)
    late = cache.renumbers or (scheme is not None and scheme.depends_on_length)
    key = heads.key
    if scheme is not None and not late:
        key = scheme.rotate(key, key_at)
    view, cache = cache.extend(
        key=key, value=heads.value, positions=key_at, query_positions=query_at
    )
    query, key = heads.query, view.key
    if scheme is not None:
        query = scheme.rotate(query, view.query_positions)
        key = scheme.rotate(key, view.positions) if late else key
    placed = Heads(
        query, key, view.value, view.query_positions, view.positions, view.mask
    )
    return placed, cache


def _same_positions(positions, query, key):
    """Keys stand where the queries stand if they are the same sequence."""
    if query.shape[1] == key.shape[1]:
        return positions
    return first_positions(ops.shape(key)[1])
