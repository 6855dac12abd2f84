"""Sliding-window attention by blocks: time and memory grow with T, not with T².

The sequence is cut into blocks of L positions. A block of queries needs the keys of
its own block and of the few beside it that its window reaches; these are laid next to
each other, scored, and masked to the band. The numbers are those of dense attention
under the same window mask. A dilated window is a plain one in each of the `dilation`
sequences that hold every `dilation`-th position.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from keras_attention.ops import masks
from keras_attention.ops.attend import (
    _softmax,
    attention_weights,
    cap_scores,
    score_dtype,
)
from keras_attention.ops.positions import first_positions
from keras_attention.ops.sparse.blocks import (
    cut,
    fold_groups,
    join,
    pad_to,
    unfold_groups,
)

Bias = Callable[[Any, Any], Any]
"""`(query positions [t], key positions [s]) -> [1, N, t, s]`, by their differences."""


class SharedKeys(NamedTuple):
    """Keys that queries may look at wherever they stand, beside those of the window.

    Attributes:
        key: `[B, g, K * H]`.
        value: `[B, g, K * V]`.
        mask: Bool `[B, T, g]`, `True` = may look.
        bias: Float `[1, N, T, g]`, or `None`; given if the windows have one.
    """

    key: Any
    value: Any
    mask: Any
    bias: Any = None


def window_attention(
    *,
    query: Any,
    key: Any,
    value: Any,
    window: tuple[int, int],
    dilation: int = 1,
    num_heads: int = 1,
    num_key_value_heads: int | None = None,
    scale: float = 1.0,
    soft_cap: float | None = None,
    key_mask: Any = None,
    bias: Bias | None = None,
    shared: SharedKeys | None = None,
    dropout: Callable | None = None,
    block_size: int | None = None,
) -> Any:
    """Dot-product self-attention in which each query sees a window around itself.

    Equal to `dot_product_attention` with `masks.window(*window)`, at any length; with
    a dilation d to that with `masks.window(behind * d, ahead * d) & masks.dilated(d)`.

    Args:
        query: `[B, T, N * H]`.
        key: `[B, T, K * H]`.
        value: `[B, T, K * V]`.
        window: Keys `(behind, ahead)` of the query that it may look at, beside its
            own; `(w, 0)` is a causal window.
        dilation: Positions from one of these keys to the next.
        num_heads: N.
        num_key_value_heads: K; N when `None`.
        scale: Multiplies the scores.
        soft_cap: See `cap_scores`.
        key_mask: Bool `[B, T]`, `True` at real tokens.
        bias: Added to the scores; see `Bias`.
        shared: Keys that are seen from everywhere, or `None`.
        dropout: Called with the weights `[B, K, blocks, G * L, width]`, or `None`.
        block_size: L; chosen from the window when `None`.

    Returns:
        `[B, T, N * V]`; 0 where the window holds no real token.

    Reference: Beltagy et al., "Longformer", 2020 (arXiv:2004.05150).
    """
    settings = {
        "window": window,
        "num_heads": num_heads,
        "num_key_value_heads": num_key_value_heads or num_heads,
        "scale": scale,
        "soft_cap": soft_cap,
        "dropout": dropout,
        "block_size": block_size or _block_size(*window),
    }
    batch, length = ops.shape(query)[:2]
    if dilation == 1:
        others = {"key_mask": key_mask, "bias": bias, "shared": shared}
        return _by_blocks(query, key, value, **others, **settings)
    if key_mask is None:
        key_mask = ops.ones((batch, length), dtype="bool")
    query, key, value, key_mask = (
        _every(x, dilation) for x in (query, key, value, key_mask)
    )
    output = _by_blocks(
        query,
        key,
        value,
        key_mask=key_mask,
        bias=None if bias is None else _bias_of_steps(bias, dilation),
        shared=None if shared is None else _shared_by_all(shared, dilation),
        **settings,
    )
    return _in_order(output, dilation)[:, :length]  # [B, T, N * V]


def width_of(behind: int, ahead: int) -> int:
    """Keys that a block of queries scores."""
    size = _block_size(behind, ahead)
    return (1 - (-behind // size) - (-ahead // size)) * size


def _block_size(behind: int, ahead: int) -> int:
    """About half the reach: little is scored in vain, and blocks stay large."""
    return max(32, (max(behind, ahead) + 1) // 2)


def _by_blocks(
    query: Any,
    key: Any,
    value: Any,
    *,
    key_mask: Any,
    bias: Bias | None,
    shared: SharedKeys | None,
    window: tuple[int, int],
    num_heads: int,
    num_key_value_heads: int,
    scale: float,
    soft_cap: float | None,
    dropout: Callable | None,
    block_size: int,
) -> Any:
    batch, length = ops.shape(query)[:2]
    blocks = -(-length // block_size)
    beside = (-(-window[0] // block_size), -(-window[1] // block_size))
    groups = num_heads // num_key_value_heads
    dtype = score_dtype(query, key, value)

    def laid_out(x, extra):
        x = cut(ops.cast(x, dtype), num_key_value_heads, blocks, block_size)
        if extra is not None:
            extra = ops.cast(extra, dtype)
            extra = cut(extra, num_key_value_heads, 1, extra.shape[1])
        return _beside(x, *beside, extra=extra)  # [B, K, blocks, width, size]

    queries = cut(ops.cast(query, dtype) * scale, num_heads, blocks, block_size)
    queries = fold_groups(queries, groups)  # [B, K, blocks, G * L, H]
    keys = laid_out(key, None if shared is None else shared.key)
    values = laid_out(value, None if shared is None else shared.value)

    if key_mask is None:
        rows = 1 if shared is None else batch
        key_mask = ops.ones((rows, length), dtype="bool")
    seen = _visible(key_mask, blocks, block_size, *beside)  # [B or 1, blocks, width]
    band = ops.tile(_band(window, block_size, *beside), (groups, 1))  # [G * L, width]
    mask = seen[:, None, :, None, :] & band  # [B or 1, 1, blocks, G * L, width]
    if bias is not None:
        bias = _bias_of_band(bias, num_key_value_heads, block_size, *beside)
    if shared is not None:
        mask, bias = _with_shared(mask, bias, shared, block_size, groups)

    if bias is None and soft_cap is None and dropout is None:
        output = _attend(queries, keys, values, mask)
    else:
        scores = ops.matmul(queries, ops.swapaxes(keys, -2, -1))
        scores = cap_scores(scores, soft_cap)  # [B, K, blocks, G * L, width]
        weights = attention_weights(scores=scores, mask=mask, bias=bias)
        kept = weights if dropout is None else dropout(weights)
        output = ops.matmul(kept, values)  # [B, K, blocks, G * L, V]
    output = join(unfold_groups(output, groups))[:, :length]  # [B, T, N * V]
    return ops.cast(output, value.dtype)


def _attend(queries: Any, keys: Any, values: Any, mask: Any) -> Any:
    """Output `[B, K, blocks, G * L, V]`, with a gradient that goes over few tensors.

    What is `[..., width]` is larger than all else, and time goes into writing it:
    rows without a visible key are cleared in the output, and so in the gradient.
    """

    def forward(queries, keys, values, mask):
        mask = mask > 0
        seen = ops.any(mask, axis=-1, keepdims=True)  # [B or 1, 1, blocks, G * L, 1]
        scores = ops.matmul(queries, ops.swapaxes(keys, -2, -1))
        weights = _softmax(scores, mask, None)  # [B, K, blocks, G * L, width]
        output = ops.where(seen, ops.matmul(weights, values), 0.0)

        def gradient(*upstreams, upstream=None):
            # torch hands over the inputs again, and the gradient by name
            upstream = upstreams[0] if upstream is None else upstream
            upstream = ops.where(seen, upstream, 0.0)
            means = ops.sum(upstream * output, axis=-1, keepdims=True)
            slopes = ops.matmul(upstream, ops.swapaxes(values, -2, -1))
            slopes = weights * (slopes - means)
            return (
                ops.matmul(slopes, keys),
                ops.matmul(ops.swapaxes(slopes, -2, -1), queries),
                ops.matmul(ops.swapaxes(weights, -2, -1), upstream),
                ops.zeros(ops.shape(mask), dtype=values.dtype),
            )

        return output, gradient

    # JAX takes everything traced as an argument, and has no gradient of bools.
    mask = ops.cast(mask, values.dtype)
    return ops.custom_gradient(forward)(queries, keys, values, mask)


def _beside(x: Any, before: int, after: int, *, extra: Any = None) -> Any:
    """Lays the blocks before and after each block next to it, and `extra` to each.

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


def _bias_of_band(bias, num_key_value_heads, block_size, before, after):
    """Float `[1, K, 1, G * L, width]`: the bias, the same in each block."""
    width = (before + 1 + after) * block_size
    queries = first_positions(block_size) + before * block_size
    bias = bias(queries, first_positions(width))  # [1, N, L, width]
    rows = bias.shape[1] // num_key_value_heads * block_size
    return ops.reshape(bias, (1, num_key_value_heads, 1, rows, width))


def _with_shared(mask, bias, shared, block_size, groups):
    """Mask and bias of the band, then of the shared keys."""
    blocks, number = ops.shape(mask)[2], shared.mask.shape[-1]
    seen = pad_to(shared.mask, blocks * block_size)
    seen = ops.reshape(seen, (ops.shape(seen)[0], 1, blocks, block_size, number))
    seen = ops.tile(seen, (1, 1, 1, groups, 1))  # [B, 1, blocks, G * L, g]
    mask = ops.concatenate([mask, seen], axis=-1)
    if bias is None:
        return mask, None
    extra = pad_to(shared.bias, blocks * block_size, axis=2)
    rows, heads = ops.shape(extra)[:2]
    extra = ops.reshape(extra, (rows, heads, blocks, block_size, number))
    extra = fold_groups(extra, groups)  # [B or 1, K, blocks, G * L, g]
    shape = (*ops.shape(extra)[:-1], bias.shape[-1])
    return mask, ops.concatenate([ops.broadcast_to(bias, shape), extra], axis=-1)


def _every(x: Any, step: int) -> Any:
    """`[B, T, ...]` -> `[B * step, T / step, ...]`: one row a residue, 0 at the end."""
    steps = -(-ops.shape(x)[1] // step)
    x = pad_to(x, steps * step)
    batch, _, *rest = ops.shape(x)
    x = ops.swapaxes(ops.reshape(x, (batch, steps, step, *rest)), 1, 2)
    return ops.reshape(x, (batch * step, steps, *rest))


def _in_order(x: Any, step: int) -> Any:
    """The opposite of `_every`; the end stays padded."""
    rows, steps, *rest = ops.shape(x)
    x = ops.reshape(x, (rows // step, step, steps, *rest))
    return ops.reshape(ops.swapaxes(x, 1, 2), (rows // step, steps * step, *rest))


def _bias_of_steps(bias: Bias, step: int) -> Bias:
    return lambda queries, keys: bias(queries * step, keys * step)


def _shared_by_all(shared: SharedKeys, step: int) -> SharedKeys:
    """The shared keys, for each of the `step` sequences of a row."""
    bias = shared.bias
    if bias is not None:
        batch = ops.shape(shared.key)[0]
        bias = ops.broadcast_to(bias, (batch, *ops.shape(bias)[1:]))
        bias = _every(ops.swapaxes(bias, 1, 2), step)  # [B * step, T / step, N, g]
        bias = ops.swapaxes(bias, 1, 2)  # [B * step, N, T / step, g]
    return SharedKeys(
        key=ops.repeat(shared.key, step, axis=0),
        value=ops.repeat(shared.value, step, axis=0),
        mask=_every(shared.mask, step),
        bias=bias,
    )
