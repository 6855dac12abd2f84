"""Losses and metrics of tasks, against their formulas in float64."""

import keras
import numpy as np
import pytest

import keras_attention as ka
from keras_attention.tasks.batches import IGNORED

DRAW = np.random.default_rng(5)
LABELS = np.where(DRAW.random((3, 7)) < 0.4, IGNORED, DRAW.integers(0, 5, (3, 7)))
LOGITS = DRAW.normal(scale=2.0, size=(3, 7, 5))
LOG_P = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
COUNTED = LABELS != IGNORED
OF_LABEL = -np.take_along_axis(LOG_P, np.maximum(LABELS, 0)[..., None], -1)[..., 0]


@pytest.mark.parametrize("smoothing", [0.0, 0.13])
def test_smoothed_and_weighted_cross_entropy_has_its_formula(smoothing):
    losses = (1 - smoothing) * OF_LABEL - smoothing * LOG_P.mean(-1)
    loss = ka.SmoothedCrossEntropy(IGNORED, smoothing)
    np.testing.assert_allclose(loss(LABELS, LOGITS), losses[COUNTED].mean(), rtol=1e-6)
    weights = np.where(LABELS == 2, 3.0, np.where(LABELS == 4, 0.5, 1.0))
    loss = ka.SmoothedCrossEntropy(IGNORED, smoothing, {2: 3.0, 4: 0.5})
    again = type(loss).from_config(loss.get_config())
    expected = (losses * weights)[COUNTED].mean()
    np.testing.assert_allclose(again(LABELS, LOGITS), expected, rtol=1e-6)
    plain = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=IGNORED)
    without = ka.SmoothedCrossEntropy(IGNORED)
    np.testing.assert_allclose(without(LABELS, LOGITS), plain(LABELS, LOGITS), 1e-6)
    assert float(without(np.full((2, 3), IGNORED), LOGITS[:2, :3])) == 0.0
    of_rows = ka.SmoothedCrossEntropy()(LABELS[COUNTED][:, None], LOGITS[COUNTED])
    np.testing.assert_allclose(of_rows, OF_LABEL[COUNTED].mean(), rtol=1e-6)
    with pytest.raises(ValueError, match="Received: label_smoothing=1"):
        ka.SmoothedCrossEntropy(label_smoothing=1.0)


def test_metrics_count_only_what_is_labelled():
    accuracy, perplexity = ka.LabelledAccuracy(), ka.Perplexity()
    for rows in (slice(0, 1), slice(1, 3)):  # batches with other numbers of labels
        accuracy.update_state(LABELS[rows], LOGITS[rows])
        perplexity.update_state(LABELS[rows], LOGITS[rows])
    right = (LOGITS.argmax(-1) == LABELS)[COUNTED].mean()
    np.testing.assert_allclose(accuracy.result(), right, rtol=1e-6)
    expected = np.exp(OF_LABEL[COUNTED].mean())
    np.testing.assert_allclose(perplexity.result(), expected, rtol=1e-5)
    accuracy.reset_state()
    accuracy.update_state(LABELS, LOGITS, sample_weight=np.array([0.0, 1.0, 0.0]))
    right = (LOGITS.argmax(-1) == LABELS)[1][COUNTED[1]].mean()
    np.testing.assert_allclose(accuracy.result(), right, rtol=1e-6)


def groups(size, scores=None):
    number = np.arange(4 * size)
    targets = [number // size, number % size]
    targets += [] if scores is None else [np.repeat(scores, size)]
    vectors = DRAW.normal(size=(4 * size, 6))
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.stack(targets, 1).astype("float32"), vectors, unit.reshape(4, size, 6)


@pytest.mark.parametrize("size", [2, 3])
def test_the_second_text_is_ranked_among_all_others_of_the_batch(size):
    targets, vectors, unit = groups(size)
    others = np.concatenate([unit[:, k] for k in range(1, size)])  # seconds first
    for scale in (20.0, 1.0):
        logits = scale * unit[:, 0] @ others.T
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = -log_p[range(4), range(4)].mean()
        found = ka.MultipleNegativesRanking(scale)(targets, vectors)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    order = np.random.default_rng(0).permutation(len(targets))
    found = ka.MultipleNegativesRanking(scale)(targets[order], vectors[order])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    recall = ka.InBatchRecall()
    recall.update_state(targets, vectors)
    right = ((unit[:, 0] @ others.T).argmax(-1) == range(4)).mean()
    np.testing.assert_allclose(recall.result(), right)


def test_the_cosine_of_a_pair_learns_its_score():
    scores = np.array([0.5, -1.0, 1.0, 0.0])
    targets, vectors, unit = groups(2, scores)
    cosines = (unit[:, 0] * unit[:, 1]).sum(-1)
    expected = ((cosines - scores) ** 2).mean()
    np.testing.assert_allclose(ka.CosineScore()(targets, vectors), expected, rtol=1e-5)
