"""Longformer and BigBird layers: one answer, sparse or dense."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import to_numpy

from keras_attention.layers.big_bird_attention import BigBirdAttention
from keras_attention.layers.longformer_attention import LongformerAttention
from keras_attention.layers.rotary_embedding import RotaryEmbedding
from keras_attention.ops.caches.growing import KVCache

SMALL = {"num_heads": 4, "key_dim": 6, "num_key_value_heads": 2, "dropout": 0.2}
WINDOW = {"sliding_window": (3, 2)}
OWN = {"global_projections": True, **WINDOW}
BLOCKS = {"block_size": 4, "num_random_blocks": 2, "block_seed": 7}
LAYERS = {
    "longformer": lambda: LongformerAttention(
        **SMALL, **WINDOW, dilation=2, global_tokens=(0, 9)
    ),
    "no global tokens": lambda: LongformerAttention(
        **SMALL, global_tokens=(), **WINDOW
    ),
    "own projections": lambda: LongformerAttention(
        **SMALL, **OWN, global_tokens=(3, 0)
    ),
    "own projections, rotated": lambda: LongformerAttention(
        **SMALL, **OWN, position=RotaryEmbedding()
    ),
    "big bird": lambda: BigBirdAttention(**SMALL, **BLOCKS),
    "big bird, rotated": lambda: BigBirdAttention(
        **SMALL, **BLOCKS, position=RotaryEmbedding()
    ),
}
LENGTH = 401
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def drawn(length=LENGTH):
    random = np.random.default_rng(3)
    x = random.standard_normal((2, length, 10)).astype("float32")
    keep = random.random((2, length)) < 0.8
    x[~keep] = np.nan
    return x, keep


@pytest.mark.parametrize("causal", [False, True])
@every_layer
def test_the_output_is_the_same_in_blocks_and_with_weights(make, causal):
    layer, (x, keep) = make(), drawn()

    def call(**kwargs):
        masked = {"query_mask": keep, "value_mask": keep, "use_causal_mask": causal}
        return layer(x, x, **masked, **kwargs)

    expected, weights = call(return_attention_scores=True)
    assert layer.pattern.pays(LENGTH)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(call(), expected, atol=1e-6)
    np.testing.assert_allclose(call(positions=np.arange(LENGTH)), expected, atol=1e-6)
    weights = to_numpy(weights)
    assert (weights[:, 0] == 0)[:, 60:].mean() > 0.5
    if causal:
        assert not np.triu(weights, 1).any()
    again = to_numpy(call(training=True))
    assert np.isfinite(again).all()
    assert np.abs(again - expected).max() > 0.01


@pytest.mark.tensorflow
@every_layer
def test_gradients_reach_every_weight(make):
    layer, (x, keep) = make(), drawn()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(layer(x, x, query_mask=keep, value_mask=keep)))
    gradients = tape.gradient(loss, layer.trainable_weights)
    for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
        assert np.isfinite(gradient).all()
        # The softmax does not depend on a term that all keys of a query share.
        assert weight.path.endswith("key/bias") or np.abs(gradient).max() > 1e-4


@every_layer
def test_a_copy_from_the_config_with_the_weights_has_the_same_output(make):
    layer, (x, keep) = make(), drawn()
    expected = layer(x, x, value_mask=keep)
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == layer.get_config()
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(copy(x, x, value_mask=keep), expected)


@pytest.mark.parametrize("name", ["longformer", "big bird"])
def test_steps_with_a_cache_equal_the_whole_sequence(name):
    layer, x = LAYERS[name](), np.nan_to_num(drawn(53)[0])
    expected = layer(x, x, use_causal_mask=True)
    cache = KVCache.empty(batch_size=2, key_size=12, value_size=12)
    parts = []
    for start, stop in [(0, 31), (31, 32), (32, 53)]:
        new = x[:, start:stop]
        part, cache = layer(new, new, use_causal_mask=True, cache=cache)
        parts.append(part)
    # A global token attends to later tokens only if they are in the cache already.
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=1e-6)


def test_global_tokens_with_own_projections_refuse_a_cache():
    layer, x = LAYERS["own projections"](), np.ones((2, 5, 10), "float32")
    cache = KVCache.empty(batch_size=2, key_size=12, value_size=12)
    with pytest.raises(ValueError, match=r"cache.*Received: global_projections=True"):
        layer(x, x, use_causal_mask=True, cache=cache)


def test_own_projections_change_the_rows_of_global_tokens_only():
    layer, x = LAYERS["own projections"](), np.nan_to_num(drawn()[0])
    before = to_numpy(layer(x, x))
    layer.global_value_projection.kernel.assign_add(
        np.ones(layer.global_value_projection.kernel.shape)
    )
    changed = np.abs(to_numpy(layer(x, x)) - before).max(axis=(0, 2)) > 1e-6
    assert np.flatnonzero(changed).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: BigBirdAttention(2, 3, num_window_blocks=2), "num_window_blocks"),
        (lambda: BigBirdAttention(2, 3, block_size=0), "block_size"),
        (lambda: BigBirdAttention(2, 3, num_random_blocks=-1), "num_random_blocks"),
        (lambda: BigBirdAttention(2, 3, sliding_window=5), "sliding_window"),
        (lambda: LongformerAttention(2, 3, sliding_window=None), "sliding_window"),
        (lambda: LongformerAttention(2, 3, dilation=0), "dilation"),
        (lambda: LongformerAttention(2, 3, global_tokens=(-1,)), "positions"),
        (
            lambda: LongformerAttention(
                2, 3, global_tokens=(), global_projections=True
            ),
            "global_tokens",
        ),
    ],
)
def test_a_wrong_argument_is_named(make, name):
    with pytest.raises(ValueError, match=rf"{name}.*Received: "):
        make()
