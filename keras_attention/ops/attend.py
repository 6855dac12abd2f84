"""The attention core: every kind of attention in this library calls it.

The letters are those of Keras: B batch, T query length, S key length, N query
heads, K key/value heads, G = N / K query heads per key/value head, H size of a
query or key head, V size of a value head, E model width.

The rules are the same everywhere. Scores are computed in at least float32, and the bias
is added to them. Keys that the mask hides get weight exactly 0. A query without a
visible key gets weights 0 and output 0: never NaN, and never an average of hidden
values.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_attention.ops.backend import kernels
from keras_attention.ops.backend.regions import region
from keras_attention.ops.heads import (
    ONE_HEAD,
    HeadSettings,
    fold_groups,
    merge_heads,
    split_heads,
    unfold_groups,
)

BLOCKED = -1e30
"""The score of a hidden key. It is finite: -inf becomes NaN in exported graphs."""


def score_dtype(*tensors: Any) -> str:
    """The dtype in which scores are computed: float32, or float64 if any tensor is.

    Half precision overflows on products of queries and keys whose *scaled*
    score would fit, so scores are never computed in it.
    """
    dtypes = [keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors]
    return "float64" if "float64" in dtypes else "float32"


def cap_scores(scores: Any, soft_cap: float | None) -> Any:
    """Bounds scores smoothly by `soft_cap`: cap · tanh(scores / cap).

    Args:
        scores: Float, any shape.
        soft_cap: The bound, above 0; `None` leaves the scores as they are.

    Reference: Gemma Team, "Gemma 2", 2024 (arXiv:2408.00118), section 2.
    """
    return scores if soft_cap is None else ops.tanh(scores / soft_cap) * soft_cap


def attention_weights(
    *, scores: Any, mask: Any = None, bias: Any = None, clear_empty_rows: bool = True
) -> Any:
    """Turns scores into weights that sum to 1 over the visible keys.

    Args:
        scores: `[..., T, S]`, float32 or float64.
        mask: Bool, broadcastable to `scores`; `True` = visible.
        bias: Float, broadcastable to `scores`; added to them. `-inf` counts as a
            large finite number; to hide a key, use `mask`.
        clear_empty_rows: Whether a row without a visible key becomes all 0. If
            `False`, its weights have no meaning, and the caller clears its output.

    Returns:
        Weights `[..., T, S]` in the dtype of `scores`, exactly 0 where `mask` is
        `False`.
    """
    if bias is not None:
        scores = scores + _bounded(bias, scores.dtype)
    if mask is not None:
        scores = ops.where(mask, scores, BLOCKED)
    if scores.shape[-1] == 1:  # Keras warns about a softmax over one entry
        weights = ops.ones_like(scores)
    else:
        weights = ops.softmax(scores, axis=-1)  # [..., T, S]
    if mask is None or not clear_empty_rows:
        return weights
    return ops.where(mask, weights, 0.0)


def _bounded(bias: Any, dtype: Any) -> Any:
    # A key with the lowest bias must still win over a key that the mask hides.
    return ops.maximum(ops.cast(bias, dtype), BLOCKED / 10)


def attend(
    *,
    scores: Any,
    value: Any,
    mask: Any = None,
    bias: Any = None,
    weight_factor: Any = None,
    soft_cap: float | None = None,
    dropout: Callable | None = None,
) -> tuple[Any, Any]:
    """Applies the softmax to scores, and sums the values with these weights.

    Args:
        scores: `[..., T, S]` float. Half precision is raised to float32.
        value: `[..., S, V]` float.
        mask: Bool, broadcastable to `scores`; `True` = visible.
        bias: Float, broadcastable to `scores`; added to them.
        weight_factor: Float, broadcastable to `scores`; multiplies the weights
            after the softmax, without renormalising (the Gaussian of Luong's
            local-p attention).
        soft_cap: The bound of the scores before bias and mask; see `cap_scores`.
        dropout: A function of the weights that returns those for the sum, or `None`.

    Returns:
        `(output, weights)`: `[..., T, V]` in the dtype of `value` and
        `[..., T, S]`, the weights before dropout.

    Example:
    >>> scores = np.zeros((1, 2, 3), "float32")
    >>> value = np.array([[[3.0], [6.0], [9.0]]], "float32")
    >>> mask = np.array([[[True, True, False], [False, False, False]]])
    >>> output, weights = attend(scores=scores, value=value, mask=mask)
    >>> ops.convert_to_numpy(output).tolist()
    [[[4.5], [0.0]]]
    """
    scores, value = ops.convert_to_tensor(scores), ops.convert_to_tensor(value)
    dtype = score_dtype(scores, value)
    scores = cap_scores(ops.cast(scores, dtype), soft_cap)
    weights = attention_weights(scores=scores, mask=mask, bias=bias)
    if weight_factor is not None:
        weights = weights * ops.cast(weight_factor, dtype)
    used = weights if dropout is None else dropout(weights)
    output = ops.matmul(used, ops.cast(value, dtype))  # [..., T, V]
    return ops.cast(output, float_dtype(value, dtype)), weights


def dot_product_attention(
    *,
    query: Any,
    key: Any,
    value: Any,
    heads: HeadSettings = ONE_HEAD,
    mask: Any = None,
    bias: Any = None,
    talking: tuple[Any, Any] | None = None,
    dropout: Callable | None = None,
    return_weights: bool = False,
) -> tuple[Any, Any]:
    """Multi-head dot-product attention of heads that share the last axis.

    Query head n uses key/value head n // G. Keys are never repeated in memory.

    Args:
        query: `[B, T, N * H]`.
        key: `[B, S, K * H]`.
        value: `[B, S, K * V]`.
        heads: The numbers of heads, the scale and the soft cap.
        mask: Bool, broadcastable to `[B, N, T, S]`; `True` = visible.
        bias: Float, broadcastable to `[B, N, T, S]`; added to the scores.
        talking: Two matrices `[N, N]` that mix the heads' scores before the softmax
            and their weights after it (talking heads), or `None`.
        dropout: A function that is called with the weights, or `None`.
        return_weights: Whether to return the weights.

    Returns:
        `(output, weights)`: `[B, T, N * V]`, and `[B, N, T, S]` or `None`.

    Reference: Vaswani et al., "Attention Is All You Need", 2017; `talking`: Shazeer
    et al., "Talking-Heads Attention", 2020 (arXiv:2003.02436).
    """
    tensors = (query, key, value, mask, bias)
    # Training is never exported, and no runtime has an operator for talking heads.
    if dropout is not None or talking is not None:
        weigh = _weigh(return_weights) if talking is None else _weigh_talking(*talking)
        settings = {"heads": heads, "weigh": weigh, "dropout": dropout}
        output, weights = _weighted_sums(*tensors, **settings)
        output = _join(output, None if return_weights else mask, value)
        return output, weights if return_weights else None
    settings = {**heads.to_dict(), "return_weights": return_weights}
    if return_weights:
        return region("attention", _output_and_weights, *tensors, **settings)
    return region("attention", _output_only, *tensors, **settings), None


def float_dtype(value: Any, dtype: str) -> str:
    """The dtype of `value` if it is a float, else `dtype`: a mean is no integer."""
    own = keras.backend.standardize_dtype(value.dtype)
    return own if "float" in own else dtype


def _output_and_weights(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    bias: Any,
    *,
    return_weights: bool,
    **settings: Any,
) -> tuple[Any, Any]:
    output, weights = _weighted_sums(
        query,
        key,
        value,
        mask,
        bias,
        heads=HeadSettings(**settings),
        weigh=_weigh(return_weights),
    )
    return _join(output, None if return_weights else mask, value), weights


def _output_only(*tensors: Any, **settings: Any) -> Any:
    output = _by_kernel(*tensors, **settings)
    return _output_and_weights(*tensors, **settings)[0] if output is None else output


def _by_kernel(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    bias: Any,
    *,
    return_weights: bool,
    **settings: Any,
) -> Any:
    """The output by a kernel of the backend; `None` without one."""
    heads = HeadSettings(**settings)
    if return_weights or heads.soft_cap is not None:
        return None
    if not kernels.fits(query, key, value, num_heads=heads.num_heads):
        return None
    dtype = score_dtype(query, key, value)
    added = None
    if bias is not None:
        added = ops.cast(_bounded(bias, dtype), dtype)
        added = added if mask is None else ops.where(mask, added, BLOCKED)
    output = kernels.fused_attention(
        split_heads(query, heads.num_heads),
        split_heads(key, heads.num_key_value_heads),
        split_heads(value, heads.num_key_value_heads),
        scale=heads.scale,
        dtype=dtype,
        mask=mask if bias is None else None,
        bias=added,
    )  # [B, N, T, V]
    return None if output is None else _join(output, mask, value)


def _weighted_sums(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    bias: Any,
    *,
    heads: HeadSettings,
    weigh: Callable,
    dropout: Callable | None = None,
) -> tuple[Any, Any]:
    """Sums of values `[B, N, T, V]`, and weights `[B, N, T, S]`."""
    dtype = score_dtype(query, key, value)
    length, group_size = ops.shape(query)[1], heads.group_size
    query = split_heads(ops.cast(query, dtype) * heads.scale, heads.num_heads)
    key = split_heads(ops.cast(key, dtype), heads.num_key_value_heads)  # [B, K, S, H]
    value = split_heads(value, heads.num_key_value_heads)  # [B, K, S, V]
    query = fold_groups(query, group_size)  # [B, K, G * T, H]
    scores = ops.matmul(query, ops.swapaxes(key, -2, -1))
    scores = unfold_groups(scores, group_size, length)  # [B, N, T, S]
    scores = cap_scores(scores, heads.soft_cap)
    weights = weigh(scores=scores, mask=mask, bias=bias)  # [B, N, T, S]
    used = weights if dropout is None else dropout(weights)
    used = fold_groups(used, group_size)  # [B, K, G * T, S]
    output = ops.matmul(used, ops.cast(value, dtype))  # [B, K, G * T, V]
    return unfold_groups(output, group_size, length), weights


def _join(output: Any, mask: Any, value: Any) -> Any:
    """Merges the heads `[B, N, T, V]`, with 0 in rows that `mask` hides whole."""
    if mask is not None:
        output = ops.where(ops.any(mask, axis=-1, keepdims=True), output, 0.0)
    dtype = keras.backend.standardize_dtype(output.dtype)
    return ops.cast(merge_heads(output), float_dtype(value, dtype))  # [B, T, N * V]


def _weigh(return_weights: bool) -> Callable:
    # Weights that are not returned keep their empty rows: those are cleared in the
    # output, which is smaller.
    return partial(attention_weights, clear_empty_rows=return_weights)


def _weigh_talking(mix_scores: Any, mix_weights: Any) -> Callable:
    """`attention_weights` of heads that are mixed before and after the softmax."""

    def mix(x, matrix):
        x = ops.tensordot(x, ops.cast(matrix, x.dtype), axes=[[1], [0]])  # [B, T, S, N]
        return ops.transpose(x, (0, 3, 1, 2))  # [B, N, T, S]

    def weigh(scores, mask, bias):
        scores = mix(scores, mix_scores)
        weights = attention_weights(scores=scores, mask=mask, bias=bias)
        weights = mix(weights, mix_weights)
        # A mask may differ from head to head, and mixing ignores it.
        return weights if mask is None else ops.where(mask, weights, 0.0)

    return weigh
