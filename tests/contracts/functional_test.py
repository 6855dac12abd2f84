"""A functional model need not know its lengths, on any backend and any path."""

import keras
import numpy as np
import pytest
from backends import to_numpy

import keras_attention as ka

PATHS = {
    "dense": {"chunked": False},
    "window": {"sliding_window": 3},
    "chunks": {"chunked": True},
}


@pytest.mark.parametrize("options", PATHS.values(), ids=PATHS)
def test_lengths_may_be_unknown_in_a_functional_model(options):
    layer = ka.MultiHeadAttention(2, 3, **options)
    inputs = keras.Input((None, 6))
    model = keras.Model(inputs, layer(inputs, inputs))
    assert model.output.shape == (None, None, 6)
    x = np.random.default_rng(1).normal(size=(2, 23, 6)).astype("float32")
    np.testing.assert_allclose(to_numpy(model(x)), to_numpy(layer(x, x)), atol=1e-6)
