"""Scores of tasks, against counts by hand."""

import keras
import numpy as np
import pytest
from samples import VOCABULARY, eagerly, small_bert

import keras_attention as ka
from keras_attention.training.evaluation import spearman

pytest.importorskip("tensorflow_text")
pytestmark = pytest.mark.tensorflow
TEXTS = ["the animal", "tired!", "the street, the animal", "a"]


def parts():
    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    return small_bert(num_layers=1, dropout=0.0), tokenizer


def answering(model, method, answers):
    """Lets a method return these answers, and checks that it got what it needs."""
    setattr(model, method, lambda *given, **settings: answers)
    return model


def test_labels_are_counted_as_accuracy_and_macro_f1():
    backbone, tokenizer = parts()
    model = ka.TextClassifier(backbone, ["x", "y", "z"], tokenizer)
    answering(model, "classify", [{"label": label} for label in "xxyz"])
    found = ka.evaluate_task(model, TEXTS, ["x", "y", 1, "z"])
    assert found == pytest.approx({"accuracy": 0.75, "f1": (2 / 3 + 2 / 3 + 1) / 3})
    several = ka.TextClassifier(backbone, ["x", "y"], tokenizer, multi_label=True)
    answering(several, "classify", [{"labels": list(x)} for x in ("xy", "x", "", "y")])
    found = ka.evaluate_task(several, TEXTS, [["x"], ["x"], [], ["x", "y"]])
    assert found == pytest.approx({"accuracy": 0.5, "f1": 2 * 3 / (4 + 4)})
    pairs = ka.NextSentence(small_bert(num_layers=1), tokenizer)
    answering(pairs, "follows", np.array([0.9, 0.2, 0.6, 0.1]))
    found = ka.evaluate_task(pairs, TEXTS, TEXTS, [True, True, True, False])
    assert found["accuracy"] == 0.75


def test_answers_are_compared_as_squad_does():
    model = ka.QuestionAnswerer(*parts())
    texts = ["The old  Street!", "a cat", "", "x"]
    answering(model, "answer", [{"text": text} for text in texts])
    wanted = ["old street", "the black cat", None, None]
    answers = [None if text is None else {"text": text} for text in wanted]
    found = ka.evaluate_task(model, TEXTS, TEXTS, answers)
    assert found == pytest.approx({"exact_match": 0.5, "f1": (1 + 2 / 3 + 1 + 0) / 4})


def test_ranks_of_equal_values_are_their_mean():
    assert spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4
    expected = np.corrcoef([1, 2.5, 2.5, 4], [1, 2, 3, 4])[0, 1]
    assert spearman([0, 1, 1, 5], [-3, 0, 1, 9]) == pytest.approx(expected)
    assert spearman([1, 1], [0, 3]) == 0.0
    scorer = ka.TextScorer(*parts())
    answering(scorer, "score", np.array([0.0, 1.0, 3.0, 2.0]))
    found = ka.evaluate_task(scorer, TEXTS, [0.0, 0.5, 1.0, 2.0])
    assert found == pytest.approx({"mean_absolute_error": 0.625, "spearman": 0.8})


def test_the_second_text_of_a_pair_is_searched_among_all():
    model = ka.SentenceEncoder(*parts())
    unit = np.eye(12)
    first, second = unit.copy(), unit.copy()
    first[0] = unit[1]  # the text of pair 1 is nearer
    first[2] = -1.0  # 11 texts are nearer than that of pair 2, which is opposite
    second[2] = 2.0
    vectors = iter([first, second])
    model.encode = lambda texts, **_: next(vectors)
    found = ka.evaluate_task(model, ["a"] * 12, ["b"] * 12)
    assert found == pytest.approx({"recall_at_1": 10 / 12, "recall_at_10": 11 / 12})
    vectors = iter([first[3:7], second[3:7] * [[1], [-1], [1], [-1]]])
    found = ka.evaluate_task(model, TEXTS, TEXTS, [1.0, -1.0, 1.0, -1.0])
    assert found == pytest.approx({"spearman": 1.0})


def test_scores_of_epochs_are_in_the_logs_and_stop_the_training():
    keras.utils.set_random_seed(0)
    model = ka.TokenClassifier(parts()[0], ["O", "B-x"], parts()[1], dropout=0.0)
    sentences = [text.split() for text in TEXTS]
    tags = [["B-x"] * len(words) for words in sentences]
    scores = iter([0.5, 0.7, 0.6, 0.6, 0.6])
    watch = ka.TaskEvaluation(model, sentences, tags)
    tag_words = model.tag_words

    def worse(words, **settings):
        share = next(scores)
        found = tag_words(words, **settings)
        flat = [x for row in found for x in row]
        flat = ["B-x"] * round(share * len(flat)) + ["O"] * len(flat)
        return [[flat.pop(0) for _ in row] for row in found]

    model.tag_words = worse
    settings = {"early_stopping": 2, "monitor": "val_f1", "callbacks": [watch]}
    with eagerly():
        history = ka.fine_tune(
            model,
            model.batches(sentences, tags),
            epochs=9,
            verbose=False,
            **settings,
        ).history
    assert len(history["val_f1"]) == 4
    assert history["val_recall"][0] == pytest.approx(0.5, abs=0.1)


def test_hidden_tokens_and_continuations_have_a_perplexity():
    backbone, tokenizer = parts()
    masked = ka.MaskedLM(backbone, tokenizer)
    found = ka.evaluate_task(masked, TEXTS * 20)
    assert found == ka.evaluate_task(masked, TEXTS * 20)  # the same tokens are hidden
    assert found["perplexity"] == pytest.approx(len(VOCABULARY), rel=0.2)
    decoder = ka.GPTDecoder(11, 1, 2, 8, 12)
    causal = ka.CausalLM(decoder, compiled=False)
    found = ka.evaluate_task(causal, [[1, 2, 3], [4, 5, 6, 7]])
    assert found["perplexity"] == pytest.approx(11, rel=0.2)


def test_translations_are_scored_by_sacrebleu(monkeypatch):
    backbone = ka.RecurrentSeq2Seq(11, embedding_dim=4, hidden_dim=8)
    model = ka.Seq2SeqLM(backbone, start_token_id=9)
    answering(model, "generate", [[1, 2], [3]])
    assert ka.evaluate_task(model, [[1], [2]], [[1, 2], [4]]) == {"exact_match": 0.5}
    sources = ["un chat noir dort", "la rue"]
    answering(model, "generate", [" a black cat sleeps here", "the road"])
    targets = ["a black cat sleeps here", "the street"]
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "sacrebleu", None)
        with pytest.raises(ImportError, match=r"sacrebleu: pip install"):
            ka.evaluate_task(model, sources, targets)
    sacrebleu = pytest.importorskip("sacrebleu")
    found = ka.evaluate_task(model, sources, targets)
    hypotheses = ["a black cat sleeps here", "the road"]
    assert found["bleu"] == sacrebleu.corpus_bleu(hypotheses, [targets]).score
    assert 50 < found["chrf"] < 100
