"""Heads cut into blocks of positions, and laid side by side again.

Letters as in `attend.py`; L is the number of positions in a block.
"""

from typing import Any

from keras import ops


def pad_to(x: Any, length: Any, *, axis: int = 1) -> Any:
    """`x` with zeros (`False`) behind it, so that `axis` has `length` entries."""
    shape = list(ops.shape(x))
    shape[axis] = length - shape[axis]
    return ops.concatenate([x, ops.zeros(shape, dtype=x.dtype)], axis=axis)


def cut(x: Any, heads: int, blocks: Any, block_size: int) -> Any:
    """`[B, T, heads * size]` -> `[B, heads, blocks, L, size]`, 0 beyond the end."""
    x = pad_to(x, blocks * block_size)
    size = x.shape[-1] // heads
    x = ops.reshape(x, (ops.shape(x)[0], blocks, block_size, heads, size))
    return ops.transpose(x, (0, 3, 1, 2, 4))  # [B, heads, blocks, L, size]


def join(x: Any) -> Any:
    """`[B, heads, blocks, L, size]` -> `[B, blocks * L, heads * size]`."""
    batch, heads, blocks, length, size = ops.shape(x)
    x = ops.transpose(x, (0, 2, 3, 1, 4))  # [B, blocks, L, heads, size]
    return ops.reshape(x, (batch, blocks * length, heads * size))


def fold_groups(x: Any, groups: int) -> Any:
    """`[B, N, blocks, L, size]` -> `[B, K, blocks, G * L, size]`."""
    if groups == 1:
        return x
    batch, heads, blocks, length, size = ops.shape(x)
    x = ops.reshape(x, (batch, heads // groups, groups, blocks, length, size))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # [B, K, blocks, G, L, size]
    return ops.reshape(x, (batch, heads // groups, blocks, groups * length, size))


def unfold_groups(x: Any, groups: int) -> Any:
    """`[B, K, blocks, G * L, size]` -> `[B, N, blocks, L, size]`."""
    if groups == 1:
        return x
    batch, heads, blocks, length, size = ops.shape(x)
    x = ops.reshape(x, (batch, heads, blocks, groups, length // groups, size))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # [B, K, G, blocks, L, size]
    return ops.reshape(x, (batch, heads * groups, blocks, length // groups, size))
