"""The sparse way of a pattern equals dense attention under its mask, gradients too."""

import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import to_numpy

from keras_attention.ops import masks
from keras_attention.ops.attend import dot_product_attention
from keras_attention.ops.heads import HeadSettings
from keras_attention.ops.positions import first_positions
from keras_attention.ops.sparse.inputs import SelfAttentionInputs
from keras_attention.ops.sparse.patterns import (
    BlockPattern,
    GlobalTokensPattern,
    WindowPattern,
)

HEADS, KEY_SIZE, VALUE_SIZE = 4, 3, 7
PATTERNS = {
    "window": WindowPattern(5, 3),
    "dilated": WindowPattern(5, 3, dilation=3),
    "global": GlobalTokensPattern(WindowPattern(5, 3), (0, 7, 64, 200)),
    "dilated global": GlobalTokensPattern(WindowPattern(2, 1, dilation=3), (1, 50)),
    "blocks": BlockPattern(5, 2, 3, 1, seed=11),
    "many random blocks": BlockPattern(3, 5, 1, 2),
    "no global blocks": BlockPattern(4, 1, 5, 0),
    "no random blocks": BlockPattern(4, 0, 3, 2),
}
FEW = ("window", "dilated global", "blocks")
few_patterns = pytest.mark.parametrize("pattern", [PATTERNS[n] for n in FEW], ids=FEW)
every_pattern = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)


def slopes(query_positions, key_positions):
    """A bias that differs from head to head and with the distance."""
    distance = key_positions[None, :] - query_positions[:, None]
    distance = tf.cast(distance, "float64")
    return tf.stack([tf.sin(distance * (n + 1)) for n in range(HEADS)])[None]


def drawn(length, groups=2, dtype="float32", hidden=0.3):
    random = np.random.default_rng(length)
    sizes = (HEADS * KEY_SIZE, groups * KEY_SIZE, groups * VALUE_SIZE)
    tensors = [
        random.standard_normal((2, length, size)).astype(dtype) for size in sizes
    ]
    key_mask = random.random((2, length)) >= hidden
    key_mask[1, : length // 2] = False
    return [tf.constant(x) for x in tensors], tf.constant(key_mask)


def dense(
    pattern, tensors, key_mask, *, causal=False, bias=None, groups=2, soft_cap=None
):
    query, key, value = tensors
    positions = first_positions(query.shape[1])
    mask = pattern.causal_mask if causal else pattern.mask
    keys = positions if key_mask is None else tf.where(key_mask, positions, -1)
    mask = mask.restrict_to(keys).build(positions, positions)
    mask = mask[None] if len(mask.shape) == 2 else mask
    mask = mask if key_mask is None else mask & key_mask[:, None, :]
    return dot_product_attention(
        query=query,
        key=key,
        value=value,
        heads=HeadSettings(HEADS, groups, 0.3, soft_cap),
        mask=mask[:, None],
        bias=None if bias is None else bias(positions, positions),
    )[0]


def sparse(
    pattern, tensors, key_mask, *, causal=False, groups=2, soft_cap=None, **settings
):
    heads = HeadSettings(HEADS, groups, 0.3, soft_cap)
    inputs = SelfAttentionInputs(*tensors, heads, key_mask=key_mask, **settings)
    return pattern.attend(inputs, causal=causal)


# A causal pattern differs in its mask only: short sequences are shaped the same way.
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("length", "causal"),
    [(0, False), (1, False), (14, False), (97, False), (97, True)],
)
@every_pattern
def test_it_is_dense_attention_under_its_mask(pattern, causal, length):
    tensors, key_mask = drawn(length)
    for mask in (key_mask, None):
        expected = dense(pattern, tensors, mask, causal=causal)
        result = sparse(pattern, tensors, mask, causal=causal)
        assert result.shape == (2, length, HEADS * VALUE_SIZE)
        np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        *((pattern, 1) for pattern in PATTERNS.values()),
        *((PATTERNS[name], 4) for name in FEW),
    ],
)
def test_it_is_so_with_a_bias_a_soft_cap_and_any_groups(pattern, groups):
    tensors, key_mask = drawn(71, groups)
    settings = {"bias": slopes, "soft_cap": 0.9, "groups": groups}
    expected = dense(pattern, tensors, key_mask, **settings)
    plain = dense(pattern, tensors, key_mask, groups=groups)
    assert np.abs(expected - plain).max() > 0.1
    result = sparse(pattern, tensors, key_mask, **settings)
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.tensorflow
@every_pattern
def test_gradients_are_equal_too(pattern):
    tensors, key_mask = drawn(67, dtype="float64")
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(tensors)
        losses = [
            tf.reduce_sum(tf.square(way(pattern, tensors, key_mask, bias=slopes)))
            for way in (dense, sparse)
        ]
    expected, result = (tape.gradient(loss, tensors) for loss in losses)
    for one, other in zip(expected, result, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(other), one, atol=1e-10)


@pytest.mark.tensorflow
@every_pattern
def test_a_query_without_a_key_gets_exactly_0(pattern):
    tensors, _ = drawn(31)
    key_mask = np.zeros((2, 31), bool)
    key_mask[1, 3] = True
    result = to_numpy(sparse(pattern, tensors, tf.constant(key_mask)))
    assert not result[0].any()
    assert np.isfinite(result).all()
    assert result[1].any()


@pytest.mark.tensorflow
@few_patterns
def test_padding_behind_a_sequence_changes_nothing(pattern):
    (query, key, value), key_mask = drawn(61)
    wider = [tf.pad(x, [[0, 0], [0, 36], [0, 0]]) for x in (query, key, value)]
    expected = sparse(pattern, (query, key, value), key_mask)
    result = sparse(pattern, wider, tf.pad(key_mask, [[0, 0], [0, 36]]))
    np.testing.assert_allclose(result[:, :61], expected, atol=1e-6)


@pytest.mark.tensorflow
@every_pattern
def test_a_later_key_changes_no_causal_result(pattern):
    tensors, key_mask = drawn(61)
    expected = sparse(
        pattern, [x[:, :40] for x in tensors], key_mask[:, :40], causal=True
    )
    result = sparse(pattern, tensors, key_mask, causal=True)
    np.testing.assert_allclose(result[:, :40], expected, atol=1e-6)


@pytest.mark.tensorflow
@few_patterns
def test_dropout_drops_weights(pattern):
    tensors, key_mask = drawn(37)

    def half(weights):
        return weights / 2

    expected = sparse(pattern, tensors, key_mask)
    result = sparse(pattern, tensors, key_mask, dropout=half)
    np.testing.assert_allclose(result, expected / 2, atol=1e-6)


@pytest.mark.tensorflow
@few_patterns
def test_a_graph_need_not_know_batch_and_length(pattern):
    sizes = (HEADS * KEY_SIZE, 2 * KEY_SIZE, 2 * VALUE_SIZE)
    signature = [tf.TensorSpec((None, None, size)) for size in sizes]

    @tf.function(input_signature=[signature, tf.TensorSpec((None, None), tf.bool)])
    def graph(tensors, key_mask):
        return sparse(pattern, tensors, key_mask, bias=slopes)

    for length in (0, 29, 90):
        tensors, key_mask = drawn(length)
        expected = dense(pattern, tensors, key_mask, bias=slopes)
        np.testing.assert_allclose(graph(tensors, key_mask), expected, atol=1e-6)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["dilated global", "blocks"])
def test_it_compiles(name):
    pattern = PATTERNS[name]
    tensors, key_mask = drawn(37)

    @tf.function(jit_compile=True)
    def compiled(tensors, key_mask):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            result = sparse(pattern, tensors, key_mask)
        return result, tape.gradient(result, tensors)

    result, gradients = compiled(tensors, key_mask)
    np.testing.assert_allclose(result, dense(pattern, tensors, key_mask), atol=1e-6)
    assert all(np.isfinite(each).all() for each in gradients)


@pytest.mark.tensorflow
@few_patterns
def test_memory_grows_with_the_length_and_not_with_its_square(pattern):
    length = 4096
    tensors = [tf.TensorSpec((1, length, size)) for size in (12, 6, 14)]

    @tf.function
    def step(tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            loss = tf.reduce_sum(tf.square(sparse(pattern, tensors, None)))
        return tape.gradient(loss, tensors)

    operations = step.get_concrete_function(tensors).graph.get_operations()
    shapes = [output.shape for each in operations for output in each.outputs]
    assert max(shape.num_elements() or 0 for shape in shapes) < length * length / 4


def test_it_pays_for_long_sequences_and_unknown_lengths():
    for pattern in PATTERNS.values():
        assert pattern.pays(None)
        assert pattern.pays(100_000)
        assert not pattern.pays(10)


@pytest.mark.parametrize("positions", [(), (-1, 0)])
def test_global_tokens_have_positions_from_0(positions):
    with pytest.raises(ValueError, match=r"positions.*Received: positions="):
        GlobalTokensPattern(WindowPattern(1, 1), positions)


@pytest.mark.tensorflow
def test_a_global_token_listed_twice_counts_once():
    once, twice = (GlobalTokensPattern(WindowPattern(1, 1), p) for p in ((3,), (3, 3)))
    tensors, key_mask = drawn(17)
    expected = sparse(once, tensors, key_mask)
    np.testing.assert_array_equal(sparse(twice, tensors, key_mask), expected)


def test_a_window_of_steps_is_drawn_as_one():
    seen = WindowPattern(1, 2, dilation=2).mask.draw(6)
    assert seen == (
        "1 . 1 . 1 .\n. 1 . 1 . 1\n1 . 1 . 1 .\n. 1 . 1 . 1\n. . 1 . 1 .\n. . . 1 . 1"
    )
    assert repr(masks.dilated(2)) in repr(WindowPattern(1, 2, dilation=2).mask)
