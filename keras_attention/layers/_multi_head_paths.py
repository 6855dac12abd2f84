"""The ways to compute one multi-head attention; all give the same numbers.

A pattern computes what lies inside it, chunks never hold all scores, and the dense way
can return the weights. The first that serves a call is taken.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from keras import ops

from keras_attention.layers._arguments import clear_padding
from keras_attention.layers._heads import Heads
from keras_attention.layers._visibility import Visibility
from keras_attention.ops.attend import dot_product_attention, score_dtype
from keras_attention.ops.backend import kernels
from keras_attention.ops.backend.shapes import is_symbolic
from keras_attention.ops.chunked.attention import chunked_attention, chunks_pay


@dataclass(frozen=True)
class Call:
    """One call of the layer, ready to be computed.

    Attributes:
        heads: Projected heads and their positions.
        seen: Who may look at what.
        bias: Float `[B, T, S]` or `[B, N, T, S]` (axes may be 1), or `None`.
        causal: Whether keys after the query are hidden.
        of_itself: Whether a whole sequence attends to itself, at positions 0, 1, 2, …,
            with no mask but padding and the layer's own.
        dropout: Called with the weights, or `None`.
        need_weights: Whether the weights will be used.
    """

    heads: Heads
    seen: Visibility
    bias: Any
    causal: bool
    of_itself: bool
    dropout: Callable | None
    need_weights: bool


def attend_over(layer: Any, call: Call) -> tuple[Any, Any]:
    """What the heads return.

    Args:
        layer: A `MultiHeadAttention`.
        call: What it was called with.

    Returns:
        `(context [B, T, N * V], weights [B, N, T, S] or None)`.
    """
    settings = {
        "num_heads": layer.num_heads,
        "num_key_value_heads": layer.num_key_value_heads,
        "scale": scale_of(layer),
        "soft_cap": layer.logits_soft_cap,
    }
    if _pattern_serves(layer, call):
        return _attend_by_pattern(layer, call, settings), None
    if _chunks_serve(layer, call):
        return _attend_by_chunks(layer, call, settings), None
    return _attend_densely(layer, call, settings)


def _pattern_serves(layer, call):
    scheme = layer.position
    if layer.pattern is None or not call.of_itself or call.bias is not None:
        return False
    if call.need_weights or layer.talking_heads or _symbolic(call):
        return False
    if scheme is not None and (scheme.needs_weights or scheme.looks_at_query):
        return False
    return layer.pattern.pays(call.heads.query.shape[1])


def _attend_by_pattern(layer, call, settings):
    heads, scheme = call.heads, layer.position
    bias = None
    if scheme is not None and scheme.adds_bias:
        bias = partial(scheme.bias, None)  # of a query that it does not look at
    context = layer.pattern.attend(
        query=heads.query,
        key=heads.key,
        value=heads.value,
        causal=call.causal,
        key_mask=call.seen.key_mask,
        bias=bias,
        dropout=call.dropout,
        **settings,
    )
    return clear_padding(context, call.seen.query_mask)


def _chunks_serve(layer, call):
    scheme = layer.position
    if layer.chunked is False or call.need_weights or call.dropout is not None:
        return False
    if layer.talking_heads or _symbolic(call):
        return False
    if scheme is not None and scheme.needs_weights:
        return False
    if layer.chunked:
        return True
    if call.bias is not None or (scheme is not None and scheme.adds_bias):
        return False  # a bias is as large as the scores
    heads, num_heads = call.heads, layer.num_heads
    if not chunks_pay(heads.query.shape[1], heads.key.shape[1], num_heads=num_heads):
        return False
    if layer.logits_soft_cap is not None:
        return True
    # A kernel holds no scores either.
    return not kernels.fits(heads.query, heads.key, heads.value, num_heads=num_heads)


def _symbolic(call):
    return any(map(is_symbolic, (call.heads.query.shape[1], call.heads.key.shape[1])))


def _attend_by_chunks(layer, call, settings):
    heads = call.heads
    seen = call.seen.by_positions(heads.query, heads.key)
    context = chunked_attention(
        query=heads.query,
        key=heads.key,
        value=heads.value,
        mask=seen.algebra,
        query_positions=seen.query_positions,
        key_positions=seen.key_positions,
        key_mask=seen.key_mask,
        attention_mask=_with_heads(seen.attention_mask),
        bias=_all_biases(layer, call, settings["scale"]),
        **settings,
    )
    return clear_padding(context, seen.query_mask)


def _attend_densely(layer, call, settings):
    heads, scheme = call.heads, layer.position
    late = scheme if scheme is not None and scheme.needs_weights else None
    kept = []

    def drop(weights):
        kept.append(call.dropout(weights))
        return kept[0]

    context, weights = dot_product_attention(
        query=heads.query,
        key=heads.key,
        value=heads.value,
        mask=_with_heads(call.seen.tensor(heads.query, heads.key)),
        bias=_all_biases(layer, call, settings["scale"]),
        talking=layer.mixing,
        dropout=None if call.dropout is None else drop,
        return_weights=call.need_weights or late is not None,
        **settings,
    )
    if late is not None:
        used = kept[0] if kept else weights
        extra = late.context(used, *heads.all_positions())  # [B, T, N * V]
        context = context + ops.cast(extra, context.dtype)
    return context, weights if call.need_weights else None


def _all_biases(layer, call, scale):
    """The caller's bias plus the position scheme's, `[B or 1, N or 1, T, S]`."""
    bias, scheme = _with_heads(call.bias), layer.position
    if scheme is None or not scheme.adds_bias:
        return bias
    query = ops.cast(call.heads.query, score_dtype(call.heads.query)) * scale
    own = scheme.bias(query, *call.heads.all_positions())
    return own if bias is None else own + ops.cast(bias, own.dtype)


def _with_heads(x):
    """Puts the head axis into a mask or bias that has none."""
    return x[:, None] if x is not None and len(x.shape) == 3 else x


def pattern_mask(pattern: Any, causal: bool) -> Any:
    """The mask of a pattern, a mask of the algebra; or `None`."""
    if pattern is None:
        return None
    return pattern.causal_mask if causal else pattern.mask


def of_itself(query: Any, key: Any, *others: Any) -> bool:
    """Whether a whole sequence attends to itself, and nothing else was passed."""
    length = query.shape[1]
    same = query is key or (length is not None and length == key.shape[1])
    return same and all(other is None for other in others)


def scale_of(layer: Any) -> float:
    """What products of queries and keys are multiplied by."""
    return layer.key_dim**-0.5 if layer.scale is None else layer.scale
