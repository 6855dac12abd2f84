"""The assertions for users' models: correct models pass, wrong ones are found."""

import keras
import numpy as np
import pytest

import keras_attention as ka

B, T, E = 2, 7, 5
X = np.random.default_rng(1).normal(size=(B, T, E)).astype("float32")
IDS = np.random.default_rng(1).integers(1, 23, size=(B, T))


def functional(attend):
    x = keras.Input((None, E))
    return keras.Model(x, attend(x))


def decoder(**kwargs):
    return ka.GPTDecoder(23, 2, 2, 8, 16, max_sequence_length=32, **kwargs)


# --- looking ahead -------------------------------------------------------------


def test_causal_models_pass():
    layer = ka.MultiHeadAttention(2, 3)
    ka.assert_causal(lambda x: layer(x, x, use_causal_mask=True), X)
    ka.assert_causal(functional(lambda x: layer(x, x, use_causal_mask=True)), X)
    ka.assert_causal(decoder(dropout=0.3), {"token_ids": IDS})
    ka.assert_causal(keras.layers.GRU(3, return_sequences=True), X)


def test_a_missing_causal_mask_is_found_with_its_place():
    layer = ka.MultiHeadAttention(2, 3)
    message = r"looks ahead: output of the model at position 5 .* after position 5"
    with pytest.raises(AssertionError, match=message):
        ka.assert_causal(lambda x: layer(x, x), X)


def test_one_position_too_far_is_found():
    def shifted(x):
        return np.concatenate([x[:, 1:], x[:, :1] * 0], axis=1)

    with pytest.raises(AssertionError, match="looks ahead"):
        ka.assert_causal(shifted, X)


def test_a_leak_in_one_of_several_outputs_is_named():
    def model(x):
        return {"good": x, "bad": x + x.mean(axis=1, keepdims=True)}

    with pytest.raises(AssertionError, match="output bad"):
        ka.assert_causal(model, X)


def test_a_bidirectional_layer_fails():
    layer = keras.layers.Bidirectional(keras.layers.GRU(3, return_sequences=True))
    with pytest.raises(AssertionError, match="looks ahead"):
        ka.assert_causal(layer, X)


def test_a_model_that_ignores_its_input_proves_nothing():
    with pytest.raises(AssertionError, match="proves nothing"):
        ka.assert_causal(np.ones_like, X)


def test_outputs_without_positions_are_refused():
    with pytest.raises(ValueError, match=r"position axis.*Received: output"):
        ka.assert_causal(lambda x: x.mean(axis=1), X)


def test_nan_that_appears_is_a_leak():
    def model(x):
        return np.where(abs(x).sum(axis=(1, 2), keepdims=True) > 60, np.nan, x)

    with pytest.raises(AssertionError, match="looks ahead"):
        ka.assert_causal(model, X)


# --- padding -------------------------------------------------------------------


def test_models_that_ignore_padding_pass():
    encoder = ka.BertEncoder(23, 2, 2, 8, 16, max_sequence_length=32)
    ka.assert_padding_invariant(encoder, {"token_ids": IDS})
    ka.assert_padding_invariant(
        decoder(), {"token_ids": IDS}, sides=("right", "left"), amount=4
    )


def test_a_model_that_recognises_padding_by_its_value_passes():
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(23, E, mask_zero=True)(ids)
    model = keras.Model(ids, ka.MultiHeadAttention(2, 3)(x, x))
    padding = {"padding_mask": None, "padding_value": 0, "sides": ("left", "right")}
    ka.assert_padding_invariant(model, IDS, **padding)


def test_attention_without_the_mask_is_found_with_its_place():
    layer = ka.MultiHeadAttention(2, 3)
    with pytest.raises(AssertionError, match=r"on the right .* position \(0, 0\)"):
        ka.assert_padding_invariant(lambda i: layer(i["x"], i["x"]), {"x": X})


def test_a_mean_over_padding_is_found():
    def model(inputs):
        return {"tokens": inputs["x"], "pooled": inputs["x"].mean(axis=1)}

    with pytest.raises(AssertionError, match="output pooled"):
        ka.assert_padding_invariant(model, {"x": X})


def test_nan_at_non_padding_tokens_is_found():
    def model(inputs):
        return inputs["x"] * np.where(inputs["padding_mask"].all(), 1, np.nan)

    with pytest.raises(AssertionError, match="changes output"):
        ka.assert_padding_invariant(model, {"x": X})


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (X, {}, "must be a dict.*Received"),
        ({"x": X}, {"padding_mask": None}, "padding_value.*Received"),
        ({"x": X}, {"sides": ("top",)}, "sides.*Received"),
        (
            {"x": X, "padding_mask": np.zeros((B, T), bool)},
            {},
            "must not be padded.*Received: padding_mask with 14",
        ),
        ({"x": X, "y": X[:, 1:]}, {}, "one length.*Received: input y"),
    ],
)
def test_what_does_not_fit_is_refused(inputs, options, message):
    with pytest.raises(ValueError, match=message):
        ka.assert_padding_invariant(lambda i: i["x"], inputs, **options)
