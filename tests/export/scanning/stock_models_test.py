"""Nothing honest is refused: models of Keras itself, as Keras exports them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_attention as ka

pytestmark = [
    pytest.mark.tensorflow,
    # Keras patches tf2onnx for NumPy 2, and asks NumPy for what is not there.
    pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning"),
]
STOCK = {
    "MobileNetV3Small": (keras.applications.MobileNetV3Small, 32),
    "EfficientNetV2B0": (keras.applications.EfficientNetV2B0, 32),
    "ConvNeXtTiny": (keras.applications.ConvNeXtTiny, 32),
}


def small(activation):
    """Many kinds of layers in one small model."""
    image = keras.Input((16, 16, 3), name="image")
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Resizing(8, 8)(x)
    x = keras.layers.SeparableConv2D(5, 3, padding="same", activation=activation)(x)
    x = keras.layers.Conv2DTranspose(4, 3, strides=2)(x)
    x = keras.layers.ZeroPadding2D(1)(keras.layers.GroupNormalization(2)(x))
    x = keras.layers.UpSampling2D(2)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    y = keras.layers.Embedding(31, 8, mask_zero=True)(ids)
    y = keras.layers.Bidirectional(keras.layers.GRU(3))(y)
    z = keras.layers.Embedding(31, 8)(ids)
    z = keras.layers.GlobalMaxPooling1D()(keras.layers.MultiHeadAttention(2, 3)(z, z))
    return keras.Model([image, ids], keras.layers.Concatenate()([x, y, z]))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["tf_saved_model", "onnx"])
def test_a_model_of_many_layers_is_in_order(format, tmp_path):
    path = tmp_path / ("m.onnx" if format == "onnx" else "1")
    # Keras writes TensorFlow's exact GELU with an operator that ONNX does not have.
    model = small("relu" if format == "onnx" else "gelu")
    model([np.ones((2, 16, 16, 3)), np.ones((2, 5), "int32")])  # for ONNX
    model.export(str(path), format=format, verbose=False)
    runner = ka.open_artifact(path, allow_unverified=True)
    with runner:
        (signature,) = (x for x in runner.signatures if x in ("serving_default", "m"))
        info = runner.signatures[signature]
        assert len(info.inputs) == 2
        fed = {
            name: np.ones((2, 5) if "int" in one.dtype else (2, 16, 16, 3), one.dtype)
            for name, one in info.inputs.items()
        }
        (answer,) = runner.run(signature, **fed).values()
    image, ids = sorted(fed.values(), key=lambda one: -one.ndim)
    expected = model([image, ids])
    np.testing.assert_allclose(answer, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("format", ["tf_saved_model", "onnx", "keras"])
@pytest.mark.parametrize("name", sorted(STOCK))
def test_a_stock_model_is_in_order(name, format, tmp_path):
    make, size = STOCK[name]
    model = make(weights=None, input_shape=(size, size, 3), classes=7)
    path = tmp_path / {"onnx": "m.onnx", "keras": "m.keras"}.get(format, "1")
    if format == "keras":
        model.save(path)
        assert ka.scan_artifact(path).operators
    else:
        model(np.ones((1, size, size, 3)))
        model.export(str(path), format=format, verbose=False)
        if (name, format) == ("ConvNeXtTiny", "onnx"):
            with pytest.raises(ValueError, match=r"operator ai\.onnx\.Erfc"):
                ka.open_artifact(path, allow_unverified=True)
        else:
            ka.open_artifact(path, allow_unverified=True).close()


LOOPS = {
    "map": lambda x: tf.map_fn(lambda row: row * 2.0, x),
    "while": lambda x: tf.while_loop(
        lambda s: tf.reduce_sum(s) < 100.0, lambda s: (s * 2.0 + 1.0,), [x]
    )[0],
    "limited": lambda x: tf.while_loop(
        lambda s: True, lambda s: [s * 2.0], [x], maximum_iterations=5
    )[0],
    "scan": lambda x: tf.scan(lambda a, b: a + b, x),
    "fold": lambda x: tf.foldl(lambda a, b: a + b, x),
    "keras": lambda x: keras.ops.fori_loop(0, 3, lambda i, s: s + 1.0, x),
    "random": lambda x: tf.while_loop(
        lambda s: tf.random.uniform([]) < 0.5, lambda s: (s,), [x]
    )[0],
}


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_a_loop_of_every_kind_is_in_order(name, tmp_path):
    spec = tf.TensorSpec([None, 3], tf.float32, name="x")
    function = tf.function(lambda x: {"y": LOOPS[name](x)}, input_signature=[spec])
    tf.saved_model.save(tf.Module(), str(tmp_path), signatures={"s": function})
    with ka.open_artifact(tmp_path, allow_unverified=True) as runner:
        x = np.ones((2, 3), np.float32)
        answer = runner.run("s", x=x)["y"]
    if name != "random":
        np.testing.assert_allclose(answer, LOOPS[name](tf.constant(x)))
