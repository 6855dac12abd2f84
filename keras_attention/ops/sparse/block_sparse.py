"""Attention of blocks to the few blocks that a mask chooses for each of them (BigBird).

A block of queries gathers the blocks of keys it sees, side by side, and scores them;
queries of the first, global blocks attend to the whole sequence. Time and memory grow
with T · (blocks seen) · L.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_attention.ops import masks
from keras_attention.ops.attend import attention_weights, cap_scores, score_dtype
from keras_attention.ops.positions import EMPTY, first_positions
from keras_attention.ops.sparse.blocks import (
    cut,
    fold_groups,
    join,
    pad_to,
    unfold_groups,
)
from keras_attention.ops.sparse.global_tokens import attend_from
from keras_attention.ops.sparse.windows import Bias


def block_sparse_attention(
    *,
    query: Any,
    key: Any,
    value: Any,
    block_mask: masks.Mask,
    block_size: int,
    blocks_seen: int,
    num_global_blocks: int = 0,
    num_heads: int = 1,
    num_key_value_heads: int | None = None,
    scale: float = 1.0,
    soft_cap: float | None = None,
    causal: bool = False,
    key_mask: Any = None,
    bias: Bias | None = None,
    dropout: Callable | None = None,
) -> Any:
    """Self-attention in which each block of queries sees some blocks of keys.

    Equal to `dot_product_attention` under the mask that shows query i the key j if
    `block_mask` shows block i // L the block j // L, `& masks.causal` if `causal`.

    Args:
        query: `[B, T, N * H]`.
        key: `[B, T, K * H]`.
        value: `[B, T, K * V]`.
        block_mask: Which blocks see which; built from the numbers of the blocks, -1
            for blocks of keys without a real token.
        block_size: L.
        blocks_seen: The most blocks that a block sees, global ones not counted as
            queries.
        num_global_blocks: First blocks, whose queries look at everything.
        num_heads: N.
        num_key_value_heads: K; N when `None`.
        scale: Multiplies the scores.
        soft_cap: See `cap_scores`.
        causal: Whether keys after the query are hidden.
        key_mask: Bool `[B, T]`, `True` at real tokens.
        bias: Added to the scores; see `Bias`.
        dropout: Called with the weights, or `None`.

    Returns:
        `[B, T, N * V]`; 0 where a query may look at nothing.

    Reference: Zaheer et al., "Big Bird", 2020 (arXiv:2007.14062), appendix D.
    """
    settings = {
        "num_heads": num_heads,
        "num_key_value_heads": num_key_value_heads or num_heads,
        "scale": scale,
        "soft_cap": soft_cap,
        "causal": causal,
        "key_mask": key_mask,
        "bias": bias,
        "dropout": dropout,
    }
    tensors = query, key, value
    first = num_global_blocks * block_size
    output = _gathered(
        *tensors,
        block_mask=block_mask,
        block_size=block_size,
        blocks_seen=blocks_seen,
        skip=num_global_blocks,
        **settings,
    )
    if not first:
        return output
    rows = query[:, :first]
    positions = first_positions(ops.shape(rows)[1])
    rows = attend_from(positions, rows, key, value, **settings)
    return ops.concatenate([rows, output], axis=1)  # [B, T, N * V]


def _gathered(
    query: Any,
    key: Any,
    value: Any,
    *,
    block_mask: masks.Mask,
    block_size: int,
    blocks_seen: int,
    skip: int,
    num_heads: int,
    num_key_value_heads: int,
    scale: float,
    soft_cap: float | None,
    causal: bool,
    key_mask: Any,
    bias: Bias | None,
    dropout: Callable | None,
) -> Any:
    """What queries behind the first `skip` blocks get: `[B, T - skip * L, N * V]`."""
    length = ops.shape(query)[1]
    blocks = -(-length // block_size)
    groups = num_heads // num_key_value_heads
    dtype = score_dtype(query, key, value)
    keep = _keys_of_blocks(key_mask, length, blocks, block_size)  # [B or 1, blocks, L]
    chosen, exists = _chosen(block_mask, keep, skip, blocks_seen)  # [B or 1, q, m]

    def gather(x):
        x = cut(ops.cast(x, dtype), num_key_value_heads, blocks, block_size)
        return _take_blocks(x, chosen)  # [B, K, q, m * L, size]

    queries = cut(ops.cast(query, dtype) * scale, num_heads, blocks, block_size)
    queries = fold_groups(queries[:, :, skip:], groups)  # [B, K, q, G * L, H]
    keys, values = gather(key), gather(value)

    mask = _mask(keep, chosen, exists, causal, skip)  # [B or 1, 1, q, L or 1, m * L]
    if mask.shape[3] != 1:
        mask = ops.tile(mask, (1, 1, 1, groups, 1))
    if bias is not None:
        bias = fold_groups(_bias(bias, chosen, blocks, block_size, skip), groups)

    scores = ops.matmul(queries, ops.swapaxes(keys, -2, -1))
    scores = cap_scores(scores, soft_cap)  # [B, K, q, G * L, m * L]
    weights = attention_weights(scores=scores, mask=mask, bias=bias)
    kept = weights if dropout is None else dropout(weights)
    output = ops.matmul(kept, values)  # [B, K, q, G * L, V]
    output = join(unfold_groups(output, groups))[:, : length - skip * block_size]
    return ops.cast(output, value.dtype)


def _keys_of_blocks(key_mask, length, blocks, block_size):
    """Bool `[B or 1, blocks, L]`: which positions hold a real token."""
    if key_mask is None:
        key_mask = ops.ones((1, length), dtype="bool")
    key_mask = pad_to(key_mask, blocks * block_size)
    return ops.reshape(key_mask, (ops.shape(key_mask)[0], blocks, block_size))


def _chosen(block_mask, keep, skip, number):
    """The blocks that each block of queries sees.

    Returns:
        Their numbers, ascending, int32 `[B or 1, q, m]`, and whether there are so many,
        bool of the same shape.
    """
    blocks = first_positions(ops.shape(keep)[1])
    keys = ops.where(ops.any(keep, axis=-1), blocks, EMPTY)  # [B or 1, blocks]
    seen = block_mask.visible(blocks[skip:], keys)  # [B or 1, q, blocks]
    left = ops.where(seen, ops.flip(blocks) + 1, 0)  # the first is the largest
    left = pad_to(left, ops.shape(blocks)[0] + number, axis=2)
    # Floats hold these exactly, and every backend sorts them.
    found, index = ops.top_k(ops.cast(left, "float32"), number)
    exists = found > 0
    return ops.where(exists, ops.cast(index, "int32"), 0), exists


def _take_blocks(x: Any, chosen: Any) -> Any:
    """`[B, K, blocks, L, size]` and `[B or 1, q, m]` -> `[B, K, q, m * L, size]`."""
    batch, heads, blocks, block_size, size = ops.shape(x)
    starts = ops.arange(batch * heads, dtype="int32") * blocks
    index = ops.reshape(starts, (batch, heads, 1, 1)) + chosen[:, None]
    x = ops.reshape(x, (batch * heads * blocks, block_size * size))
    x = ops.take(x, index, axis=0)  # [B, K, q, m, L * size]
    _, queries, number = ops.shape(chosen)
    return ops.reshape(x, (batch, heads, queries, number * block_size, size))


def _positions(chosen: Any, block_size: int) -> Any:
    """Int32 `[B or 1, q, m * L]`: where the gathered keys stand."""
    rows, queries, number = ops.shape(chosen)
    positions = chosen[..., None] * block_size + first_positions(block_size)
    return ops.reshape(positions, (rows, queries, number * block_size))


def _query_positions(queries: Any, block_size: int, skip: int) -> Any:
    """Int32 `[q, L]`."""
    positions = first_positions(queries * block_size) + skip * block_size
    return ops.reshape(positions, (queries, block_size))


def _mask(keep, chosen, exists, causal, skip):
    """Bool `[B or 1, 1, q, L or 1, m * L]`."""
    block_size = keep.shape[2]
    real = _take_blocks(keep[:, None, :, :, None], chosen)[..., 0]  # [B, 1, q, m * L]
    mask = real & ops.repeat(exists, block_size, axis=-1)[:, None]
    mask = mask[..., None, :]  # [B or 1, 1, q, 1, m * L]
    if not causal:
        return mask
    queries = _query_positions(ops.shape(chosen)[1], block_size, skip)
    before = masks.causal.build(queries, _positions(chosen, block_size))
    return mask & before[:, None]


def _bias(bias, chosen, blocks, block_size, skip):
    """Float `[B or 1, N, q, L, m * L]`, read from a table of all differences."""
    length = blocks * block_size
    middle = ops.reshape(length, (1,))
    table = bias(middle, first_positions(2 * length + 1))[0, :, 0]  # [N, differences]
    queries = _query_positions(ops.shape(chosen)[1], block_size, skip)
    keys = _positions(chosen, block_size)
    difference = keys[:, :, None, :] - queries[..., None]  # [B or 1, q, L, m * L]
    read = ops.take(table, difference + length, axis=1)
    return ops.swapaxes(read, 0, 1)  # [B or 1, N, q, L, m * L]
