"""ViT beside transformers: the same numbers from the same file, and back."""

import json

import numpy as np
import pytest
from parity.transformers.compare import (
    error,
    loaded,
    numbers,
    randomized,
    there_and_back,
)

import keras_attention as ka

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
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
    config = transformers.ViTConfig(**{**SIZES, **options})
    return randomized(getattr(transformers, f"ViT{kind}")(config))


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
    reference = vit(**options)
    model = loaded(reference, tmp_path / "theirs")
    shape = (7, *model.image_size, model.num_channels)
    images = np.random.default_rng(2).normal(size=shape).astype("float32")
    with torch.no_grad():
        theirs = reference(
            torch.as_tensor(images.transpose(0, 3, 1, 2)), output_attentions=True
        )
    ours, maps = model(images), ka.attention_maps(model, images)
    pairs = {
        "sequence_output": (ours["sequence_output"], theirs.last_hidden_state),
        "pooled_output": (ours["pooled_output"], theirs.pooler_output),
    }
    for name, attention in zip(maps, theirs.attentions, strict=True):
        pairs[name] = maps[name], attention
    worst = 0.0
    for name, (one, other) in pairs.items():
        assert one.shape == other.shape, name
        far = error(numbers(one), numbers(other))
        assert far <= 1e-5, f"{name}: {far:.1e}"
        worst = max(worst, float(far))
    record_property("summary", f"vit {options}: {worst:.1e} from transformers")
    there_and_back(model, reference, tmp_path)


def test_a_classifier_gives_its_backbone(tmp_path):
    reference = vit("ForImageClassification")
    model = loaded(reference, tmp_path / "theirs", task="backbone")
    assert model.pooler is None
    images = np.random.default_rng(2).normal(size=(2, 15, 15, 2)).astype("float32")
    with torch.no_grad():
        theirs = reference.vit(torch.as_tensor(images.transpose(0, 3, 1, 2)))
    ours = model(images)["sequence_output"]
    assert error(numbers(ours), numbers(theirs.last_hidden_state)) <= 1e-5


@pytest.mark.parametrize("option", [{"qkv_bias": False}, {"pooler_act": "relu"}])
def test_options_that_are_not_computed_are_refused_by_name(option, tmp_path):
    vit().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **option}))
    with pytest.raises(ValueError, match=rf"{next(iter(option))}=.*Received: "):
        ka.from_pretrained(tmp_path)
