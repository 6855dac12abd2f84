"""Monotonic attention as a layer: the walk, its masks, its noise, its modes."""

import keras
import numpy as np
import oracle
import pytest
import tensorflow as tf
from contracts.kinds import to_numpy, weights_of
from ops.monotonic_test import walk

from keras_attention.layers.monotonic_attention import SCORES, MonotonicAttention

B, T, S, Q, V = 2, 3, 5, 7, 11
RNG = np.random.default_rng(1)
QUERY, VALUE, KEY = (
    RNG.normal(size=shape) for shape in [(B, T, Q), (B, S, V), (B, S, Q)]
)
KEEP = oracle.drawn("""
    1 1 1 . .
    . 1 1 1 1
""")
QUERIES = oracle.drawn("""
    1 . 1
    1 1 .
""")


def built(*args, **kwargs):
    layer = MonotonicAttention(*args, **{"units": 13, "dtype": "float64", **kwargs})
    layer.build((B, T, Q), (B, S, V), (B, S, Q))
    rng = np.random.default_rng(7)
    for w in layer.trainable_weights:
        w.assign(rng.normal(size=w.shape) if len(w.shape) else 0.7)
    return layer


def expected(layer, score, *, keep=None, queries=None, step=oracle.monotonic_step):
    """Contexts and weights, one query and one position at a time."""
    keep = np.ones((B, S), bool) if keep is None else keep
    queries = np.ones((B, T), bool) if queries is None else queries
    w, weights = weights_of(layer), np.zeros((B, T, S))
    for b in range(B):
        previous = np.eye(S)[0]
        for t in np.flatnonzero(queries[b]):
            scores = np.array([score(QUERY[b, t], KEY[b, s], s, w) for s in range(S)])
            p = keep[b] / (1 + np.exp(-scores - w["score_bias"]))
            previous = weights[b, t] = step(p, previous)
    return weights @ VALUE, weights


def call(layer, **kwargs):
    tensors = kwargs.pop("inputs", (QUERY, VALUE, KEY))
    return to_numpy(layer(*tensors, return_attention_scores=True, **kwargs))


@pytest.mark.parametrize("score", SCORES)
def test_every_score_walks_by_the_equations_of_the_paper(score):
    layer = built(score)
    wanted = expected(layer, oracle.SCORES[score])
    for actual, want in zip(call(layer), wanted, strict=True):
        assert np.allclose(actual, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["parallel", "recursive", "hard"])
def test_padding_is_walked_over_and_padding_queries_do_not_walk(mode):
    layer = built(mode=mode)
    step = walk if mode == "hard" else oracle.monotonic_step
    masks = {"query_mask": QUERIES, "value_mask": KEEP}
    wanted = expected(layer, oracle.additive, keep=KEEP, queries=QUERIES, step=step)
    for actual, want in zip(call(layer, **masks), wanted, strict=True):
        assert np.allclose(actual, want, rtol=0, atol=1e-12)
    spoiled = [
        np.where(keep[..., None], x, np.nan)
        for x, keep in [(QUERY, QUERIES), (VALUE, KEEP), (KEY, KEEP)]
    ]
    for actual, want in zip(
        call(layer, inputs=spoiled, **masks), call(layer, **masks), strict=True
    ):
        assert np.array_equal(actual, want)
    weights = call(layer, **masks)[1]
    assert not weights[~(QUERIES[..., None] & KEEP[:, None])].any()


def test_weights_need_not_sum_to_one():
    weights = call(built())[1]
    assert (weights.sum(-1) < 0.999).any()
    assert (weights.sum(-1) <= 1 + 1e-12).all()


def test_bias_and_soft_cap_act_on_the_scores():
    far = np.full((B, T, S), -50.0)
    far[:, 0, 2] = far[:, 1:, 4] = 50.0
    weights = call(built(), attention_bias=far)[1]
    assert np.allclose(weights[:, [0, 1, 2], [2, 4, 4]], 1.0)
    capped = call(built(logits_soft_cap=1e-9))[1]
    p = 1 / (1 + np.exp(-0.7))
    assert np.allclose(
        capped[:, 0], [oracle.monotonic_step(np.full(S, p), np.eye(S)[0])] * B
    )


def test_noise_is_there_in_training_only():
    layer = built(sigmoid_noise=1.0, seed=3)
    quiet = call(layer)[1]
    assert np.array_equal(quiet, call(built())[1])
    noisy = [call(layer, training=True)[1] for _ in range(2)]
    assert abs(noisy[0] - quiet).max() > 0.01
    assert abs(noisy[0] - noisy[1]).max() > 0.01


def test_dropout_drops_what_is_summed_and_not_what_is_returned():
    layer = built(dropout=0.5, seed=3)
    output, weights = call(layer, training=True)
    assert np.array_equal(weights, call(layer)[1])
    assert not np.allclose(output, weights @ VALUE)


@pytest.mark.tensorflow
def test_gradients_reach_every_weight_and_rows_are_independent():
    layer = built()
    query = tf.constant(QUERY)
    with tf.GradientTape() as tape:
        tape.watch(query)
        loss = tf.reduce_sum(layer(query, VALUE, KEY)[0] ** 2)
    sources = [w.value for w in layer.trainable_weights]
    of_query, *of_weights = tape.gradient(loss, [query, *sources])
    assert all(abs(to_numpy(g)).max() > 0 for g in of_weights)
    assert abs(to_numpy(of_query)[0]).max() > 0
    assert not to_numpy(of_query)[1].any()


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_lower_precision_stays_near(policy):
    exact, layer = built(), built(dtype=policy)
    layer.set_weights(exact.get_weights())
    actual = layer(*(x.astype("float32") for x in (QUERY, VALUE, KEY)))
    assert keras.backend.standardize_dtype(actual.dtype) == layer.compute_dtype
    allowed = {"float32": 1e-5, "mixed_float16": 1e-2, "mixed_bfloat16": 8e-2}[policy]
    assert abs(to_numpy(keras.ops.cast(actual, "float64")) - call(exact)[0]).max() < (
        allowed
    )


def test_saving_and_loading_changes_no_bit(tmp_path):
    layer = MonotonicAttention(
        "general",
        13,
        "recursive",
        sigmoid_noise=0.5,
        score_bias_initializer=keras.initializers.RandomNormal(seed=4),
        normalize=False,
        dropout=0.1,
        seed=3,
        logits_soft_cap=9.0,
    )
    inputs = [keras.Input((None, Q)), keras.Input((None, V)), keras.Input((None, Q))]
    model = keras.Model(inputs, layer(*inputs, return_attention_scores=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    tensors = [x.astype("float32") for x in (QUERY, VALUE, KEY)]
    for actual, wanted in zip(loaded(tensors), model(tensors), strict=True):
        assert np.array_equal(actual, wanted)
    assert loaded.layers[-1].get_config() == layer.get_config()
    assert layer.mode == "recursive"
    assert float(layer.score_bias) != 0.0


def test_the_first_bias_is_a_number_or_an_initializer():
    for first in (-4.0, keras.initializers.Constant(-4.0)):
        layer = MonotonicAttention(units=3, score_bias_initializer=first)
        layer.build((B, T, Q), (B, S, V))
        assert float(layer.score_bias) == -4.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "location"}, "`score` must be one of 'additive'"),
        ({"mode": "soft"}, "Received: mode='soft'"),
        ({"sigmoid_noise": -1.0}, "Received: sigmoid_noise=-1.0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MonotonicAttention(**arguments)
