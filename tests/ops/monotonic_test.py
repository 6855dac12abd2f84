"""Monotonic alignments against the equations of the paper, and the coverage loss."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import to_numpy
from oracle import monotonic_step

from keras_attention.ops.coverage import coverage_loss
from keras_attention.ops.monotonic import (
    MODES,
    first_alignment,
    monotonic_alignment,
    monotonic_alignments,
)

B, T, S = 2, 3, 7


def every_way_to_stop(p, previous):
    """Raffel 2017, equations 8 and 9: sum over starts k of prod (1 - p) · p_j."""
    alignment = np.zeros(len(p))
    for j in range(len(p)):
        for k in range(j + 1):
            alignment[j] += previous[k] * np.prod(1 - p[k:j]) * p[j]
    return alignment


def walk(p, previous):
    """Raffel 2017, algorithm 1: hard decisions, from where the last query stopped."""
    alignment = np.zeros(len(p))
    for j in range(int(np.argmax(previous)), len(p)) if previous.any() else ():
        if p[j] > 0.5:
            alignment[j] = 1.0
            break
    return alignment


def some(length, spread=1.0, seed=1):
    """Probabilities, at `spread` 30 most of them 0 or 1, and a soft alignment."""
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-spread * rng.normal(size=(B, length))))
    return p, rng.dirichlet(np.ones(length), size=B)


def rows(equation, p, previous):
    return np.array([equation(*row) for row in zip(p, previous, strict=True)])


@pytest.mark.parametrize("mode", ["parallel", "recursive"])
@pytest.mark.parametrize("length", [1, 2, 7, 32, 33])
def test_soft_alignments_follow_the_equations(mode, length):
    p, previous = some(length)
    actual = to_numpy(monotonic_alignment(p, previous, mode))
    assert np.allclose(actual, rows(monotonic_step, p, previous), rtol=0, atol=1e-14)
    assert np.allclose(actual, rows(every_way_to_stop, p, previous), rtol=0, atol=1e-14)


@pytest.mark.parametrize("spread", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("length", [7, 101, 1009])
def test_parallel_is_exact_where_division_by_a_product_is_not(length, spread):
    p, previous = (x.astype("float32") for x in some(length, spread))
    expected = rows(monotonic_step, p.astype("float64"), previous.astype("float64"))
    actual = to_numpy(monotonic_alignment(p, previous))
    assert actual.dtype == "float32"
    assert np.allclose(actual, expected, rtol=0, atol=2e-7)


def test_parallel_is_exact_where_the_closed_form_of_the_paper_is_not():
    p, previous = np.full((1, 101), 0.5, "float32"), np.eye(1, 101, 100)
    before = np.cumprod(np.append(1.0, 1 - p[0]))[:-1]
    closed = p[0] * before * np.cumsum(previous[0] / np.clip(before, 1e-10, 1))
    parallel = to_numpy(monotonic_alignment(p, previous))[0]
    assert parallel[100] == 0.5
    assert closed[100] < 1e-15


def test_hard_alignments_follow_the_algorithm():
    p, _ = some(S, seed=5)
    p[1] = [0.9, 0.1, 0.1, 0.2, 0.3, 0.5, 0.1]  # 1/2 is not enough
    for start in range(S):
        previous = np.eye(S)[[start, start]]
        actual = to_numpy(monotonic_alignment(p, previous, "hard"))
        assert np.array_equal(actual, rows(walk, p, previous))
    assert not to_numpy(monotonic_alignment(p, np.zeros((B, S)), "hard")).any()


@pytest.mark.parametrize("mode", MODES)
def test_each_query_continues_the_one_before(mode):
    equation = walk if mode == "hard" else monotonic_step
    p = np.stack([some(S, seed=seed)[0] for seed in range(T)], axis=1)
    start = np.eye(S)[[0, 2]]
    actual = to_numpy(monotonic_alignments(p, start, mode))
    for t in range(T):
        previous = actual[:, t - 1] if t else start
        assert np.allclose(actual[:, t], rows(equation, p[:, t], previous), atol=1e-14)


def test_a_query_that_does_not_walk_leaves_the_alignment_to_the_next():
    p = np.stack([some(S, seed=seed)[0] for seed in range(T)], axis=1)
    start = np.eye(S)[[0, 2]]
    walks = np.array([[True, False, True], [False, True, True]])
    actual = to_numpy(monotonic_alignments(p, start, "parallel", walks))
    assert not actual[~walks].any()
    for b in range(B):
        alone = to_numpy(monotonic_alignments(p[b : b + 1, walks[b]], start[b : b + 1]))
        assert np.allclose(actual[b, walks[b]], alone[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("mode", MODES)
def test_where_the_probability_is_zero_the_weight_is_exactly_zero(mode):
    p, previous = some(S)
    p[:, [0, 3, 6]] = 0.0
    alignment = to_numpy(monotonic_alignment(p, previous, mode))
    assert not alignment[:, [0, 3, 6]].any()
    assert alignment.sum() > 0


def test_the_first_alignment_is_the_first_position():
    assert to_numpy(first_alignment(np.full((B, 3), 5.0))).tolist() == [[1, 0, 0]] * B


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("mode", "jit"), [("parallel", False), ("parallel", True), ("recursive", False)]
)
def test_graphs_of_unknown_lengths_return_the_same_numbers_and_gradients(mode, jit):
    def both(p, start):
        with tf.GradientTape() as tape:
            tape.watch(p)
            y = monotonic_alignments(p, start, mode)
            loss = tf.reduce_sum(y**2)
        return y, tape.gradient(loss, p)

    shapes = tf.TensorSpec([None, None, None]), tf.TensorSpec([None, None])
    traced = tf.function(both, jit_compile=jit, input_signature=shapes)
    p = np.random.default_rng(2).random((B, T, S)).astype("float32")
    start = np.eye(S, dtype="float32")[[0, 1]]
    y, gradient = traced(p, start)
    assert np.allclose(y, monotonic_alignments(p, start, mode), atol=1e-6)
    step = 1e-3
    for at in [(0, 0, 0), (1, 1, 3), (0, 2, 6)]:
        moved = [p.astype("float64") for _ in range(2)]
        moved[0][at] += step
        moved[1][at] -= step
        up, down = (
            float((to_numpy(monotonic_alignments(q, start)) ** 2).sum()) for q in moved
        )
        assert np.isclose(to_numpy(gradient)[at], (up - down) / (2 * step), atol=1e-4)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"'parallel'.*Received: mode='soft'"):
        monotonic_alignment(*some(S), mode="soft")


def test_the_coverage_loss_counts_positions_attended_to_again():
    scores = np.random.default_rng(3).dirichlet(np.ones(S), size=(B, T))
    expected, covered = np.zeros((B, T)), np.zeros((B, S))
    for b in range(B):
        for t in range(T):
            expected[b, t] = sum(np.minimum(scores[b, t], covered[b]))
            covered[b] += scores[b, t]
    assert np.allclose(coverage_loss(scores), expected, rtol=0, atol=1e-15)
    assert not to_numpy(coverage_loss(np.eye(S)[None])).any()
    assert np.allclose(coverage_loss(np.eye(S)[None, [2, 2, 2]]), [[0, 1, 1]])


def test_the_coverage_loss_works_in_functional_models():
    scores = keras.Input((None, S))
    assert coverage_loss(scores).shape == (None, None)
