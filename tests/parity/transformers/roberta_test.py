"""RoBERTa and XLM-R beside transformers: positions counted over real tokens."""

import json

import numpy as np
import pytest
from parity.transformers.compare import (
    compare,
    error,
    loaded,
    numbers,
    padded,
    randomized,
    there_and_back,
)

import keras_attention as ka

transformers = pytest.importorskip("transformers")
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
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **options})
    return randomized(getattr(transformers, f"{family}Model")(config))


def counting(reference):
    """Their model with its positions from the mask: drawn ids may be the padding's."""
    first = reference.config.pad_token_id + 1

    def call(input_ids, attention_mask, **inputs):
        places = torch.cumsum(attention_mask, 1) * attention_mask + first - 1
        inputs |= {"input_ids": input_ids, "attention_mask": attention_mask}
        return reference(position_ids=places, **inputs)

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
        there_and_back(model, reference, tmp_path)


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_are_those_that_roberta_reads_from_its_ids(tmp_path, side):
    reference = roberta()
    model = loaded(reference, tmp_path / "theirs")
    ids, mask = padded(97, side)
    ids = np.where(mask, np.maximum(ids, 2), 1)  # 1 is the padding's id
    with torch.no_grad():
        theirs = reference(
            input_ids=torch.as_tensor(ids), attention_mask=torch.as_tensor(mask)
        )
    ours = model(ids, padding_mask=mask)["sequence_output"]
    pair = [numbers(x)[mask] for x in (ours, theirs.last_hidden_state)]
    assert error(*pair) <= 1e-5


def test_a_whole_masked_lm_gives_its_encoder(tmp_path):
    reference = randomized(
        transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SIZES))
    )
    model = loaded(reference, tmp_path / "theirs", task="backbone")
    assert model.pooler is None
    theirs = reference.roberta(torch.arange(2, 9)[None]).last_hidden_state
    ours = model(np.arange(2, 9)[None])["sequence_output"]
    assert error(numbers(ours), numbers(theirs)) <= 1e-5


@pytest.mark.parametrize(
    "option",
    [{"position_embedding_type": "relative_key"}, {"is_decoder": True}],
    ids=str,
)
def test_options_that_are_not_computed_are_refused_by_name(option, tmp_path):
    roberta().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **option}))
    with pytest.raises(ValueError, match=rf"{next(iter(option))}=.*Received: "):
        ka.from_pretrained(tmp_path)
