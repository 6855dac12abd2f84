"""Blocks return the weights of their attentions, alone and in functional models."""

import keras
import numpy as np
import pytest
from backends import to_numpy
from oracle import drawn

import keras_attention as ka
from keras_attention.explain.record import record_attention

B, T, S, E = 2, 5, 3, 8
RNG = np.random.default_rng(1)
X = RNG.normal(size=(B, T, E)).astype("float32")
SOURCE = RNG.normal(size=(B, S, 7)).astype("float32")
KEEP = drawn("1 1 1 1 1\n1 1 1 . .")
CALL = {"return_attention_scores": True}


def heads():
    return ka.MultiHeadAttention(2, 3)


def encoder(attention=None):
    return ka.EncoderBlock(attention or heads(), ka.FeedForward(13))


def decoder(cross=True, attention=None):
    other = ka.MultiHeadAttention(3, 3) if cross else None
    return ka.DecoderBlock(attention or heads(), ka.FeedForward(13), other)


def same(found, expected):
    found, expected = to_numpy(found), to_numpy(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_an_encoder_block_returns_the_weights_of_its_attention():
    block = encoder()
    expected, maps = record_attention(block, X, padding_mask=KEEP)
    output, weights = block(X, padding_mask=KEEP, **CALL)
    same([output, weights], [expected, *maps.values()])
    assert (to_numpy(weights)[1, :, :, 3:] == 0).all()
    _, weights = encoder(ka.AdditiveAttention(3))(X, **CALL)
    assert tuple(weights.shape) == (B, T, T)


def test_a_decoder_block_returns_the_weights_of_both_attentions():
    block = decoder()
    expected, maps = record_attention(block, X, SOURCE)
    found = block(X, SOURCE, **CALL)
    same(found, [expected, *maps.values()])
    assert [tuple(x.shape) for x in found[1:]] == [(B, 2, T, T), (B, 3, T, S)]
    assert (np.triu(to_numpy(found[1]), 1) == 0).all()
    alone = decoder(cross=False)
    assert [tuple(x.shape) for x in alone(X, **CALL)] == [(B, T, E), (B, 2, T, T)]


def test_the_cache_comes_after_the_weights():
    block = decoder(cross=False)
    output, weights = block(X, **CALL)
    cache = ka.KVCache.empty(batch_size=B, key_size=6, value_size=6)
    first = block(X[:, :3], cache=cache, **CALL)
    assert len(first) == 3
    steps = block(X[:, 3:], cache=first[2], **CALL)
    same(steps[:2], [output[:, 3:], weights[:, :, 3:]])
    block = decoder()
    expected = block(X, SOURCE, **CALL)
    memory = block.cross_attention.remember(SOURCE)
    cache = ka.EncoderDecoderCache(cache, memory)
    *found, new = block(X, cache=cache, **CALL)
    same(found, expected)
    assert isinstance(new, ka.EncoderDecoderCache)


def functional():
    """A model of two lengths whose outputs are a sequence and all weights."""
    tokens = keras.Input((None,), name="a", dtype="int32")
    source = keras.Input((None,), name="b", dtype="int32")
    embed = keras.layers.Embedding(11, E, mask_zero=True)
    encoded, first = encoder()(embed(source), **CALL)
    output, own, cross = decoder()(embed(tokens), encoded, **CALL)
    assert tuple(own.shape) == (None, 2, None, None)
    outputs = {"output": output, "first": first, "own": own, "cross": cross}
    return keras.Model([tokens, source], outputs)


IDS = np.array([[3, 1, 4, 1, 0]], "int32"), np.array([[2, 7, 0]], "int32")


def test_scores_are_outputs_of_functional_models(tmp_path):
    model = functional()
    expected = model(IDS)
    assert {name: tuple(x.shape) for name, x in expected.items()} == {
        "output": (1, 5, E),
        "first": (1, 2, 3, 3),
        "own": (1, 2, 5, 5),
        "cross": (1, 3, 5, 3),
    }
    assert (to_numpy(expected["cross"])[..., 2] == 0).all()  # padding of the source
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")(IDS)
    same([loaded[name] for name in expected], list(expected.values()))


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "saved_model"])
def test_scores_are_outputs_of_exported_models(format, tmp_path):
    model = functional()
    ka.export_model(model, tmp_path / "exported", format=format)
    with ka.open_artifact(tmp_path / "exported") as session:
        found = session.run("serving_default", a=IDS[0], b=IDS[1])
    expected = model(IDS)
    assert set(found) == set(expected)
    for name, value in found.items():
        np.testing.assert_allclose(value, to_numpy(expected[name]), atol=1e-5)


def test_an_attention_without_that_argument_is_used_without_scores():
    class Mean(keras.layers.Layer):
        def call(self, query, value, **masks):
            return query + keras.ops.mean(value, axis=1, keepdims=True)

        def compute_output_shape(self, query_shape, value_shape=None):
            return query_shape

    block = encoder(Mean())
    assert tuple(block(X).shape) == (B, T, E)


def test_a_block_that_returns_scores_declares_one_shape():
    block = encoder()
    assert tuple(block.compute_output_shape((B, T, E))) == (B, T, E)
    x = keras.Input((T, E), batch_size=B)
    spec = block.compute_output_spec(x, **CALL)
    assert [tuple(part.shape) for part in spec] == [(B, T, E), (B, 2, T, T)]
