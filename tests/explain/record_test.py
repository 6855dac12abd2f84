import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import KINDS, relative_error, to_numpy
from oracle import drawn

import keras_attention as ka
from keras_attention.explain.record import record_attention

B, T, E = 2, 5, 8
X = np.random.default_rng(1).normal(size=(B, T, E)).astype("float32")
IDS = np.array([[5, 3, 8, 1, 9], [2, 7, 1, 0, 0]])
PADDING_MASK = drawn("1 1 1 1 1\n1 1 1 . .")


def bert():
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 6, "intermediate_dim": 11}
    return ka.BertEncoder(13, **sizes)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_map_is_what_the_layer_itself_returns(kind):
    layer, inputs = kind.built(), kind.inputs()
    extra = {"positions": np.arange(3)} if kind.needs_positions else {}
    expected, weights = layer(*inputs, return_attention_scores=True, **extra)
    output, maps = record_attention(layer, *inputs, **extra)
    assert list(maps) == [layer.name]
    assert np.array_equal(maps[layer.name], weights)
    assert np.array_equal(output, expected)
    alone = to_numpy(layer(*inputs, **extra))
    if keras.backend.backend() == "torch":  # its kernel returns no weights
        assert relative_error(alone, to_numpy(expected)) <= 1e-6
    else:
        assert np.array_equal(alone, expected)


def test_maps_of_a_model_are_named_by_path_and_change_no_output():
    model = bert()
    inputs = {"token_ids": IDS, "padding_mask": PADDING_MASK}
    before = to_numpy(model(inputs))
    outputs, maps = record_attention(model, inputs)
    for name, output in outputs.items():
        assert np.array_equal(output, before[name])
    assert list(maps) == ["block_0/attention", "block_1/attention"]
    for weights in ka.attention_maps(model, inputs).values():
        assert isinstance(weights, np.ndarray)
        assert weights.shape == (B, 2, T, T)
        assert (weights[1, :, :, 3:] == 0).all()
        assert np.allclose(weights.sum(-1), PADDING_MASK[:, None], atol=1e-6)


def test_functional_models_and_other_arguments_work():
    inputs = keras.Input((T, E))
    attention = ka.MultiHeadAttention(2, 3, name="mine")
    model = keras.Model(inputs, attention(inputs, inputs, use_causal_mask=True))
    maps = ka.attention_maps(model, X)
    assert list(maps) == ["mine"]
    assert np.array_equal(np.triu(maps["mine"], 1), 0 * maps["mine"])
    decoder = ka.GPTDecoder(13, 1, 2, 6, 11)
    maps = ka.attention_maps(decoder, IDS, padding_mask=PADDING_MASK)
    assert [m.shape for m in maps.values()] == [(B, 2, T, T)]


def test_a_layer_called_twice_is_numbered():
    attention = ka.DotProductAttention(name="shared")
    inputs = keras.Input((T, E))
    model = keras.Model(inputs, attention(attention(inputs, inputs), inputs))
    maps = ka.attention_maps(model, X)
    assert list(maps) == ["shared#1", "shared#2"]
    assert not np.array_equal(maps["shared#1"], maps["shared#2"])


def test_self_and_cross_attention_have_different_names():
    block = ka.DecoderBlock(
        ka.MultiHeadAttention(2, 3, name="own"),
        ka.FeedForward(11),
        ka.MultiHeadAttention(2, 3, name="cross"),
    )
    maps = ka.attention_maps(block, X, encoder_sequence=X[:, :3])
    assert {name: m.shape for name, m in maps.items()} == {
        "own": (B, 2, T, T),
        "cross": (B, 2, T, 3),
    }


@pytest.mark.tensorflow
def test_inside_a_graph_maps_are_outputs_of_the_graph():
    model = bert()

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32)])
    def graph(ids):
        outputs, maps = record_attention(model, ids)
        return outputs["sequence_output"], maps

    output, maps = graph(IDS.astype("int32"))
    expected = ka.attention_maps(model, IDS)
    assert list(maps) == list(expected)
    for name, weights in maps.items():
        assert relative_error(weights, expected[name]) <= 1e-6
    assert relative_error(output, model(IDS)["sequence_output"]) <= 1e-6


def test_a_model_without_our_attention_says_so():
    model = keras.Sequential([keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"`from_keras`|from_keras.*Received: model="):
        ka.attention_maps(model, X)


def test_recording_stops_after_an_exception():
    model = bert()
    with pytest.raises(ValueError, match="Received"):
        ka.attention_maps(model, IDS * 100)
    _, maps = record_attention(model, IDS)
    assert len(maps) == 2
