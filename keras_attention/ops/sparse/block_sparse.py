"""Attention of blocks to the few blocks that a mask chooses for each of them (BigBird).

A block of queries gathers its visible blocks of keys next to each other, and scores
them. Queries of the first, global blocks attend to the whole sequence. Time and memory
grow with T · (visible blocks) · L.
"""

from dataclasses import replace
from typing import Any

from keras import ops

from keras_attention.ops import masks
from keras_attention.ops.attend import attention_weights, cap_scores, score_dtype
from keras_attention.ops.heads import (
    fold_groups,
    merge_blocks,
    split_blocks,
    unfold_groups,
)
from keras_attention.ops.padding import pad_to
from keras_attention.ops.positions import EMPTY, first_positions
from keras_attention.ops.sparse.global_tokens import attend_from
from keras_attention.ops.sparse.inputs import SelfAttentionInputs


def block_sparse_attention(
    inputs: SelfAttentionInputs,
    *,
    block_mask: masks.Mask,
    block_size: int,
    num_visible_blocks: int,
    num_global_blocks: int = 0,
    causal: bool = False,
) -> Any:
    """Self-attention in which each block of queries sees some blocks of keys.

    Equal to `dot_product_attention` under the mask that shows key j to query i if
    `block_mask` shows block j // L to block i // L, `& masks.causal` if `causal`.

    Args:
        inputs: The tensors and settings.
        block_mask: Which blocks see which; it is built from the numbers of the blocks,
            -1 for blocks of keys that are all padding.
        block_size: L.
        num_visible_blocks: The largest number of blocks that a block sees; the queries
            of global blocks do not count.
        num_global_blocks: The number of first blocks whose queries see everything.
        causal: Whether keys after the query are hidden.

    Returns:
        `[B, T, N * V]`; 0 for a query without a visible key.

    Reference: Zaheer et al., "Big Bird", 2020 (arXiv:2007.14062), appendix D.
    """
    output = _gathered(
        inputs,
        block_mask=block_mask,
        block_size=block_size,
        num_visible_blocks=num_visible_blocks,
        skip=num_global_blocks,
        causal=causal,
    )
    if not num_global_blocks:
        return output
    rows = inputs.query[:, : num_global_blocks * block_size]
    positions = first_positions(ops.shape(rows)[1])
    rows = attend_from(positions, replace(inputs, query=rows), causal=causal)
    return ops.concatenate([rows, output], axis=1)  # [B, T, N * V]


def _gathered(
    inputs: SelfAttentionInputs,
    *,
    block_mask: masks.Mask,
    block_size: int,
    num_visible_blocks: int,
    skip: int,
    causal: bool,
) -> Any:
    """`[B, T - skip * L, N * V]`: the output of queries behind `skip` blocks."""
    query, key, value, heads = inputs.query, inputs.key, inputs.value, inputs.heads
    length = ops.shape(query)[1]
    blocks = -(-length // block_size)
    group_size, num_key_value_heads = heads.group_size, heads.num_key_value_heads
    dtype = score_dtype(query, key, value)
    key_mask = _mask_of_blocks(inputs.key_mask, length, blocks, block_size)
    chosen, exists = _chosen(block_mask, key_mask, skip, num_visible_blocks)

    def gather(x):
        x = split_blocks(ops.cast(x, dtype), num_key_value_heads, blocks, block_size)
        return _take_blocks(x, chosen)  # [B, K, q, m * L, size]

    query = ops.cast(query, dtype) * heads.scale
    queries = split_blocks(query, heads.num_heads, blocks, block_size)
    queries = fold_groups(queries[:, :, skip:], group_size)  # [B, K, q, G * L, H]
    keys, values = gather(key), gather(value)

    mask = _mask(key_mask, chosen, exists, causal, skip)
    if mask.shape[3] != 1:
        mask = ops.tile(mask, (1, 1, 1, group_size, 1))
    bias = inputs.bias
    if bias is not None:
        bias = _bias(bias, chosen, blocks, block_size, skip)
        bias = fold_groups(bias, group_size)  # [B or 1, K, q, G * L, m * L]

    scores = ops.matmul(queries, ops.swapaxes(keys, -2, -1))
    scores = cap_scores(scores, heads.soft_cap)  # [B, K, q, G * L, m * L]
    weights = attention_weights(scores=scores, mask=mask, bias=bias)
    used = weights if inputs.dropout is None else inputs.dropout(weights)
    output = ops.matmul(used, values)  # [B, K, q, G * L, V]
    output = merge_blocks(unfold_groups(output, group_size, block_size))
    return ops.cast(output[:, : length - skip * block_size], value.dtype)


def _mask_of_blocks(key_mask, length, blocks, block_size):
    """Bool `[B or 1, blocks, L]`: `True` at non-padding tokens."""
    if key_mask is None:
        key_mask = ops.ones((1, length), dtype="bool")
    key_mask = pad_to(key_mask, blocks * block_size)
    return ops.reshape(key_mask, (ops.shape(key_mask)[0], blocks, block_size))


def _chosen(block_mask, key_mask, skip, number):
    """The blocks that each block of queries sees.

    Returns:
        The numbers of the blocks in ascending order, int32 `[B or 1, q, m]`, and a bool
        tensor of the same shape that is `False` where there is no further block.
    """
    blocks = first_positions(ops.shape(key_mask)[1])
    keys = ops.where(ops.any(key_mask, axis=-1), blocks, EMPTY)  # [B or 1, blocks]
    visible = block_mask.visible(blocks[skip:], keys)  # [B or 1, q, blocks]
    ranks = ops.where(visible, ops.flip(blocks) + 1, 0)  # the first is the largest
    ranks = pad_to(ranks, ops.shape(blocks)[0] + number, axis=2)
    # float32 holds these integers exactly, and every backend sorts it.
    found, index = ops.top_k(ops.cast(ranks, "float32"), number)
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
    """Int32 `[B or 1, q, m * L]`: the positions of the gathered keys."""
    rows, queries, number = ops.shape(chosen)
    positions = chosen[..., None] * block_size + first_positions(block_size)
    return ops.reshape(positions, (rows, queries, number * block_size))


def _query_positions(queries: Any, block_size: int, skip: int) -> Any:
    """Int32 `[q, L]`: the positions of the queries."""
    positions = first_positions(queries * block_size) + skip * block_size
    return ops.reshape(positions, (queries, block_size))


def _mask(key_mask, chosen, exists, causal, skip):
    """Bool `[B or 1, 1, q, L or 1, m * L]`."""
    block_size = key_mask.shape[2]
    mask = _take_blocks(key_mask[:, None, :, :, None], chosen)[..., 0]
    mask = mask & ops.repeat(exists, block_size, axis=-1)[:, None]
    mask = mask[..., None, :]  # [B or 1, 1, q, 1, m * L]
    if not causal:
        return mask
    queries = _query_positions(ops.shape(chosen)[1], block_size, skip)
    before = masks.causal.build(queries, _positions(chosen, block_size))
    return mask & before[:, None]


def _bias(bias, chosen, blocks, block_size, skip):
    """Float `[B or 1, N, q, L, m * L]`, looked up in a table of all differences."""
    length = blocks * block_size
    middle = ops.reshape(length, (1,))
    table = bias(middle, first_positions(2 * length + 1))[0, :, 0]  # [N, differences]
    queries = _query_positions(ops.shape(chosen)[1], block_size, skip)
    keys = _positions(chosen, block_size)
    difference = keys[:, :, None, :] - queries[..., None]  # [B or 1, q, L, m * L]
    values = ops.take(table, difference + length, axis=1)
    return ops.swapaxes(values, 0, 1)  # [B or 1, N, q, L, m * L]
