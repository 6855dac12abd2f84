"""`…ForSequenceClassification` of every family has the logits of transformers.

Each is saved again under its family's own name. Models of one number are scorers.
"""

import json

import numpy as np
import pytest
from parity.transformers.compare import (
    assert_near,
    check_saving,
    compare_head,
    loaded,
    padded,
    random_model,
    torch_outputs,
)

import keras_attention as ka

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

END, PAD = 2, 1
LABELS = {0: "red", 1: "green", 2: "blue"}
TOKENS = {"pad_token_id": PAD, "eos_token_id": END, "bos_token_id": 0}
ENCODER = {
    "vocab_size": 97,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 33,
    "intermediate_size": 47,
    "max_position_embeddings": 61,
}
ROBERTA = {**ENCODER, "type_vocab_size": 1, **TOKENS}
DECODER = {**ENCODER, "hidden_size": 36, "num_key_value_heads": 3, **TOKENS}
SIZES = {
    "Bert": ENCODER,
    "Roberta": ROBERTA,
    "XLMRoberta": ROBERTA,
    "Camembert": ROBERTA,
    "DistilBert": {
        "vocab_size": 97,
        "n_layers": 2,
        "n_heads": 3,
        "dim": 33,
        "hidden_dim": 47,
        "max_position_embeddings": 61,
    },
    "Bart": {
        "vocab_size": 97,
        "d_model": 33,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 3,
        "decoder_attention_heads": 3,
        "encoder_ffn_dim": 47,
        "decoder_ffn_dim": 41,
        "max_position_embeddings": 61,
        "decoder_start_token_id": END,
        **TOKENS,
    },
    "GPT2": {
        "vocab_size": 97,
        "n_layer": 2,
        "n_head": 3,
        "n_embd": 33,
        "n_positions": 61,
        **TOKENS,
    },
    "Llama": DECODER,
    "Mistral": {**DECODER, "sliding_window": None},
    "Qwen2": DECODER,
}
TYPES = {
    "Bert": "bert",
    "Roberta": "roberta",
    "XLMRoberta": "xlm-roberta",
    "Camembert": "camembert",
    "DistilBert": "distilbert",
    "Bart": "bart",
    "GPT2": "gpt2",
    "Llama": "llama",
    "Mistral": "mistral",
    "Qwen2": "qwen2",
}


def ended_rows():
    """Returns ids and mask as a tokenizer makes them: an end token, then padding."""
    ids, mask = padded(97, "right")
    ids = np.where(mask, np.maximum(ids, 3), PAD)
    ids[np.arange(len(ids)), mask.sum(1) - 1] = END
    return {"token_ids": ids, "padding_mask": mask}


def check_names(folder, family, kind):
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == TYPES[family]
    assert config["architectures"] == [f"{family}For{kind}"]


@pytest.mark.parametrize("family", SIZES)
def test_a_classifier_of_every_family(family, tmp_path, record_property):
    sizes = {**SIZES[family], "id2label": LABELS}
    reference = random_model(family, "ForSequenceClassification", **sizes)
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.TextClassifier)
    assert model.labels == tuple(LABELS.values())
    worst = compare_head(model, reference, ended_rows(), ...)
    record_property("summary", f"{family} classifier: {worst:.1e} from transformers")
    assert check_saving(model, reference, tmp_path).config.id2label == LABELS
    check_names(tmp_path / "back", family, "SequenceClassification")


@pytest.mark.parametrize("family", ["Bart", "GPT2", "Llama"])
def test_a_saved_keras_file_keeps_the_reader(family, tmp_path):
    sizes = {**SIZES[family], "id2label": LABELS}
    reference = random_model(family, "ForSequenceClassification", **sizes)
    model = loaded(reference, tmp_path / "theirs")
    model.save(tmp_path / "model.keras")
    again = ka.load_model(tmp_path / "model.keras")
    compare_head(again, reference, ended_rows(), ...)


@pytest.mark.parametrize("family", ["Bert", "XLMRoberta", "Bart", "Llama"])
@pytest.mark.parametrize(
    ("entries", "activation"),
    [
        ({}, "linear"),
        ({"problem_type": "regression"}, "linear"),
        (
            {
                "sentence_transformers": {
                    "activation_fn": "torch.nn.modules.activation.Sigmoid"
                }
            },
            "sigmoid",
        ),
        (
            {
                "sbert_ce_default_activation_function": (
                    "torch.nn.modules.linear.Identity"
                )
            },
            "linear",
        ),
    ],
    ids=["none", "regression", "sigmoid", "identity"],
)
def test_a_model_of_one_number_is_a_scorer(family, entries, activation, tmp_path):
    sizes = {**SIZES[family], "num_labels": 1, **entries}
    reference = random_model(family, "ForSequenceClassification", **sizes)
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.TextScorer)
    assert model.activation == activation
    inputs = ended_rows()
    compare_head(model, reference, inputs, ...)
    theirs = torch_outputs(
        reference, input_ids=inputs["token_ids"], attention_mask=inputs["padding_mask"]
    ).logits
    expected = torch.sigmoid(theirs) if activation == "sigmoid" else theirs
    assert_near(model.scores(model(inputs)), expected)
    assert check_saving(model, reference, tmp_path).config.num_labels == 1
    assert ka.from_pretrained(tmp_path / "back").activation == activation


@pytest.mark.parametrize("family", ["XLMRoberta", "Camembert"])
@pytest.mark.parametrize("kind", ["MaskedLM", "TokenClassification", None])
def test_a_family_of_roberta_keeps_its_name(family, kind, tmp_path):
    suffix = "Model" if kind is None else f"For{kind}"
    reference = random_model(family, suffix, **SIZES[family])
    model = loaded(reference, tmp_path / "theirs")
    inputs = ended_rows()
    mask = inputs["padding_mask"]
    if kind is None:
        theirs = torch_outputs(
            reference, input_ids=inputs["token_ids"], attention_mask=mask
        )
        assert_near(model(inputs)["sequence_output"], theirs.last_hidden_state, mask)
    else:
        compare_head(model, reference, inputs, mask)
    check_saving(model, reference, tmp_path)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["model_type"] == TYPES[family]
    assert config["architectures"] == [f"{family}{suffix}"]


@pytest.mark.parametrize("family", ["GPT2", "Llama", "Qwen2"])
def test_a_token_classifier_of_a_decoder(family, tmp_path):
    sizes = {**SIZES[family], "id2label": LABELS}
    reference = random_model(family, "ForTokenClassification", **sizes)
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.TokenClassifier)
    inputs = ended_rows()
    compare_head(model, reference, inputs, inputs["padding_mask"])
    check_saving(model, reference, tmp_path)


def test_a_question_answerer_of_bart(tmp_path):
    reference = random_model("Bart", "ForQuestionAnswering", **SIZES["Bart"])
    model = loaded(reference, tmp_path / "theirs")
    inputs = ended_rows()
    mask = np.stack([inputs["padding_mask"]] * 2, axis=1)
    compare_head(
        model,
        reference,
        inputs,
        mask,
        expected=lambda outputs: torch.stack(
            [outputs.start_logits, outputs.end_logits], 1
        ),
    )
    check_saving(model, reference, tmp_path)


def test_an_encoder_of_t5(tmp_path, record_property):
    for number, kind in enumerate(("relu", "gated-gelu")):
        folder = tmp_path / str(number)
        folder.mkdir()
        reference = random_model(
            "T5",
            "EncoderModel",
            vocab_size=97,
            d_model=30,
            d_kv=7,
            d_ff=41,
            num_layers=2,
            num_heads=3,
            relative_attention_num_buckets=6,
            relative_attention_max_distance=5,
            feed_forward_proj=kind,
        )
        model = loaded(reference, folder / "theirs")
        assert isinstance(model, ka.T5Encoder)
        inputs = ended_rows()
        mask = inputs["padding_mask"]
        theirs = torch_outputs(
            reference, input_ids=inputs["token_ids"], attention_mask=mask
        )
        ours = model(inputs)["sequence_output"]
        worst = assert_near(ours, theirs.last_hidden_state, mask)
        record_property("summary", f"T5 encoder {kind}: {worst:.1e}")
        check_saving(model, reference, folder)
