"""BART has the outputs and attentions of transformers, and is saved for it."""

import pytest
from parity.transformers.compare import (
    check_family,
    check_refused_option,
    check_saving,
    loaded,
    random_model,
)
from parity.transformers.compare_pairs import compare_all

pytest.importorskip("transformers")
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
    "attn_implementation": "eager",
}


def bart(kind="ForConditionalGeneration", **options):
    return random_model("Bart", kind, **{**SIZES, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale_embedding": True, "activation_function": "relu"},
        {"activation_function": "gelu_new", "decoder_layers": 1},
    ],
    ids=str,
)
def test_bart_is_transformers_bart(options, tmp_path, record_property):
    worst, _ = check_family(bart(**options), tmp_path, compare_all, task="backbone")
    record_property("summary", f"bart {options}: {worst:.1e} from transformers")


def test_a_bart_without_a_head_is_read_and_written_without(tmp_path):
    reference = bart("Model")
    model = loaded(reference, tmp_path / "theirs", task="backbone")
    assert model.logits_bias is None
    check_saving(model, reference, tmp_path, task="backbone")


@pytest.mark.parametrize(
    "option",
    [{"tie_word_embeddings": False}, {"normalize_before": True}],
    ids=str,
)
def test_unsupported_options_are_refused_by_name(option, tmp_path):
    check_refused_option(bart(), option, tmp_path)
