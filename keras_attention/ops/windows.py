"""Sliding-window attention by blocks: time and memory grow with T, not with T².

The sequence is cut into blocks of L positions. A block of queries needs the keys of
its own block and of the few beside it that its window reaches; these are laid next to
each other, scored, and masked to the band. The numbers are those of dense attention
under the same window mask.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_attention.ops import masks
from keras_attention.ops.attend import attention_weights, score_dtype
from keras_attention.ops.positions import first_positions


def window_attention(
    *,
    query: Any,
    key: Any,
    value: Any,
    window: tuple[int, int],
    num_heads: int = 1,
    num_key_value_heads: int | None = None,
    scale: float = 1.0,
    key_mask: Any = None,
    dropout: Callable | None = None,
    block_size: int | None = None,
) -> Any:
    """Dot-product self-attention in which each query sees a window around itself.

    Equal to `dot_product_attention` with `masks.window(*window)`, at any length.

    Args:
        query: `[B, T, N * H]`.
        key: `[B, T, K * H]`.
        value: `[B, T, K * V]`.
        window: Positions `(behind, ahead)` of the query that it may look at, beside
            its own; `(w, 0)` is a causal window.
        num_heads: N.
        num_key_value_heads: K; N when `None`.
        scale: Multiplies the scores.
        key_mask: Bool `[B, T]`, `True` at real tokens.
        dropout: Called with the weights `[B, K, blocks, G * L, width]`, or `None`.
        block_size: L; chosen from the window when `None`.

    Returns:
        `[B, T, N * V]`; 0 where the window holds no real token.

    Reference: Beltagy et al., "Longformer", 2020 (arXiv:2004.05150).
    """
    behind, ahead = window
    block_size = block_size or _block_size(behind, ahead)
    num_key_value_heads = num_key_value_heads or num_heads
    dtype = score_dtype(query, key, value)
    batch, length = ops.shape(query)[:2]
    blocks = -(-length // block_size)
    missing = blocks * block_size - length
    beside = (-(-behind // block_size), -(-ahead // block_size))

    def split(x, heads):
        """[B, T, heads * size] -> [B, heads, blocks, L, size], 0 beyond the end."""
        size = x.shape[-1] // heads
        x = ops.concatenate(
            [x, ops.zeros((batch, missing, x.shape[-1]), dtype=x.dtype)], axis=1
        )
        x = ops.reshape(x, (batch, blocks, block_size, heads, size))
        return ops.transpose(x, (0, 3, 1, 2, 4))

    groups = num_heads // num_key_value_heads
    queries = split(ops.cast(query, dtype) * scale, num_heads)
    queries = _fold_groups(queries, groups)  # [B, K, blocks, G * L, H]
    keys = _beside(split(ops.cast(key, dtype), num_key_value_heads), *beside)
    values = _beside(split(ops.cast(value, dtype), num_key_value_heads), *beside)

    if key_mask is None:
        key_mask = ops.ones((1, length), dtype="bool")
    seen = _visible(key_mask, blocks, block_size, *beside)  # [B or 1, blocks, width]
    band = ops.tile(_band(window, block_size, *beside), (groups, 1))  # [G * L, width]
    mask = seen[:, None, :, None, :] & band  # [B, 1, blocks, G * L, width]

    scores = ops.matmul(queries, ops.swapaxes(keys, -2, -1))
    weights = attention_weights(scores=scores, mask=mask)
    kept = weights if dropout is None else dropout(weights)
    output = ops.matmul(kept, values)  # [B, K, blocks, G * L, V]
    output = _unfold_groups(output, groups)  # [B, N, blocks, L, V]
    output = ops.transpose(output, (0, 2, 3, 1, 4))  # [B, blocks, L, N, V]
    size = num_heads * output.shape[-1]
    output = ops.reshape(output, (batch, blocks * block_size, size))[:, :length]
    return ops.cast(output, value.dtype)  # [B, T, N * V]


def width_of(behind: int, ahead: int) -> int:
    """Keys that a block of queries scores."""
    size = _block_size(behind, ahead)
    return (1 - (-behind // size) - (-ahead // size)) * size


def _block_size(behind: int, ahead: int) -> int:
    """About half the reach: little is scored in vain, and blocks stay large."""
    return max(32, (max(behind, ahead) + 1) // 2)


def _beside(x: Any, before: int, after: int) -> Any:
    """Lays the blocks before and after each block next to it.

    `[B, K, blocks, L, size]` -> `[B, K, blocks, (before + 1 + after) * L, size]`.
    """
    batch, heads, blocks, length, size = ops.shape(x)

    def empty(count):
        return ops.zeros((batch, heads, count, length, size), dtype=x.dtype)

    padded = ops.concatenate([empty(before), x, empty(after)], axis=2)
    shifted = [padded[:, :, i : i + blocks] for i in range(before + 1 + after)]
    return ops.concatenate(shifted, axis=3)


def _visible(key_mask, blocks, block_size, before, after):
    """Bool `[B or 1, blocks, width]`: which of the keys laid beside are real."""
    rows, length = ops.shape(key_mask)
    lead = ops.zeros((rows, before * block_size), dtype="bool")
    tail = (blocks + after) * block_size - length
    tail = ops.zeros((rows, tail), dtype="bool")
    padded = ops.concatenate([lead, key_mask, tail], axis=1)
    padded = ops.reshape(padded, (rows, before + blocks + after, block_size))
    shifted = [padded[:, i : i + blocks] for i in range(before + 1 + after)]
    return ops.concatenate(shifted, axis=2)


def _band(window, block_size, before, after):
    """Bool `[L, width]`: the window, seen from each position of a block."""
    width = (before + 1 + after) * block_size
    keys = first_positions(width) - before * block_size
    return masks.window(*window).build(first_positions(block_size), keys)


def _fold_groups(x: Any, groups: int) -> Any:
    """[B, N, blocks, L, size] -> [B, K, blocks, G * L, size]."""
    if groups == 1:
        return x
    batch, heads, blocks, length, size = ops.shape(x)
    x = ops.reshape(x, (batch, heads // groups, groups, blocks, length, size))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # [B, K, blocks, G, L, size]
    return ops.reshape(x, (batch, heads // groups, blocks, groups * length, size))


def _unfold_groups(x: Any, groups: int) -> Any:
    """[B, K, blocks, G * L, size] -> [B, N, blocks, L, size]."""
    if groups == 1:
        return x
    batch, heads, blocks, length, size = ops.shape(x)
    x = ops.reshape(x, (batch, heads, blocks, groups, length // groups, size))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # [B, K, G, blocks, L, size]
    return ops.reshape(x, (batch, heads * groups, blocks, length // groups, size))
