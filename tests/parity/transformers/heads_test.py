"""Tasks beside transformers: logits and loss of the same files, and back."""

import keras
import numpy as np
import pytest
from parity.transformers.compare import (
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
}
LABELS = {0: "red", 1: "green", 2: "blue", 3: "O", 4: "B-x"}
SINGLE = np.array([2, 0, 4])
MULTI = np.array([[1, 0, 1, 0, 0], [0, 0, 0, 0, 1], [1, 1, 0, 1, 0]], "float32")


def bert(kind, **options):
    config = transformers.BertConfig(**SIZES, **options)
    return randomized(getattr(transformers, f"BertFor{kind}")(config))


def inputs_of(side, seed=3):
    ids, mask = padded(97, side)
    segments = np.random.default_rng(seed).integers(0, 2, ids.shape) * mask
    return {"token_ids": ids, "segment_ids": segments, "padding_mask": mask}


def theirs(reference, inputs, **labels):
    names = {
        "token_ids": "input_ids",
        "segment_ids": "token_type_ids",
        "padding_mask": "attention_mask",
    }
    given = {names[k]: torch.as_tensor(v.astype("int64")) for k, v in inputs.items()}
    labels = {name: torch.as_tensor(value) for name, value in labels.items()}
    with torch.no_grad():
        return reference(**given, **labels)


def per_token(mask):
    drawn = np.random.default_rng(5).integers(0, 5, mask.shape)
    return np.where(mask, drawn, -100)


def our_loss(model, logits, target):
    return float(model.compile_arguments()["loss"](target, logits))


@pytest.mark.parametrize("side", [None, "right", "left"])
@pytest.mark.parametrize("problem", [None, "multi_label_classification"])
def test_a_text_classifier(problem, side, tmp_path, record_property):
    reference = bert("SequenceClassification", id2label=LABELS, problem_type=problem)
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.TextClassifier)
    assert model.labels == tuple(LABELS.values())
    assert model.multi_label == (problem is not None)
    target = SINGLE if problem is None else MULTI
    inputs = inputs_of(side)
    outputs = theirs(reference, inputs, labels=target)
    logits = numbers(model(inputs))
    seen = inputs["padding_mask"][:, 0]  # a pooler reads position 0
    worst = error(logits[seen], numbers(outputs.logits)[seen])
    assert worst <= 1e-5
    if seen.all():
        far = abs(our_loss(model, logits, target) - float(outputs.loss))
        assert far <= 1e-5 * float(outputs.loss)
    again = there_and_back(model, reference, tmp_path)
    assert again.config.id2label == LABELS
    record_property("summary", f"text classifier {problem} {side}: {worst:.1e}")


@pytest.mark.parametrize("side", [None, "right", "left"])
def test_a_token_classifier(side, tmp_path):
    reference = bert("TokenClassification", id2label=LABELS)
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.TokenClassifier)
    inputs = inputs_of(side)
    mask = inputs["padding_mask"]
    target = per_token(mask)
    outputs = theirs(reference, inputs, labels=target)
    logits = numbers(model(inputs))
    assert error(logits[mask], numbers(outputs.logits)[mask]) <= 1e-5
    far = abs(our_loss(model, logits, target) - float(outputs.loss))
    assert far <= 1e-5 * float(outputs.loss)
    assert there_and_back(model, reference, tmp_path).config.id2label == LABELS


def test_a_question_answerer(tmp_path):
    reference = bert("QuestionAnswering")
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.QuestionAnswerer)
    for side in (None, "right", "left"):
        inputs = inputs_of(side)
        mask = inputs["padding_mask"]
        ends = np.array([[1, 5], [4, 6], [0, 2]])
        outputs = theirs(
            reference, inputs, start_positions=ends[:, 0], end_positions=ends[:, 1]
        )
        logits = numbers(model(inputs))
        expected = np.stack([outputs.start_logits, outputs.end_logits], axis=1)
        for which in (0, 1):
            ours = logits[:, which][mask]
            assert error(ours, expected[:, which][mask]) <= 1e-5
        if side is None:
            far = abs(our_loss(model, logits, ends) - float(outputs.loss))
            assert far <= 1e-5 * float(outputs.loss)
    there_and_back(model, reference, tmp_path)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_masked_language_model(activation, tmp_path):
    reference = bert("MaskedLM", hidden_act=activation, layer_norm_eps=0.1)
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.MaskedLM)
    for side in (None, "right", "left"):
        inputs = inputs_of(side)
        mask = inputs["padding_mask"]
        target = per_token(mask)
        outputs = theirs(reference, inputs, labels=target)
        logits = numbers(model(inputs))
        assert error(logits[mask], numbers(outputs.logits)[mask]) <= 1e-5
        far = abs(our_loss(model, logits, target) - float(outputs.loss))
        assert far <= 1e-5 * float(outputs.loss)
    there_and_back(model, reference, tmp_path)


def test_next_sentence(tmp_path):
    reference = bert("NextSentencePrediction")
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.NextSentence)
    inputs, target = inputs_of("right"), np.array([1, 0, 1])
    outputs = theirs(reference, inputs, labels=target)
    logits = numbers(model(inputs))
    assert error(logits, numbers(outputs.logits)) <= 1e-5
    far = abs(our_loss(model, logits, target) - float(outputs.loss))
    assert far <= 1e-5 * float(outputs.loss)
    there_and_back(model, reference, tmp_path)


def test_a_pre_training_file_gives_either_task(tmp_path):
    reference = bert("PreTraining")
    masked = loaded(reference, tmp_path / "theirs")
    following = ka.from_pretrained(tmp_path / "theirs", task="next_sentence")
    inputs = inputs_of("right")
    mask = inputs["padding_mask"]
    outputs = theirs(reference, inputs)
    expected = numbers(outputs.prediction_logits)[mask]
    assert error(numbers(masked(inputs))[mask], expected) <= 1e-5
    expected = numbers(outputs.seq_relationship_logits)
    assert error(numbers(following(inputs)), expected) <= 1e-5


def test_a_model_of_one_number_is_refused_by_name(tmp_path):
    reference = bert("SequenceClassification", num_labels=1)
    with pytest.raises(ValueError, match="problem_type"):
        loaded(reference, tmp_path / "theirs")


def test_a_classifier_that_transformers_cannot_compute_is_not_written(tmp_path):
    reference = bert("SequenceClassification")
    backbone = loaded(reference, tmp_path / "theirs").backbone
    model = ka.TextClassifier(backbone, ["a", "b"], pooling="mean")
    with pytest.raises(ValueError, match=r"pooling='pooled'.*Received: pooling='mean'"):
        ka.save_pretrained(model, tmp_path / "back")


def test_a_backbone_under_a_fresh_head(tmp_path):
    reference = randomized(transformers.BertModel(transformers.BertConfig(**SIZES)))
    model = loaded(reference, tmp_path / "theirs", task="text_classifier")
    assert model.labels == ("LABEL_0", "LABEL_1")
    assert keras.ops.shape(model(inputs_of(None))) == (3, 2)


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
    config = getattr(transformers, f"{family}Config")(**sizes, pad_token_id=1)
    reference = randomized(getattr(transformers, f"{family}For{kind}")(config))
    model = loaded(reference, tmp_path / "theirs")
    assert type(model) is getattr(ka, task)
    ids, mask = padded(97, "right")
    ids = np.where(mask, np.maximum(ids, 2), 1)
    outputs = theirs(reference, {"token_ids": ids, "padding_mask": mask})
    logits = numbers(model({"token_ids": ids, "padding_mask": mask}))
    if task == "QuestionAnswerer":
        expected = numbers(torch.stack([outputs.start_logits, outputs.end_logits], -1))
        logits = logits.swapaxes(1, 2)
    else:
        expected = numbers(outputs.logits)
    seen = mask if logits.ndim == 3 else mask[:, 0]
    assert error(logits[seen], expected[seen]) <= 1e-5
    there_and_back(model, reference, tmp_path)


def test_an_image_classifier(tmp_path):
    config = transformers.ViTConfig(
        image_size=15,
        patch_size=5,
        num_hidden_layers=2,
        num_attention_heads=3,
        hidden_size=33,
        intermediate_size=47,
        id2label=LABELS,
    )
    reference = randomized(transformers.ViTForImageClassification(config))
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.ImageClassifier)
    images = np.random.default_rng(2).normal(size=(7, 15, 15, 3)).astype("float32")
    with torch.no_grad():
        outputs = reference(torch.as_tensor(images.transpose(0, 3, 1, 2)))
    expected = numbers(outputs.logits)
    assert error(numbers(model(images)), expected) <= 1e-5
    answers = model.classify(images, batch_size=3)
    assert [one["label"] for one in answers] == [LABELS[i] for i in expected.argmax(-1)]
    there_and_back(model, reference, tmp_path)
