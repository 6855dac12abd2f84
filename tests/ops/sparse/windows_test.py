"""Attention by blocks equals dense attention under a window mask, gradients too."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_attention as ka
from keras_attention.ops import masks
from keras_attention.ops.attend import dot_product_attention
from keras_attention.ops.heads import HeadSettings
from keras_attention.ops.positions import first_positions
from keras_attention.ops.sparse.inputs import SelfAttentionInputs
from keras_attention.ops.sparse.windows import width_of, window_attention

# (length, window, query heads, key/value heads, block size): lengths that are no
# multiple of the block, windows wider than a block, than the sequence, of one side.
CASES = [
    (1, (3, 0), 4, 2, None),
    (37, (5, 3), 4, 2, 4),
    (37, (0, 0), 2, 2, 4),
    (37, (0, 6), 3, 1, 5),
    (70, (9, 0), 6, 2, None),
    (64, (100, 100), 2, 1, None),
    (5, (2, 2), 2, 2, 3),
    (67, (33, 1), 3, 3, 17),
]


def drawn(length, heads, groups, dtype="float32"):
    random = np.random.default_rng(length)
    query, key = (random.standard_normal((2, length, 5 * n)) for n in (heads, groups))
    value = random.standard_normal((2, length, 7 * groups))
    key_mask = random.random((2, length)) < 0.7
    key_mask[1, : length // 2] = False
    return [x.astype(dtype) for x in (query, key, value)], key_mask


def both_ways(tensors, key_mask, *, window, heads, groups, block):
    query, key, value = tensors
    common = {"query": query, "key": key, "value": value}
    common["heads"] = HeadSettings(heads, groups, scale=0.3)
    positions = first_positions(tensors[0].shape[1])
    mask = masks.window(*window).build(positions, positions)
    dense, _ = dot_product_attention(mask=mask & key_mask[:, None, None, :], **common)
    inputs = SelfAttentionInputs(**common, key_mask=key_mask)
    blocked = window_attention(inputs, window=window, block_size=block)
    return dense, blocked


@pytest.mark.tensorflow
@pytest.mark.parametrize(("length", "window", "heads", "groups", "block"), CASES)
def test_blocks_equal_the_masked_dense_result(length, window, heads, groups, block):
    tensors, key_mask = drawn(length, heads, groups)
    dense, blocked = both_ways(
        tensors,
        tf.constant(key_mask),
        window=window,
        heads=heads,
        groups=groups,
        block=block,
    )
    np.testing.assert_allclose(blocked, dense, atol=1e-6)
    assert blocked.shape == (2, length, 7 * heads)


@pytest.mark.tensorflow
@pytest.mark.parametrize(("length", "window", "heads", "groups", "block"), CASES[1:4])
def test_gradients_are_equal_too(length, window, heads, groups, block):
    tensors, key_mask = drawn(length, heads, groups, "float64")
    tensors = [tf.constant(x) for x in tensors]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(tensors)
        ways = both_ways(
            tensors,
            tf.constant(key_mask),
            window=window,
            heads=heads,
            groups=groups,
            block=block,
        )
        losses = [tf.reduce_sum(tf.square(x)) for x in ways]
    for dense, blocked in zip(
        *(tape.gradient(loss, tensors) for loss in losses), strict=True
    ):
        np.testing.assert_allclose(blocked, dense, atol=1e-11)


@pytest.mark.tensorflow
@pytest.mark.parametrize(("causal", "jit_compile"), [(False, False), (True, True)])
def test_the_layer_returns_the_same_by_blocks_and_with_its_weights(causal, jit_compile):
    layer = ka.MultiHeadAttention(
        4, 3, num_key_value_heads=2, sliding_window=5, dropout=0.2
    )
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 201, 12)).astype("float32")
    key_mask = random.random((2, 201)) < 0.8
    key_mask[1] = False
    assert x.shape[1] > 2 * width_of(4, 4)

    def call(**kwargs):
        return layer(
            x,
            x,
            query_mask=key_mask,
            value_mask=key_mask,
            use_causal_mask=causal,
            **kwargs,
        )

    dense, weights = call(return_attention_scores=True)
    blocked = tf.function(call, jit_compile=jit_compile)()
    np.testing.assert_allclose(blocked, dense, atol=1e-6)
    bias = np.asarray(layer.output_projection.bias)
    np.testing.assert_array_equal(np.asarray(call())[1], np.tile(bias, (201, 1)))
    assert np.count_nonzero(np.asarray(weights)[0, 0, 100]) <= 9


def test_a_length_unknown_in_the_graph_is_fine():
    layer = ka.MultiHeadAttention(2, 3, sliding_window=(3, 2))
    inputs = keras.Input((None, 6))
    model = keras.Model(inputs, layer(inputs, inputs))
    for length in (1, 31, 32, 150):
        x = np.random.default_rng(length).standard_normal((2, length, 6))
        x = x.astype("float32")
        dense, _ = layer(x, x, return_attention_scores=True)
        np.testing.assert_allclose(model(x), dense, atol=1e-6)
