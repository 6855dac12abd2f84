"""Marian has the outputs of transformers: sinusoids in two halves, the rest as BART."""

import pytest
from parity.transformers.compare import (
    check_family,
    check_refused_option,
    loaded,
    random_model,
)
from parity.transformers.compare_pairs import compare_all

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
    return random_model("Marian", kind, **{**SIZES, **options})


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
    worst, _ = check_family(marian(**options), tmp_path, compare_all, task="backbone")
    record_property("summary", f"marian {options}: {worst:.1e} from transformers")


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
def test_unsupported_options_are_refused_by_name(option, tmp_path):
    check_refused_option(marian(), option, tmp_path)
