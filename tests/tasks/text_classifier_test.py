import numpy as np
import pytest
from contracts.kinds import relative_error, to_numpy
from oracle import drawn
from samples import VOCABULARY, small_bert

import keras_attention as ka

pytest.importorskip("tensorflow_text")
pytestmark = pytest.mark.tensorflow

IDS = np.array([[5, 3, 8, 1, 9], [2, 7, 1, 0, 0]])
MASK = drawn("1 1 1 1 1\n1 1 1 . .")
LABELS = ["red", "green", "blue"]
TEXTS = ["the animal", "tired!", "the street, the animal", "a"]


def classifier(**settings):
    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    return ka.TextClassifier(small_bert(num_layers=1), LABELS, tokenizer, **settings)


@pytest.mark.parametrize("pooling", ["pooled", "first", "mean"])
@pytest.mark.parametrize("hidden", [None, "tanh"])
def test_logits_are_a_map_of_one_vector_of_the_text(pooling, hidden):
    model = classifier(pooling=pooling, hidden_activation=hidden)
    outputs = to_numpy(model.backbone(IDS, padding_mask=MASK))
    sequence = outputs["sequence_output"].astype("float64")
    vector = {
        "pooled": outputs["pooled_output"].astype("float64"),
        "first": sequence[:, 0],
        "mean": np.stack([sequence[i, MASK[i]].mean(axis=0) for i in range(2)]),
    }[pooling]
    head = model.head
    if head.hidden is not None:
        kernel, bias = (to_numpy(w.value) for w in head.hidden.weights)
        vector = np.tanh(vector @ kernel + bias)
    kernel, bias = (to_numpy(w.value) for w in head.output_projection.weights)
    got = to_numpy(model(IDS, padding_mask=MASK))
    assert relative_error(got, vector @ kernel + bias) <= 1e-5


def test_answers_keep_the_order_of_the_texts_and_do_not_depend_on_the_batch():
    model = classifier()
    model.head.output_projection.kernel.assign(
        np.random.default_rng(0).normal(size=(33, 3))
    )
    answers = model.classify(TEXTS, TEXTS[::-1], batch_size=3)
    for text, pair, answer in zip(TEXTS, TEXTS[::-1], answers, strict=True):
        logits = to_numpy(model(model.tokenizer([text], [pair])))[0].astype("float64")
        expected = np.exp(logits) / np.exp(logits).sum()
        assert list(answer["scores"]) == LABELS
        scores = np.array([*answer["scores"].values()])
        assert relative_error(scores, expected) <= 1e-5
        assert answer["label"] == LABELS[logits.argmax()]
        assert answer["score"] == max(answer["scores"].values())
    assert model.classify([]) == []


@pytest.mark.usefixtures("eagerly")
def test_with_multi_label_each_score_is_compared_with_the_threshold():
    model = classifier(multi_label=True)
    model.head.output_projection.bias.assign([0.5, -3.0, 2.0])
    model.head.output_projection.kernel.assign(np.zeros((33, 3)))
    (answer,) = model.classify(["the"])
    assert answer["labels"] == ["red", "blue"]
    assert answer["scores"]["blue"] == pytest.approx(1 / (1 + np.exp(-2)), rel=1e-5)
    assert model.classify(["the"], threshold=0.7)[0]["labels"] == ["blue"]
    _, targets = model.batches(["a", "b"], [["red", 2], []], shuffle=False)[0]
    assert targets.tolist() == [[1, 0, 1], [0, 0, 0]]


@pytest.mark.usefixtures("eagerly")
def test_saving_and_loading_keeps_tokenizer_labels_and_every_bit(tmp_path):
    model = classifier(pooling="mean", hidden_activation="relu")
    model.save(tmp_path / "model.keras")
    loaded = ka.load_model(tmp_path / "model.keras")
    assert loaded.classify(TEXTS) == model.classify(TEXTS)
    assert loaded.labels == tuple(LABELS)


@pytest.mark.slow
def test_raw_strings_of_a_tf_dataset_are_fitted():
    import tensorflow as tf

    model = classifier(dropout=0.0)
    data = tf.data.Dataset.from_tensor_slices((TEXTS, [0, 1, 2, 1])).batch(3)
    data = data.map(lambda text, label: (model.tokenizer(text), label))
    model.compile("adam", **model.compile_arguments())
    before = np.array(model.head.output_projection.kernel)
    history = model.fit(data, verbose=0).history
    assert set(history) == {"loss", "accuracy"}
    assert not np.array_equal(before, model.head.output_projection.kernel)


@pytest.mark.usefixtures("eagerly")
def test_wrong_arguments_are_refused():
    model = classifier()
    with pytest.raises(ValueError, match=r"list of texts.*Received: texts='a'"):
        model.classify("a")
    with pytest.raises(ValueError, match=r"same length.*Received: 2 texts, 1 labels"):
        model.batches(["a", "b"], ["red"])
    with pytest.raises(ValueError, match="Received: 'yellow'"):
        model.batches(["a"], ["yellow"])
    with pytest.raises(ValueError, match=r"pooling.*without a pooler"):
        ka.TextClassifier(small_bert(pooler=False), LABELS, pooling="pooled")
    with pytest.raises(ValueError, match=r"`labels` must name.*'a', 'a'"):
        ka.TextClassifier(small_bert(), ["a", "a"])
    with pytest.raises(ValueError, match=r"`tokenizer=`"):
        ka.TextClassifier(small_bert(), LABELS).classify(["a"])
