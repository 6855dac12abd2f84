"""Scores of a task on examples with known answers: what its users compare."""

import collections
import re
import string
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_attention.tasks.causal_lm import CausalLM
from keras_attention.tasks.common import label_ids
from keras_attention.tasks.masked_lm import MaskedLM
from keras_attention.tasks.metrics import token_metrics
from keras_attention.tasks.next_sentence import NextSentence
from keras_attention.tasks.question_answerer import QuestionAnswerer
from keras_attention.tasks.sentence_encoder import SentenceEncoder
from keras_attention.tasks.seq2seq_lm import Seq2SeqLM
from keras_attention.tasks.text_scorer import TextScorer
from keras_attention.tasks.token_classifier import TokenClassifier
from keras_attention.training.entity_scores import entity_scores


def evaluate_task(
    model: Any, *examples: Any, verbose: Any = "auto"
) -> dict[str, float]:
    """Returns the scores of a task on examples, from the answers that it gives.

    | task | scores |
    |---|---|
    | `TextClassifier`, `ImageClassifier`, `NextSentence` | `accuracy`, macro `f1` |
    | `TokenClassifier` | `precision`, `recall`, `f1` of entities |
    | `QuestionAnswerer` | `exact_match`, `f1` of words, as SQuAD does |
    | `TextScorer` | `mean_absolute_error`, `spearman` |
    | `SentenceEncoder` | `recall_at_1`, `recall_at_10`; with scores `spearman` |
    | `MaskedLM` | `accuracy`, `perplexity` of hidden tokens |
    | `CausalLM` | `perplexity` |
    | `Seq2SeqLM` | `bleu`, `chrf` (sacrebleu); without texts `exact_match` of ids |

    Args:
        model: The task.
        *examples: The arguments of its `batches`: texts and labels, for example.
        verbose: Whether to show a progress bar; `"auto"` shows it from 10 batches on.

    Returns:
        The scores by name. F1, recall and so on are from 0 to 1, BLEU and chrF to 100.

    Example:
    ```python
    ka.evaluate_task(model, ["a fun film", "a bore"], ["good", "bad"])
    # {'accuracy': 1.0, 'f1': 1.0}
    ```
    """
    for kind, scores in SCORES.items():
        if isinstance(model, kind):
            found = scores(model, *examples, verbose=verbose)
            return {name: float(score) for name, score in found.items()}
    return _of_labels(model, *examples, verbose=verbose)


class TaskEvaluation(keras.callbacks.Callback):
    """Writes the scores of `evaluate_task` into the logs after each epoch.

    They have the names `val_f1` and so on, for the history, for the other callbacks and
    for `ka.fine_tune(…, early_stopping=2, monitor="val_f1")`.

    Args:
        task: The task that is trained.
        *examples: Examples that are not trained on: the arguments of its `batches`.

    Example:
    ```python
    scores = ka.TaskEvaluation(model, sentences, tags)
    ka.fine_tune(model, batches, callbacks=[scores])
    ```
    """

    def __init__(self, task: Any, *examples: Any):
        super().__init__()
        self.task, self.examples = task, examples

    def on_epoch_end(self, epoch, logs=None):
        """Evaluates the task.

        Args:
            epoch: The number of the epoch.
            logs: The logs, to which the scores are added.
        """
        found = evaluate_task(self.task, *self.examples, verbose=False)
        if logs is not None:
            logs.update({f"val_{name}": score for name, score in found.items()})


def _of_labels(model, inputs, labels, pair=None, *, verbose):
    pairs = [] if pair is None else [pair]
    answers = model.classify(inputs, *pairs, verbose=verbose)
    if getattr(model, "multi_label", False):
        expected = [
            {model.labels[n] for n in label_ids(x, model.labels)} for x in labels
        ]
        found = [set(one["labels"]) for one in answers]
        pairs = list(zip(expected, found, strict=True))
        both = sum(len(a & b) for a, b in pairs)
        total = sum(len(a) + len(b) for a, b in pairs)
        same = np.mean([a == b for a, b in pairs])
        return {"accuracy": same, "f1": 2 * both / total if total else 0.0}
    expected = label_ids(labels, model.labels)
    found = label_ids([one["label"] for one in answers], model.labels)
    return _accuracy_and_f1(expected, found)


def _accuracy_and_f1(expected, found):
    scores = []
    for number in np.union1d(expected, found):
        right = np.sum((expected == number) & (found == number))
        total = np.sum(expected == number) + np.sum(found == number)
        scores.append(2 * right / total)
    return {"accuracy": np.mean(expected == found), "f1": np.mean(scores)}


def _of_next_sentences(model, texts, next_texts, follows, *, verbose):
    found = model.follows(texts, next_texts, verbose=verbose) > 0.5
    return _accuracy_and_f1(np.asarray(follows).astype(bool), found)


def _of_entities(model, sentences, labels, *, verbose):
    names = [[model.labels[n] for n in label_ids(x, model.labels)] for x in labels]
    return entity_scores(names, model.tag_words(sentences, verbose=verbose))


def _of_answers(model, questions, contexts, answers, *, verbose):
    threshold = 0.0 if any(answer is None for answer in answers) else None
    found = model.answer(
        questions, contexts, no_answer_threshold=threshold, verbose=verbose
    )
    pairs = [
        (_plain_words(answer["text"] if answer else ""), _plain_words(one["text"]))
        for answer, one in zip(answers, found, strict=True)
    ]
    return {
        "exact_match": np.mean([a == b for a, b in pairs]),
        "f1": np.mean([_f1_of_words(a, b) for a, b in pairs]),
    }


def _plain_words(text: str) -> list[str]:
    """Returns the words that SQuAD compares: no case, punctuation or articles."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _f1_of_words(expected: list[str], found: list[str]) -> float:
    if not expected or not found:
        return float(expected == found)
    common = (collections.Counter(expected) & collections.Counter(found)).total()
    return 2 * common / (len(expected) + len(found))


def _of_scores(model, texts, scores, pair=None, *, verbose):
    found = model.score(texts, pair, verbose=verbose)
    error = np.abs(found - np.asarray(scores)).mean()
    return {"mean_absolute_error": error, "spearman": spearman(scores, found)}


def _of_pairs(model, texts, texts_pair, scores=None, *, verbose):
    first = model.encode(texts, verbose=verbose)
    second = model.encode(texts_pair, verbose=verbose)
    first = first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
    second = second / np.maximum(np.linalg.norm(second, axis=1, keepdims=True), 1e-12)
    own = (first * second).sum(axis=1)
    if scores is not None:
        return {"spearman": spearman(scores, own)}
    better = [  # the number of other texts that are more similar, without equal ones
        (second @ vector > similarity + 1e-6).sum()
        for vector, similarity in zip(first, own, strict=True)
    ]
    return {f"recall_at_{k}": np.mean(np.array(better) < k) for k in (1, 10)}


def spearman(expected: Sequence[float], found: Sequence[float]) -> float:
    """Returns Spearman's rank correlation; 0 if all values of a side are equal.

    Args:
        expected: The true scores.
        found: The predicted scores.
    """
    ranks = []
    for values in (expected, found):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    if min(np.ptp(ranks[0]), np.ptp(ranks[1])) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def _of_hidden_tokens(model, texts, *, verbose):
    metrics = token_metrics()
    batches = model.batches(texts, shuffle=False)
    for index in range(batches.num_batches):
        inputs, targets = batches[index]
        logits = model.predict_on_batch(inputs)
        for metric in metrics:
            metric.update_state(targets, logits)
    return {metric.name: metric.result() for metric in metrics}


def _of_continuations(model, texts, *, verbose):
    return {"perplexity": model.score(texts)["perplexity"]}


def _of_targets(model, sources, targets, *, verbose):
    found = []
    for start in range(0, len(sources), 32):
        found += model.generate(sources[start : start + 32])
    if not isinstance(targets[0], str):
        same = [list(a) == list(b) for a, b in zip(targets, found, strict=True)]
        return {"exact_match": np.mean(same)}
    try:
        import sacrebleu
    except ImportError as error:
        raise ImportError(
            "BLEU and chrF need sacrebleu: pip install "
            '"keras-attention-layers[evaluate]". Received: no sacrebleu'
        ) from error
    found = [text.strip() for text in found]  # words of some vocabularies have a space
    return {
        "bleu": sacrebleu.corpus_bleu(found, [targets]).score,
        "chrf": sacrebleu.corpus_chrf(found, [targets]).score,
    }


SCORES = {
    NextSentence: _of_next_sentences,
    TokenClassifier: _of_entities,
    QuestionAnswerer: _of_answers,
    TextScorer: _of_scores,
    SentenceEncoder: _of_pairs,
    MaskedLM: _of_hidden_tokens,
    CausalLM: _of_continuations,
    Seq2SeqLM: _of_targets,
}
