"""Scores cut into tiles: a chunk of queries against a chunk of keys.

Letters are those of `attend.py`; beside them C chunks of queries, each c long, D
chunks of keys, each d long, and R = G * c rows of a tile. b is B or 1.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_attention.ops import masks
from keras_attention.ops.attend import BLOCKED, cap_scores
from keras_attention.ops.backend.shapes import describe, largest
from keras_attention.ops.mask_algebra import FAR
from keras_attention.ops.positions import EMPTY, first_positions, standardize_positions
from keras_attention.ops.sparse.blocks import pad_to

LOWEST_BIAS = BLOCKED / 10
"""As in `attend.py`: a key the bias all but forbids beats one the mask forbids."""


class Cut(NamedTuple):
    """How one axis is cut.

    Attributes:
        length: Of the axis; a tensor where it is not known yet.
        number: Of chunks, at least 1.
        size: Of a chunk, an int.
    """

    length: Any
    number: Any
    size: int

    @classmethod
    def of(cls, length: Any, at_most: int) -> "Cut":
        """Chunks of one size: the smallest for their number where that is known."""
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
        """Length of all chunks together."""
        return self.number * self.size

    @property
    def is_exact(self) -> bool:
        """Whether it is known that nothing is left over in the last chunk."""
        return isinstance(self.length, int) and self.whole == self.length

    def pad(self, x: Any, axis: int) -> Any:
        """Appends 0 or `False` up to whole chunks."""
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
        queries: Cut of the queries.
        keys: Cut of the keys.
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
        """The grid over these tensors, `[B, T or S, ...]`, with chunks of that size."""
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
        size = x.shape[-1] // (heads[0] * heads[1])
        x = ops.reshape(cut.pad(x, 1), (self.batch, cut.number, cut.size, *heads, size))
        x = ops.transpose(x, (1, 0, 3, 4, 2, 5))  # [C, B, K, G, c, H]
        shape = (cut.number, self.batch, heads[0], heads[1] * cut.size, size)
        return ops.reshape(x, shape)  # [C, B, K, R, H]

    def merge(self, x: Any) -> Any:
        """`[C, B, K, R, V]` -> `[B, T, N * V]`."""
        cut, (heads, groups), size = self.queries, self.heads, x.shape[-1]
        x = ops.reshape(x, (cut.number, self.batch, heads, groups, cut.size, size))
        x = ops.transpose(x, (1, 0, 4, 2, 3, 5))  # [B, C, c, K, G, V]
        x = ops.reshape(x, (self.batch, cut.whole, heads * groups * size))
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
        """Prepares a mask or bias to be cut by `tile`.

        `[..., T or 1, S or 1]` of rank 4 at most -> `[b, N or 1, C * c or 1, D * d or
        1]`; `None` stays `None`.
        """
        if x is None:
            return None
        x = ops.convert_to_tensor(x)
        for _ in range(4 - len(x.shape)):
            x = x[None]
        # An axis of unknown size may be 1 and to be spread, or the whole length.
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


class Tiles:
    """What makes the scores of a tile, beside queries and keys.

    Args:
        grid: How they are cut.
        mask: A mask of the algebra that is built from positions, or `None`.
        positions: Of queries and of keys; 0, 1, 2, … for `None`.
        keep: Bool `[b, S]` as `kept_keys` returns it.
        attention_mask: Bool, broadcastable to `[B, N, T, S]`, or `None`.
        soft_cap: See `cap_scores`.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        mask: masks.Mask | None,
        positions: tuple[Any, Any],
        keep: Any,
        attention_mask: Any,
        soft_cap: float | None,
    ):
        self.grid, self.soft_cap = grid, soft_cap
        self.mask = _require_positional(mask)
        if attention_mask is not None:
            attention_mask = masks.require_bool(attention_mask, "attention_mask")
        self.attention_mask = grid.lay_out(attention_mask)
        self.query_positions = _cut_positions(positions[0], grid.queries)  # [C, b, c]
        self.key_positions = _cut_positions(positions[1], grid.keys)  # [D, b, d]
        if keep is None and not grid.keys.is_exact:
            keep = ops.ones((1, grid.keys.length), dtype="bool")
        self.keep = None if keep is None else grid.keys.split(keep)  # [D, b, d]

    def scores(
        self, query: Any, key: Any, bias: Any, i: Any, j: Any
    ) -> tuple[Any, Any]:
        """Scores of tile (i, j) `[B, K, R, d]`, and those before bias and mask.

        Args:
            query: `[B, K, R, H]`, chunk i.
            key: `[B, K, d, H]`, chunk j.
            bias: As laid out, or `None`.
            i: Number of the query chunk.
            j: Number of the key chunk.
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
        """Bool, broadcastable to `[B, K, G, c, d]`, or `None`: all are visible."""
        seen = []
        if self.mask is not None:
            positions = self.query_positions[i], self.key_positions[j]
            seen.append(self.mask.build(*positions)[:, None, None])  # [b, 1, 1, c, d]
        if self.keep is not None:
            seen.append(self.keep[j][:, None, None, None])  # [b, 1, 1, 1, d]
        if self.attention_mask is not None:
            seen.append(self.grid.tile(self.attention_mask, i, j))
        together = seen[0] if seen else None
        for mask in seen[1:]:
            together = together & mask
        return together

    def near(self) -> Any:
        """Bool `[C, D]`: `False` where no key of the tile is visible to any query."""
        queries = self.grid.queries
        real = first_positions(queries.whole) < queries.length
        real = ops.reshape(real, (queries.number, 1, queries.size))
        first, last = _bounds(self.query_positions, real)  # [C]
        real = ops.ones((1, 1, 1), "bool") if self.keep is None else self.keep
        first_key, last_key = _bounds(self.key_positions, real)  # [D]
        reach = (FAR, FAR) if self.mask is None else self.mask.reach
        behind, ahead = (min(side, FAR) for side in reach)
        near = first_key - last[:, None] <= ahead  # [C, D]
        near = near & (first[:, None] - last_key <= behind)
        return near & (last_key != EMPTY)


def kept_keys(key_positions: Any, key_mask: Any) -> Any:
    """Bool `[b, S]`: keys that any query may look at; `None` for all.

    Args:
        key_positions: Int `[S]` or `[B, S]`, -1 for an empty slot, or `None`.
        key_mask: Bool `[B, S]`, `True` at real tokens, or `None`.
    """
    keep = None
    if key_positions is not None:
        keep = standardize_positions(key_positions, length=None) != EMPTY
        keep = keep[None] if len(keep.shape) == 1 else keep  # [b, S]
    if key_mask is not None:
        key_mask = masks.require_bool(key_mask, "key_mask", rank=2, shape="[B, S]")
        keep = key_mask if keep is None else keep & key_mask
    return keep


def _cut_positions(positions: Any, cut: Cut) -> Any:
    """Positions `[number, b, size]`; 0, 1, 2, … for `None`."""
    if positions is None:
        return ops.reshape(first_positions(cut.whole), (cut.number, 1, cut.size))
    positions = standardize_positions(positions, length=None)
    return cut.split(positions[None] if len(positions.shape) == 1 else positions)


def _bounds(positions: Any, real: Any) -> tuple[Any, Any]:
    """Smallest and largest real position of each chunk; FAR and -1 if none is real."""
    first = -largest(ops.where(real, -positions, -FAR), (1, 2), least=-FAR)
    last = largest(ops.where(real, positions, EMPTY), (1, 2), least=EMPTY)
    return first, last


def _require_positional(mask: Any) -> masks.Mask | None:
    """Refuses what cannot be built a tile at a time."""
    if mask is None or (isinstance(mask, masks.Mask) and mask.of_positions):
        return mask
    if isinstance(mask, masks.Mask):
        raise ValueError(
            "`mask` is built a tile at a time and must be made from positions. Pass "
            "`masks.padding(keep)` as `key_mask=keep`, and other masks of tensors as "
            f"`attention_mask=`. Received: mask={mask!r}"
        )
    raise ValueError(
        "`mask` must be one of the mask algebra, such as `masks.causal`. Pass a tensor "
        f"as `attention_mask=`. Received: mask={describe(mask)}"
    )
