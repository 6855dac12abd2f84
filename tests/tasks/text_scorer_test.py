"""Scores of texts and of pairs: numbers, order, training, files, artifacts."""

import keras
import numpy as np
import pytest
from contracts.kinds import relative_error, to_numpy
from samples import VOCABULARY, small_bert
from small_models import with_random_weights

import keras_attention as ka

pytest.importorskip("tensorflow_text")
pytestmark = pytest.mark.tensorflow

TEXTS = ["the animal", "tired!", "the street, the animal", "a"]
QUERY = "the street"


def scorer(**settings):
    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    model = ka.TextScorer(small_bert(num_layers=1), tokenizer, **settings)
    return with_random_weights(model)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("activation", "hidden"), [("linear", None), ("sigmoid", "tanh")]
)
def test_a_score_is_a_map_of_one_vector_of_the_pair(activation, hidden):
    model = scorer(activation=activation, hidden_activation=hidden)
    scores = model.score(TEXTS, TEXTS[::-1], batch_size=3)
    assert scores.dtype == np.float32
    expected = []
    for text, pair in zip(TEXTS, TEXTS[::-1], strict=True):
        outputs = model.backbone(model.tokenizer([text], [pair]))
        vector = to_numpy(outputs["pooled_output"])[0].astype("float64")
        if model.head.hidden is not None:
            kernel, bias = (to_numpy(w.value) for w in model.head.hidden.weights)
            vector = np.tanh(vector @ kernel + bias)
        kernel, bias = (to_numpy(w.value) for w in model.head.output_projection.weights)
        expected.append((vector @ kernel + bias)[0])
    if activation == "sigmoid":
        expected = 1 / (1 + np.exp(-np.array(expected)))
    assert relative_error(scores, np.array(expected)) <= 1e-5
    assert model.score([]).shape == (0,)


@pytest.mark.usefixtures("eagerly")
def test_texts_are_ranked_by_their_score_as_second_text_of_the_query():
    model = scorer()
    ranked = model.rank(QUERY, TEXTS, batch_size=3)
    scores = model.score([QUERY] * 4, TEXTS)
    assert [one["index"] for one in ranked] == np.argsort(-scores).tolist()
    assert [one["text"] for one in ranked] == [TEXTS[one["index"]] for one in ranked]
    for one in ranked:
        assert one["score"] == pytest.approx(scores[one["index"]], rel=1e-5)
    assert [one["index"] for one in model.rank(QUERY, TEXTS, top_k=2)] == [
        one["index"] for one in ranked[:2]
    ]
    assert model.rank(QUERY, []) == []


@pytest.mark.usefixtures("eagerly")
def test_texts_of_equal_score_stay_in_their_order():
    model = scorer()
    model.head.output_projection.kernel.assign(np.zeros((33, 1)))
    assert [one["index"] for one in model.rank(QUERY, TEXTS)] == [0, 1, 2, 3]


@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("activation", ["linear", "sigmoid"])
def test_loss_and_metric_are_those_of_the_scores(activation):
    model = scorer(activation=activation, dropout=0.0)
    targets = [0.0, 1.0, 0.25, 0.5]
    model.compile(**model.compile_arguments())
    batches = model.batches(TEXTS, targets, TEXTS[::-1], batch_size=4, shuffle=False)
    inputs, of_batch = batches[0]
    assert of_batch.shape == (4, 1)
    found = model.evaluate(batches, verbose=0, return_dict=True)
    scores = model.score(TEXTS, TEXTS[::-1]).astype("float64")
    errors = scores - targets
    loss = np.mean(errors**2)
    if activation == "sigmoid":
        likelihood = np.array(targets) * np.log(scores)
        likelihood += (1 - np.array(targets)) * np.log(1 - scores)
        loss = -np.mean(likelihood)
    assert found["loss"] == pytest.approx(loss, rel=1e-4)
    assert found["mean_absolute_error"] == pytest.approx(abs(errors).mean(), rel=1e-4)
    # Targets of shape [B], as in a user's own tf.data pipeline, mean the same. The
    # model is compiled again because a compiled step takes targets of one rank.
    model.compile(**model.compile_arguments())
    flat = model.evaluate(inputs, of_batch[:, 0], verbose=0, return_dict=True)
    assert flat["loss"] == pytest.approx(loss, rel=1e-4)
    assert flat["mean_absolute_error"] == pytest.approx(abs(errors).mean(), rel=1e-4)


@pytest.mark.parametrize(
    "activation", ["sigmoid", pytest.param("linear", marks=pytest.mark.slow)]
)
def test_the_head_alone_learns_scores(activation):
    keras.utils.set_random_seed(1)
    model = scorer(activation=activation, dropout=0.0)
    targets = [0.9, 0.1, 0.6, 0.3]
    before = abs(model.score(TEXTS) - targets).mean()
    batches = model.batches(TEXTS, targets, batch_size=4)
    ka.fine_tune(
        model, batches, epochs=60, learning_rate=0.05, freeze_backbone=True, verbose=0
    )
    assert abs(model.score(TEXTS) - targets).mean() < before / 4


def test_a_compiled_model_is_saved_and_loaded(tmp_path):
    model = scorer(activation="sigmoid", pooling="mean", hidden_activation="relu")
    model.compile("sgd", **model.compile_arguments())
    model.save(tmp_path / "model.keras")
    loaded = ka.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.score(TEXTS), model.score(TEXTS))
    batches = loaded.batches(TEXTS, [0, 1, 0.5, 1])
    found = loaded.evaluate(batches, verbose=0, return_dict=True)
    assert 0 < found["mean_absolute_error"] < 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("activation", ["linear", "sigmoid"])
def test_scores_are_the_same_from_text_in_a_session_and_from_ids_in_onnx(
    activation, tmp_path
):
    pytest.importorskip("onnxruntime")
    model = scorer(activation=activation)
    texts = ["The animal!", "", "tired"]
    with ka.open_artifact(ka.export_model(model, tmp_path / "saved")) as runner:
        assert set(runner.signatures) == {"score", "score_pair", "score_ids"}
        of_texts = runner.run("score", text=texts)["scores"]
        pairs = {"text": texts, "text_pair": texts[::-1]}
        of_pairs = runner.run("score_pair", **pairs)["scores"]
    np.testing.assert_allclose(of_texts, model.score(texts), atol=1e-5)
    np.testing.assert_allclose(of_pairs, model.score(texts, texts[::-1]), atol=1e-5)
    ids = {name: np.asarray(row) for name, row in model.tokenizer(texts).items()}
    with ka.open_artifact(ka.export_model(model, tmp_path / "onnx", "onnx")) as runner:
        onnx = runner.run("score_ids", **ids)["scores"]
    assert onnx.shape == (3,)
    np.testing.assert_allclose(onnx, model.score(texts), atol=1e-5)


@pytest.mark.usefixtures("eagerly")
def test_wrong_arguments_are_refused():
    model = scorer(activation="sigmoid")
    with pytest.raises(ValueError, match=r"linear, sigmoid.*activation='tanh'"):
        scorer(activation="tanh")
    with pytest.raises(ValueError, match=r"pooling.*without a pooler"):
        ka.TextScorer(small_bert(pooler=False), pooling="pooled")
    with pytest.raises(ValueError, match=r"list of texts.*Received: texts='a'"):
        model.score("a")
    with pytest.raises(ValueError, match=r"list of texts.*Received: texts_pair='a'"):
        model.score(["b"], "a")
    with pytest.raises(ValueError, match=r"same length.*2 texts, 1 texts_pair"):
        model.score(["a", "b"], ["c"])
    with pytest.raises(ValueError, match=r"same length.*2 texts, 1 scores"):
        model.batches(["a", "b"], [1.0])
    with pytest.raises(ValueError, match=r"from 0 to 1.*wrong values \[2\.0\]"):
        model.batches(["a", "b"], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"one number per text.*shape \(1, 2\)"):
        model.batches(["a"], [[0.5, 0.5]])
    with pytest.raises(ValueError, match=r"finite.*Received: .*nan"):
        scorer().batches(["a"], [float("nan")])
    with pytest.raises(ValueError, match=r"one text. Received: query=\['a'\]"):
        model.rank(["a"], ["b"])
    with pytest.raises(ValueError, match=r"at least 1.*Received: top_k=0"):
        model.rank("a", ["b"], top_k=0)
    with pytest.raises(ValueError, match="`tokenizer=`"):
        ka.TextScorer(small_bert()).rank("a", ["b"])
