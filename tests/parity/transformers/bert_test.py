"""BERT beside transformers: the same numbers from the same file, and back."""

import pytest
from parity.transformers.compare import compare, loaded, randomized, there_and_back

transformers = pytest.importorskip("transformers")
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
    config = transformers.BertConfig(**{**SIZES, **options})
    return randomized(transformers.BertModel(config))


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
    reference = bert(**options)
    model = loaded(reference, tmp_path / "theirs")
    worst = compare(model, reference, OUTPUTS)
    record_property("summary", f"bert {options}: {worst:.1e} from transformers")
    there_and_back(model, reference, tmp_path)


def test_an_epsilon_that_is_not_read_would_be_seen(tmp_path):
    reference = bert(layer_norm_eps=0.1)
    model = loaded(reference, tmp_path / "theirs")
    for module in reference.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-12
    with pytest.raises(AssertionError, match="sequence_output"):
        compare(model, reference, OUTPUTS)
