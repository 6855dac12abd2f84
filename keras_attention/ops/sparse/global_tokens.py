"""Sliding windows with a few tokens that look at all and are seen by all (Longformer).

Every query scores its window and the g global keys in one softmax; the g global queries
attend to the whole sequence. Time and memory grow with T · (window + g).
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_attention.ops import masks
from keras_attention.ops.attend import dot_product_attention
from keras_attention.ops.positions import first_positions
from keras_attention.ops.sparse.blocks import pad_to
from keras_attention.ops.sparse.windows import Bias, SharedKeys, window_attention


def global_token_attention(
    *,
    query: Any,
    key: Any,
    value: Any,
    window: tuple[int, int],
    positions: tuple[int, ...],
    dilation: int = 1,
    num_heads: int = 1,
    num_key_value_heads: int | None = None,
    scale: float = 1.0,
    soft_cap: float | None = None,
    causal: bool = False,
    key_mask: Any = None,
    bias: Bias | None = None,
    dropout: Callable | None = None,
    global_heads: tuple[Any, Any, Any] | None = None,
) -> Any:
    """Windowed self-attention in which the tokens at `positions` are global.

    Equal to `dot_product_attention` with the mask of the window (see
    `window_attention`) `| masks.global_tokens(positions)`, and `& masks.causal` if
    `causal`. A global key inside a window counts once.

    Args:
        query: `[B, T, N * H]`.
        key: `[B, T, K * H]`.
        value: `[B, T, K * V]`.
        window: Keys `(behind, ahead)`.
        positions: Of the global tokens: one or more, from 0, each once. Those beyond
            the end are ignored.
        dilation: Positions from one key of the window to the next.
        num_heads: N.
        num_key_value_heads: K; N when `None`.
        scale: Multiplies the scores.
        soft_cap: See `cap_scores`.
        causal: Whether keys after the query are hidden.
        key_mask: Bool `[B, T]`, `True` at real tokens.
        bias: Added to the scores; see `Bias`.
        dropout: Called with the weights, or `None`.
        global_heads: What the global queries attend with, if not with the rest:
            their queries `[B, g, N * H]` (see `rows_at`), and keys and values of the
            whole sequence. Other queries see global keys through `key` and `value`.

    Returns:
        `[B, T, N * V]`; 0 where a query may look at nothing.

    Reference: Beltagy et al., "Longformer", 2020 (arXiv:2004.05150), section 3.1.
    """
    common = {
        "num_heads": num_heads,
        "num_key_value_heads": num_key_value_heads,
        "scale": scale,
        "soft_cap": soft_cap,
        "bias": bias,
        "dropout": dropout,
    }
    if key_mask is None:
        key_mask = ops.ones(ops.shape(query)[:2], dtype="bool")
    behind, ahead = window
    listed = _listed(positions, ops.shape(query)[1])
    output = window_attention(
        query=query,
        key=key,
        value=value,
        window=(behind, 0 if causal else ahead),
        dilation=dilation,
        key_mask=key_mask & ~ops.any(listed, axis=-1),
        shared=_shared(key, value, key_mask, positions, causal=causal, bias=bias),
        **common,
    )
    if global_heads is None:
        global_heads = rows_at(query, positions), key, value
    rows = attend_from(
        positions, *global_heads, causal=causal, key_mask=key_mask, **common
    )
    return replace_rows(output, rows, positions)


def rows_at(x: Any, positions: tuple[int, ...]) -> Any:
    """`[B, T, ...]` -> `[B, g, ...]`: what stands at `positions`; 0 beyond the end."""
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


def attend_from(
    positions: Any,
    query: Any,
    key: Any,
    value: Any,
    *,
    causal: bool,
    key_mask: Any,
    bias: Bias | None,
    num_heads: int,
    num_key_value_heads: int | None,
    scale: float,
    soft_cap: float | None,
    dropout: Callable | None,
) -> Any:
    """Dense attention of a few queries of a sequence to all of it.

    Args:
        positions: Int `[g]`, where the queries stand.
        query: `[B, g, N * H]`.
        key: `[B, T, K * H]`.
        value: `[B, T, K * V]`.
        causal: Whether keys after the query are hidden.
        key_mask: Bool `[B, T]` or `None`.
        bias: Added to the scores; see `Bias`.
        num_heads: N.
        num_key_value_heads: K; N when `None`.
        scale: Multiplies the scores.
        soft_cap: See `cap_scores`.
        dropout: Called with the weights, or `None`.

    Returns:
        `[B, g, N * V]`.
    """
    queries = ops.convert_to_tensor(positions, dtype="int32")
    keys = first_positions(ops.shape(key)[1])
    mask = None if key_mask is None else key_mask[:, None, None, :]
    if causal:
        before = masks.causal.build(queries, keys)
        mask = before[None, None] if mask is None else mask & before
    output, _ = dot_product_attention(
        query=query,
        key=key,
        value=value,
        mask=mask,  # [B or 1, 1, g or 1, T]
        bias=None if bias is None else bias(queries, keys),
        num_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
        scale=scale,
        soft_cap=soft_cap,
        dropout=dropout,
    )
    return output


def _listed(positions: tuple[int, ...], length: Any) -> Any:
    """Bool `[T, g]`: where in the sequence each global token stands."""
    return first_positions(length)[:, None] == ops.convert_to_tensor(positions, "int32")


def _shared(key, value, key_mask, positions, *, causal, bias) -> SharedKeys:
    """The global keys, as every query sees them."""
    queries = first_positions(ops.shape(key)[1])
    keys = ops.convert_to_tensor(positions, dtype="int32")
    seen = (masks.causal if causal else masks.full).build(queries, keys)  # [T, g]
    return SharedKeys(
        key=rows_at(key, positions),
        value=rows_at(value, positions),
        mask=seen & rows_at(key_mask, positions)[:, None, :],  # [B, T, g]
        bias=None if bias is None else bias(queries, keys),
    )
