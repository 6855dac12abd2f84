"""The layers that are not attention."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from backends import gradients
from contracts.kinds import relative_error, to_numpy
from oracle import drawn

import keras_attention as ka
from keras_attention.layers.layer_normalization import LayerNormalization
from keras_attention.layers.projection import Projection
from keras_attention.layers.token_embedding import TokenEmbedding

B, T, E = 2, 5, 8
X = np.random.default_rng(1).normal(size=(B, T, E)).astype("float32")
IDS = np.array([[3, 1, 0, 2, 4], [0, 0, 1, 1, 2]])

LAYERS = {
    "sinusoidal": lambda **kw: ka.SinusoidalEncoding(500.0, "concatenated", **kw),
    "position": lambda **kw: ka.PositionEmbedding(7, initializer="he_normal", **kw),
    "feed-forward": lambda **kw: ka.FeedForward(
        11, "relu", dropout=0.1, kernel_initializer="he_normal", seed=3, **kw
    ),
    "normalization": lambda **kw: LayerNormalization(epsilon=0.1, **kw),
    "projection": lambda **kw: Projection((3, 5), input_axes=(2, 4), **kw),
    "projection-without-bias": lambda **kw: Projection((3,), use_bias=False, **kw),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_saving_and_loading_changes_no_bit(make, tmp_path):
    inputs = keras.Input((T, E))
    model = keras.Model(inputs, make()(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded(X), model(X))
    assert loaded.layers[-1].get_config() == model.layers[-1].get_config()


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_every_dtype_gives_the_same_up_to_its_precision(make, policy):
    exact, layer = make(dtype="float64"), make(dtype=policy)
    for each in (exact, layer):
        each.build(X.shape)
    layer.set_weights(exact.get_weights())
    output = layer(X.astype("float64") if policy == "float64" else X)
    assert keras.backend.standardize_dtype(output.dtype) == layer.compute_dtype
    error = relative_error(
        keras.ops.cast(output, "float64"), exact(X.astype("float64"))
    )
    assert error <= {"mixed_float16": 2e-3, "mixed_bfloat16": 1.6e-2}.get(policy, 0.0)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_symbolic_shapes_are_the_real_ones_and_every_weight_gets_gradient(make):
    layer = make()
    symbol = layer(keras.Input((None, E)))
    assert (None, None, *layer(X).shape[2:]) == tuple(symbol.shape)
    weights = layer.trainable_weights
    found = gradients(lambda x: keras.ops.sum(layer(x) ** 2), [X], weights)[1:]
    assert len(found) == len(weights)
    for gradient in found:
        assert np.isfinite(gradient).all()
        assert abs(gradient).max() > 0


POSITIONS = {
    "sinusoidal": ka.SinusoidalEncoding,
    "learned": lambda: ka.PositionEmbedding(7),
}


@pytest.mark.parametrize("make", POSITIONS.values(), ids=POSITIONS)
def test_explicit_positions_pick_the_same_vectors(make):
    layer = make()
    whole = to_numpy(layer(np.zeros_like(X)))
    assert len(np.unique(whole[0], axis=0)) == T
    order = np.array([[4, 0, 1, 2, 3], [1, 1, 2, 0, 4]])
    moved = to_numpy(layer(np.zeros_like(X), positions=order))
    assert np.allclose(moved, np.stack([whole[0][row] for row in order]), atol=1e-6)
    same = to_numpy(layer(np.zeros_like(X), positions=order[0]))
    assert np.allclose(same[1], moved[0], atol=1e-6)
    assert np.array_equal(layer(X), X + whole)
    assert not np.array_equal(moved, whole)


@pytest.mark.parametrize("make", POSITIONS.values(), ids=POSITIONS)
def test_the_mask_that_keras_carries_is_kept(make):
    ids = np.array([[5, 3, 0], [1, 0, 0]])
    embedded = keras.layers.Embedding(9, E, mask_zero=True)(ids)
    assert np.array_equal(make()(embedded)._keras_mask, drawn("1 1 .\n1 . ."))


def test_sinusoids_need_an_even_size():
    with pytest.raises(ValueError, match=r"even, known size. Received: size=7"):
        ka.SinusoidalEncoding()(np.zeros((1, 2, 7)))


def test_a_sequence_longer_than_the_table_is_refused():
    layer = ka.PositionEmbedding(max_sequence_length=3)
    with pytest.raises(ValueError, match=r"`max_sequence_length`. Received: inputs"):
        layer(X)
    with pytest.raises(ValueError, match=r"`max_sequence_length`. Received: inputs"):
        layer(keras.Input((T, E)))
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=rf"`positions`.*first {wrong}"):
            layer(X[:, :2], positions=np.array([0, wrong]))


@pytest.mark.tensorflow
def test_in_a_graph_of_unknown_length_the_runtime_refuses_it():
    layer = ka.PositionEmbedding(max_sequence_length=3)
    layer.build((None, None, E))
    graph = tf.function(
        layer.__call__, input_signature=[tf.TensorSpec((None, None, E))]
    )
    assert np.array_equal(graph(X[:, :3]), layer(X[:, :3]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"not in \[0, 3\)"):
        graph(X)


def test_token_embedding_is_a_table_and_its_transpose():
    layer = TokenEmbedding(5, E)
    vectors = to_numpy(layer(IDS))
    table = to_numpy(layer.embeddings)
    assert np.array_equal(vectors, table[IDS])
    # A single vector takes another path: the table times the vector.
    for some in (vectors, vectors[:1, :1], vectors[0, 0]):
        assert relative_error(layer(some, reverse=True), some @ table.T) <= 1e-6


@pytest.mark.tensorflow
def test_ids_outside_the_vocabulary_are_refused():
    layer = TokenEmbedding(5, E)
    for wrong in (5, -1):
        with pytest.raises(ValueError, match=rf"from 0 to 4.*Received.*first {wrong}"):
            layer(np.array([[0, wrong]]))
    graph = tf.function(layer.__call__)
    for wrong in (5, -1):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"not in \[0, 5\)"):
            graph(tf.constant([[0, wrong]]))
    with pytest.raises(ValueError, match=r"integers. Received: token_ids"):
        layer(np.array([[0.0]]))


def test_large_ids_survive_half_precision():
    layer = TokenEmbedding(5001, 2, dtype="mixed_bfloat16")
    layer.build()
    layer.embeddings.assign(np.stack([np.arange(5001) % 7, np.arange(5001) % 5], 1))
    rows = to_numpy(keras.ops.cast(layer(np.array([4999, 5000])), "float32"))
    assert rows.tolist() == [[4999 % 7, 4999 % 5], [5000 % 7, 5000 % 5]]


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "relu", "tanh"])
def test_feed_forward_is_two_dense_layers(name):
    layer = ka.FeedForward(11, name)
    layer.build(X.shape)
    theirs = {
        "gelu": lambda x: keras.activations.gelu(x, approximate=False),
        "gelu_tanh": lambda x: keras.activations.gelu(x, approximate=True),
    }.get(name, name)
    first, second = keras.layers.Dense(11, theirs), keras.layers.Dense(E)
    first.build(X.shape), second.build((B, T, 11))
    rng = np.random.default_rng(2)
    values = [rng.normal(size=w.shape) for w in layer.weights]
    layer.set_weights(values)
    first.set_weights(values[:2]), second.set_weights(values[2:])
    assert relative_error(layer(X), second(first(X))) <= 1e-6
    assert ka.FeedForward.from_config(layer.get_config()).get_config() == (
        layer.get_config()
    )


def test_feed_forward_takes_a_callable():
    layer = ka.FeedForward(11, keras.ops.sin)
    assert layer(X).shape == X.shape


def test_feed_forward_drops_out_in_training_only():
    layer = ka.FeedForward(11, dropout=0.5, seed=3)
    still = to_numpy(layer(X))
    assert not np.array_equal(layer(X, training=True), still)
    assert np.array_equal(layer(X, training=False), still)


def test_normalization_has_the_numbers_of_keras():
    ours, theirs = LayerNormalization(), keras.layers.LayerNormalization(epsilon=1e-5)
    rng = np.random.default_rng(2)
    for layer in (ours, theirs):
        layer.build(X.shape)
    values = [rng.normal(size=E), rng.normal(size=E)]
    ours.set_weights(values), theirs.set_weights(values)
    assert relative_error(ours(X), theirs(X)) <= 1e-6
    large = X * 0.1 + 100.0  # the mean is much larger than the deviation
    x = large.astype("float64")
    exact = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    assert relative_error(ours(large), exact * values[0] + values[1]) <= 1e-3


@pytest.mark.parametrize("bias", [True, False])
def test_projections_have_the_weights_and_numbers_of_einsum_dense(bias):
    heads = Projection((3, 5), use_bias=bias)
    theirs = keras.layers.EinsumDense(
        "abc,cde->abde", (None, 3, 5), bias_axes="de" if bias else None
    )
    heads.build(X.shape), theirs.build(X.shape)
    assert [w.shape for w in heads.weights] == [w.shape for w in theirs.weights]
    theirs.set_weights(heads.get_weights())
    assert relative_error(heads(X), np.reshape(theirs(X), (B, T, 15))) <= 1e-6
    merge = Projection((7,), input_axes=(2, 4), use_bias=bias)
    theirs = keras.layers.EinsumDense(
        "abcd,cde->abe", (None, 7), bias_axes="e" if bias else None
    )
    merge.build(X.shape), theirs.build((B, T, 2, 4))
    assert [w.shape for w in merge.weights] == [w.shape for w in theirs.weights]
    theirs.set_weights(merge.get_weights())
    assert relative_error(merge(X), theirs(X.reshape(B, T, 2, 4))) <= 1e-6


def test_a_projection_refuses_an_input_of_another_size():
    merge = Projection((7,), input_axes=(2, 4))
    merge.build(X.shape)
    with pytest.raises(ValueError, match=r"must have size 8. Received"):
        merge(np.zeros((1, 2, 7)))


def test_lora_on_a_projection_starts_as_no_change_and_learns():
    layer = Projection((3, 5))
    before = to_numpy(layer(X))
    kernel = to_numpy(layer.kernel)
    layer.enable_lora(rank=2)
    assert np.allclose(layer(X), before, atol=1e-6)
    assert len(layer.trainable_weights) == 3  # the two factors and the bias
    weights = layer.trainable_weights
    found = gradients(lambda x: keras.ops.sum(layer(x) ** 2), [X], weights)[1:]
    for weight, gradient in zip(weights, found, strict=True):
        weight.assign_sub(0.1 * gradient)
    assert not np.allclose(layer(X), before, atol=1e-3)
    assert np.array_equal(layer._kernel, kernel)


def test_lora_works_inside_multi_head_attention():
    layer = ka.MultiHeadAttention(2, 4)
    before = to_numpy(layer(X, X))
    layer.query_projection.enable_lora(rank=2)
    assert np.allclose(layer(X, X), before, atol=1e-6)
