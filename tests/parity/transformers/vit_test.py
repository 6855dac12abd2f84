"""ViT has the numbers of transformers, from the same file, and is saved for it."""

import numpy as np
import pytest
from parity.transformers.compare import (
    assert_near,
    check_family,
    check_refused_option,
    loaded,
    random_model,
    torch_outputs,
)

import keras_attention as ka

pytest.importorskip("transformers")
pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIZES = {
    "image_size": 15,
    "patch_size": 5,
    "num_channels": 2,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "hidden_size": 33,
    "intermediate_size": 47,
    "pooler_output_size": 33,
    "attn_implementation": "eager",
}


def vit(kind="Model", **options):
    return random_model("ViT", kind, **{**SIZES, **options})


def images_for(model, count):
    shape = (count, *model.image_size, model.num_channels)
    return np.random.default_rng(2).normal(size=shape).astype("float32")


def their_outputs(reference, images, **flags):
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return torch_outputs(reference, pixel_values=pixels, **flags)


def compare_images(model, reference):
    """Compares all outputs and attention weights; returns the largest error."""
    images = images_for(model, 7)
    flags = {"output_attentions": True, "output_hidden_states": True}
    theirs = their_outputs(reference, images, **flags)
    ours = model(images, return_hidden_states=True)
    maps = ka.attention_maps(model, images)
    pairs = {
        "sequence_output": (ours["sequence_output"], theirs.last_hidden_state),
        "pooled_output": (ours["pooled_output"], theirs.pooler_output),
    }
    states = zip(ours["hidden_states"], theirs.hidden_states, strict=True)
    pairs |= {f"hidden state {index}": pair for index, pair in enumerate(states)}
    for name, attention in zip(maps, theirs.attentions, strict=True):
        pairs[name] = maps[name], attention
    return max(assert_near(*pair, name=name) for name, pair in pairs.items())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden_act": "relu", "layer_norm_eps": 0.1, "num_channels": 1},
        {"image_size": [15, 20], "patch_size": [3, 5], "hidden_act": "gelu_new"},
    ],
    ids=str,
)
def test_vit_is_transformers_vit(options, tmp_path, record_property):
    worst, _ = check_family(vit(**options), tmp_path, compare_images)
    record_property("summary", f"vit {options}: {worst:.1e} from transformers")


def test_a_classifier_gives_its_backbone(tmp_path):
    reference = vit("ForImageClassification")
    model = loaded(reference, tmp_path / "theirs", task="backbone")
    assert model.pooler is None
    images = images_for(model, 2)
    theirs = their_outputs(reference.vit, images).last_hidden_state
    assert_near(model(images)["sequence_output"], theirs)


@pytest.mark.parametrize("option", [{"qkv_bias": False}, {"pooler_act": "relu"}])
def test_unsupported_options_are_refused_by_name(option, tmp_path):
    check_refused_option(vit(), option, tmp_path)
