"""`return_hidden_states=True`: what each block of every model returned."""

import inspect

import keras
import numpy as np
import pytest
from backends import to_numpy

import keras_attention as ka
from keras_attention.models.encoder_decoder import EncoderDecoder

SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
IDS = np.array([[5, 3, 8, 4], [7, 2, 0, 0]])
KEEP = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 4, 3)).astype("float32")
MODELS = {
    "BertEncoder": lambda: ka.BertEncoder(13, **SIZES),
    "GPTDecoder": lambda: ka.GPTDecoder(13, **SIZES),
    "VisionTransformer": lambda: ka.VisionTransformer((8, 4), 4, **SIZES),
    "Seq2SeqTransformer": lambda: ka.Seq2SeqTransformer(13, norm="pre", **SIZES),
    "T5EncoderDecoder": lambda: ka.T5EncoderDecoder(13, **SIZES, num_decoder_layers=1),
    "RecurrentSeq2Seq": lambda: ka.RecurrentSeq2Seq(13, 5, 8),
    "T5Encoder": lambda: ka.T5Encoder(13, **SIZES),
    "Seq2SeqFeatures": lambda: ka.Seq2SeqFeatures(
        ka.T5EncoderDecoder(13, **SIZES), start_token_id=0
    ),
}


def inputs_of(model):
    if isinstance(model, ka.VisionTransformer):
        return {"images": IMAGES}
    if isinstance(model, EncoderDecoder):
        return {
            "encoder_token_ids": IDS,
            "encoder_padding_mask": KEEP,
            "decoder_token_ids": IDS[:, :3],
        }
    return {"token_ids": IDS, "padding_mask": KEEP}


def test_every_model_is_here():
    found = {
        name
        for name in ka.__all__
        if inspect.isclass(kind := getattr(ka, name))
        and issubclass(kind, keras.Model)
        and kind.__module__.startswith("keras_attention.models")
    }
    assert found == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_the_states_are_those_between_the_blocks(name):
    model = MODELS[name]()
    inputs = inputs_of(model)
    plain = model(inputs)
    outputs = model(inputs, return_hidden_states=True)
    states = {key for key in outputs if key.endswith("hidden_states")}
    assert set(outputs) - states == set(plain)
    for key, value in plain.items():
        np.testing.assert_array_equal(to_numpy(outputs[key]), to_numpy(value))
    if name == "RecurrentSeq2Seq":
        sides = {"encoder": "encoder_sequence_output", "decoder": "sequence_output"}
        for side, output in sides.items():
            embedded, last = outputs[f"{side}_hidden_states"]
            ids = inputs[f"{side}_token_ids"]
            assert np.array_equal(embedded, model.token_embedding(ids))
            assert np.array_equal(last, outputs[output])
        return
    padding = {} if name == "VisionTransformer" else {"padding_mask": KEEP}
    if name == "Seq2SeqFeatures":
        model = model.seq2seq
        encoded = model.encode(IDS, KEEP)["encoder_sequence_output"]
        outputs["encoder_sequence_output"] = encoded
    blocks = getattr(model, "blocks", getattr(model, "encoder_blocks", ()))
    parts = [("hidden_states", blocks, (), padding)]
    if isinstance(model, EncoderDecoder):
        source = (outputs["encoder_sequence_output"],)
        both = {"encoder_padding_mask": KEEP}
        if name == "Seq2SeqFeatures":
            both["padding_mask"] = KEEP
        parts = [
            ("encoder_hidden_states", model.encoder_blocks, (), padding),
            ("decoder_hidden_states", model.decoder_blocks, source, both),
        ]
    assert states == {key for key, *_ in parts}
    for key, blocks, source, call in parts:
        found = outputs[key]
        assert len(found) == len(blocks) + 1
        for index, block in enumerate(blocks[:-1]):
            after = block(found[index], *source, **call)
            np.testing.assert_allclose(
                to_numpy(found[index + 1]), to_numpy(after), atol=1e-6
            )
    last = {"hidden_states": "sequence_output"}
    last["decoder_hidden_states"] = "sequence_output"
    last["encoder_hidden_states"] = "encoder_sequence_output"
    for key in states:
        state = outputs[key][-1]
        if name == "VisionTransformer":  # as in transformers, not normalised yet
            state = model.final_normalization(state)
        assert np.array_equal(state, outputs[last[key]])


def test_states_of_cached_steps_are_those_of_the_whole():
    model = MODELS["GPTDecoder"]()
    whole = model(IDS, return_hidden_states=True)["hidden_states"]
    first = model(IDS[:, :3], cache=model.empty_cache(2))
    step = model(IDS[:, 3:], cache=first["cache"], return_hidden_states=True)
    for one, other in zip(step["hidden_states"], whole, strict=True):
        np.testing.assert_allclose(
            to_numpy(one)[:, 0], to_numpy(other)[:, 3], atol=1e-5
        )


@pytest.mark.tensorflow
def test_states_are_outputs_of_a_functional_model():
    model = MODELS["BertEncoder"]()
    ids = keras.Input((None,), dtype="int32")
    outputs = model(ids, return_hidden_states=True)
    second = keras.Model(ids, outputs["hidden_states"][1])
    expected = model(IDS, return_hidden_states=True)["hidden_states"][1]
    np.testing.assert_allclose(to_numpy(second(IDS)), to_numpy(expected), atol=1e-6)


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_states_are_a_signature_that_is_exported_if_it_is_named(name, tmp_path):
    model = MODELS[name]()
    named = {"format": "onnx", "signatures": ["hidden_states"]}
    ka.export_model(model, tmp_path / "onnx", **named)
    inputs = inputs_of(model)
    if isinstance(model, EncoderDecoder):
        inputs["decoder_padding_mask"] = np.ones((2, 3), bool)
    expected = model(inputs, return_hidden_states=True)
    if name == "BertEncoder":
        inputs["segment_ids"] = np.zeros_like(IDS)
    with ka.open_artifact(tmp_path / "onnx") as session:
        found = session.run("hidden_states", **inputs)
    wanted = {
        f"{key}_{index}": state
        for key, states in expected.items()
        if key.endswith("hidden_states")
        for index, state in enumerate(states)
    }
    assert set(found) == set(wanted)
    for key, state in wanted.items():
        np.testing.assert_allclose(found[key], to_numpy(state), atol=1e-5)


@pytest.mark.tensorflow
def test_the_signature_is_not_part_of_an_export_that_does_not_name_it():
    from keras_attention.export.signatures.catalogue import signatures_of

    offered = {
        one.name: one.on_request for one in signatures_of(MODELS["GPTDecoder"]())
    }
    assert offered.pop("hidden_states")
    assert offered
    assert not any(offered.values())
