"""Decoders from config.json to model and back, without transformers."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_attention as ka

IDS = np.array([[2, 5, 7, 11, 3]])
LLAMA = {
    "position": {"max_wavelength": 700.0},
    "normalization": "rms",
    "activation": "silu",
    "gated": True,
    "use_bias": False,
    "num_key_value_heads": 1,
    "key_dim": 10,
    "dropout": 0.0,
    "head": "own",
}


def decoder(**changes):
    return ka.GPTDecoder(13, 2, 3, 33, 47, max_sequence_length=29, **changes)


SHAPES = {
    "gpt2": ({}, "gpt2"),
    "gpt2 with a head of its own": ({"head": "own", "dropout": 0.3}, "gpt2"),
    "llama": (LLAMA, "llama"),
    "llama with biases": ({**LLAMA, "use_bias": True, "head": "tied"}, "llama"),
    "mistral": ({**LLAMA, "sliding_window": 3}, "mistral"),
    "qwen2": ({**LLAMA, "use_bias": ("query_key_value",)}, "qwen2"),
    "qwen2 with windows": (
        {**LLAMA, "use_bias": ("query_key_value",), "sliding_window": [3, None]},
        "qwen2",
    ),
    "no head": ({**LLAMA, "head": None}, "llama"),
}


@pytest.mark.parametrize(("settings", "kind"), SHAPES.values(), ids=SHAPES)
def test_what_is_saved_loads_bit_equal(settings, kind, tmp_path):
    model = decoder(**settings)
    ka.save_pretrained(model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model_type"] == kind
    loaded = ka.from_pretrained(tmp_path / "model", task="backbone")
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    name = "logits" if model.head else "sequence_output"
    np.testing.assert_array_equal(model(IDS)[name], loaded(IDS)[name])


def test_queries_keys_and_values_lie_side_by_side_in_one_tensor(tmp_path):
    model = decoder()
    for weight in model.weights:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    ka.save_pretrained(model, tmp_path / "gpt2")
    tensors = load_file(tmp_path / "gpt2" / "model.safetensors")
    fused = tensors["transformer.h.1.attn.c_attn.weight"]
    bias = tensors["transformer.h.1.attn.c_attn.bias"]
    assert fused.shape == (33, 99)
    attention = model.blocks[1].attention
    parts = ("query", "key", "value")
    for index, part in enumerate(parts):
        projection = getattr(attention, f"{part}_projection")
        columns = slice(33 * index + 11, 33 * index + 22)
        kernel = np.asarray(projection.kernel)
        np.testing.assert_array_equal(fused[:, columns], kernel[:, 1])
        np.testing.assert_array_equal(bias[columns], np.asarray(projection.bias)[1])


@pytest.fixture
def folder(tmp_path):
    ka.save_pretrained(decoder(**LLAMA), tmp_path / "llama")
    return tmp_path / "llama"


def change_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("hidden_act", "mish", "hidden_act='mish'"),
        ("partial_rotary_factor", 0.5, "partial_rotary_factor=0.5"),
        ("rope_parameters", {"rope_type": "longrope", "factor": 2.0}, "longrope"),
        ("rope_parameters", {"rope_type": "yarn", "factr": 2.0}, "factr"),
        ("rope_parameters", {"full_attention": {"rope_theta": 1e4}}, "full_attention"),
        ("model_type", "gemma", "model_type='gemma'"),
    ],
    ids=str,
)
def test_an_option_of_llama_that_is_not_computed_is_refused(
    folder, entry, value, words
):
    change_config(folder, **{entry: value})
    with pytest.raises(ValueError, match="Received:") as caught:
        ka.from_pretrained(folder, task="backbone")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("embd_pdrop", 0.3),
    ],
)
def test_an_option_of_gpt2_that_is_not_computed_is_refused(tmp_path, entry, value):
    ka.save_pretrained(decoder(), tmp_path / "gpt2")
    change_config(tmp_path / "gpt2", **{entry: value})
    with pytest.raises(ValueError, match=f"{entry}={value}.*Received:"):
        ka.from_pretrained(tmp_path / "gpt2", task="backbone")


def test_buffers_of_old_files_are_ignored_with_the_reason(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = np.ones(5, "float32")
    save_file(tensors, path)
    report = ka.from_pretrained(folder, task="backbone").load_report
    assert list(report.ignored.values()) == ["a buffer, the angles"]


def test_a_shape_that_no_family_has_is_not_written(tmp_path):
    model = decoder(**{**LLAMA, "sliding_window": [3, 5]})
    with pytest.raises(ValueError, match=r"windows.*Received:"):
        ka.save_pretrained(model, tmp_path / "x")
    with pytest.raises(ValueError, match=r"known family.*Received:"):
        ka.save_pretrained(decoder(normalization="rms"), tmp_path / "x")
    assert not (tmp_path / "x").exists()
