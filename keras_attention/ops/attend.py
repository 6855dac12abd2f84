"""The attention core: every kind of attention in this library ends here.

Letters are those of Keras: B batch, T query length, S key length, N query
heads, K key/value heads, G = N / K query heads per key/value head, H size of a
query or key head, V size of a value head, E model width.

One meaning, everywhere: scores in (at least) float32, plus bias; keys that the
mask forbids get weight exactly 0; a query that may look at nothing gets weights
0 and output 0, never NaN and never an average of what it must not see.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_attention.ops.backend import kernels
from keras_attention.ops.backend.regions import region

BLOCKED = -1e30
"""Score of a forbidden key. Finite: -inf becomes NaN in exported graphs."""


def score_dtype(*tensors: Any) -> str:
    """Dtype in which scores are computed: float32, or float64 if any tensor is.

    Half precision overflows on products of queries and keys whose *scaled*
    score would fit, so scores are never computed in it.
    """
    dtypes = [keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors]
    return "float64" if "float64" in dtypes else "float32"


def cap_scores(scores: Any, soft_cap: float | None) -> Any:
    """Bends scores so that none is larger than `soft_cap`: cap · tanh(scores / cap).

    Args:
        scores: Float, any shape.
        soft_cap: The cap, above 0; `None` leaves the scores as they are.

    Reference: Gemma Team, "Gemma 2", 2024 (arXiv:2408.00118), section 2.
    """
    return scores if soft_cap is None else ops.tanh(scores / soft_cap) * soft_cap


def attention_weights(*, scores: Any, mask: Any = None, bias: Any = None) -> Any:
    """Turns scores into weights that sum to 1 over the visible keys.

    Args:
        scores: `[..., T, S]`, float32 or float64.
        mask: Bool, broadcastable to `scores`; `True` = may look.
        bias: Float, broadcastable to `scores`; added to them. `-inf` counts as a
            large finite number; to forbid a key, use `mask`.

    Returns:
        Weights `[..., T, S]` in the dtype of `scores`. Exactly 0 where `mask`
        is `False`; a row without a visible key is all 0.
    """
    weights = _softmax(scores, mask, bias)
    return weights if mask is None else ops.where(mask, weights, 0.0)  # [..., T, S]


def _softmax(scores: Any, mask: Any, bias: Any) -> Any:
    """Weights, right in every row with a visible key; any numbers in the others."""
    if bias is not None:
        scores = scores + _bounded(bias, scores.dtype)
    if mask is not None:
        scores = ops.where(mask, scores, BLOCKED)
    if scores.shape[-1] == 1:  # one key gets all; Keras would warn about it
        return ops.ones_like(scores)
    return ops.softmax(scores, axis=-1)


def _bounded(bias: Any, dtype: Any) -> Any:
    # A key the bias all but forbids must still win over one the mask forbids.
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
    """Softmax of scores, then the weighted sum of values.

    Args:
        scores: `[..., T, S]` float. Half precision is raised to float32.
        value: `[..., S, V]` float.
        mask: Bool, broadcastable to `scores`; `True` = may look.
        bias: Float, broadcastable to `scores`; added to them.
        weight_factor: Float, broadcastable to `scores`; multiplies the weights
            after the softmax, without renormalising (the Gaussian of Luong's
            local-p attention).
        soft_cap: See `cap_scores`; applied before bias and mask.
        dropout: Called with the weights; what it returns is used for the sum.

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
    kept = weights if dropout is None else dropout(weights)
    output = ops.matmul(kept, ops.cast(value, dtype))  # [..., T, V]
    return ops.cast(output, float_dtype(value, dtype)), weights


def dot_product_attention(
    *,
    query: Any,
    key: Any,
    value: Any,
    num_heads: int = 1,
    num_key_value_heads: int | None = None,
    scale: float = 1.0,
    mask: Any = None,
    bias: Any = None,
    soft_cap: float | None = None,
    talking: tuple[Any, Any] | None = None,
    dropout: Callable | None = None,
    return_weights: bool = False,
) -> tuple[Any, Any]:
    """Multi-head dot-product attention over heads laid side by side.

    Query head n uses key/value head n // G. Keys are never repeated in memory.

    Args:
        query: `[B, T, N * H]`.
        key: `[B, S, K * H]`.
        value: `[B, S, K * V]`.
        num_heads: N.
        num_key_value_heads: K; N when `None`.
        scale: Multiplies the scores; 1/sqrt(H) for scaled dot-product attention.
        mask: Bool, broadcastable to `[B, N, T, S]`; `True` = may look.
        bias: Float, broadcastable to `[B, N, T, S]`.
        soft_cap: See `cap_scores`; applied before bias and mask.
        talking: Two matrices `[N, N]` that mix the heads' scores before the softmax
            and their weights after it (talking heads), or `None`.
        dropout: Called with the weights, or `None`.
        return_weights: Whether the weights are wanted.

    Returns:
        `(output, weights)`: `[B, T, N * V]`, and `[B, N, T, S]` or `None`.

    Reference: Vaswani et al., "Attention Is All You Need", 2017; `talking`: Shazeer
    et al., "Talking-Heads Attention", 2020 (arXiv:2003.02436).
    """
    settings = {
        "num_heads": num_heads,
        "num_key_value_heads": num_key_value_heads or num_heads,
        "scale": float(scale),
        "soft_cap": None if soft_cap is None else float(soft_cap),
        "return_weights": return_weights,
    }
    tensors = (query, key, value, mask, bias)
    # Training is never exported, and no runtime has an operator for talking heads.
    if dropout is not None or talking is not None:
        settings |= {"dropout": dropout, "talking": talking}
        output, weights = _side_by_side(*tensors, **settings)
        return output, weights if return_weights else None
    if return_weights:
        return region("attention", _side_by_side, *tensors, **settings)
    return region("attention", _output_only, *tensors, **settings), None


def float_dtype(value: Any, dtype: str) -> str:
    """That of `value`; integers must not cut their own means off."""
    own = keras.backend.standardize_dtype(value.dtype)
    return own if "float" in own else dtype


def _output_only(*tensors: Any, **settings: Any) -> Any:
    output = _by_kernel(*tensors, **settings)
    return _side_by_side(*tensors, **settings)[0] if output is None else output


def _by_kernel(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    bias: Any,
    *,
    num_heads: int,
    num_key_value_heads: int,
    scale: float,
    soft_cap: float | None,
    return_weights: bool,
) -> Any:
    """What `_side_by_side` returns, by a kernel of the backend; `None` without one."""
    if return_weights or soft_cap is not None:
        return None
    if not kernels.fits(query, key, value, num_heads=num_heads):
        return None
    dtype = score_dtype(query, key, value)
    added = None
    if bias is not None:
        added = ops.cast(_bounded(bias, dtype), dtype)
        added = added if mask is None else ops.where(mask, added, BLOCKED)
    output = kernels.fused_attention(
        _split(query, num_heads),
        _split(key, num_key_value_heads),
        _split(value, num_key_value_heads),
        scale=scale,
        dtype=dtype,
        mask=mask if bias is None else None,
        bias=added,
    )  # [B, N, T, V]
    return None if output is None else _join(output, mask, value, dtype)


def _side_by_side(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    bias: Any,
    *,
    num_heads: int,
    num_key_value_heads: int,
    scale: float,
    soft_cap: float | None,
    return_weights: bool,
    talking: tuple[Any, Any] | None = None,
    dropout: Callable | None = None,
) -> tuple[Any, Any]:
    dtype = score_dtype(query, key, value)
    length = ops.shape(query)[1]
    groups = num_heads // num_key_value_heads
    query_heads = _split(ops.cast(query, dtype) * scale, num_heads)  # [B, N, T, H]
    key_heads = _split(ops.cast(key, dtype), num_key_value_heads)  # [B, K, S, H]
    value_heads = _split(value, num_key_value_heads)  # [B, K, S, V]
    query_heads = _fold(query_heads, groups)  # [B, K, G * T, H]
    scores = ops.matmul(query_heads, ops.swapaxes(key_heads, -2, -1))
    scores = cap_scores(_unfold(scores, groups, length), soft_cap)  # [B, N, T, S]

    # Weights nobody sees need not be cleared: an empty row is cleared in the output,
    # which is smaller.
    weigh = attention_weights if return_weights else _softmax
    if talking is not None:
        weigh = _weigh_talking(*talking)
    weights = weigh(scores=scores, mask=mask, bias=bias)  # [B, N, T, S]
    kept = weights if dropout is None else dropout(weights)
    kept = _fold(kept, groups)  # [B, K, G * T, S]
    output = ops.matmul(kept, ops.cast(value_heads, dtype))  # [B, K, G * T, V]
    output = _unfold(output, groups, length)  # [B, N, T, V]
    return _join(output, None if return_weights else mask, value, dtype), weights


def _join(output: Any, mask: Any, value: Any, dtype: str) -> Any:
    if mask is not None:
        output = ops.where(ops.any(mask, axis=-1, keepdims=True), output, 0.0)
    return ops.cast(_merge(output), float_dtype(value, dtype))  # [B, T, N * V]


def _weigh_talking(mix_scores: Any, mix_weights: Any) -> Callable:
    """`attention_weights` of heads that hear each other."""

    def mix(x, matrix):
        x = ops.tensordot(x, ops.cast(matrix, x.dtype), axes=[[1], [0]])  # [B, T, S, N]
        return ops.transpose(x, (0, 3, 1, 2))  # [B, N, T, S]

    def weigh(scores, mask, bias):
        scores = mix(scores, mix_scores)
        weights = attention_weights(scores=scores, mask=mask, bias=bias)
        weights = mix(weights, mix_weights)
        # A head may see what another must not.
        return weights if mask is None else ops.where(mask, weights, 0.0)

    return weigh


def _split(x: Any, num_heads: int) -> Any:
    batch, length = ops.shape(x)[:2]
    x = ops.reshape(x, (batch, length, num_heads, x.shape[-1] // num_heads))
    return ops.transpose(x, (0, 2, 1, 3))  # [B, N, T, H]


def _merge(x: Any) -> Any:
    batch, _, length, _ = ops.shape(x)
    x = ops.transpose(x, (0, 2, 1, 3))  # [B, T, N, V]
    return ops.reshape(x, (batch, length, x.shape[2] * x.shape[3]))  # [B, T, N * V]


def _fold(x: Any, groups: int) -> Any:
    if groups == 1:
        return x
    batch, heads, length, size = ops.shape(x)
    return ops.reshape(x, (batch, heads // groups, groups * length, size))


def _unfold(x: Any, groups: int, length: Any) -> Any:
    if groups == 1:
        return x
    batch, heads, _, size = ops.shape(x)
    return ops.reshape(x, (batch, heads * groups, length, size))
