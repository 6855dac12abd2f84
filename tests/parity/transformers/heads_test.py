"""Tasks have the logits and the loss of transformers, and are saved for it."""

import operator

import numpy as np
import pytest
from parity.transformers.compare import (
    LENGTHS,
    SIDES,
    assert_near,
    check_saving,
    compare_head,
    loaded,
    numbers,
    padded,
    random_model,
    torch_outputs,
)

import keras_attention as ka

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
}
LABELS = {0: "red", 1: "green", 2: "blue", 3: "O", 4: "B-x"}
SINGLE = np.array([2, 0, 4])
MULTI = np.array([[1, 0, 1, 0, 0], [0, 0, 0, 0, 1], [1, 1, 0, 1, 0]], "float32")


def bert(kind, **options):
    return random_model("Bert", f"For{kind}", **SIZES, **options)


def inputs_of(side, seed=3):
    ids, mask = padded(97, side)
    segments = np.random.default_rng(seed).integers(0, 2, ids.shape) * mask
    return {"token_ids": ids, "segment_ids": segments, "padding_mask": mask}


def per_token(mask):
    drawn = np.random.default_rng(5).integers(0, 5, mask.shape)
    return np.where(mask, drawn, -100)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("problem", [None, "multi_label_classification"])
def test_a_text_classifier(problem, side, tmp_path, record_property):
    reference = bert("SequenceClassification", id2label=LABELS, problem_type=problem)
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.TextClassifier)
    assert model.labels == tuple(LABELS.values())
    assert model.multi_label == (problem is not None)
    target = SINGLE if problem is None else MULTI
    inputs = inputs_of(side)
    mask = inputs["padding_mask"][:, 0]  # a pooler reads position 0
    loss_target = target if mask.all() else None
    worst = compare_head(
        model, reference, inputs, mask, loss_target=loss_target, labels=target
    )
    again = check_saving(model, reference, tmp_path)
    assert again.config.id2label == LABELS
    record_property("summary", f"text classifier {problem} {side}: {worst:.1e}")


@pytest.mark.parametrize("side", SIDES)
def test_a_token_classifier(side, tmp_path):
    reference = bert("TokenClassification", id2label=LABELS)
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.TokenClassifier)
    inputs = inputs_of(side)
    mask = inputs["padding_mask"]
    target = per_token(mask)
    compare_head(model, reference, inputs, mask, loss_target=target, labels=target)
    assert check_saving(model, reference, tmp_path).config.id2label == LABELS


def starts_and_ends(outputs):
    """Returns the logits of a question answerer as ours, `[B, 2, T]`."""
    return torch.stack([outputs.start_logits, outputs.end_logits], 1)


def test_a_question_answerer(tmp_path):
    reference = bert("QuestionAnswering")
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.QuestionAnswerer)
    ends = np.array([[1, 5], [4, 6], [0, 2]])
    for side in SIDES:
        inputs = inputs_of(side)
        for which in (0, 1):
            mask = np.zeros((3, 2, max(LENGTHS)), bool)
            mask[:, which] = inputs["padding_mask"]
            compare_head(
                model,
                reference,
                inputs,
                mask,
                loss_target=ends if side is None else None,
                expected=starts_and_ends,
                start_positions=ends[:, 0],
                end_positions=ends[:, 1],
            )
    check_saving(model, reference, tmp_path)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_masked_language_model(activation, tmp_path):
    reference = bert("MaskedLM", hidden_act=activation, layer_norm_eps=0.1)
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.MaskedLM)
    for side in SIDES:
        inputs = inputs_of(side)
        mask = inputs["padding_mask"]
        target = per_token(mask)
        compare_head(model, reference, inputs, mask, loss_target=target, labels=target)
    check_saving(model, reference, tmp_path)


def test_next_sentence(tmp_path):
    reference = bert("NextSentencePrediction")
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.NextSentence)
    target = np.array([1, 0, 1])
    compare_head(
        model, reference, inputs_of("right"), ..., loss_target=target, labels=target
    )
    check_saving(model, reference, tmp_path)


def test_a_pre_training_file_gives_either_task(tmp_path):
    reference = bert("PreTraining")
    masked = loaded(reference, tmp_path / "theirs")
    following = ka.from_pretrained(tmp_path / "theirs", task="next_sentence")
    inputs = inputs_of("right")
    for model, mask, name in (
        (masked, inputs["padding_mask"], "prediction_logits"),
        (following, ..., "seq_relationship_logits"),
    ):
        compare_head(model, reference, inputs, mask, expected=operator.attrgetter(name))


def test_a_model_of_several_numbers_is_refused_by_name(tmp_path):
    entries = {"num_labels": 3, "problem_type": "regression"}
    reference = bert("SequenceClassification", **entries)
    with pytest.raises(ValueError, match=r"problem_type='regression', 3 labels"):
        loaded(reference, tmp_path / "theirs")


def test_a_scorer_is_no_classifier(tmp_path):
    reference = bert("SequenceClassification", num_labels=1)
    assert isinstance(loaded(reference, tmp_path / "theirs"), ka.TextScorer)
    with pytest.raises(ValueError, match="task='text_scorer'"):
        ka.from_pretrained(tmp_path / "theirs", task="text_classifier")


def test_a_classifier_that_transformers_cannot_compute_is_not_written(tmp_path):
    reference = bert("SequenceClassification")
    backbone = loaded(reference, tmp_path / "theirs").backbone
    model = ka.TextClassifier(backbone, ["a", "b"], pooling="mean")
    with pytest.raises(ValueError, match=r"pooling='pooled'.*Received: pooling='mean'"):
        ka.save_pretrained(model, tmp_path / "back")


def test_a_backbone_with_a_new_head(tmp_path):
    reference = random_model("Bert", "Model", **SIZES)
    with pytest.warns(UserWarning, match="no SequenceClassification head.*train it"):
        model = loaded(reference, tmp_path / "theirs", task="text_classifier")
    assert model.labels == ("LABEL_0", "LABEL_1")
    assert tuple(model(inputs_of(None)).shape) == (3, 2)


DISTIL = {
    "vocab_size": 97,
    "n_layers": 2,
    "n_heads": 3,
    "dim": 33,
    "hidden_dim": 47,
    "max_position_embeddings": 61,
}


@pytest.mark.parametrize("family", ["Roberta", "DistilBert"])
@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("SequenceClassification", "TextClassifier"),
        ("TokenClassification", "TokenClassifier"),
        ("QuestionAnswering", "QuestionAnswerer"),
        ("MaskedLM", "MaskedLM"),
    ],
)
def test_heads_of_other_families(family, kind, task, tmp_path):
    sizes = DISTIL if family == "DistilBert" else {**SIZES, "type_vocab_size": 1}
    reference = random_model(family, f"For{kind}", **sizes, pad_token_id=1)
    model = loaded(reference, tmp_path / "theirs")
    assert type(model) is getattr(ka, task)
    ids, mask = padded(97, "right")
    ids = np.where(mask, np.maximum(ids, 2), 1)
    inputs = {"token_ids": ids, "padding_mask": mask}
    is_per_text, expected = task == "TextClassifier", None
    compared = mask[:, 0] if is_per_text else mask
    if task == "QuestionAnswerer":
        expected, compared = starts_and_ends, np.stack([mask] * 2, axis=1)
    compare_head(model, reference, inputs, compared, expected=expected)
    check_saving(model, reference, tmp_path)


def test_an_image_classifier(tmp_path):
    reference = random_model(
        "ViT",
        "ForImageClassification",
        image_size=15,
        patch_size=5,
        num_hidden_layers=2,
        num_attention_heads=3,
        hidden_size=33,
        intermediate_size=47,
        id2label=LABELS,
    )
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.ImageClassifier)
    images = np.random.default_rng(2).normal(size=(7, 15, 15, 3)).astype("float32")
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    expected = numbers(torch_outputs(reference, pixel_values=pixels).logits)
    assert_near(model(images), expected)
    answers = model.classify(images, batch_size=3)
    assert [one["label"] for one in answers] == [LABELS[i] for i in expected.argmax(-1)]
    check_saving(model, reference, tmp_path)
