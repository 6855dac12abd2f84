"""First calls: from several threads, and with inputs that no layer takes."""

import threading

import keras
import numpy as np
import pytest
from backends import to_numpy

import keras_attention as ka

X = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
KINDS = {
    "multi-head": lambda: ka.MultiHeadAttention(
        2, 3, position=ka.RotaryEmbedding(rotary_dim=2)
    ),
    "additive": lambda: ka.AdditiveAttention(3),
    "pooling": ka.AttentionPooling,
    "block": lambda: ka.EncoderBlock(ka.MultiHeadAttention(2, 3), ka.FeedForward(4)),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", KINDS)
def test_the_first_call_may_come_from_eight_threads_at_once(name):
    for _ in range(3):
        layer, found, failed = KINDS[name](), [], []
        start = threading.Barrier(8)
        one = name in ("pooling", "block")

        def call(layer=layer, start=start, found=found, failed=failed, one=one):
            start.wait()
            try:
                found.append(to_numpy(layer(X) if one else layer(X, X)))
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        for output in found:
            assert np.array_equal(output, found[0])
        alone = KINDS[name]()
        alone(X) if one else alone(X, X)
        weights = [[(w.name, w.shape) for w in each.weights] for each in (layer, alone)]
        assert weights[0] == weights[1]


def ragged():
    tf = pytest.importorskip("tensorflow")
    return tf.RaggedTensor.from_tensor(X, lengths=[5, 3])


def ragged_ids():
    tf = pytest.importorskip("tensorflow")
    return tf.ragged.constant([[1, 2, 3], [4]])


RAGGED = {
    "multi-head": lambda: ka.MultiHeadAttention(2, 3)(ragged(), ragged()),
    "value alone": lambda: ka.MultiHeadAttention(2, 3)(X, ragged()),
    "list": lambda: ka.DotProductAttention()([ragged(), ragged()]),
    "symbolic": lambda: ka.MultiHeadAttention(2, 3)(
        *[keras.Input((None, 8), ragged=True)] * 2
    ),
    "pooling": lambda: ka.AttentionPooling()(ragged()),
    "encoder block": lambda: KINDS["block"]()(ragged()),
    "decoder block": lambda: ka.DecoderBlock(
        ka.MultiHeadAttention(2, 3), ka.FeedForward(4), ka.MultiHeadAttention(2, 3)
    )(X, ragged()),
    "positions": lambda: ka.PositionEmbedding(9)(ragged()),
    "sinusoids": lambda: ka.SinusoidalEncoding()(ragged()),
    "model": lambda: ka.BertEncoder(9, 1, 2, 4, 4)(ragged_ids()),
    "memory": lambda: ka.AttentionRNN(
        ka.AttentionCell(keras.layers.GRUCell(4), ka.AdditiveAttention(3))
    )(X, ragged()),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("case", RAGGED)
def test_a_ragged_tensor_is_refused_with_the_remedy(case):
    with pytest.raises(ValueError, match=r"x\.to_tensor\(\)`.*Received: \w+=Ragged"):
        RAGGED[case]()


@pytest.mark.tensorflow
def test_chunks_of_an_empty_batch_are_compiled():
    import tensorflow as tf

    layer = ka.MultiHeadAttention(2, 3, chunked=True)
    x = np.zeros((2, 600, 4), "float32")
    layer(x, x)
    for compiled in (False, True):
        call = tf.function(lambda x: layer(x, x), jit_compile=compiled)
        assert tuple(call(tf.zeros((0, 600, 4))).shape) == (0, 600, 4)


def exact(positions, size):
    waves = positions[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    return np.stack([np.sin(waves), np.cos(waves)], axis=-1).reshape(-1, size)


@pytest.mark.tensorflow
def test_sinusoids_of_float64_are_exact_in_float64():
    layer = ka.SinusoidalEncoding(dtype="float64")
    found = to_numpy(layer(np.zeros((1, 3001, 8))))[0]
    assert found.dtype == "float64"
    assert abs(found - exact(np.arange(3001), 8)).max() <= 1e-11
    grid = ka.SinusoidalEncoding2D(dtype="float64")
    found = to_numpy(grid(np.zeros((1, 211, 3, 8))))[0]
    assert abs(found[:, 1, :4] - exact(np.arange(211), 4)).max() <= 1e-12
    assert abs(found[7, :, 4:] - exact(np.arange(3), 4)).max() <= 1e-12


def test_patches_may_be_a_grid_for_layers_of_images():
    images = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype("float32")
    flat = ka.PatchEmbedding(4, 8)
    grid = ka.PatchEmbedding(4, 8, output="grid")
    expected = to_numpy(flat(images))
    grid.build(images.shape)
    grid.set_weights(flat.get_weights())
    found = grid(images)
    assert np.array_equal(to_numpy(found), expected.reshape(2, 2, 3, 8))
    assert tuple(grid.compute_output_shape(images.shape)) == (2, 2, 3, 8)
    copy = ka.PatchEmbedding.from_config(grid.get_config())
    symbolic = copy(keras.Input((8, 12, 3)))
    assert tuple(symbolic.shape) == (None, 2, 3, 8)
    encoded = ka.SinusoidalEncoding2D()(found)
    over_rows = ka.MultiHeadAttention(2, 4, attention_axes=(1, 2))
    assert tuple(over_rows(encoded, encoded).shape) == (2, 2, 3, 8)
    with pytest.raises(ValueError, match="Received: output='flat'"):
        ka.PatchEmbedding(4, 8, output="flat")


def test_a_part_that_is_no_layer_is_refused():
    for make in (
        lambda: ka.EncoderBlock(3, ka.FeedForward(4)),
        lambda: ka.DecoderBlock(ka.MultiHeadAttention(2, 3), ka.FeedForward(4), 8),
        lambda: ka.AttentionPooling(3),
        lambda: ka.AttentionCell(3, ka.AdditiveAttention(3)),
        lambda: ka.AttentionCell(keras.layers.GRUCell(3), 3),
        lambda: ka.MultiHeadAttention(2, 4, position="rotary"),
        lambda: ka.MultiHeadAttention(2, 4, position=3),
    ):
        with pytest.raises(ValueError, match=r"must be an?.*Received: \w+="):
            make()
