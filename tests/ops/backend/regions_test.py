import numpy as np
import pytest

import keras_attention as ka
from keras_attention.layers.layer_normalization import LayerNormalization
from keras_attention.ops.backend.regions import intercepting, region

X = np.random.default_rng(1).normal(size=(2, 3, 8)).astype("float32")


def recorder(seen):
    def interceptor(name, function, tensors, settings):
        seen.append((name, len(tensors), settings))
        return function(*tensors, **settings)

    return interceptor


def test_a_region_calls_its_function():
    assert region("sum", lambda x, y, *, scale: (x + y) * scale, 2, 3, scale=10) == 50


def test_an_interceptor_sees_names_tensors_and_settings_and_changes_nothing():
    layer, normalize = ka.MultiHeadAttention(2, 4), LayerNormalization(epsilon=0.5)
    feed = ka.FeedForward(16)
    expected = feed(normalize(layer(X, X)))
    seen = []
    with intercepting(recorder(seen)):
        assert np.array_equal(feed(normalize(layer(X, X))), expected)
    names = [name for name, _, _ in seen]
    assert names == [
        *["linear"] * 3,
        "attention",
        "linear",
        "layer_normalization",
        "linear",
        "gelu",
        "linear",
    ]
    attention = {"num_heads": 2, "num_key_value_heads": 2, "scale": 0.5}
    attention["soft_cap"] = None
    assert seen[3] == ("attention", 5, {**attention, "return_weights": False})
    assert seen[5][2] == {"epsilon": 0.5}
    assert seen[7][2] == {"approximate": False}


def test_the_result_of_the_interceptor_is_used():
    with intercepting(lambda name, *_: f"a node called {name}"):
        assert region("gelu", abs, -3) == "a node called gelu"


def test_the_interceptor_is_removed_after_the_block_and_after_an_exception():
    seen = []

    def trace():
        with intercepting(recorder(seen)):
            region("first", abs, -1)
            raise RuntimeError("the tracer failed")

    with pytest.raises(RuntimeError, match="the tracer failed"):
        trace()
    assert region("second", abs, -2) == 2
    assert [name for name, _, _ in seen] == ["first"]


def test_the_inner_of_two_interceptors_is_used():
    outer, inner = [], []
    with intercepting(recorder(outer)):
        with intercepting(recorder(inner)):
            region("inner", abs, -1)
        region("outer", abs, -1)
    assert ([x[0] for x in outer], [x[0] for x in inner]) == (["outer"], ["inner"])


def test_dropout_in_training_is_no_region():
    layer = ka.MultiHeadAttention(2, 4, dropout=0.5)
    seen = []
    with intercepting(recorder(seen)):
        layer(X, X, training=True)
        assert "attention" not in [name for name, _, _ in seen]
        layer(X, X, training=False)
        assert "attention" in [name for name, _, _ in seen]
