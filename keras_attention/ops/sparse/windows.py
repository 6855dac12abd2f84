"""Sliding-window attention by blocks: time and memory grow with T, not with T².

The sequence is cut into blocks of L positions. A block of queries needs the keys of its
own block and of the few blocks around it that its window reaches. These blocks are laid
next to each other, scored, and masked to the band of the window. The numbers are those
of dense attention under the same window mask. A dilated window is a plain one in each
of the `dilation` sequences that consist of every `dilation`-th position.
"""

from dataclasses import replace
from typing import Any, NamedTuple

from keras import ops

from keras_attention.ops import masks
from keras_attention.ops.attend import attention_weights, cap_scores, score_dtype
from keras_attention.ops.gradients import (
    row_products,
    score_gradients,
    with_gradient,
)
from keras_attention.ops.heads import (
    fold_groups,
    merge_blocks,
    split_blocks,
    unfold_groups,
)
from keras_attention.ops.padding import pad_to
from keras_attention.ops.positions import first_positions
from keras_attention.ops.sparse.inputs import Bias, SelfAttentionInputs


class SharedKeys(NamedTuple):
    """Keys that every query attends to, in addition to those of its window.

    Attributes:
        key: `[B, g, K * H]`.
        value: `[B, g, K * V]`.
        mask: Bool `[B, T, g]`, `True` = visible.
        bias: Float `[1, N, T, g]`; `None` if the windows have no bias.
    """

    key: Any
    value: Any
    mask: Any
    bias: Any = None


def window_attention(
    inputs: SelfAttentionInputs,
    *,
    window: tuple[int, int],
    dilation: int = 1,
    shared: SharedKeys | None = None,
    block_size: int | None = None,
) -> Any:
    """Dot-product self-attention in which each query sees a window around itself.

    Equal to `dot_product_attention` with `masks.window(*window)`, at any length; with
    a dilation d to that with `masks.window(behind * d, ahead * d) & masks.dilated(d)`.

    Args:
        inputs: The tensors and settings. `dropout` is called with weights
            `[B, K, blocks, G * L, width]`.
        window: The numbers of keys `(behind, ahead)` of a query that it can attend to,
            besides its own; `(w, 0)` is a causal window.
        dilation: The distance from one of these keys to the next, in positions.
        shared: Keys that every query attends to, or `None`.
        block_size: L; chosen from the window when `None`.

    Returns:
        `[B, T, N * V]`; 0 where the window holds only padding.

    Reference: Beltagy et al., "Longformer", 2020 (arXiv:2004.05150).
    """
    sizes = {"window": window, "block_size": block_size or _block_size(*window)}
    batch, length = ops.shape(inputs.query)[:2]
    if dilation == 1:
        return _by_blocks(inputs, shared=shared, **sizes)
    key_mask, bias = inputs.key_mask, inputs.bias
    if key_mask is None:
        key_mask = ops.ones((batch, length), dtype="bool")
    strided = replace(
        inputs,
        query=_split_by_stride(inputs.query, dilation),
        key=_split_by_stride(inputs.key, dilation),
        value=_split_by_stride(inputs.value, dilation),
        key_mask=_split_by_stride(key_mask, dilation),
        bias=None if bias is None else _bias_of_steps(bias, dilation),
    )
    shared = None if shared is None else _repeat_shared(shared, dilation)
    output = _by_blocks(strided, shared=shared, **sizes)
    return _merge_strides(output, dilation)[:, :length]  # [B, T, N * V]


def width_of(behind: int, ahead: int) -> int:
    """The number of keys that a block of queries scores."""
    size = _block_size(behind, ahead)
    return (1 - (-behind // size) - (-ahead // size)) * size


def _block_size(behind: int, ahead: int) -> int:
    # Half the reach: few scores are outside the band, and blocks are not too small.
    return max(32, (max(behind, ahead) + 1) // 2)


def _by_blocks(
    inputs: SelfAttentionInputs,
    *,
    window: tuple[int, int],
    block_size: int,
    shared: SharedKeys | None,
) -> Any:
    query, key, value, heads = inputs.query, inputs.key, inputs.value, inputs.heads
    batch, length = ops.shape(query)[:2]
    blocks = -(-length // block_size)
    neighbours = (-(-window[0] // block_size), -(-window[1] // block_size))
    group_size, num_key_value_heads = heads.group_size, heads.num_key_value_heads
    dtype = score_dtype(query, key, value)

    def lay_out(x, extra):
        x = split_blocks(ops.cast(x, dtype), num_key_value_heads, blocks, block_size)
        if extra is not None:
            extra = ops.cast(extra, dtype)
            extra = split_blocks(extra, num_key_value_heads, 1, extra.shape[1])
        return _join_neighbours(x, *neighbours, extra=extra)

    query = ops.cast(query, dtype) * heads.scale
    queries = split_blocks(query, heads.num_heads, blocks, block_size)
    queries = fold_groups(queries, group_size)  # [B, K, blocks, G * L, H]
    keys = lay_out(key, None if shared is None else shared.key)
    values = lay_out(value, None if shared is None else shared.value)

    key_mask = inputs.key_mask
    if key_mask is None:
        rows = 1 if shared is None else batch
        key_mask = ops.ones((rows, length), dtype="bool")
    visible = _visible(key_mask, blocks, block_size, *neighbours)
    band = _band(window, block_size, *neighbours)
    band = ops.tile(band, (group_size, 1))  # [G * L, width]
    mask = visible[:, None, :, None, :] & band  # [B or 1, 1, blocks, G * L, width]
    bias = inputs.bias
    if bias is not None:
        bias = _bias_of_band(bias, num_key_value_heads, block_size, *neighbours)
    if shared is not None:
        mask, bias = _with_shared(mask, bias, shared, block_size, group_size)

    if bias is None and heads.soft_cap is None and inputs.dropout is None:
        output = _attend(queries, keys, values, mask)
    else:
        scores = ops.matmul(queries, ops.swapaxes(keys, -2, -1))
        scores = cap_scores(scores, heads.soft_cap)  # [B, K, blocks, G * L, width]
        weights = attention_weights(scores=scores, mask=mask, bias=bias)
        used = weights if inputs.dropout is None else inputs.dropout(weights)
        output = ops.matmul(used, values)  # [B, K, blocks, G * L, V]
    output = unfold_groups(output, group_size, block_size)  # [B, N, blocks, L, V]
    output = merge_blocks(output)[:, :length]  # [B, T, N * V]
    return ops.cast(output, value.dtype)


def _attend(queries: Any, keys: Any, values: Any, mask: Any) -> Any:
    """Output `[B, K, blocks, G * L, V]`, with a gradient that writes few tensors.

    A tensor `[..., width]` is larger than all others, and most of the time is spent on
    writing such tensors. So rows without a visible key are cleared in the output, and
    in the gradient of the output.
    """

    def attend(queries, keys, values, mask):
        mask = mask > 0
        some = ops.any(mask, axis=-1, keepdims=True)  # [B or 1, 1, blocks, G * L, 1]
        scores = ops.matmul(queries, ops.swapaxes(keys, -2, -1))
        weights = attention_weights(scores=scores, mask=mask, clear_empty_rows=False)
        output = ops.where(some, ops.matmul(weights, values), 0.0)

        def gradient(upstream):
            upstream = ops.where(some, upstream, 0.0)
            slopes = score_gradients(
                weights=weights,
                value=values,
                upstream=upstream,
                products=row_products(upstream, output),
            )
            return (
                ops.matmul(slopes, keys),
                ops.matmul(ops.swapaxes(slopes, -2, -1), queries),
                ops.matmul(ops.swapaxes(weights, -2, -1), upstream),
                ops.zeros(ops.shape(mask), dtype=values.dtype),
            )

        return output, gradient

    # JAX needs every traced tensor as an argument, and has no gradient of bools.
    mask = ops.cast(mask, values.dtype)
    return with_gradient(attend)(queries, keys, values, mask)


def _join_neighbours(x: Any, before: int, after: int, *, extra: Any = None) -> Any:
    """Lays each block between the blocks before and after it, and `extra` behind.

    `[B, K, blocks, L, size]` and `[B, K, 1, g, size]` ->
    `[B, K, blocks, (before + 1 + after) * L + g, size]`.
    """
    batch, heads, blocks, length, size = ops.shape(x)

    def empty(count):
        return ops.zeros((batch, heads, count, length, size), dtype=x.dtype)

    padded = ops.concatenate([empty(before), x, empty(after)], axis=2)
    width = before + 1 + after
    numbers = first_positions(blocks)[:, None] + first_positions(width)
    x = ops.take(padded, ops.reshape(numbers, (-1,)), axis=2)
    x = ops.reshape(x, (batch, heads, blocks, width * length, size))
    if extra is None:
        return x
    shape = (batch, heads, blocks, extra.shape[3], size)
    return ops.concatenate([x, ops.broadcast_to(extra, shape)], axis=3)


def _visible(key_mask, blocks, block_size, before, after):
    """Bool `[B or 1, blocks, width]`: the keys of each block that are no padding."""
    rows, length = ops.shape(key_mask)
    lead = ops.zeros((rows, before * block_size), dtype="bool")
    tail = (blocks + after) * block_size - length
    tail = ops.zeros((rows, tail), dtype="bool")
    padded = ops.concatenate([lead, key_mask, tail], axis=1)
    padded = ops.reshape(padded, (rows, before + blocks + after, block_size))
    shifted = [padded[:, i : i + blocks] for i in range(before + 1 + after)]
    return ops.concatenate(shifted, axis=2)


def _band(window, block_size, before, after):
    """Bool `[L, width]`: the window of each position of a block."""
    width = (before + 1 + after) * block_size
    keys = first_positions(width) - before * block_size
    return masks.window(*window).build(first_positions(block_size), keys)


def _bias_of_band(bias, num_key_value_heads, block_size, before, after):
    """Float `[1, K, 1, G * L, width]`: the bias, the same in each block."""
    width = (before + 1 + after) * block_size
    queries = first_positions(block_size) + before * block_size
    bias = bias(queries, first_positions(width))  # [1, N, L, width]
    rows = bias.shape[1] // num_key_value_heads * block_size
    return ops.reshape(bias, (1, num_key_value_heads, 1, rows, width))


def _with_shared(mask, bias, shared, block_size, group_size):
    """Appends mask and bias of the shared keys to those of the band."""
    blocks, number = ops.shape(mask)[2], shared.mask.shape[-1]
    visible = pad_to(shared.mask, blocks * block_size)
    shape = (ops.shape(visible)[0], 1, blocks, block_size, number)
    visible = ops.reshape(visible, shape)
    visible = ops.tile(visible, (1, 1, 1, group_size, 1))  # [B, 1, blocks, G * L, g]
    mask = ops.concatenate([mask, visible], axis=-1)
    if bias is None:
        return mask, None
    extra = pad_to(shared.bias, blocks * block_size, axis=2)
    rows, heads = ops.shape(extra)[:2]
    extra = ops.reshape(extra, (rows, heads, blocks, block_size, number))
    extra = fold_groups(extra, group_size)  # [B or 1, K, blocks, G * L, g]
    shape = (*ops.shape(extra)[:-1], bias.shape[-1])
    return mask, ops.concatenate([ops.broadcast_to(bias, shape), extra], axis=-1)


def _split_by_stride(x: Any, step: int) -> Any:
    """`[B, T, ...]` -> `[B * step, T / step, ...]`: each row's `step`-th positions.

    One new row starts at each of the first `step` positions; 0 is beyond the end.
    """
    steps = -(-ops.shape(x)[1] // step)
    x = pad_to(x, steps * step)
    batch, _, *rest = ops.shape(x)
    x = ops.swapaxes(ops.reshape(x, (batch, steps, step, *rest)), 1, 2)
    return ops.reshape(x, (batch * step, steps, *rest))


def _merge_strides(x: Any, step: int) -> Any:
    """The opposite of `_split_by_stride`; the end stays padded."""
    rows, steps, *rest = ops.shape(x)
    x = ops.reshape(x, (rows // step, step, steps, *rest))
    return ops.reshape(ops.swapaxes(x, 1, 2), (rows // step, steps * step, *rest))


def _bias_of_steps(bias: Bias, step: int) -> Bias:
    """The bias between positions that are counted in steps."""
    return lambda queries, keys: bias(queries * step, keys * step)


def _repeat_shared(shared: SharedKeys, step: int) -> SharedKeys:
    """The shared keys for each of the `step` sequences of a row."""
    bias = shared.bias
    if bias is not None:
        batch = ops.shape(shared.key)[0]
        bias = ops.broadcast_to(bias, (batch, *ops.shape(bias)[1:]))
        bias = _split_by_stride(ops.swapaxes(bias, 1, 2), step)
        bias = ops.swapaxes(bias, 1, 2)  # [B * step, N, T / step, g]
    return SharedKeys(
        key=ops.repeat(shared.key, step, axis=0),
        value=ops.repeat(shared.value, step, axis=0),
        mask=_split_by_stride(shared.mask, step),
        bias=bias,
    )
