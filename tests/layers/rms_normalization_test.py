import numpy as np
import pytest

import keras_attention as ka
from keras_attention.layers.feed_forward import FeedForward

X = np.random.default_rng(1).normal(size=(2, 3, 7))


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_features_are_divided_by_their_root_mean_square(epsilon):
    layer = ka.RMSNormalization(epsilon=epsilon)
    layer.build(X.shape)
    gamma = np.random.default_rng(2).normal(size=7)
    layer.gamma.assign(gamma)
    got = np.asarray(layer(X.astype("float32")))
    expected = X / np.sqrt(np.mean(X**2, axis=-1, keepdims=True) + epsilon) * gamma
    np.testing.assert_allclose(got, expected, atol=1e-5)
    again = ka.RMSNormalization.from_config(layer.get_config())
    assert again.epsilon == epsilon


def test_half_precision_squares_do_not_overflow():
    layer = ka.RMSNormalization(dtype="mixed_float16")
    got = np.asarray(layer(np.full((1, 5), 1000.0, "float16")))
    assert got.dtype == "float16"
    np.testing.assert_allclose(got, 1.0, atol=1e-3)


def test_a_gate_multiplies_what_the_activation_does_not_touch():
    layer = FeedForward(11, "relu", gated=True, use_bias=False)
    got = np.asarray(layer(X.astype("float32")))
    gate, up, down = (
        np.asarray(part.kernel)
        for part in (layer.gate, layer.intermediate, layer.output_projection)
    )
    expected = (np.maximum(X @ gate, 0) * (X @ up)) @ down
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert len(layer.weights) == 3
    config = FeedForward.from_config(layer.get_config()).get_config()
    assert config == layer.get_config()
