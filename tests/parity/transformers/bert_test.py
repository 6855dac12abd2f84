"""BERT has the numbers of transformers, from the same file, and is saved for it."""

import functools

import pytest
from parity.transformers.compare import check_family, compare, loaded, random_model

pytest.importorskip("transformers")
pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIZES = {
    "vocab_size": 97,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 33,
    "intermediate_size": 47,
    "max_position_embeddings": 61,
    "type_vocab_size": 5,
    "attn_implementation": "eager",
}
OUTPUTS = {"sequence_output": "last_hidden_state", "pooled_output": "pooler_output"}


def bert(**options):
    return random_model("Bert", "Model", **{**SIZES, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden_act": "gelu_new", "layer_norm_eps": 0.1},
        {"hidden_act": "relu", "num_hidden_layers": 1},
    ],
    ids=str,
)
def test_bert_is_transformers_bert(options, tmp_path, record_property):
    compare_with = functools.partial(compare, outputs=OUTPUTS)
    worst, _ = check_family(bert(**options), tmp_path, compare_with)
    record_property("summary", f"bert {options}: {worst:.1e} from transformers")


def test_an_epsilon_that_is_not_read_would_be_found(tmp_path):
    reference = bert(layer_norm_eps=0.1)
    model = loaded(reference, tmp_path / "theirs")
    for module in reference.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-12
    with pytest.raises(AssertionError, match="sequence_output"):
        compare(model, reference, OUTPUTS)
