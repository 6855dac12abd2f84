"""Quantised models are saved and loaded, however deep their projections are."""

import keras
import numpy as np
import pytest

import keras_attention as ka

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`"),
]


@keras.saving.register_keras_serializable("tests")
class UsersBlock(keras.layers.Layer):
    """A layer of a user that knows nothing about quantisation."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = ka.MultiHeadAttention(2, 16)
        self.norm = keras.layers.LayerNormalization()

    def build(self, shape):
        self.attention.build(shape, shape)
        self.norm.build(shape)
        self.built = True

    def call(self, x):
        return self.norm(x + self.attention(x, x))


def functional(layer):
    x = keras.Input((None, 32))
    return keras.Model(x, layer(x))


def recurrent():
    x = keras.Input((None, 32))
    cell = ka.AttentionCell(keras.layers.GRUCell(8), ka.GlobalAttention("general"))
    return keras.Model(x, ka.AttentionRNN(cell, return_sequences=True)(x, x))


def bert():
    return ka.BertEncoder(50, 2, 2, 16, 32, max_sequence_length=16)


def gpt():
    return ka.GPTDecoder(50, 2, 2, 16, 32, max_sequence_length=16)


HEADS = (2, 16)
MODELS = {
    "heads": lambda: functional(lambda x: ka.MultiHeadAttention(*HEADS)(x, x)),
    "feed-forward": lambda: functional(ka.FeedForward(32)),
    "encoder block": lambda: functional(
        ka.EncoderBlock(ka.MultiHeadAttention(*HEADS), ka.FeedForward(32))
    ),
    "decoder block": lambda: functional(
        ka.DecoderBlock(ka.MultiHeadAttention(*HEADS), ka.FeedForward(32))
    ),
    "recurrent": recurrent,
    "user's": lambda: functional(UsersBlock()),
    "bert": bert,
    "gpt": gpt,
    # A head of one column: packed to int4 it has the shape of an int8 kernel.
    "scorer": lambda: ka.TextScorer(bert()),
}


def outputs_of(model):
    if isinstance(model, ka.BertEncoder | ka.GPTDecoder | ka.TextScorer):
        outputs = model(np.array([[3, 4, 5, 6]]))
        return np.asarray(keras.tree.flatten(outputs)[0])
    x = np.random.default_rng(0).normal(size=(2, 5, 32)).astype("float32")
    return np.asarray(model(x))


@pytest.mark.parametrize("mode", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MODELS)
def test_a_quantised_model_answers_the_same_after_it_was_loaded(name, mode, tmp_path):
    model = MODELS[name]()
    before = outputs_of(model)
    model.quantize(mode)
    quantized = outputs_of(model)
    assert not np.array_equal(before, quantized)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs_of(again), quantized)
    again.save(tmp_path / "again.keras")
    once_more = keras.saving.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(outputs_of(once_more), quantized)


CONFIGS = {
    "groups of 4": keras.quantizers.Int4QuantizationConfig(block_size=4),
    "no groups": keras.quantizers.Int4QuantizationConfig(block_size=-1),
    "only weights": keras.quantizers.Int8QuantizationConfig(activation_quantizer=None),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_settings_of_a_quantisation_are_kept(name, tmp_path):
    model = bert()
    model.quantize(config=CONFIGS[name])
    quantized = outputs_of(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs_of(again), quantized)
    if "groups" in name:  # a user's model tells only by what was saved
        x = keras.Input((None, 32))
        model = keras.Model(x, ka.FeedForward(16)(x))
        model.quantize(config=CONFIGS[name])
        model.save(tmp_path / "users.keras")
        again = keras.saving.load_model(tmp_path / "users.keras")
        np.testing.assert_array_equal(outputs_of(again), outputs_of(model))


def test_a_compiled_quantised_model_has_its_optimizer_again(tmp_path):
    model = ka.TextClassifier(bert(), ["a", "b"], dropout=0.0)
    model.quantize("int8")
    model.compile(ka.AdamW(0.01), "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(np.array([[3, 4, 5, 6]]), np.array([1]))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")  # a warning is an error
    pairs = zip(again.optimizer.variables, model.optimizer.variables, strict=True)
    for ours, saved in pairs:
        np.testing.assert_array_equal(ours, saved)


def test_a_model_that_is_not_quantised_stays_as_it_is(tmp_path):
    model = MODELS["encoder block"]()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs_of(again), outputs_of(model))
    modes = {getattr(x, "quantization_mode", None) for x in again._flatten_layers()}
    assert modes == {None}
