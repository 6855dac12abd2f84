"""Keras' own layers become one operator each in ONNX, with Keras' numbers."""

import collections

import keras
import numpy as np
import pytest

import keras_attention as ka
from keras_attention.export.formats.onnx.keras_layers import keras_layers_as_regions
from keras_attention.export.formats.onnx.writer import write_onnx
from keras_attention.export.signatures.catalogue import signatures_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# Keras warns about lengths of 1, and about masks that its layers drop.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

E = 6
LENGTHS = (1, 5, 13)


def with_random_weights(model):
    rng = np.random.default_rng(7)
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign(rng.normal(scale=0.4, size=weight.shape))
    return model


def opened(model, folder, **options):
    """The operators of a model's ONNX file, and a function that runs it."""
    with_random_weights(model)
    signature, file = signatures_of(model)[0], folder / "model.onnx"
    write_onnx(signature, file, **options)
    nodes = collections.Counter(node.op_type for node in onnx.load(file).graph.node)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(file, settings)

    def run(**feed):
        return dict(zip(signature.outputs, session.run(None, feed), strict=True))

    return nodes, run


def of_ids(attend):
    """A model of token ids whose mask Keras carries to `attend(x, y)`."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = keras.layers.Embedding(11, E, mask_zero=True)(ids)
    y = keras.layers.Embedding(11, E + 1, mask_zero=True)(ids)
    return keras.Model(ids, attend(x, y))


def multi_head(**options):
    return keras.layers.MultiHeadAttention(2, 3, **options)


def grouped(**options):
    return keras.layers.GroupQueryAttention(4, 6, 2, **options)


KINDS = {
    "full": lambda x, y: multi_head()(x, x),
    "causal": lambda x, y: multi_head()(x, x, use_causal_mask=True),
    "dropout": lambda x, y: multi_head(dropout=0.3)(x, x, use_causal_mask=True),
    "weights": lambda x, y: multi_head()(x, x, return_attention_scores=True),
    "window": lambda x, y: multi_head(sliding_window=3)(x, x, use_causal_mask=True),
    "sizes": lambda x, y: multi_head(value_dim=5, output_shape=7)(y, x),
    "no-bias": lambda x, y: multi_head(use_bias=False)(x, key=y, value=x),
    "grouped": lambda x, y: grouped()(x, x, use_causal_mask=True),
    "grouped-dropout": lambda x, y: grouped(dropout=0.3)(x, x),
    "grouped-weights": lambda x, y: grouped()(x, x, return_attention_scores=True),
    "gate": lambda x, y: multi_head(use_gate=True)(x, x),
}


@pytest.mark.parametrize("attend", KINDS.values(), ids=KINDS)
def test_a_layer_is_one_operator_and_computes_what_keras_computes(attend, tmp_path):
    model = of_ids(attend)
    nodes, run = opened(model, tmp_path)
    assert nodes["Attention"] == 1
    assert nodes["Softmax"] == nodes["Einsum"] == 0
    for length in LENGTHS:
        ids = np.random.default_rng(length).integers(1, 11, (3, length)).astype("int32")
        ids[1, length // 2 :] = 0  # padding
        ids[2] = 0  # nothing but padding: 0 or a mean in Keras, and the same here
        expected = keras.tree.flatten(model(ids))
        for found, wanted in zip(run(ids=ids).values(), expected, strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), atol=2e-6, rtol=2e-6)


def test_norms_dense_layers_and_gelu_are_one_operator_each(tmp_path):
    x = inputs = keras.Input((None, E), name="x")
    x = keras.layers.LayerNormalization(epsilon=1e-3)(x)
    x = keras.layers.Dense(5, activation="gelu")(x)
    x = keras.layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de")(x)
    x = keras.layers.EinsumDense("abde,def->abf", (None, 3))(x)
    x = keras.layers.LayerNormalization(center=False)(keras.activations.gelu(x, True))
    model = keras.Model(inputs, x)
    nodes, run = opened(model, tmp_path)
    assert nodes["MatMul"] == 3
    assert nodes["Gelu"] == 2
    assert nodes["LayerNormalization"] == 1  # the other has no offset
    assert nodes["Einsum"] == nodes["Erf"] == 0
    x = np.random.default_rng(1).normal(size=(2, 5, E)).astype("float32")
    (found,) = run(x=x).values()
    np.testing.assert_allclose(found, model(x).numpy(), atol=1e-5)


def test_before_opset_23_attention_is_composed_with_the_same_numbers(tmp_path):
    model = of_ids(KINDS["causal"])
    nodes, run = opened(model, tmp_path, opset=18)
    assert nodes["Attention"] == 0
    ids = np.array([[3, 1, 0, 0], [1, 2, 3, 4]], "int32")
    (found,) = run(ids=ids).values()
    np.testing.assert_allclose(found, model(ids).numpy(), atol=2e-6)


def test_keras_is_unchanged_after_an_export():
    layers = keras.layers
    owners = (layers.MultiHeadAttention, layers.GroupQueryAttention)
    before = [vars(owner)["_compute_attention"] for owner in owners]
    with keras_layers_as_regions():
        inside = [vars(owner)["_compute_attention"] for owner in owners]
    assert [vars(owner)["_compute_attention"] for owner in owners] == before
    assert all(one is not other for one, other in zip(inside, before, strict=True))


def test_inside_the_export_numbers_and_training_are_those_of_keras():
    x = np.random.default_rng(1).normal(size=(2, 5, E)).astype("float32")
    layer = multi_head(dropout=0.5)
    plain, trained = layer(x, x), layer(x, x, training=True)
    with keras_layers_as_regions():
        np.testing.assert_allclose(layer(x, x).numpy(), plain.numpy(), atol=1e-6)
        assert abs(layer(x, x, training=True) - plain).numpy().max() > 1e-3
    assert abs(trained - plain).numpy().max() > 1e-3


SIZES = {
    "vocabulary_size": 97,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "max_sequence_length": 64,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BertBackbone", "GPT2Backbone", "DistilBertBackbone"])
def test_a_backbone_of_keras_hub_has_one_operator_per_layer(name, tmp_path):
    hub = pytest.importorskip("keras_hub")
    model = with_random_weights(getattr(hub.models, name)(**SIZES))
    model.save(tmp_path / "hub.keras")
    model = ka.load_model(tmp_path / "hub.keras")
    folder = ka.export_model(model, tmp_path / "hub", "onnx")  # verified on the grid
    (file,) = folder.glob("*.onnx")
    nodes = collections.Counter(node.op_type for node in onnx.load(file).graph.node)
    assert nodes["Attention"] == 2
    assert nodes["Gelu"] == 2
    assert nodes["LayerNormalization"] == 5
    assert nodes["Softmax"] == nodes["Einsum"] == 0
