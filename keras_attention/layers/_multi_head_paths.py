"""The ways to compute one multi-head attention; all return the same numbers.

A pattern computes only the scores inside its mask, chunks never hold all scores, and
the dense way can return the weights. A call is computed by the first way that supports
it.
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
from keras_attention.ops.chunked.tiles import MaskParts
from keras_attention.ops.heads import HeadSettings
from keras_attention.ops.sparse.inputs import SelfAttentionInputs


@dataclass(frozen=True)
class AttentionCall:
    """One call of the layer, ready to be computed.

    Attributes:
        heads: The projected heads and their positions.
        visibility: Which keys each query can attend to.
        bias: Float `[B, T, S]` or `[B, N, T, S]` (axes may be 1), or `None`.
        causal: Whether keys after the query are hidden.
        is_plain_self_attention: Whether a whole sequence attends to itself, at
            positions 0, 1, 2, …, with no mask but padding and the layer's own.
        dropout: A function that is called with the weights, or `None`.
        need_weights: Whether the weights will be used.
    """

    heads: Heads
    visibility: Visibility
    bias: Any
    causal: bool
    is_plain_self_attention: bool
    dropout: Callable | None
    need_weights: bool


def attend_over(layer: Any, call: AttentionCall) -> tuple[Any, Any]:
    """The output of the heads, and their weights.

    Args:
        layer: A `MultiHeadAttention`.
        call: The call to compute.

    Returns:
        `(context [B, T, N * V], weights [B, N, T, S] or None)`.
    """
    settings = head_settings(layer)
    if _pattern_supports(layer, call):
        return _attend_by_pattern(layer, call, settings), None
    if _chunks_support(layer, call):
        return _attend_by_chunks(layer, call, settings), None
    return _attend_densely(layer, call, settings)


def head_settings(layer: Any) -> HeadSettings:
    """The settings of the heads of a `MultiHeadAttention`."""
    scale = layer.key_dim**-0.5 if layer.scale is None else layer.scale
    return HeadSettings(
        num_heads=layer.num_heads,
        num_key_value_heads=layer.num_key_value_heads,
        scale=scale,
        soft_cap=layer.logits_soft_cap,
    )


def _pattern_supports(layer, call):
    scheme = layer.position
    if layer.pattern is None or call.bias is not None:
        return False
    if not call.is_plain_self_attention:
        return False
    if call.need_weights or layer.talking_heads or _has_symbolic_lengths(call):
        return False
    if scheme is not None and (scheme.needs_weights or scheme.looks_at_query):
        return False
    return layer.pattern.pays(call.heads.query.shape[1])


def _attend_by_pattern(layer, call, settings):
    heads, scheme = call.heads, layer.position
    bias = None
    if scheme is not None and scheme.adds_bias:
        bias = partial(scheme.bias, None)  # this bias does not depend on the query
    inputs = SelfAttentionInputs(
        query=heads.query,
        key=heads.key,
        value=heads.value,
        heads=settings,
        key_mask=call.visibility.key_mask,
        bias=bias,
        dropout=call.dropout,
    )
    context = layer.pattern.attend(inputs, causal=call.causal)
    return clear_padding(context, call.visibility.query_mask)


def _chunks_support(layer, call):
    scheme = layer.position
    if layer.chunked is False or call.need_weights or call.dropout is not None:
        return False
    weighted = scheme is not None and scheme.needs_weights
    if weighted or layer.talking_heads or _has_symbolic_lengths(call):
        return False
    if call.heads.query.shape[0] == 0:
        return False  # loops over an empty batch cannot be compiled
    if layer.chunked:
        return True
    if call.bias is not None or (scheme is not None and scheme.adds_bias):
        return False  # a bias is as large as the scores
    heads, num_heads = call.heads, layer.num_heads
    if not chunks_pay(heads.query.shape[1], heads.key.shape[1], num_heads=num_heads):
        return False
    if layer.logits_soft_cap is not None:
        return True
    # A kernel of the backend holds no scores either.
    return not kernels.fits(heads.query, heads.key, heads.value, num_heads=num_heads)


def _has_symbolic_lengths(call):
    return any(map(is_symbolic, (call.heads.query.shape[1], call.heads.key.shape[1])))


def _attend_by_chunks(layer, call, settings):
    heads = call.heads
    visibility = call.visibility.by_positions(heads.query, heads.key)
    mask = MaskParts(
        mask=visibility.algebra,
        query_positions=visibility.query_positions,
        key_positions=visibility.key_positions,
        key_mask=visibility.key_mask,
        attention_mask=_with_heads(visibility.attention_mask),
    )
    context = chunked_attention(
        query=heads.query,
        key=heads.key,
        value=heads.value,
        heads=settings,
        mask=mask,
        bias=_all_biases(layer, call, settings.scale),
    )
    return clear_padding(context, visibility.query_mask)


def _attend_densely(layer, call, settings):
    heads, scheme = call.heads, layer.position
    weighted = scheme if scheme is not None and scheme.needs_weights else None
    dropped = []

    def drop(weights):
        dropped.append(call.dropout(weights))
        return dropped[0]

    context, weights = dot_product_attention(
        query=heads.query,
        key=heads.key,
        value=heads.value,
        heads=settings,
        mask=_with_heads(call.visibility.tensor(heads.query, heads.key)),
        bias=_all_biases(layer, call, settings.scale),
        talking=layer.mixing,
        dropout=None if call.dropout is None else drop,
        return_weights=call.need_weights or weighted is not None,
    )
    if weighted is not None:
        used = dropped[0] if dropped else weights
        extra = weighted.context(used, *heads.all_positions())  # [B, T, N * V]
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
    """Adds the axis of heads to a mask or bias that has none."""
    return x[:, None] if x is not None and len(x.shape) == 3 else x


def pattern_mask(pattern: Any, causal: bool) -> Any:
    """The mask of a pattern, a mask of the algebra; or `None`."""
    if pattern is None:
        return None
    return pattern.causal_mask if causal else pattern.mask


def is_plain_self_attention(query: Any, key: Any, *others: Any) -> bool:
    """Whether a whole sequence attends to itself, and all `others` are `None`."""
    length = query.shape[1]
    same = query is key or (length is not None and length == key.shape[1])
    return same and all(other is None for other in others)
