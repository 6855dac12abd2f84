"""The heads of multi-head attention: their settings, and their place in a tensor.

Layers hold all heads in the last axis, `[B, T, N * H]`. Every function that splits that
axis, merges it again, or puts a group of query heads next to its key/value head is in
this module.

The letters are those of `ops/attend.py`. L is the number of positions in a block, C the
number of chunks, and c the number of positions in a chunk.
"""

from dataclasses import dataclass
from typing import Any

from keras import ops

from keras_attention.ops.padding import pad_to


@dataclass(frozen=True)
class HeadSettings:
    """The numbers of heads, and how products of queries and keys become scores.

    Attributes:
        num_heads: N, the number of query heads.
        num_key_value_heads: K, the number of key/value heads, a divisor of N; N when
            `None` is passed.
        scale: The factor of the scores; 1/sqrt(H) for scaled dot-product attention.
        soft_cap: The bound of the scores, or `None`; see `cap_scores`. It is applied
            before bias and mask.
    """

    num_heads: int = 1
    num_key_value_heads: int = None  # pyright: ignore[reportAssignmentType]
    scale: float = 1.0
    soft_cap: float | None = None

    def __post_init__(self):
        values = vars(self)  # a frozen dataclass refuses assignments only
        values["num_key_value_heads"] = self.num_key_value_heads or self.num_heads
        values["scale"] = float(self.scale)
        if self.soft_cap is not None:
            values["soft_cap"] = float(self.soft_cap)

    @property
    def group_size(self) -> int:
        """G, the number of query heads per key/value head."""
        return self.num_heads // self.num_key_value_heads

    def to_dict(self) -> dict[str, Any]:
        """The constructor's arguments as JSON-serialisable values, for a region."""
        return dict(vars(self))


ONE_HEAD = HeadSettings()
"""A single head whose scores are not scaled."""


def split_features(x: Any, num_heads: int, sizes: tuple[Any, Any] | None = None) -> Any:
    """`[B, T, N * H]` -> `[B, T, N, H]`.

    Args:
        x: The heads.
        num_heads: N.
        sizes: B and T where the caller has them already; a graph then does not read
            them from `x` again.
    """
    batch, length = ops.shape(x)[:2] if sizes is None else sizes
    return ops.reshape(x, (batch, length, num_heads, x.shape[-1] // num_heads))


def merge_features(x: Any, sizes: tuple[Any, Any] | None = None) -> Any:
    """`[B, T, N, H]` -> `[B, T, N * H]`; see `split_features`."""
    batch, length = ops.shape(x)[:2] if sizes is None else sizes
    return ops.reshape(x, (batch, length, x.shape[2] * x.shape[3]))


def split_heads(x: Any, num_heads: int) -> Any:
    """`[B, T, N * H]` -> `[B, N, T, H]`."""
    return ops.transpose(split_features(x, num_heads), (0, 2, 1, 3))  # [B, N, T, H]


def merge_heads(x: Any) -> Any:
    """`[B, N, T, H]` -> `[B, T, N * H]`."""
    batch, _, length, _ = ops.shape(x)
    x = ops.transpose(x, (0, 2, 1, 3))  # [B, T, N, H]
    return merge_features(x, (batch, length))  # [B, T, N * H]


def split_blocks(x: Any, num_heads: int, blocks: Any, block_size: int) -> Any:
    """`[B, T, N * H]` -> `[B, N, blocks, L, H]`, 0 beyond the end."""
    x = pad_to(x, blocks * block_size)
    size = x.shape[-1] // num_heads
    x = ops.reshape(x, (ops.shape(x)[0], blocks, block_size, num_heads, size))
    return ops.transpose(x, (0, 3, 1, 2, 4))  # [B, N, blocks, L, H]


def merge_blocks(x: Any) -> Any:
    """`[B, N, blocks, L, H]` -> `[B, blocks * L, N * H]`."""
    batch, heads, blocks, length, size = ops.shape(x)
    x = ops.transpose(x, (0, 2, 3, 1, 4))  # [B, blocks, L, N, H]
    return ops.reshape(x, (batch, blocks * length, heads * size))


def fold_groups(x: Any, group_size: int) -> Any:
    """Puts the rows of the query heads of a group below each other.

    Args:
        x: `[B, N, T, H]`, or `[B, N, blocks, L, H]`.
        group_size: G.

    Returns:
        `[B, K, G * T, H]`, or `[B, K, blocks, G * L, H]`.
    """
    if group_size == 1:
        return x
    batch, heads, *blocks, length, size = ops.shape(x)
    groups = heads // group_size
    if blocks:
        x = ops.reshape(x, (batch, groups, group_size, *blocks, length, size))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # [B, K, blocks, G, L, H]
    return ops.reshape(x, (batch, groups, *blocks, group_size * length, size))


def unfold_groups(x: Any, group_size: int, length: Any) -> Any:
    """The opposite of `fold_groups`.

    Args:
        x: `[B, K, G * T, H]`, or `[B, K, blocks, G * L, H]`.
        group_size: G.
        length: T, or L.

    Returns:
        `[B, N, T, H]`, or `[B, N, blocks, L, H]`.
    """
    if group_size == 1:
        return x
    batch, groups, *blocks, _, size = ops.shape(x)
    if blocks:
        x = ops.reshape(x, (batch, groups, *blocks, group_size, length, size))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # [B, K, G, blocks, L, H]
    return ops.reshape(x, (batch, groups * group_size, *blocks, length, size))


def split_chunks(
    x: Any, groups: tuple[int, int], chunks: tuple[Any, int], batch: Any
) -> Any:
    """`[B, C * c, K * G * H]` -> `[C, B, K, G * c, H]`.

    Args:
        x: The heads, a whole number of chunks long.
        groups: K and G; G is 1 for keys and values.
        chunks: C and c.
        batch: B.
    """
    (heads, group_size), (number, length) = groups, chunks
    size = x.shape[-1] // (heads * group_size)
    x = ops.reshape(x, (batch, number, length, heads, group_size, size))
    x = ops.transpose(x, (1, 0, 3, 4, 2, 5))  # [C, B, K, G, c, H]
    return ops.reshape(x, (number, batch, heads, group_size * length, size))


def merge_chunks(
    x: Any, groups: tuple[int, int], chunks: tuple[Any, int], batch: Any
) -> Any:
    """`[C, B, K, G * c, H]` -> `[B, C * c, K * G * H]`; see `split_chunks`."""
    (heads, group_size), (number, length), size = groups, chunks, x.shape[-1]
    x = ops.reshape(x, (number, batch, heads, group_size, length, size))
    x = ops.transpose(x, (1, 0, 4, 2, 3, 5))  # [B, C, c, K, G, H]
    return ops.reshape(x, (batch, number * length, heads * group_size * size))
