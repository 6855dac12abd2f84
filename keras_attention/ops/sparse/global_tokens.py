"""Sliding windows with a few global tokens (Longformer).

A global token sees all tokens, and all tokens see it. Every query scores its window and
the g global keys in one softmax; the g global queries attend to the whole sequence.
Time and memory grow with T · (window + g).
"""

from dataclasses import replace
from typing import Any

from keras import ops

from keras_attention.ops import masks
from keras_attention.ops.attend import dot_product_attention
from keras_attention.ops.padding import pad_to
from keras_attention.ops.positions import first_positions
from keras_attention.ops.sparse.inputs import SelfAttentionInputs
from keras_attention.ops.sparse.windows import SharedKeys, window_attention


def global_token_attention(
    inputs: SelfAttentionInputs,
    *,
    window: tuple[int, int],
    positions: tuple[int, ...],
    dilation: int = 1,
    causal: bool = False,
    global_heads: tuple[Any, Any, Any] | None = None,
) -> Any:
    """Windowed self-attention in which the tokens at `positions` are global.

    Equal to `dot_product_attention` with the mask of the window (see
    `window_attention`) `| masks.global_tokens(positions)`, and `& masks.causal` if
    `causal`. A global key inside a window counts once.

    Args:
        inputs: The tensors and settings.
        window: The numbers of visible keys `(behind, ahead)`.
        positions: The positions of the global tokens: one or more, from 0, each once.
            Those beyond the end are ignored.
        dilation: The distance from one key of the window to the next, in positions.
        causal: Whether keys after the query are hidden.
        global_heads: Heads of their own for the global queries, or `None`: their
            queries `[B, g, N * H]` (see `rows_at`), and keys and values of the whole
            sequence. Other queries see global keys through the heads of `inputs`.

    Returns:
        `[B, T, N * V]`; 0 for a query without a visible key.

    Reference: Beltagy et al., "Longformer", 2020 (arXiv:2004.05150), section 3.1.
    """
    if inputs.key_mask is None:
        ones = ops.ones(ops.shape(inputs.query)[:2], dtype="bool")
        inputs = replace(inputs, key_mask=ones)
    behind, ahead = window
    listed = _listed(positions, ops.shape(inputs.query)[1])
    output = window_attention(
        replace(inputs, key_mask=inputs.key_mask & ~ops.any(listed, axis=-1)),
        window=(behind, 0 if causal else ahead),
        dilation=dilation,
        shared=_shared(inputs, positions, causal=causal),
    )
    if global_heads is None:
        global_heads = rows_at(inputs.query, positions), inputs.key, inputs.value
    query, key, value = global_heads
    inputs = replace(inputs, query=query, key=key, value=value)
    rows = attend_from(positions, inputs, causal=causal)
    return replace_rows(output, rows, positions)


def rows_at(x: Any, positions: tuple[int, ...]) -> Any:
    """`[B, T, ...]` -> `[B, g, ...]`: the rows at `positions`; 0 beyond the end."""
    x = x[:, : max(positions) + 1]
    length = ops.shape(x)[1]
    index = ops.minimum(ops.convert_to_tensor(positions, dtype="int32"), length)
    return ops.take(pad_to(x, length + 1), index, axis=1)


def replace_rows(x: Any, rows: Any, positions: tuple[int, ...]) -> Any:
    """`x` `[B, T, ...]` with `rows` `[B, g, ...]` at `positions`."""
    listed = _listed(positions, ops.shape(x)[1])  # [T, g]
    index = ops.argmax(ops.cast(listed, "int32"), axis=-1)  # [T]
    rows = ops.take(rows, index, axis=1)  # [B, T, ...]
    return ops.where(ops.any(listed, axis=-1)[:, None], rows, x)


def attend_from(positions: Any, inputs: SelfAttentionInputs, *, causal: bool) -> Any:
    """Dense attention of a few queries of a sequence to the whole sequence.

    Args:
        positions: Int `[g]`, the positions of the queries.
        inputs: The tensors and settings, with a query `[B, g, N * H]`.
        causal: Whether keys after the query are hidden.

    Returns:
        `[B, g, N * V]`.
    """
    queries = ops.convert_to_tensor(positions, dtype="int32")
    keys = first_positions(ops.shape(inputs.key)[1])
    key_mask, bias = inputs.key_mask, inputs.bias
    mask = None if key_mask is None else key_mask[:, None, None, :]
    if causal:
        before = masks.causal.build(queries, keys)
        mask = before[None, None] if mask is None else mask & before
    output, _ = dot_product_attention(
        query=inputs.query,
        key=inputs.key,
        value=inputs.value,
        heads=inputs.heads,
        mask=mask,  # [B or 1, 1, g or 1, T]
        bias=None if bias is None else bias(queries, keys),
        dropout=inputs.dropout,
    )
    return output


def _listed(positions: tuple[int, ...], length: Any) -> Any:
    """Bool `[T, g]`: `True` at the position of each global token."""
    return first_positions(length)[:, None] == ops.convert_to_tensor(positions, "int32")


def _shared(inputs, positions, *, causal) -> SharedKeys:
    """The global keys, and their mask and bias for every query."""
    queries = first_positions(ops.shape(inputs.key)[1])
    keys = ops.convert_to_tensor(positions, dtype="int32")
    visible = (masks.causal if causal else masks.full).build(queries, keys)  # [T, g]
    key_mask = rows_at(inputs.key_mask, positions)
    return SharedKeys(
        key=rows_at(inputs.key, positions),
        value=rows_at(inputs.value, positions),
        mask=visible & key_mask[:, None, :],  # [B, T, g]
        bias=None if inputs.bias is None else inputs.bias(queries, keys),
    )
