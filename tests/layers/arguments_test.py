"""Wrong constructor arguments are refused when they are passed, by their name."""

import keras
import numpy as np
import pytest

import keras_attention as ka

HEADS = {"num_heads": 2, "key_dim": 4}
BERT = {
    "vocabulary_size": 10,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
}
SIZES = [*BERT]
# class, good arguments, arguments that are sizes, arguments that are sizes or None
CLASSES = [
    (ka.MultiHeadAttention, HEADS, [*HEADS], ["value_dim", "num_key_value_heads"]),
    (ka.AdditiveAttention, {"units": 4}, ["units"], []),
    (ka.GlobalAttention, {}, [], ["units", "max_length"]),
    (ka.LocalAttention, {"window": 2}, ["window"], ["units"]),
    (ka.MonotonicAttention, {}, [], ["units"]),
    (ka.FeedForward, {"intermediate_dim": 4}, ["intermediate_dim"], []),
    (ka.PositionEmbedding, {"max_sequence_length": 4}, ["max_sequence_length"], []),
    (ka.PatchEmbedding, {"patch_size": 2, "hidden_dim": 4}, ["hidden_dim"], []),
    (ka.AttentionPooling, {}, [], ["num_queries", "query_dim"]),
    (ka.BertEncoder, BERT, [*SIZES, "max_sequence_length"], []),
    (ka.GPTDecoder, BERT, [*SIZES, "max_sequence_length"], ["num_key_value_heads"]),
    (ka.Seq2SeqTransformer, BERT, SIZES, ["max_sequence_length"]),
    (ka.T5EncoderDecoder, BERT, [*SIZES, "head_dim"], ["num_decoder_layers"]),
]
CASES = [
    pytest.param(cls, good, name, optional, id=f"{cls.__name__}-{name}")
    for cls, good, sizes, or_none in CLASSES
    for optional, names in ((False, sizes), (True, or_none))
    for name in names
]


@pytest.mark.parametrize(("cls", "good", "name", "optional"), CASES)
def test_a_size_is_a_whole_number_of_one_or_more(cls, good, name, optional):
    wrong = [0, -2, 1.5, 4.0, True, "4", float("nan"), [4]]
    wrong += [] if optional else [None]
    for value in wrong:
        with pytest.raises(ValueError, match=rf"`{name}` must be .*Received: {name}"):
            cls(**{**good, name: value})


def test_numbers_of_numpy_are_numbers():
    layer = ka.MultiHeadAttention(np.int64(2), np.int32(4))
    assert tuple(layer(np.zeros((1, 3, 8)), np.zeros((1, 3, 8))).shape) == (1, 3, 8)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 0.0, -1.0, "1"])
def test_a_scale_is_a_finite_number_above_zero(scale):
    with pytest.raises(ValueError, match=r"`scale` must be .*Received: scale="):
        ka.MultiHeadAttention(2, 4, scale=scale)


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, float("nan"), None])
def test_an_epsilon_is_a_finite_number_above_zero(epsilon):
    with pytest.raises(ValueError, match=r"`epsilon` must be .*Received: epsilon="):
        ka.RMSNormalization(epsilon=epsilon)


@pytest.mark.parametrize("output_shape", [0, 8.0, (), (8, 0), "8", True])
def test_an_output_shape_is_a_size_or_a_tuple_of_sizes(output_shape):
    with pytest.raises(ValueError, match=r"`output_shape` must .*Received: output"):
        ka.MultiHeadAttention(2, 4, output_shape=output_shape)


@pytest.mark.parametrize("block", [ka.EncoderBlock, ka.DecoderBlock])
@pytest.mark.parametrize("name", ["attention", "feed_forward"])
def test_the_parts_of_a_block_are_layers(block, name):
    parts = {"attention": ka.MultiHeadAttention(2, 4)}
    parts["feed_forward"] = keras.layers.Dense(8)
    with pytest.raises(ValueError, match=rf"`{name}` must be a Keras layer.*Received"):
        block(**{**parts, name: 3})
