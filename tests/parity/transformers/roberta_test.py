"""RoBERTa, XLM-R and CamemBERT have the numbers of transformers.

Their positions are counted over non-padding tokens.
"""

import numpy as np
import pytest
from parity.transformers.compare import (
    assert_near,
    check_refused_option,
    check_saving,
    compare,
    loaded,
    padded,
    random_model,
    torch_outputs,
)

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIZES = {
    "vocab_size": 97,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 33,
    "intermediate_size": 47,
    "max_position_embeddings": 61,
    "type_vocab_size": 1,
    "attn_implementation": "eager",
}
OUTPUTS = {"sequence_output": "last_hidden_state", "pooled_output": "pooler_output"}


def roberta(family="Roberta", **options):
    return random_model(family, "Model", **{**SIZES, **options})


def counting(reference):
    """Returns their model with positions from the mask: ids may be padding ids."""
    first = reference.config.pad_token_id + 1

    def call(input_ids, attention_mask, **inputs):
        positions = torch.cumsum(attention_mask, 1) * attention_mask + first - 1
        inputs |= {"input_ids": input_ids, "attention_mask": attention_mask}
        return reference(position_ids=positions, **inputs)

    return call


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Roberta", {}),
        (
            "Roberta",
            {"pad_token_id": 4, "hidden_act": "gelu_new", "layer_norm_eps": 0.1},
        ),
        ("Roberta", {"type_vocab_size": 3, "hidden_act": "relu"}),
        ("XLMRoberta", {"pad_token_id": 1}),
        ("Camembert", {"pad_token_id": 1}),
    ],
    ids=str,
)
def test_roberta_is_transformers_roberta(family, options, tmp_path, record_property):
    reference = roberta(family, **options)
    model = loaded(reference, tmp_path / "theirs")
    assert model.max_sequence_length == 61 - reference.config.pad_token_id - 1
    worst = compare(model, counting(reference), OUTPUTS)
    record_property("summary", f"{family} {options}: {worst:.1e} from transformers")
    if family == "Roberta":
        check_saving(model, reference, tmp_path)


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_are_those_that_roberta_reads_from_its_ids(tmp_path, side):
    reference = roberta()
    model = loaded(reference, tmp_path / "theirs")
    ids, mask = padded(97, side)
    ids = np.where(mask, np.maximum(ids, 2), 1)  # 1 is the padding id
    theirs = torch_outputs(reference, input_ids=ids, attention_mask=mask)
    ours = model(ids, padding_mask=mask)["sequence_output"]
    assert_near(ours, theirs.last_hidden_state, mask)


def test_a_whole_masked_lm_gives_its_encoder(tmp_path):
    reference = random_model("Roberta", "ForMaskedLM", **SIZES)
    model = loaded(reference, tmp_path / "theirs", task="backbone")
    assert model.pooler is None
    ids = np.arange(2, 9)[None]
    theirs = torch_outputs(reference.roberta, input_ids=ids).last_hidden_state
    assert_near(model(ids)["sequence_output"], theirs)


@pytest.mark.parametrize(
    "option",
    [{"position_embedding_type": "relative_key"}, {"is_decoder": True}],
    ids=str,
)
def test_unsupported_options_are_refused_by_name(option, tmp_path):
    check_refused_option(roberta(), option, tmp_path)
