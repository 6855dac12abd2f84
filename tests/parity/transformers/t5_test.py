"""T5 has the numbers of transformers, with relative positions, gates and heads."""

import functools

import pytest
from parity.transformers.compare import (
    check_family,
    check_refused_option,
    loaded,
    randomized,
)
from parity.transformers.compare_pairs import PADDINGS, compare_all, compare_pairs

import keras_attention as ka

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIZES = {
    "vocab_size": 97,
    "d_model": 30,
    "d_kv": 7,
    "d_ff": 41,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 6,
    "relative_attention_max_distance": 5,
    "attn_implementation": "eager",
}
# Relative positions do not depend on the side of the padding.
BOTH_LEFT = (*PADDINGS, ("left", "left"))


def t5(own_head=False, **options):
    config = transformers.T5Config(**{**SIZES, **options})
    model = transformers.T5ForConditionalGeneration(config)
    if own_head:
        weight = torch.zeros_like(model.shared.weight)
        model.lm_head.weight = torch.nn.Parameter(weight)
        model.config.tie_word_embeddings = False
    model = randomized(model)
    for name, parameter in model.named_parameters():
        if name.endswith(".q.weight"):  # T5 scales the queries' weights, not the scores
            parameter.data.mul_(SIZES["d_kv"] ** -0.5)
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        {"feed_forward_proj": "gated-silu", "layer_norm_epsilon": 0.1},
        {"feed_forward_proj": "gelu", "num_decoder_layers": 1},
    ],
    ids=str,
)
def test_t5_is_transformers_t5(options, tmp_path, record_property):
    reference = t5(**options)
    compare_with = functools.partial(compare_all, paddings=BOTH_LEFT)
    worst, again = check_family(reference, tmp_path, compare_with, task="backbone")
    record_property("summary", f"t5 {options}: {worst:.1e} from transformers")
    again.set_attn_implementation("eager")
    compare_pairs(ka.from_pretrained(tmp_path / "back", task="backbone"), again)


def test_an_untied_head_is_read_and_written(tmp_path):
    reference = t5(own_head=True, feed_forward_proj="gated-gelu")
    reference.config.scale_decoder_outputs = False
    model = loaded(reference, tmp_path / "theirs", task="backbone")
    assert (model.tied_head, model.scale_output) == (False, False)
    compare_pairs(model, reference)
    ka.save_pretrained(model, tmp_path / "back")
    again = transformers.T5ForConditionalGeneration.from_pretrained(
        tmp_path / "back", attn_implementation="eager"
    )
    assert again.lm_head.weight.equal(reference.lm_head.weight)
    compare_pairs(model, again)


@pytest.mark.parametrize(
    "option", [{"feed_forward_proj": "glued-gelu"}, {"is_decoder": True}], ids=str
)
def test_unsupported_options_are_refused_by_name(option, tmp_path):
    check_refused_option(t5(), option, tmp_path)
