"""Adapters of PEFT are read, and PEFT reads what is written."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from parity.transformers.compare import assert_near

import keras_attention as ka

SIDE = Path(__file__).with_name("peft_side.py")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`"),
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("peft", "transformers", "torch"))),
        reason="needs pip install peft transformers torch",
    ),
]
NAMES = ("bert", "bert-dense", "bert-patterns", "roberta", "masked", "gpt2")
NAMES += ("gpt2-all", "llama", "t5", "bart", "vit")


def peft_side(step, folder):
    subprocess.run([sys.executable, SIDE, step, folder], check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peft")
    peft_side("write", folder)
    return folder


def outputs_of(model, place):
    inputs = dict(np.load(place / "inputs.npz"))
    if "pixel_values" in inputs:
        return model(np.moveaxis(inputs["pixel_values"], 1, -1))
    ids = inputs["input_ids"]
    if isinstance(model, ka.Seq2SeqLM):
        return model({"encoder_token_ids": ids, "decoder_token_ids": ids})
    outputs = model(ids)
    if isinstance(outputs, dict):
        return outputs["logits" if "logits" in outputs else "sequence_output"]
    return outputs


def updates_of(model):
    parts = [getattr(part, "lora", None) for part in model._flatten_layers()]
    return [part for part in parts if part is not None]


def test_adapters_go_both_ways(folder):
    for name in NAMES:
        place = folder / name
        model = ka.from_pretrained(place / "base")
        before = {v.path: np.array(v) for v in model.variables}
        ka.load_adapter(model, place / "theirs")
        assert_near(outputs_of(model, place), np.load(place / "theirs.npy"), name=name)
        for variable in model.variables:
            if variable.path in before and "/head/" not in variable.path:
                expected = before[variable.path]
                np.testing.assert_array_equal(variable, expected, err_msg=name)
        if name == "masked":
            with pytest.raises(ValueError, match="no place for a part of the trained"):
                ka.save_adapter(model, place / "ours")
            model.head.trainable = False
        ka.save_adapter(model, place / "ours")
        theirs, ours = (
            json.loads((place / side / "adapter_config.json").read_text())
            for side in ("theirs", "ours")
        )
        if name != "bert-dense":  # "dense" names layers with and without LoRA there
            assert ours["target_modules"] == sorted(theirs["target_modules"])
        assert ours["fan_in_fan_out"] == ("gpt2" in name)
    peft_side("read", folder)
    for name in NAMES:
        place = folder / name
        expected = np.load(place / "ours.npy")
        assert_near(np.load(place / "theirs.npy"), expected, name=name)
        model = ka.from_pretrained(place / "base")
        ka.load_adapter(model, place / "ours")
        assert_near(outputs_of(model, place), expected, name=name)
        ka.merge_lora(model)
        assert_near(outputs_of(model, place), expected, name=name)


@pytest.mark.parametrize("mode", [None, "int4"])
def test_what_was_trained_here_is_the_same_in_peft(mode, folder):
    """GPT-2's queries, keys and values have own matrices here, and one in PEFT."""
    place = folder / "gpt2"
    model = ka.from_pretrained(place / "base")
    if mode:
        model.quantize(mode)
    ka.enable_lora(model, 2, ["query", "value", "feed_forward/output"], alpha=5)
    rng = np.random.default_rng(4)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(scale=0.2, size=variable.shape))
    for old in (place / "ours").glob("*"):
        old.unlink()
    ka.save_adapter(model, place / "ours")
    again = ka.from_pretrained(place / "base")
    ka.load_adapter(again, place / "ours")
    assert {update.rank for update in updates_of(again)} == {2}
    assert len(updates_of(again)) == len(updates_of(model)) == 6
    peft_side("read", folder)
    expected = np.load(place / "ours.npy")
    assert_near(outputs_of(again, place), expected)
    if mode is None:
        assert_near(outputs_of(model, place), expected)


REFUSED = {
    "dora": "use_dora=True",
    "bias": "bias='lora_only'",
    "ia3": "peft_type='IA3'",
    "pissa": "init_lora_weights='pissa'",
    "tokens": "trainable_token_indices=[1, 2]",
    "tables": "lora_embedding_A",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(name, folder):
    model = ka.from_pretrained(folder / name / "base")
    before = len(model.trainable_variables)
    with pytest.raises(ValueError, match=re.escape(REFUSED[name])):
        ka.load_adapter(model, folder / name / "theirs")
    assert len(model.trainable_variables) == before
    assert not updates_of(model)
