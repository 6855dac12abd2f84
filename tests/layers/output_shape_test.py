"""`compute_output_shape`: every layer declares the shape that it returns."""

import keras
import numpy as np
import pytest
from contracts.kinds import KINDS, B, S, T

import keras_attention as ka


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_declares_the_shape_that_it_returns(kind):
    inputs = kind.inputs()
    layer = kind.shared()
    returned = tuple(kind.call(layer, *inputs).shape)
    shapes = [x.shape for x in inputs]
    assert tuple(layer.compute_output_shape(*shapes)) == returned
    assert tuple(layer.compute_output_shape(shapes)) == returned
    unbuilt = kind.make()
    assert tuple(unbuilt.compute_output_shape(*shapes)) == returned
    free = [(None, None, shape[-1]) for shape in shapes]
    assert tuple(layer.compute_output_shape(*free)) == (None, None, *returned[2:])


def test_images_keep_their_axes():
    layer = ka.MultiHeadAttention(2, 3, attention_axes=(1, 2), output_shape=(2, 13))
    x = np.zeros((B, T, S, 7), "float32")
    assert tuple(layer(x, x).shape) == (B, T, S, 2, 13)
    assert tuple(layer.compute_output_shape(x.shape, x.shape)) == (B, T, S, 2, 13)


def blocks():
    heads = ka.MultiHeadAttention
    yield "encoder", lambda: ka.EncoderBlock(heads(2, 4), ka.FeedForward(16))
    yield "decoder", lambda: ka.DecoderBlock(heads(2, 4), ka.FeedForward(16))
    yield "pooling", ka.AttentionPooling
    yield "queries", lambda: ka.AttentionPooling(heads(2, 4), num_queries=3)


@pytest.mark.parametrize(
    "make", [make for _, make in blocks()], ids=[name for name, _ in blocks()]
)
def test_a_block_declares_its_shape_and_works_under_time_distributed(make):
    x = np.random.default_rng(0).normal(size=(B, T, S, 8)).astype("float32")
    layer = make()
    returned = layer(x[:, 0])
    assert tuple(layer.compute_output_shape((B, S, 8))) == tuple(returned.shape)
    outer = keras.layers.TimeDistributed(layer)
    symbolic = outer(keras.Input((T, S, 8)))
    assert tuple(symbolic.shape)[1:] == (T, *returned.shape[1:])


def test_a_users_layer_declares_its_shape_by_that_of_its_parts():
    class Mean(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.attention = ka.MultiHeadAttention(2, 4)

        def build(self, shape):
            self.attention.build(shape, shape)
            self.built = True

        def call(self, x):
            return keras.ops.mean(self.attention(x, x), axis=1)

        def compute_output_shape(self, shape):
            attended = self.attention.compute_output_shape(shape, shape)
            return (attended[0], attended[2])

    assert tuple(Mean()(keras.Input((5, 8))).shape) == (None, 8)


def test_weights_and_caches_are_symbolic_outputs_too():
    x = keras.Input((S, 8))
    layer = ka.MultiHeadAttention(2, 4)
    output, weights = layer(x, x, return_attention_scores=True)
    assert tuple(output.shape) == (None, S, 8)
    assert tuple(weights.shape) == (None, 2, S, S)
