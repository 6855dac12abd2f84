"""Tasks as artifacts, over the grid of the verification."""

import numpy as np
import pytest
from samples import VOCABULARY, small_bert

import keras_attention as ka
from keras_attention.export.runtimes.opening import open_artifact

pytest.importorskip("onnxruntime")
pytest.importorskip("tensorflow_text")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def tokenizer():
    return ka.WordPieceTokenizer(VOCABULARY, max_length=61)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_classifier_answers_texts_in_a_session_and_ids_in_onnx(tmp_path, multi_label):
    labels = ["red", "green", "blue"]
    model = ka.TextClassifier(
        small_bert(), labels, tokenizer(), multi_label=multi_label
    )
    texts = ["The animal!", "", "tired"]
    expected = [list(one["scores"].values()) for one in model.classify(texts)]
    with open_artifact(ka.export_model(model, tmp_path / "saved")) as runner:
        assert set(runner.signatures) == {"classify", "classify_pair", "classify_ids"}
        served = runner.run("classify", text=texts)["scores"]
        pairs = {"text": texts, "text_pair": texts[::-1]}
        of_pairs = runner.run("classify_pair", **pairs)["scores"]
    np.testing.assert_allclose(served, expected, atol=1e-6)
    expected_pairs = [
        [*one["scores"].values()] for one in model.classify(texts, texts[::-1])
    ]
    np.testing.assert_allclose(of_pairs, expected_pairs, atol=1e-6)
    ids = {k: np.asarray(v) for k, v in model.tokenizer(texts).items()}
    with open_artifact(ka.export_model(model, tmp_path / "onnx", "onnx")) as runner:
        onnx = runner.run("classify_ids", **ids)["scores"]
    np.testing.assert_allclose(onnx, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda b, t: ka.TokenClassifier(b, ["O", "B-x"], t), {"tag", "tag_ids"}),
        (ka.MaskedLM, {"fill", "fill_ids"}),
        (ka.QuestionAnswerer, {"answer", "answer_ids"}),
        (ka.NextSentence, {"follow", "follow_ids"}),
    ],
    ids=["tag", "fill", "answer", "follow"],
)
def test_other_tasks_pass_the_verification_in_both_formats(make, names, tmp_path):
    model = make(small_bert(), tokenizer())
    with open_artifact(ka.export_model(model, tmp_path / "saved")) as runner:
        assert set(runner.signatures) == names
    assert ka.export_model(model, tmp_path / "onnx", "onnx").is_dir()
