"""Attention in chunks equals dense attention, and no tensor has T · S elements."""

from dataclasses import replace

import keras
import numpy as np
import oracle
import pytest
import tensorflow as tf

from keras_attention.ops import masks
from keras_attention.ops.attend import dot_product_attention
from keras_attention.ops.chunked.attention import chunked_attention, chunks_pay
from keras_attention.ops.chunked.tiles import MaskParts, Tiles
from keras_attention.ops.heads import HeadSettings
from keras_attention.ops.positions import first_positions

B, T, S, K, G, H, V = 2, 11, 13, 2, 3, 5, 7
N = K * G
HEADS = HeadSettings(N, K, scale=0.4)
HIDDEN_ROW = 3  # of both rows of the batch, in "explicit"
RANDOM = np.random.default_rng(7)


def normal(*shape):
    return RANDOM.standard_normal(shape)


def explicit_mask(*shape):
    mask = RANDOM.random(shape) < 0.5
    mask[..., HIDDEN_ROW, :] = False
    return mask


TENSORS = normal(B, T, N * H), normal(B, S, K * H), normal(B, S, K * V)
KEY_MASK = np.array([[True] * 9 + [False] * 4, [False] * 12 + [True]])
LEFT_PADDED = np.array([[*range(S)], [-1] * 5 + [*range(S - 5)]])

CASES = {
    "no mask": {},
    "causal": {"mask": masks.causal},
    "a window": {"mask": masks.causal & masks.window(3, 0)},
    "a union": {"mask": masks.window(1, 1) | masks.global_tokens([0, 6])},
    "what is not near": {"mask": ~masks.window(2, 2)},
    "blocks": {"mask": masks.blocks(4)},
    "a prefix": {"mask": masks.prefix([4, 2])},
    "positions": {
        "mask": masks.causal & masks.window(6, 0),
        "query_positions": np.arange(T) + S - T,
        "key_positions": LEFT_PADDED,
    },
    "unordered positions": {
        "mask": masks.causal,
        "query_positions": np.arange(B * T)[::-1].reshape(B, T) % 17,
        "key_positions": np.arange(S) * 5 % S,
    },
    "padding": {"key_mask": KEY_MASK, "mask": masks.causal},
    "explicit": {"attention_mask": explicit_mask(B, 1, T, S)},
    "explicit by heads": {"attention_mask": explicit_mask(1, N, T, S)},
    "hidden columns": {"attention_mask": KEY_MASK[:, None, None]},
    "a bias": {"bias": normal(1, N, T, S)},
    "a bias of columns": {"bias": normal(B, 1, 1, S)},
    "a bias of rows": {"bias": normal(N, T, 1)},
    "a bias and a mask": {"bias": normal(T, S), "mask": masks.causal},
    "a soft cap": {"soft_cap": 0.7},
    "everything": {
        "soft_cap": 0.7,
        "bias": normal(B, N, T, S),
        "mask": masks.window(7, 5),
        "key_mask": KEY_MASK,
        "attention_mask": explicit_mask(B, N, T, S),
    },
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
FEW = ("positions", "explicit", "a bias of columns", "everything")


def chunked(
    *tensors, chunks=(6, 7), heads=HEADS, bias=None, soft_cap=None, **mask_parts
):
    query, key, value = tensors
    return chunked_attention(
        query=query,
        key=key,
        value=value,
        heads=replace(heads, soft_cap=soft_cap),
        mask=MaskParts(**mask_parts),
        bias=bias,
        query_chunk=chunks[0],
        key_chunk=chunks[1],
    )


def dense_mask(
    length,
    key_length,
    *,
    mask=None,
    query_positions=None,
    key_positions=None,
    key_mask=None,
    attention_mask=None,
):
    """The whole mask in one tensor `[b, n, T, S]`."""
    queries = first_positions(length) if query_positions is None else query_positions
    keys = first_positions(key_length) if key_positions is None else key_positions
    queries, keys = (tf.constant(x, "int32") for x in (queries, keys))
    seen = (masks.full if mask is None else mask).visible(queries, keys)
    seen = np.asarray(seen if len(seen.shape) == 3 else seen[None])[:, None]
    for other in (
        None if key_mask is None else key_mask[:, None, None],
        attention_mask,
    ):
        seen = seen if other is None else seen & np.asarray(other)
    return seen


def dense(*tensors, bias=None, soft_cap=None, **hiding):
    query, key, value = tensors
    return dot_product_attention(
        query=query,
        key=key,
        value=value,
        heads=replace(HEADS, soft_cap=soft_cap),
        mask=dense_mask(query.shape[1], key.shape[1], **hiding),
        bias=bias,
    )[0]


def one_by_one(query, key, value, *, bias=0.0, soft_cap=None, **hiding):
    """The equations in float64, one query at a time."""
    mask = np.broadcast_to(dense_mask(T, S, **hiding), (B, N, T, S))
    bias = np.broadcast_to(bias, mask.shape)
    query = query.reshape(B, T, N, H)
    key, value = key.reshape(B, S, K, H), value.reshape(B, S, K, V)
    output = np.zeros((B, T, N, V))
    for b, n, t in np.ndindex(B, N, T):
        scores = key[b, :, n // G] @ query[b, t, n] * HEADS.scale
        if soft_cap is not None:
            scores = soft_cap * np.tanh(scores / soft_cap)
        weights = oracle.softmax_row(scores + bias[b, n, t], mask[b, n, t])
        output[b, t, n] = weights @ value[b, :, n // G]
    return output.reshape(B, T, N * V)


def gradients(function, *inputs):
    """Gradients of a sum with a different factor for every output."""
    inputs = [tf.convert_to_tensor(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = function(*inputs)
        size = tf.cast(tf.size(output), output.dtype)
        factors = tf.reshape(tf.cos(tf.range(size)), tf.shape(output))
        loss = tf.reduce_sum(factors * output)
    return tape.gradient(loss, inputs)


def with_bias(function, case):
    """`function` of the tensors and, where the case has one, of its bias."""

    def call(query, key, value, *bias):
        bias = {"bias": bias[0]} if bias else {}
        return function(query, key, value, **(case | bias))

    return call, [*TENSORS, case["bias"]] if "bias" in case else TENSORS


# One chunk for all is a grid of a single, exact tile: a few cases of it are enough.
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("name", "chunks"),
    [*((name, (4, 6)) for name in CASES), *((name, (512, 512)) for name in FEW)],
)
def test_chunks_are_the_equations_one_by_one(name, chunks):
    case = CASES[name]
    output = chunked(*TENSORS, chunks=chunks, **case)
    np.testing.assert_allclose(output, one_by_one(*TENSORS, **case), atol=1e-13)
    assert output.dtype == "float64"


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", FEW)
def test_chunks_are_dense_attention_in_float32(name):
    case = CASES[name]
    tensors = [x.astype("float32") for x in TENSORS]
    output = chunked(*tensors, **case)
    np.testing.assert_allclose(output, dense(*tensors, **case), atol=1e-6)
    assert output.dtype == "float32"


@pytest.mark.tensorflow
@every_case
def test_gradients_are_those_of_dense_attention(case):
    call, inputs = with_bias(chunked, case)
    same, _ = with_bias(dense, case)
    for ours, theirs in zip(
        gradients(call, *inputs), gradients(same, *inputs), strict=True
    ):
        assert np.abs(theirs).max() > 0 or case is CASES["a bias of rows"]
        np.testing.assert_allclose(ours, theirs, atol=1e-13)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", FEW)
def test_gradients_are_finite_differences(name):
    call, inputs = with_bias(chunked, CASES[name])
    steps = [1e-5 * normal(*x.shape) for x in inputs]

    def loss(sign):
        moved = [x + sign * step for x, step in zip(inputs, steps, strict=True)]
        output = np.asarray(call(*moved)).ravel()
        return np.cos(np.arange(output.size)) @ output

    slopes = gradients(call, *inputs)
    expected = (loss(1) - loss(-1)) / 2e-5
    found = sum(np.sum(g * s) for g, s in zip(slopes, steps, strict=True)) / 1e-5
    assert found == pytest.approx(expected, abs=1e-7)


@pytest.mark.tensorflow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once_at_the_end(dtype):
    tensors = [tf.cast(40 * x, dtype) for x in TENSORS]  # products overflow float16
    case = CASES["everything"]
    output = chunked(*tensors, **case)
    raised = chunked(*(tf.cast(x, "float32") for x in tensors), **case)
    np.testing.assert_array_equal(output, tf.cast(raised, dtype))
    assert output.dtype == dtype
    assert np.isfinite(tf.cast(output, "float32")).all()


@pytest.mark.tensorflow
def test_a_query_without_a_visible_key_gets_zeros_and_has_no_gradient():
    call, inputs = with_bias(chunked, CASES["everything"])
    assert not np.any(call(*inputs)[:, HIDDEN_ROW])
    query, key, _, bias = gradients(call, *inputs)
    assert not np.any(query[:, HIDDEN_ROW])
    assert not np.any(bias[:, :, HIDDEN_ROW])
    assert np.any(query[:, HIDDEN_ROW + 1])
    assert not np.any(np.asarray(key)[~KEY_MASK])


@pytest.mark.tensorflow
@pytest.mark.parametrize("how", ["key_mask", "key_positions"])
def test_values_at_hidden_keys_have_no_effect(how):
    hiding = {
        how: KEY_MASK if how == "key_mask" else np.where(KEY_MASK, np.arange(S), -1)
    }
    query, key, value = TENSORS
    spoiled = [np.where(KEY_MASK[..., None], x, np.nan) for x in (key, value)]
    output = chunked(query, *spoiled, **hiding)
    np.testing.assert_array_equal(output, chunked(query, key, value, **hiding))
    _, *slopes = gradients(lambda *x: chunked(*x, **hiding), query, *spoiled)
    for slope in slopes:
        assert not np.any(np.asarray(slope)[~KEY_MASK])
        assert np.isfinite(slope).all()


def test_a_nan_at_a_visible_key_reaches_the_output():
    query, key, value = (x.copy() for x in TENSORS)
    key[1, 4] = np.nan
    output = np.asarray(chunked(query, key, value))
    assert np.isnan(output[1]).all()
    assert np.isfinite(output[0]).all()


@pytest.mark.tensorflow
def test_the_lowest_bias_is_above_what_the_mask_hides():
    bias = np.full((T, S), -np.inf)
    case = {"bias": bias, "mask": masks.causal}
    output = chunked(*TENSORS, **case)
    np.testing.assert_allclose(output, dense(*TENSORS, **case), atol=1e-13)
    np.testing.assert_allclose(output[:, 0, :V], TENSORS[2][:, 0, :V], atol=1e-13)


@pytest.mark.tensorflow
@pytest.mark.parametrize("sizes", [(0, T, S), (B, 0, S), (B, T, 0)])
@pytest.mark.parametrize("case", [{}, {"mask": masks.causal, "soft_cap": 2.0}])
def test_no_queries_no_keys_and_no_rows_are_fine(sizes, case):
    batch, length, key_length = sizes
    shapes = (
        (batch, length, N * H),
        (batch, key_length, K * H),
        (batch, key_length, K * V),
    )
    tensors = [np.ones(shape, "float32") for shape in shapes]
    output = chunked(*tensors, **case)
    assert output.shape == (batch, length, N * V)
    assert not np.any(output)
    slopes = gradients(lambda *x: chunked(*x, **case), *tensors)
    for tensor, slope in zip(tensors, slopes, strict=True):
        assert slope.shape == tensor.shape
        assert not np.any(slope)


def visited(monkeypatch, length=12, **kwargs):
    """The tiles that are computed, of chunks of 3."""
    seen = np.zeros((length // 3, 4), dtype=bool)
    scores = Tiles.scores

    def note(self, *arguments):
        i, j = arguments[-2:]
        seen[int(i), int(j)] = True
        return scores(self, *arguments)

    monkeypatch.setattr(Tiles, "scores", note)
    tensors = normal(1, length, N), normal(1, 12, K), normal(1, 12, K)
    chunked(*tensors, chunks=(3, 3), **kwargs)
    return seen


WORK = [
    ({}, "1 1 1 1\n1 1 1 1\n1 1 1 1\n1 1 1 1"),
    ({"mask": masks.causal}, "1 . . .\n1 1 . .\n1 1 1 .\n1 1 1 1"),
    ({"mask": masks.window(1, 0)}, "1 . . .\n1 1 . .\n. 1 1 .\n. . 1 1"),
    (
        {"mask": masks.causal & (masks.window(1, 1) | masks.blocks(6))},
        "1 . . .\n1 1 . .\n1 1 1 .\n. 1 1 1",  # at most 5 behind
    ),
    ({"mask": ~masks.causal}, "1 1 1 1\n1 1 1 1\n1 1 1 1\n1 1 1 1"),
    ({"key_mask": np.arange(12)[None] < 4}, "1 1 . .\n1 1 . .\n1 1 . .\n1 1 . ."),
    (
        {"mask": masks.causal, "key_positions": np.arange(12) - 6},
        ". . 1 .\n. . 1 1\n. . 1 1\n. . 1 1",
    ),
]


@pytest.mark.parametrize(("kwargs", "drawing"), WORK)
def test_tiles_out_of_reach_are_not_computed(monkeypatch, kwargs, drawing):
    if "key_positions" in kwargs:
        kwargs = kwargs | {"key_positions": np.maximum(kwargs["key_positions"], -1)}
    np.testing.assert_array_equal(visited(monkeypatch, **kwargs), oracle.drawn(drawing))


def test_a_cached_step_computes_the_chunks_of_its_window_only(monkeypatch):
    seen = visited(
        monkeypatch, 3, mask=masks.window(2, 0), query_positions=np.arange(9, 12)
    )
    np.testing.assert_array_equal(seen, oracle.drawn(". . 1 1"))


@pytest.mark.tensorflow
def test_lengths_unknown_in_the_graph_are_fine():
    def call(query, key, value, bias):
        return chunked(query, key, value, bias=bias, mask=masks.window(4, 2))

    shapes = (None, None, N * H), (None, None, K * H), (None, None, K * V)
    shapes = *shapes, (1, N, None, None)
    signature = [tf.TensorSpec(shape, "float64") for shape in shapes]
    graph = tf.function(
        lambda *x: (call(*x), *gradients(call, *x)), input_signature=signature
    )
    for batch, length, key_length in ((2, 11, 13), (1, 1, 4), (2, 0, 5)):
        inputs = (
            normal(batch, length, N * H),
            normal(batch, key_length, K * H),
            normal(batch, key_length, K * V),
            normal(1, N, length, key_length),
        )
        whole = lambda q, k, v, b: dense(q, k, v, bias=b, mask=masks.window(4, 2))  # noqa: E731
        expected = whole(*inputs), *gradients(whole, *inputs)
        for ours, theirs in zip(
            graph(*map(tf.constant, inputs)), expected, strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-13)


@pytest.mark.tensorflow
def test_xla_compiles_it_with_its_gradient():
    case = CASES["padding"] | {"soft_cap": 0.7}
    inputs = [tf.constant(x) for x in TENSORS]

    @tf.function(jit_compile=True)
    def compiled(*inputs):
        call = lambda *x: chunked(*x, **case)  # noqa: E731
        return call(*inputs), *gradients(call, *inputs)

    expected = dense(*inputs, **case), *gradients(lambda *x: dense(*x, **case), *inputs)
    for ours, theirs in zip(compiled(*inputs), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-13)


class Chunked(keras.layers.Layer):
    """Self-attention with a trainable bias, in chunks or not."""

    def __init__(self, attention):
        super().__init__(dtype="float32")
        self.attention = attention
        self.project = keras.layers.Dense(N * H, kernel_initializer="identity")
        self.project.build((None, None, N * H))
        self.far = self.add_weight(shape=(1, N, T, T), initializer="zeros")

    def call(self, x):
        return self.attention(self.project(x), self.far)


def test_models_learn_the_same_in_chunks():
    x, y = normal(6, T, N * H), normal(6, T, N * H)
    learned = []
    heads = HeadSettings(N, scale=0.4)

    def in_chunks(x, bias):
        chunks = {"query_chunk": 6, "key_chunk": 5}
        tensors = {"query": x, "key": x, "value": x, "bias": bias}
        mask = MaskParts(masks.causal)
        return chunked_attention(**tensors, heads=heads, **chunks, mask=mask)

    def at_once(x, bias):
        tensors = {"query": x, "key": x, "value": x, "bias": bias}
        positions = first_positions(T)
        mask = masks.causal.build(positions, positions)
        return dot_product_attention(**tensors, heads=heads, mask=mask)[0]

    for attention in (in_chunks, at_once):
        model = keras.Sequential([keras.Input((None, N * H)), Chunked(attention)])
        model.compile("sgd", "mse")
        losses = model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
        learned.append([*model.get_weights(), losses.history["loss"]])
    for ours, theirs in zip(*learned, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.any(learned[0][2])  # the bias


def sizes_in_graph(length, **kwargs):
    """Number of elements of every tensor of known shape, inner graphs included."""

    @tf.function
    def step(x):
        return gradients(lambda x: chunked(x, x, x, heads=HeadSettings(N), **kwargs), x)

    graph = step.get_concrete_function(tf.TensorSpec((1, length, N * H))).graph
    found, graphs = [], [graph]
    while graphs:
        graph = graphs.pop()
        for operation in graph.get_operations():
            found += [x.shape.num_elements() for x in operation.outputs]
            for name in ("body", "cond"):
                if name in operation.node_def.attr:
                    graphs.append(
                        graph._get_function(operation.get_attr(name).name).graph
                    )
    return [size for size in found if size is not None]


@pytest.mark.tensorflow
def test_no_tensor_has_all_scores_and_the_graph_does_not_grow():
    length = 4096
    sizes = sizes_in_graph(length, chunks=(64, 32), mask=masks.causal)
    assert max(sizes) == length * N * H
    assert N * 64 * 32 in sizes
    longer = sizes_in_graph(4 * length, chunks=(64, 32), mask=masks.causal)
    assert len(longer) == len(sizes)


def test_masks_that_cannot_be_built_in_tiles_are_refused():
    with pytest.raises(ValueError, match=r"as `key_mask=keep`.*Received: mask="):
        chunked(*TENSORS, mask=masks.causal & masks.padding(KEY_MASK))
    with pytest.raises(ValueError, match=r"as `attention_mask=`. Received: mask=bool"):
        chunked(*TENSORS, mask=np.ones((T, S), bool))
    with pytest.raises(ValueError, match=r"positive integers. Received: .*0"):
        chunked(*TENSORS, chunks=(0, 4))


def test_chunks_pay_for_long_sequences_of_known_length():
    assert chunks_pay(2048, 2048, num_heads=8)
    assert chunks_pay(512, 2**14, num_heads=2)
    assert not chunks_pay(1024, 1024, num_heads=64)  # 1.4 times as slow in training
    assert not chunks_pay(1, 2**21, num_heads=8)
    assert not chunks_pay(2048, 2048, num_heads=1)
    assert not chunks_pay(None, 2**20, num_heads=8)
    assert not chunks_pay(2**20, None, num_heads=8)
