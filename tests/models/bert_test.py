import json

import keras
import numpy as np
import pytest
from contracts.kinds import relative_error, to_numpy, weights_that_are_copies
from oracle import drawn

import keras_attention as ka

IDS = np.array([[5, 3, 8, 1, 9], [2, 7, 1, 0, 0]])
MASK = drawn("1 1 1 1 1\n1 1 1 . .")
SEGMENTS = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]])


def bert(**kwargs):
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 6, "intermediate_dim": 11}
    model = ka.BertEncoder(13, max_sequence_length=7, **{**sizes, **kwargs})
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(rng.normal(scale=0.4, size=weight.shape))
    return model


def test_outputs_have_their_shapes_and_names():
    outputs = bert()(IDS)
    shapes = {name: tuple(x.shape) for name, x in outputs.items()}
    assert shapes == {"sequence_output": (2, 5, 6), "pooled_output": (2, 6)}
    assert list(bert(pooler=False)(IDS)) == ["sequence_output"]


def test_dict_keywords_and_arrays_are_one_call():
    model = bert()
    inputs = {"token_ids": IDS, "segment_ids": SEGMENTS, "padding_mask": MASK}
    expected = to_numpy(model(IDS, SEGMENTS, MASK))
    for outputs in (
        model(inputs),
        model(**inputs),
        model(IDS, **dict([*inputs.items()][1:])),
    ):
        for name, output in outputs.items():
            assert np.array_equal(output, expected[name])
    plain = to_numpy(model(IDS))["sequence_output"]
    for same in (model({"token_ids": IDS}), model(IDS, segment_ids=IDS * 0)):
        assert np.array_equal(same["sequence_output"], plain)
    assert not np.array_equal(expected["sequence_output"], plain)


def test_a_mask_of_zeros_and_ones_is_a_bool_mask():
    model = bert()
    expected = to_numpy(model(IDS, padding_mask=MASK))
    for dtype in ("int32", "int64", "uint8"):
        outputs = to_numpy(model(IDS, padding_mask=MASK.astype(dtype)))
        for name, output in outputs.items():
            assert np.array_equal(output, expected[name])


def test_padding_changes_nothing():
    model = bert()
    alone = to_numpy(model(IDS[1:, :3]))
    for filler in (0, 12):
        ids = np.where(MASK, IDS, filler)
        padded = to_numpy(model(ids, padding_mask=MASK))
        sequence = padded["sequence_output"][1:, :3]
        assert relative_error(sequence, alone["sequence_output"]) <= 1e-6
        pooled = padded["pooled_output"][1:]
        assert relative_error(pooled, alone["pooled_output"]) <= 1e-6


@pytest.mark.parametrize(
    ("inputs", "name"),
    [
        ({"token_ids": IDS.astype("float32")}, "token_ids"),
        ({"token_ids": IDS[0]}, "token_ids"),
        ({"token_ids": IDS[:, None]}, "token_ids"),
        ({"token_ids": IDS, "padding_mask": MASK.astype("float32")}, "padding_mask"),
        ({"token_ids": IDS, "padding_mask": MASK[:, :4]}, "padding_mask"),
        ({"token_ids": IDS, "padding_mask": MASK[:, None]}, "padding_mask"),
        ({"token_ids": IDS, "segment_ids": SEGMENTS[:1]}, "segment_ids"),
        ({"token_ids": IDS, "segment_ids": SEGMENTS * 0.5}, "segment_ids"),
        ({"token_ids": IDS, "segment_ids": SEGMENTS * 2}, "token_ids"),
        ({"token_ids": np.where(IDS == 9, 13, IDS)}, "token_ids"),
        ({"token_ids": np.where(IDS == 9, -1, IDS)}, "token_ids"),
        ({"token_ids": np.ones((1, 8), int)}, "max_sequence_length"),
        ({"input_ids": IDS}, "token_ids"),
        ({"token_ids": IDS, "attention_mask": MASK}, "padding_mask"),
    ],
)
def test_wrong_inputs_are_refused(inputs, name):
    with pytest.raises(ValueError, match=rf"(?s){name}.*Received: "):
        bert()(inputs)


def test_positions_may_be_counted_over_non_padding_tokens():
    model = bert(position_offset=2, num_segments=0)
    assert model.position_embedding.embeddings.shape[0] == 7 + 2
    mask = drawn(". . 1 1 1\n1 1 1 . .")
    ids = np.array([[0, 0, 5, 3, 8], [5, 3, 8, 12, 12]])
    padded = to_numpy(model(ids, SEGMENTS, mask)["sequence_output"])
    alone = to_numpy(model(ids[:1, 2:])["sequence_output"])[0]
    assert relative_error(padded[0, 2:], alone) <= 3e-6
    assert relative_error(padded[1, :3], alone) <= 3e-6
    table = model.position_embedding.embeddings
    table.assign(np.array(table) * np.array([[1]] * 5 + [[0]] * 4))
    assert np.array_equal(model(ids[:1, 2:])["sequence_output"][0], alone)
    assert model.segment_embedding is None


def test_dropout_is_for_training():
    model = bert(dropout=0.5)
    still = to_numpy(model(IDS))["sequence_output"]
    assert np.array_equal(model(IDS)["sequence_output"], still)
    assert not np.array_equal(model(IDS, training=True)["sequence_output"], still)


def test_saving_and_loading_changes_no_bit(tmp_path):
    model = bert(attention_dropout=0.2, activation="gelu_tanh")
    expected = to_numpy(model(IDS, SEGMENTS, MASK))
    model.save(tmp_path / "bert.keras")
    loaded = keras.models.load_model(tmp_path / "bert.keras")
    for name, output in loaded(IDS, SEGMENTS, MASK).items():
        assert np.array_equal(output, expected[name])
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())


def functional(model):
    inputs = {
        "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
        "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
    }
    pooled = model(inputs)["pooled_output"]
    assert tuple(pooled.shape) == (None, 6)
    return keras.Model(inputs, keras.layers.Dense(1)(pooled))


def test_a_functional_model_holds_it_trains_and_is_saved(tmp_path):
    encoder = bert()
    model = functional(encoder)
    data = {"token_ids": IDS, "padding_mask": MASK}
    expected = model.layers[-1](encoder(data)["pooled_output"])
    assert relative_error(model(data), expected) <= 1e-6
    model.compile("sgd", "mse")
    before = [np.array(w) for w in encoder.trainable_weights]
    model.fit(data, np.ones((2, 1)), verbose=0)
    for weight, old in zip(encoder.trainable_weights, before, strict=True):
        learns = not weight.path.endswith("key/bias")
        assert not learns or not np.array_equal(weight, old), weight.path
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded(data), model(data))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_in_half_precision_it_stays_close(policy):
    exact, half = bert(), bert(dtype=policy)
    expected = to_numpy(exact(IDS, padding_mask=MASK))["sequence_output"]
    output = half(IDS, padding_mask=MASK)["sequence_output"]
    assert keras.backend.standardize_dtype(output.dtype) == half.compute_dtype
    error = relative_error(keras.ops.cast(output, "float32"), expected)
    assert error <= {"mixed_float16": 5e-3, "mixed_bfloat16": 4e-2}[policy]


def test_no_weight_starts_as_a_copy_of_another():
    model = ka.BertEncoder(13, 2, 2, 6, 11)
    assert weights_that_are_copies(model) == []
