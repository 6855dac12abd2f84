"""Scores cut into tiles: a chunk of queries against a chunk of keys.

The letters are those of `ops/attend.py`. In addition there are C chunks of queries of c
positions each, D chunks of keys of d positions each, and R = G * c rows in a tile. b is
B or 1.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from keras import ops

from keras_attention.ops import masks
from keras_attention.ops.attend import BLOCKED, cap_scores
from keras_attention.ops.backend.shapes import describe, largest
from keras_attention.ops.heads import merge_chunks, split_chunks
from keras_attention.ops.mask_algebra import FAR
from keras_attention.ops.padding import pad_to
from keras_attention.ops.positions import EMPTY, first_positions, standardize_positions

LOWEST_BIAS = BLOCKED / 10
"""As in `ops/attend.py`: a key with the lowest bias wins over a hidden key."""


class Cut(NamedTuple):
    """How one axis is cut.

    Attributes:
        length: The length of the axis; a tensor where it is not known yet.
        number: The number of chunks, at least 1.
        size: The length of a chunk, an int.
    """

    length: Any
    number: Any
    size: int

    @classmethod
    def of(cls, length: Any, at_most: int) -> "Cut":
        """Chunks of one size, the smallest for their number where that is known."""
        if at_most < 1:
            raise ValueError(
                "`query_chunk` and `key_chunk` must be positive integers. "
                f"Received: {at_most}"
            )
        if not isinstance(length, int):
            return cls(length, ops.maximum(-(-length // at_most), 1), at_most)
        number = max(1, -(-length // at_most))
        return cls(length, number, max(1, -(-length // number)))

    @property
    def whole(self) -> Any:
        """The length of all chunks together."""
        return self.number * self.size

    @property
    def is_exact(self) -> bool:
        """Whether the last chunk is known to be full."""
        return isinstance(self.length, int) and self.whole == self.length

    def pad(self, x: Any, axis: int) -> Any:
        """Appends 0 or `False` until all chunks are full."""
        return x if self.is_exact else pad_to(x, self.whole, axis=axis)

    def split(self, x: Any) -> Any:
        """`[b, length]` -> `[number, b, size]`, 0 or `False` beyond the end."""
        x = self.pad(x, 1)
        x = ops.reshape(x, (ops.shape(x)[0], self.number, self.size))
        return ops.transpose(x, (1, 0, 2))


class Grid(NamedTuple):
    """How queries and keys are cut.

    Attributes:
        batch: B.
        heads: `(K, G)`.
        queries: How the queries are cut.
        keys: How the keys are cut.
    """

    batch: Any
    heads: tuple[int, int]
    queries: Cut
    keys: Cut

    @classmethod
    def over(
        cls,
        *,
        query: Any,
        key: Any,
        value: Any,
        heads: tuple[int, int],
        chunks: tuple[int, int],
    ) -> "Grid":
        """The grid of tensors `[B, T or S, ...]`, with chunks of at most that size."""
        known = [x.shape[0] for x in (query, key, value) if x.shape[0] is not None]
        return cls(
            batch=known[0] if known else ops.shape(query)[0],
            heads=heads,
            queries=Cut.of(ops.shape(query)[1], chunks[0]),
            keys=Cut.of(ops.shape(key)[1], chunks[1]),
        )

    def split_queries(self, x: Any) -> Any:
        """`[B, T, N * H]` -> `[C, B, K, R, H]`, 0 beyond the end."""
        return self._split(x, self.queries, self.heads)

    def split_keys(self, x: Any) -> Any:
        """`[B, S, K * H]` -> `[D, B, K, d, H]`, 0 beyond the end."""
        return self._split(x, self.keys, (self.heads[0], 1))

    def _split(self, x: Any, cut: Cut, heads: tuple[int, int]) -> Any:
        chunks = cut.number, cut.size
        return split_chunks(cut.pad(x, 1), heads, chunks, self.batch)

    def merge(self, x: Any) -> Any:
        """`[C, B, K, R, V]` -> `[B, T, N * V]`."""
        cut = self.queries
        x = merge_chunks(x, self.heads, (cut.number, cut.size), self.batch)
        return x[:, : cut.length]  # [B, T, N * V]

    def unfold(self, x: Any) -> Any:
        """`[B, K, R, d]` -> `[B, K, G, c, d]`."""
        shape = (self.batch, *self.heads, self.queries.size, x.shape[-1])
        return ops.reshape(x, shape)

    def fold(self, x: Any) -> Any:
        """`[B, K, G, c, d]` -> `[B, K, R, d]`."""
        rows = self.heads[1] * self.queries.size
        return ops.reshape(x, (self.batch, self.heads[0], rows, x.shape[-1]))

    def lay_out(self, x: Any) -> Any:
        """Prepares a mask or bias for `tile`.

        `[..., T or 1, S or 1]` of rank 4 at most -> `[b, N or 1, C * c or 1, D * d or
        1]`; `None` stays `None`.
        """
        if x is None:
            return None
        x = ops.convert_to_tensor(x)
        for _ in range(4 - len(x.shape)):
            x = x[None]
        # An axis of unknown size may have size 1 and be broadcast, or be whole.
        whole = self.batch, x.shape[1], self.queries.length, self.keys.length
        sizes = [w if s is None else s for s, w in zip(x.shape, whole, strict=True)]
        if None in tuple(x.shape):
            x = ops.broadcast_to(x, sizes)
        x = x if x.shape[2] == 1 else self.queries.pad(x, 2)
        return x if x.shape[3] == 1 else self.keys.pad(x, 3)

    def tile(self, x: Any, i: Any, j: Any) -> Any:
        """Tile (i, j) of a laid-out tensor: `[b, K or 1, G or 1, c or 1, d or 1]`."""
        batch, heads = ops.shape(x)[:2]
        rows = (0, 1) if x.shape[2] == 1 else (i * self.queries.size, self.queries.size)
        columns = (0, 1) if x.shape[3] == 1 else (j * self.keys.size, self.keys.size)
        sizes = (batch, heads, rows[1], columns[1])
        x = ops.slice(x, (0, 0, rows[0], columns[0]), sizes)
        heads = (1, 1) if x.shape[1] == 1 else self.heads
        return ops.reshape(x, (batch, *heads, rows[1], columns[1]))


@dataclass(frozen=True)
class MaskParts:
    """The parts of a mask, which are combined one tile at a time.

    Attributes:
        mask: A mask of the algebra that is built from positions, such as
            `masks.causal & masks.window(9, 0)`; or `None`.
        query_positions: Int `[T]` or `[B, T]`; 0, 1, 2, … when `None`.
        key_positions: Int `[S]` or `[B, S]`; 0, 1, 2, … when `None`. A key at position
            -1 is an empty slot and hidden.
        key_mask: Bool `[B, S]`, `True` at non-padding tokens, or `None`.
        attention_mask: Bool, broadcastable to `[B, N, T, S]`, or `None`.
    """

    mask: masks.Mask | None = None
    query_positions: Any = None
    key_positions: Any = None
    key_mask: Any = None
    attention_mask: Any = None

    def present_keys(self) -> Any:
        """Bool `[b, S]`: keys that are neither padding nor empty slots; or `None`."""
        present = None
        if self.key_positions is not None:
            present = standardize_positions(self.key_positions, length=None) != EMPTY
            present = present[None] if len(present.shape) == 1 else present  # [b, S]
        if self.key_mask is None:
            return present
        key_mask = masks.require_bool(self.key_mask, "key_mask", rank=2, shape="[B, S]")
        return key_mask if present is None else present & key_mask


class Tiles:
    """The scores of each tile, computed from chunks of queries and keys.

    Args:
        grid: How queries and keys are cut.
        parts: The parts of the mask.
        present_keys: What `parts.present_keys()` returns.
        soft_cap: The bound of the scores, or `None`; see `cap_scores`.
    """

    def __init__(
        self,
        grid: Grid,
        parts: MaskParts,
        *,
        present_keys: Any,
        soft_cap: float | None,
    ):
        self.grid, self.soft_cap = grid, soft_cap
        self.mask = _require_positional(parts.mask)
        attention_mask = parts.attention_mask
        if attention_mask is not None:
            attention_mask = masks.require_bool(attention_mask, "attention_mask")
        self.attention_mask = grid.lay_out(attention_mask)
        # [C, b, c] and [D, b, d]
        self.query_positions = _cut_positions(parts.query_positions, grid.queries)
        self.key_positions = _cut_positions(parts.key_positions, grid.keys)
        if present_keys is None and not grid.keys.is_exact:
            present_keys = ops.ones((1, grid.keys.length), dtype="bool")
        if present_keys is not None:
            present_keys = grid.keys.split(present_keys)  # [D, b, d]
        self.present_keys = present_keys

    def scores(
        self, query: Any, key: Any, bias: Any, i: Any, j: Any
    ) -> tuple[Any, Any]:
        """Scores of tile (i, j) `[B, K, R, d]`, and those before bias and mask.

        Args:
            query: `[B, K, R, H]`, chunk i.
            key: `[B, K, d, H]`, chunk j.
            bias: What `Grid.lay_out` returned, or `None`.
            i: The number of the query chunk.
            j: The number of the key chunk.
        """
        grid, mask = self.grid, self.visible(i, j)
        scores = ops.matmul(query, ops.swapaxes(key, -2, -1))  # [B, K, R, d]
        scores = capped = cap_scores(scores, self.soft_cap)
        if bias is not None:
            bias = ops.cast(grid.tile(bias, i, j), scores.dtype)
            scores = grid.fold(grid.unfold(scores) + ops.maximum(bias, LOWEST_BIAS))
        if mask is not None:
            scores = grid.fold(ops.where(mask, grid.unfold(scores), BLOCKED))
        return scores, capped

    def visible(self, i: Any, j: Any) -> Any:
        """Bool, broadcastable to `[B, K, G, c, d]`; `None` if all are visible."""
        found = []
        if self.mask is not None:
            positions = self.query_positions[i], self.key_positions[j]
            found.append(self.mask.build(*positions)[:, None, None])  # [b, 1, 1, c, d]
        if self.present_keys is not None:
            found.append(self.present_keys[j][:, None, None, None])  # [b, 1, 1, 1, d]
        if self.attention_mask is not None:
            found.append(self.grid.tile(self.attention_mask, i, j))
        visible = found[0] if found else None
        for mask in found[1:]:
            visible = visible & mask
        return visible

    def near(self) -> Any:
        """Bool `[C, D]`: `False` where no key of the tile is visible to any query."""
        queries = self.grid.queries
        present = first_positions(queries.whole) < queries.length
        present = ops.reshape(present, (queries.number, 1, queries.size))
        first, last = _bounds(self.query_positions, present)  # [C]
        present = self.present_keys
        present = ops.ones((1, 1, 1), "bool") if present is None else present
        first_key, last_key = _bounds(self.key_positions, present)  # [D]
        reach = (FAR, FAR) if self.mask is None else self.mask.reach
        behind, ahead = (min(side, FAR) for side in reach)
        near = first_key - last[:, None] <= ahead  # [C, D]
        near = near & (first[:, None] - last_key <= behind)
        return near & (last_key != EMPTY)


def _cut_positions(positions: Any, cut: Cut) -> Any:
    """Positions `[number, b, size]`; 0, 1, 2, … for `None`."""
    if positions is None:
        return ops.reshape(first_positions(cut.whole), (cut.number, 1, cut.size))
    positions = standardize_positions(positions, length=None)
    return cut.split(positions[None] if len(positions.shape) == 1 else positions)


def _bounds(positions: Any, present: Any) -> tuple[Any, Any]:
    """The smallest and largest position in each chunk; FAR and -1 if it has none."""
    first = -largest(ops.where(present, -positions, -FAR), (1, 2), least=-FAR)
    last = largest(ops.where(present, positions, EMPTY), (1, 2), least=EMPTY)
    return first, last


def _require_positional(mask: Any) -> masks.Mask | None:
    """Returns `mask`; raises an error if it cannot be built a tile at a time."""
    if mask is None or (isinstance(mask, masks.Mask) and mask.of_positions):
        return mask
    if isinstance(mask, masks.Mask):
        raise ValueError(
            "`mask` is built a tile at a time, so it must depend on positions only. "
            "Pass `masks.padding(keep)` as `key_mask=keep`, and other masks of tensors "
            f"as `attention_mask=`. Received: mask={mask!r}"
        )
    raise ValueError(
        "`mask` must be one of the mask algebra, such as `masks.causal`. Pass a tensor "
        f"as `attention_mask=`. Received: mask={describe(mask)}"
    )
