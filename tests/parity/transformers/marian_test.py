"""Marian beside transformers: sinusoids in two halves, the rest as in BART."""

import json

import pytest
from parity.transformers.compare import loaded, randomized, there_and_back
from parity.transformers.compare_pairs import (
    compare_loss,
    compare_pairs,
    compare_steps,
)

import keras_attention as ka

transformers = pytest.importorskip("transformers")
pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIZES = {
    "vocab_size": 97,
    "d_model": 30,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 5,
    "encoder_ffn_dim": 41,
    "decoder_ffn_dim": 47,
    "max_position_embeddings": 61,
    "pad_token_id": 96,
    "decoder_start_token_id": 96,
    "attn_implementation": "eager",
}


def marian(kind="MTModel", **options):
    config = transformers.MarianConfig(**{**SIZES, **options})
    model = randomized(getattr(transformers, f"Marian{kind}")(config))
    for side in (model.get_encoder(), model.get_decoder()):
        # Drawn too, but theirs are always sinusoids.
        side.embed_positions.weight.data.copy_(side.embed_positions.create_weight())
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale_embedding": True, "activation_function": "relu"},
        {"activation_function": "gelu_new", "decoder_layers": 1},
    ],
    ids=str,
)
def test_marian_is_transformers_marian(options, tmp_path, record_property):
    reference = marian(**options)
    model = loaded(reference, tmp_path / "theirs", task="backbone")
    worst = compare_pairs(model, reference)
    compare_loss(model, reference)
    compare_steps(model)
    record_property("summary", f"marian {options}: {worst:.1e} from transformers")
    there_and_back(model, reference, tmp_path, task="backbone")


def test_a_marian_without_a_head_is_read_and_written_without(tmp_path):
    reference = marian("Model")
    model = loaded(reference, tmp_path / "theirs", task="backbone")
    assert model.logits_bias is None
    ka.save_pretrained(model, tmp_path / "back")
    again = transformers.MarianModel.from_pretrained(tmp_path / "back")
    for name, tensor in reference.state_dict().items():
        assert tensor.equal(again.state_dict()[name]), name


@pytest.mark.parametrize(
    "option",
    [{"tie_word_embeddings": False}, {"share_encoder_decoder_embeddings": False}],
    ids=str,
)
def test_options_that_are_not_computed_are_refused_by_name(option, tmp_path):
    marian().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **option}))
    with pytest.raises(ValueError, match=rf"{next(iter(option))}=.*Received: "):
        ka.from_pretrained(tmp_path)
