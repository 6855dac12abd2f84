"""Exact attention over long sequences: memory grows with T + S, not with T · S.

Scores are computed a tile at a time: a chunk of queries against a chunk of keys. The
softmax over all keys is combined from its parts (online softmax): each row keeps its
largest score so far, and the sums so far are scaled down when a larger score comes. The
gradient is written out: instead of keeping weights, it computes those of each tile
again from the logarithm of the row's sum. Tiles beyond the reach of the mask are
skipped. Numbers and rules are those of `ops/attend.py`.

The letters are those of `ops/chunked/tiles.py`.

References: Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018
(arXiv:1805.02867); Rabe & Staats, "Self-attention Does Not Need O(n²) Memory", 2021
(arXiv:2112.05682); Dao et al., "FlashAttention", 2022 (arXiv:2205.14135).
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_attention.ops.attend import BLOCKED, float_dtype, score_dtype
from keras_attention.ops.backend.shapes import largest
from keras_attention.ops.chunked.tiles import LOWEST_BIAS, Grid, MaskParts, Tiles
from keras_attention.ops.gradients import (
    row_products,
    score_gradients,
    with_gradient,
)
from keras_attention.ops.heads import ONE_HEAD, HeadSettings

LONG = 2**22
"""The T · S from which chunks are about as fast as all scores at once, on a CPU."""

LARGE = 2**23
"""The T · S · N from which the scores fit in no cache of a CPU."""


def chunked_attention(
    *,
    query: Any,
    key: Any,
    value: Any,
    heads: HeadSettings = ONE_HEAD,
    mask: MaskParts | None = None,
    bias: Any = None,
    query_chunk: int = 512,
    key_chunk: int = 512,
) -> Any:
    """Multi-head dot-product attention that never holds all scores at once.

    Equal to `dot_product_attention`, gradients too. It is for sequences whose scores
    would not fit in memory; `chunks_pay` tells when it is not slower either.

    Args:
        query: `[B, T, N * H]`.
        key: `[B, S, K * H]`.
        value: `[B, S, K * V]`.
        heads: The numbers of heads, the scale and the soft cap.
        mask: The parts of the mask; `None` if every key is visible.
        bias: Float, broadcastable to `[B, N, T, S]`; added to the scores.
        query_chunk: The largest number of queries in a tile.
        key_chunk: The largest number of keys in a tile.

    Returns:
        `[B, T, N * V]`; 0 for a query without a visible key. Values at keys that are
        padding or empty slots have no effect, not even NaN.

    Example:
    >>> x = np.random.default_rng(0).normal(size=(1, 5, 8)).astype("float32")
    >>> output = chunked_attention(
    ...     query=x,
    ...     key=x,
    ...     value=x,
    ...     heads=HeadSettings(num_heads=2),
    ...     mask=MaskParts(masks.causal),
    ...     key_chunk=2,
    ... )
    >>> bool(np.allclose(output[:, 0], x[:, 0]))  # the first query sees itself only
    True
    """
    query, key, value = (ops.convert_to_tensor(x) for x in (query, key, value))
    dtype = score_dtype(query, key, value)
    parts = MaskParts() if mask is None else mask
    grid = Grid.over(
        query=query,
        key=key,
        value=value,
        heads=(heads.num_key_value_heads, heads.group_size),
        chunks=(query_chunk, key_chunk),
    )
    present = parts.present_keys()
    if present is not None:
        key = ops.where(present[..., None], key, ops.zeros_like(key))  # [B, S, K * H]
        value = ops.where(present[..., None], value, ops.zeros_like(value))
    tiles = Tiles(grid, parts, present_keys=present, soft_cap=heads.soft_cap)
    output = _attend(
        tiles,
        grid.split_queries(ops.cast(query, dtype) * heads.scale),  # [C, B, K, R, H]
        grid.split_keys(ops.cast(key, dtype)),  # [D, B, K, d, H]
        grid.split_keys(ops.cast(value, dtype)),  # [D, B, K, d, V]
        grid.lay_out(bias),
    )
    return ops.cast(grid.merge(output), float_dtype(value, dtype))  # [B, T, N * V]


def chunks_pay(
    query_length: int | None, key_length: int | None, *, num_heads: int
) -> bool:
    """Whether `chunked_attention` is the better choice than the dense core.

    It is from `LONG` and `LARGE` on. Measured with 8 heads of size 64 on a CPU, chunks
    then take 0.5 to 0.8 of the time in the forward pass and under a causal mask, and
    1.05 to 1.2 of it in training with all keys visible. The memory that they save grows
    with T · S.

    Args:
        query_length: T, or `None` if it is unknown.
        key_length: S, or `None` if it is unknown.
        num_heads: N.

    Returns:
        `False` where a length is unknown: such lengths are usually short.
    """
    if query_length is None or key_length is None:
        return False
    scores = query_length * key_length
    return scores >= LONG and scores * num_heads >= LARGE


def _attend(tiles: Tiles, query: Any, key: Any, value: Any, bias: Any) -> Any:
    """The online softmax, with its own gradient, of chunks that `Grid` returned."""

    def attend(query, key, value, *biases):
        run = _Run(tiles, query, key, value, *biases)
        output, log_sums = run.outputs()  # [C, B, K, R, V], [C, B, K, R, 1]
        return output, lambda upstream: run.gradients(output, log_sums, upstream)

    biases = () if bias is None else (bias,)
    return with_gradient(attend)(query, key, value, *biases)


class _Run:
    """One forward pass over the tiles, and its backward pass.

    Args:
        tiles: The scores of each tile.
        query: `[C, B, K, R, H]`, scaled.
        key: `[D, B, K, d, H]`.
        value: `[D, B, K, d, V]`.
        bias: What `Grid.lay_out` returned, or `None`.
    """

    def __init__(
        self, tiles: Tiles, query: Any, key: Any, value: Any, bias: Any = None
    ):
        self.tiles, self.grid = tiles, tiles.grid
        self.query, self.key, self.value, self.bias = query, key, value, bias
        near = tiles.near()
        self.keys_of_queries = _first_and_end(near)
        self.queries_of_keys = _first_and_end(ops.transpose(near))

    def outputs(self) -> tuple[Any, Any]:
        """Outputs `[C, B, K, R, V]` and logarithms of the sums `[C, B, K, R, 1]`."""
        rows, size = self.query[0], self.value.shape[-1]

        def of_queries(i):
            def add_keys(j, top, total, output):
                scores, _ = self._scores(i, j)
                higher = largest(scores, -1, least=BLOCKED, keepdims=True)
                # On torch, the maximum of Keras 3.15 makes float32 of float64.
                higher = ops.where(top > higher, top, higher)  # [B, K, R, 1]
                weights = ops.exp(scores - higher)  # [B, K, R, d]
                shrink = ops.exp(top - higher)  # [B, K, R, 1]
                total = total * shrink + ops.sum(weights, axis=-1, keepdims=True)
                output = output * shrink + ops.matmul(weights, self.value[j])
                return higher, total, output

            nothing = _zeros(rows, 1)  # [B, K, R, 1]
            start = nothing + BLOCKED, nothing, _zeros(rows, size)
            top, total, output = _loop(self.keys_of_queries, i, add_keys, start)
            # Where all keys were hidden, the sums consist of hidden values: they are
            # replaced by 0. The comparison is `False` for NaN, which must stay NaN.
            empty = top <= BLOCKED / 2
            total = ops.where(empty, ops.ones_like(total), total)
            output = ops.where(empty, 0.0, output / total)
            return output, ops.where(empty, 0.0, top + ops.log(total))

        return _collect(of_queries, _zeros(self.query, size), _zeros(self.query, 1))

    def gradients(self, output: Any, log_sums: Any, upstream: Any) -> tuple:
        """Gradients of query, key, value and, if there is one, of the bias."""
        products = row_products(upstream, output)  # [C, B, K, R, 1]

        def again(i, j):
            """Weights `[B, K, R, d]`, and the gradients of scores and of q · k."""
            scores, capped = self._scores(i, j)
            weights = ops.exp(scores - log_sums[i])
            slopes = score_gradients(
                weights=weights,
                value=self.value[j],
                upstream=upstream[i],
                products=products[i],
            )
            if self.tiles.soft_cap is None:
                return weights, slopes, slopes
            bend = 1.0 - ops.square(capped / self.tiles.soft_cap)
            return weights, slopes, slopes * bend

        def of_queries(i):
            def add_keys(j, query):
                _, _, slopes = again(i, j)
                return (query + ops.matmul(slopes, self.key[j]),)

            start = (ops.zeros_like(self.query[i]),)
            return _loop(self.keys_of_queries, i, add_keys, start)

        def of_keys(j):
            def add_queries(i, key, value):
                weights, _, slopes = again(i, j)
                key = key + ops.matmul(ops.swapaxes(slopes, -2, -1), self.query[i])
                weights = ops.swapaxes(weights, -2, -1)  # [B, K, d, R]
                return key, value + ops.matmul(weights, upstream[i])

            start = ops.zeros_like(self.key[j]), ops.zeros_like(self.value[j])
            return _loop(self.queries_of_keys, j, add_queries, start)

        (query,) = _collect(of_queries, ops.zeros_like(self.query))
        zeros = ops.zeros_like(self.key), ops.zeros_like(self.value)
        key, value = _collect(of_keys, *zeros)
        if self.bias is None:
            return query, key, value
        return query, key, value, self._bias_gradient(lambda i, j: again(i, j)[1])

    def _bias_gradient(self, slopes_of: Callable) -> Any:
        """The gradient of the bias, summed over the axes that are broadcast."""
        _, heads, queries, keys = self.grid
        spread = [axis for axis in range(4) if self.bias.shape[axis] == 1]

        def of_tile(number):
            slopes = slopes_of(number // keys.number, number % keys.number)
            shape = (self.grid.batch, heads[0] * heads[1], queries.size, keys.size)
            slopes = ops.reshape(slopes, shape)  # [B, N, c, d]
            return ops.sum(slopes, axis=spread, keepdims=True) if spread else slopes

        slopes = ops.map(of_tile, ops.arange(queries.number * keys.number))
        sizes = ops.shape(slopes)[1:]  # b, n, c or 1, d or 1
        slopes = ops.reshape(slopes, (queries.number, keys.number, *sizes))
        over = [axis - 2 for axis in (2, 3) if axis in spread]
        slopes = ops.sum(slopes, axis=over, keepdims=True) if over else slopes
        slopes = ops.transpose(slopes, (2, 3, 0, 4, 1, 5))  # [b, n, C, c, D, d]
        slopes = ops.reshape(slopes, ops.shape(self.bias))  # [b, n, C * c, D * d]
        slopes = ops.where(self.bias >= LOWEST_BIAS, slopes, 0.0)
        return ops.cast(slopes, self.bias.dtype)

    def _scores(self, i: Any, j: Any) -> tuple[Any, Any]:
        return self.tiles.scores(self.query[i], self.key[j], self.bias, i, j)


def _collect(function: Callable, *results: Any) -> tuple:
    """Writes what `function(i)` returns into row i of `results`, for every row."""

    def step(i, *results):
        row, new = ops.reshape(i, (1, 1)), function(i)
        both = zip(results, new, strict=True)
        results = (ops.scatter_update(x, row, one[None]) for x, one in both)
        return _next(i, new[-1]), *results

    rows, batch = ops.shape(results[0])[:2]  # TensorFlow writes no empty rows
    more = lambda i, *_: (i < rows) & (batch > 0)  # noqa: E731
    return ops.while_loop(more, step, (0, *results))[1:]


def _loop(spans: tuple[Any, Any], number: Any, add: Callable, start: tuple) -> tuple:
    """Calls `add(k, *values)` for the chunks k that are near chunk `number`."""
    first, end = spans[0][number], spans[1][number]

    def step(k, *values):
        values = add(k, *values)
        return _next(k, values[-1]), *values

    return ops.while_loop(lambda k, *_: k < end, step, (first, *start))[1:]


def _next(k: Any, done: Any) -> Any:
    """K + 1, computed in such a way that it depends on `done`.

    TensorFlow runs up to ten rounds of a loop in parallel as soon as their number is
    known. Ten tiles would then be in memory, and none would stay in the CPU's cache.
    """
    nan = ops.cast(ops.isnan(done[..., :1]), "int32")
    return k + 1 + largest(nan, None, least=0) // 2  # 0 // 2 or 1 // 2: always 0


def _zeros(like: Any, size: int) -> Any:
    """Zeros in the shape of `like`, with a last axis of that size."""
    return ops.zeros((*ops.shape(like)[:-1], size), dtype=like.dtype)


def _first_and_end(near: Any) -> tuple[Any, Any]:
    """The first true column of each row, and the one after the last; equal if none."""
    near = ops.cast(near, "int32")
    first = ops.cast(ops.argmax(near, axis=-1), "int32")
    behind_last = ops.cast(ops.argmax(ops.flip(near, axis=-1), axis=-1), "int32")
    end = ops.shape(near)[-1] - behind_last
    return first, ops.where(ops.any(near > 0, axis=-1), end, first)
