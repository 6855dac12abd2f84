"""Caches in graphs, under XLA, in loops and in ONNX: the numbers of eager code.

`caches_test.py` compares eager code with lists of Python.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_attention.ops import masks
from keras_attention.ops.attend import dot_product_attention
from keras_attention.ops.backend.compiled import Compiled
from keras_attention.ops.caches.fixed import AmpleKVCache, FixedKVCache
from keras_attention.ops.caches.growing import KVCache
from keras_attention.ops.caches.rolling import RollingKVCache
from keras_attention.ops.heads import HeadSettings

B, K, H, V = 2, 3, 5, 7
CAPACITY = 29
SIZES = {"batch_size": B, "key_size": K * H, "value_size": K * V, "num_heads": K}
MAKERS = {
    "growing": lambda **kw: KVCache.empty(**SIZES, **kw),
    "fixed": lambda **kw: FixedKVCache.empty(**SIZES, capacity=CAPACITY, **kw),
    "rolling": lambda **kw: RollingKVCache.empty(
        **SIZES, window=5, num_sink_tokens=2, **kw
    ),
}
every_policy = pytest.mark.parametrize("policy", MAKERS)
fixed_shapes = pytest.mark.parametrize("policy", ["fixed", "rolling"])
float_and_int8 = pytest.mark.parametrize("dtype", ["float32", "int8"])


def to_numpy(x):
    return keras.tree.map_structure(
        lambda x: np.asarray(ops.convert_to_numpy(x), "float64"), x
    )


def chunk_of(length, seed):
    """Keys, values and their padding mask: padding left, right and in the middle."""
    rng = np.random.default_rng(seed)
    key = rng.normal(size=(B, length, K * H)).astype("float32")
    value = rng.normal(size=(B, length, K * V)).astype("float32")
    return key, value, rng.random((B, length)) < 0.7


def step(cache, key, value, padding_mask):
    """Use keys as queries, and attend to the cache."""
    positions = cache.next_positions(padding_mask)
    view, cache = cache.extend(
        key=key, value=value, positions=positions, query_positions=positions
    )
    mask = masks.causal if view.mask is None else masks.causal & view.mask
    seen = mask.visible(view.query_positions, view.positions)
    output, _ = dot_product_attention(
        query=key,
        key=view.key,
        value=ops.cast(view.value, "float32"),
        heads=HeadSettings(K),
        mask=(seen & padding_mask[..., None])[:, None],
    )
    return output, cache


def signature_of(cache):
    """Batch and length are unknown, and so are the slots of a growing cache."""

    def spec(x):
        slots = [None] if isinstance(cache, KVCache) else [*x.shape[1:2]]
        return tf.TensorSpec([None, *slots, *x.shape[2:]], x.dtype)

    return [
        keras.tree.map_structure(spec, cache),
        tf.TensorSpec([None, None, K * H]),
        tf.TensorSpec([None, None, K * V]),
        tf.TensorSpec([None, None], tf.bool),
    ]


def agree(got, expected):
    for one, other in zip(*map(keras.tree.flatten, (got, expected)), strict=True):
        sides = to_numpy(one), to_numpy(other)
        assert np.allclose(*sides, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("policy", "dtype"),
    [
        ("growing", "int8"),
        ("fixed", "int8"),
        ("rolling", "int8"),
        ("fixed", "bfloat16"),
    ],
)
def test_a_graph_of_unknown_sizes_does_what_eager_code_does(policy, dtype):
    eager = graph = MAKERS[policy](dtype=dtype)
    run = tf.function(step, input_signature=signature_of(eager))
    for seed, length in enumerate([3, 1, 6, 1, 2, 0, 5, 1]):
        chunk = chunk_of(length, seed)
        expected, eager = step(eager, *chunk)
        got, graph = run(graph, *chunk)
        agree((got, graph), (expected, eager))
    assert run.experimental_get_tracing_count() == 1


# One compilation per length. For the fixed cache, see the test of its end.
@pytest.mark.tensorflow
def test_xla_does_what_eager_code_does():
    eager = compiled = MAKERS["rolling"](dtype="int8")
    run = tf.function(step, jit_compile=True)
    for seed, length in enumerate([3, 1, 1, 3, 1, 3, 1]):
        chunk = chunk_of(length, seed)
        expected, eager = step(eager, *chunk)
        got, compiled = run(compiled, *chunk)
        agree((got, compiled), (expected, eager))


@float_and_int8
def test_what_is_compiled_writes_single_tokens_in_place_and_keeps_the_others(dtype):
    eager = FixedKVCache.empty(**SIZES, capacity=CAPACITY, dtype=dtype)
    compiled = AmpleKVCache.empty(**SIZES, capacity=CAPACITY, dtype=dtype)
    run, taken = Compiled(step), 0
    for seed, length in enumerate([5, *[1] * 9]):
        chunk = [ops.convert_to_tensor(x) for x in chunk_of(length, seed)]
        taken += ops.convert_to_numpy(chunk[2]).sum(axis=1)
        expected, eager = step(eager, *chunk)
        got, compiled = run(compiled, *chunk)
        agree((got, compiled), (expected, eager))
    assert len(set(taken)) == B  # rows are at different slots, and one paused
    first, second = run.num_traces, run(compiled, *chunk)
    assert run.num_traces == first == 2
    assert type(second[1]) is AmpleKVCache


@pytest.mark.tensorflow
@float_and_int8
@fixed_shapes
def test_a_while_loop_carries_it_without_shape_invariants(policy, dtype):
    key, value, padding_mask = chunk_of(23, 7)
    prompt, tokens = (
        [x[:, :3] for x in (key, value, padding_mask)],
        (key, value, padding_mask),
    )

    @tf.function
    def loop(cache):
        outputs, cache = step(cache, *prompt)

        def body(t, cache, outputs):
            token = [tf.convert_to_tensor(x)[:, t : t + 1] for x in tokens]
            output, cache = step(cache, *token)
            return t + 1, cache, outputs.write(t, output[:, 0])

        array = tf.TensorArray("float32", 23, element_shape=(B, K * V))
        for t in range(3):
            array = array.write(t, outputs[:, t])
        _, cache, array = tf.while_loop(
            lambda t, *_: t < 23, body, (tf.constant(3), cache, array)
        )
        return tf.transpose(array.stack(), (1, 0, 2)), cache

    got, cache = loop(MAKERS[policy](dtype=dtype))
    outputs, eager = step(MAKERS[policy](dtype=dtype), *prompt)
    outputs = [outputs]
    for t in range(3, 23):
        output, eager = step(eager, *(x[:, t : t + 1] for x in tokens))
        outputs.append(output)
    assert type(cache) is type(eager)
    agree((got, cache), (ops.concatenate(outputs, axis=1), eager))


@pytest.mark.tensorflow
@every_policy
def test_reorder_and_crop_work_in_a_graph(policy):
    chunk = chunk_of(6, 1)
    _, cache = step(MAKERS[policy](), *chunk)

    def beam(cache, rows, lengths):
        return cache.reorder(rows).crop(lengths)

    rows, lengths = np.array([1, 0, 0], "int32"), np.array([2, 0, 9], "int32")
    got = tf.function(beam)(cache, tf.constant(rows), tf.constant(lengths))
    expected = beam(cache, rows, lengths)
    assert to_numpy(got.lengths).tolist() == to_numpy(expected.lengths).tolist()
    chunk = [x[[1, 0, 0]] for x in chunk]
    agree(step(got, *chunk)[0], step(expected, *chunk)[0])


def small(**kwargs):
    return FixedKVCache.empty(**SIZES, capacity=5, **kwargs)


def full(length, row=slice(None)):
    """A chunk whose non-padding tokens are in `row` only."""
    key, value, padding_mask = chunk_of(length, 0)
    padding_mask[:] = False
    padding_mask[row] = True
    return key, value, padding_mask


@pytest.mark.tensorflow
def test_more_tokens_than_slots_are_refused_when_traced():
    for run in (step, tf.function(step), tf.function(step, jit_compile=True)):
        with pytest.raises(ValueError, match=r"7 new .* 5 slots.*Received: .*length 7"):
            run(small(), *full(7))


@float_and_int8
def test_past_the_end_eager_code_names_the_row(dtype):
    _, cache = step(small(dtype=dtype), *full(4))
    _, cache = step(cache, *full(1, row=1))
    message = (
        r"full: row 1 holds 5 tokens, 1 more do not fit.*empty\(capacity=…\).*"
        r"Received: capacity=5"
    )
    with pytest.raises(ValueError, match=message):
        step(cache, *full(1))
    assert to_numpy(cache.lengths).tolist() == [4, 5]
    step(cache, *full(1, row=0))


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("dtype", "xla"),
    [("float32", False), ("int8", False), ("float32", True)],
)
def test_past_the_end_a_compiled_row_is_nan_from_there_on(dtype, xla):
    run = tf.function(step, jit_compile=True if xla else None)
    _, cache = step(small(dtype=dtype), *full(3))
    _, cache = step(cache, *full(1, row=1))
    good = step(cache, *full(2, row=0))[0]
    output, cache = run(cache, *full(2))  # row 1 holds 4 of 5
    output = to_numpy(output)
    assert np.isnan(output[1]).all()
    assert np.allclose(output[0], to_numpy(good)[0], atol=1e-5)
    assert to_numpy(cache.lengths).tolist() == [5, 5]
    for length in (1, 2):
        output, cache = run(cache, *full(length))
        assert np.isnan(to_numpy(output)[1]).all()
    shorter = cache.crop([0, 4])
    assert np.isnan(to_numpy(step(shorter, *full(1))[0])[1]).all()
    emptied = step(cache.crop(0), *full(1))[0]
    assert np.isfinite(to_numpy(emptied)).all()


@pytest.mark.tensorflow
def test_a_length_that_is_unknown_does_not_run_past_the_end_either():
    run = tf.function(step, input_signature=signature_of(small()))
    output, cache = run(small(), *full(7, row=0))
    output = to_numpy(output)
    assert np.isnan(output[0]).all()
    assert (output[1] == 0).all()
    output, _ = run(cache, *full(2, row=1))
    assert np.isfinite(to_numpy(output)[1]).all()


def test_holes_that_cropping_leaves_are_filled():
    key, value, _ = chunk_of(5, 2)
    at = np.array([[4, 0, 3, 1, 2]] * B)
    _, cache = small().extend(key=key, value=value, positions=at, query_positions=at)
    cache = cache.crop(2)
    assert to_numpy(cache.positions)[0].tolist() == [-1, 0, -1, 1, -1]
    key, value, padding_mask = full(3)
    _, cache = step(cache, key, value, padding_mask)
    assert to_numpy(cache.positions)[0].tolist() == [2, 0, 3, 1, 4]
    assert np.array_equal(to_numpy(cache.key)[0, [0, 2, 4]], key[0])


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("policy", "dtype"), [("fixed", "float32"), ("rolling", "int8")]
)
def test_onnx_does_what_eager_code_does(policy, dtype):
    tf2onnx = pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    eager = MAKERS[policy](dtype=dtype)
    signature = keras.tree.flatten(signature_of(eager))

    def flat(*tensors):
        cache = keras.tree.pack_sequence_as(eager, tensors[:-3])
        return keras.tree.flatten(step(cache, *tensors[-3:]))

    graph = tf.function(flat, input_signature=signature)
    model, _ = tf2onnx.convert.from_function(graph, signature, opset=18)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [one.name for one in session.get_inputs()]
    state = [np.array(x) for x in keras.tree.flatten(eager)]
    for seed, length in enumerate([3, 1, 6, 1, 2, 5, 1]):
        chunk = chunk_of(length, seed)
        expected, eager = step(eager, *chunk)
        output, *state = session.run(
            None, dict(zip(names, [*state, *chunk], strict=True))
        )
        agree((output, *state), (expected, *keras.tree.flatten(eager)))
