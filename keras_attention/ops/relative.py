"""Relative positions: the biases of ALiBi and T5, and Shaw's representations."""

import math
from typing import Any

import numpy as np
from keras import ops

from keras_attention.ops.attend import score_dtype
from keras_attention.ops.heads import merge_features, split_features


def alibi_slopes(num_heads: int, *, max_bias: float = 8.0) -> np.ndarray:
    """The slope of each head's bias, float64 `[N]`.

    If N is a power of two, these are the first N powers of 2^(−max_bias / N). Otherwise
    the slopes of the next smaller power of two come first, and then every other slope
    of twice that many heads, as in the authors' code.

    Args:
        num_heads: N.
        max_bias: The negative log2 of the smallest slope.

    Reference: Press et al., "Train Short, Test Long", 2021 (arXiv:2108.12409).
    """
    largest = 2 ** int(math.log2(num_heads))

    def powers(count):
        return 2.0 ** (-max_bias * np.arange(1, count + 1) / count)

    between = powers(2 * largest)[0::2][: num_heads - largest]
    return np.concatenate([powers(largest), between])


def alibi_bias(
    distance: Any, slopes: np.ndarray, *, symmetric: bool = False, dtype: str
) -> Any:
    """The bias of ALiBi: −slope · distance for keys behind the query.

    Args:
        distance: Int `[B or 1, T, S]`, the distance from each query ahead to each key.
        slopes: Float64 `[N]`.
        symmetric: Whether keys ahead get the bias of keys behind; otherwise it is 0.
        dtype: The dtype of the result, float32 or float64.

    Returns:
        `[B or 1, N, T, S]`.
    """
    away = -ops.abs(distance) if symmetric else ops.minimum(distance, 0)
    slopes = ops.convert_to_tensor(slopes.astype(dtype)[:, None, None])
    return ops.cast(away, dtype)[:, None] * slopes  # [B or 1, N, T, S]


def t5_buckets(
    num_buckets: int, max_distance: int, *, bidirectional: bool = True
) -> np.ndarray:
    """The bucket of each distance from −max_distance to max_distance.

    Small distances have one bucket each, larger ones share buckets of equal logarithmic
    width. All distances beyond `max_distance` are in the bucket of `max_distance`.

    The logarithm is computed in float32 as in T5's code, because checkpoints were
    trained with it. For T5's own settings the exact quotient gives the same buckets.

    Args:
        num_buckets: The number of buckets of both directions together.
        max_distance: The distance from which all distances share one bucket.
        bidirectional: Whether keys ahead have buckets of their own, the upper half;
            otherwise they share the bucket of distance 0.

    Returns:
        Int32 `[2 · max_distance + 1]`.

    Reference: Raffel et al., "T5", 2019 (arXiv:1910.10683).
    """
    distance = np.arange(-max_distance, max_distance + 1)
    behind = np.abs(distance) if bidirectional else np.maximum(-distance, 0)
    count = num_buckets // 2 if bidirectional else num_buckets
    exact = count // 2
    # The logarithm is rounded from float64: that of float32 differs between machines.
    shares = np.maximum(behind, exact).astype("float32") / np.float32(exact)
    powers = np.log(shares.astype("float64")).astype("float32")
    powers = powers / np.float32(math.log(max_distance / exact))
    coarse = exact + (powers * np.float32(count - exact)).astype("int32")
    bucket = np.where(behind < exact, behind, np.minimum(coarse, count - 1))
    if bidirectional:
        bucket = bucket + count * (distance > 0)
    return bucket.astype("int32")


def bias_by_distance(table: Any, distance: Any) -> Any:
    """Looks up a bias for each head and distance.

    Args:
        table: Float `[2k + 1, N]`: one row per distance from −k to k.
        distance: Int `[B or 1, T, S]`; it is clipped to −k and k.

    Returns:
        `[B or 1, N, T, S]`.
    """
    rows = ops.take(table, _row(distance, table), axis=0)  # [B or 1, T, S, N]
    return ops.transpose(rows, (0, 3, 1, 2))  # [B or 1, N, T, S]


def relative_scores(query: Any, table: Any, distance: Any) -> Any:
    """Products q · a of each query with the representation of each key's distance.

    Each query is multiplied with 2k + 1 representations instead of one per key.

    Args:
        query: `[B, T, N * H]`.
        table: `[2k + 1, H]`: one row per distance from −k to k, for all heads.
        distance: Int `[B or 1, T, S]`; it is clipped to −k and k.

    Returns:
        `[B, N, T, S]`, float32 or float64.

    Reference: Shaw et al., 2018 (arXiv:1803.02155), equation 4.
    """
    dtype = score_dtype(query, table)
    query = split_features(query, query.shape[-1] // table.shape[-1])  # [B, T, N, H]
    vectors = ops.transpose(ops.cast(table, dtype))  # [H, 2k + 1]
    products = ops.matmul(ops.cast(query, dtype), vectors)  # [B, T, N, 2k + 1]
    products = ops.transpose(products, (0, 2, 1, 3))  # [B, N, T, 2k + 1]
    return _pick(products, _row(distance, table))  # [B, N, T, S]


def relative_values(weights: Any, table: Any, distance: Any) -> Any:
    """Sums the representations of the distances, with the weights of the keys.

    Args:
        weights: `[B, N, T, S]`.
        table: `[2k + 1, V]`: one row per distance from −k to k, for all heads.
        distance: Int `[B or 1, T, S]`; it is clipped to −k and k.

    Returns:
        `[B, T, N * V]` in the dtype of `weights`.

    Reference: Shaw et al., 2018 (arXiv:1803.02155), equation 3.
    """
    batch, _, length, _ = ops.shape(weights)
    rows = ops.arange(table.shape[0], dtype="int32")
    at_distance = _row(distance, table)[..., None] == rows  # [B or 1, T, S, 2k + 1]
    weights = ops.transpose(weights, (0, 2, 1, 3))  # [B, T, N, S]
    # A product with 0 and 1, because a scattered sum is slower or missing in ONNX.
    sums = ops.matmul(weights, ops.cast(at_distance, weights.dtype))
    context = ops.matmul(sums, ops.cast(table, weights.dtype))  # [B, T, N, V]
    return merge_features(context, (batch, length))  # [B, T, N * V]


def _row(distance, table):
    """The row of a table `[2k + 1, ...]` for each distance."""
    reach = table.shape[0] // 2
    return ops.clip(distance, -reach, reach) + reach


def _pick(products, rows):
    """`products[b, n, t, rows[b, t, s]]`: `[B, N, T, D]`, `[B or 1, T, S]`."""
    batch, heads, length, size = ops.shape(products)
    rows = rows + ops.arange(length, dtype="int32")[:, None] * size  # in T · D
    if rows.shape[0] == 1:  # the same distances in the whole batch
        products = ops.reshape(products, (batch * heads, length * size))
        picked = ops.take(products, rows[0], axis=1)  # [B * N, T, S]
        return ops.reshape(picked, (batch, heads, length, ops.shape(rows)[2]))
    starts = ops.arange(batch * heads, dtype="int32") * (length * size)
    starts = ops.reshape(starts, (batch, heads, 1, 1))
    picks = starts + rows[:, None]  # [B, N, T, S]
    return ops.take(ops.reshape(products, (-1,)), picks, axis=0)  # [B, N, T, S]
