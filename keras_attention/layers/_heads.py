"""Projected heads of multi-head attention, and their positions.

This is the only module that handles positions, caches and position schemes together.
"""

from dataclasses import dataclass, replace
from typing import Any

from keras import ops

from keras_attention.layers._arguments import cached_positions
from keras_attention.layers._position_scheme import PositionScheme
from keras_attention.layers._visibility import check_alignment
from keras_attention.ops.masks import Mask
from keras_attention.ops.positions import first_positions, standardize_positions


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values of all heads, which share the last axis.

    Attributes:
        query: `[B, T, N * H]`.
        key: `[B, S, K * H]`; with a cache, past and new keys.
        value: `[B, S, K * V]`; with a cache, past and new values.
        query_positions: Int `[T]` or `[B, T]`; 0, 1, 2, … when `None`.
        key_positions: Int `[S]` or `[B, S]`, -1 in empty slots; 0, 1, 2, … when `None`.
        mask: The mask of the cache, a mask of the algebra; or `None`.
    """

    query: Any
    key: Any
    value: Any
    query_positions: Any = None
    key_positions: Any = None
    mask: Mask | None = None

    def all_positions(self) -> tuple[Any, Any]:
        """The positions of queries and keys as tensors."""
        query_positions, key_positions = self.query_positions, self.key_positions
        if query_positions is None:
            query_positions = first_positions(ops.shape(self.query)[1])
        if key_positions is None:
            key_positions = first_positions(ops.shape(self.key)[1])
        return query_positions, key_positions


def with_positions(
    heads: Heads, *, cache: Any, key_mask: Any, **settings: Any
) -> tuple[Heads, Any, Any]:
    """Adds positions to heads, and the tokens of a cache if there is one.

    Args:
        heads: The projected heads.
        cache: The cache of past tokens, or `None`.
        key_mask: Bool `[B, S]` or `None`.
        **settings: `scheme`, `positions` and `inputs` of `with_new_positions`.

    Returns:
        `(heads, cache, key_mask)`. With a cache the mask is `None`: empty slots have
        position -1.
    """
    if cache is None:
        return with_new_positions(heads, **settings), None, key_mask
    cached = with_cached_positions(heads, cache=cache, key_mask=key_mask, **settings)
    return *cached, None


def with_new_positions(
    heads: Heads, *, scheme: PositionScheme | None, positions: Any, inputs: tuple
) -> Heads:
    """Adds positions to the heads of a call without a cache, and rotates them.

    Args:
        heads: The projected heads.
        scheme: The position scheme, or `None`.
        positions: The caller's positions of the queries, or `None`.
        inputs: The layer's query and key.
    """
    query_positions = key_positions = None
    if positions is not None:
        query_positions = standardize_positions(positions, length=None)
        key_positions = _same_positions(query_positions, *inputs)
    heads = replace(
        heads, query_positions=query_positions, key_positions=key_positions, mask=None
    )
    if scheme is None:
        return heads
    query, key = inputs
    check_alignment(query, key, query_positions, key_positions)
    query_at, key_at = heads.all_positions()
    query, key = scheme.rotate(heads.query, query_at), scheme.rotate(heads.key, key_at)
    return replace(heads, query=query, key=key)


def with_cached_positions(
    heads: Heads,
    *,
    scheme: PositionScheme | None,
    positions: Any,
    inputs: tuple,
    cache: Any,
    key_mask: Any,
) -> tuple[Heads, Any]:
    """The heads of past and new tokens, and the cache that holds all of them.

    A key is rotated before it is stored, unless its position may still change.
    """
    query, key = inputs
    query_at, key_at = cached_positions(cache, positions, query, key, key_mask)
    depends_on_length = scheme is not None and scheme.depends_on_length
    rotate_after_cache = cache.renumbers or depends_on_length
    key = heads.key
    if scheme is not None and not rotate_after_cache:
        key = scheme.rotate(key, key_at)
    view, cache = cache.extend(
        key=key, value=heads.value, positions=key_at, query_positions=query_at
    )
    query, key = heads.query, view.key
    if scheme is not None:
        query = scheme.rotate(query, view.query_positions)
        key = scheme.rotate(key, view.positions) if rotate_after_cache else key
    heads = Heads(
        query, key, view.value, view.query_positions, view.positions, view.mask
    )
    return heads, cache


def _same_positions(positions, query, key):
    """The keys' positions: those of the queries if there are as many keys."""
    if query.shape[1] == key.shape[1]:
        return positions
    return first_positions(ops.shape(key)[1])
