"""Side by side with Keras: the same numbers where it is right, and where it is not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import relative_error, to_numpy
from oracle import drawn

import keras_attention as ka

B, T, S, E, V = 2, 3, 5, 7, 11


def pair(query=E, value=V, key=None, **settings):
    """Keras' layer with random weights and biases, and ours made from it."""
    settings = {"num_heads": 4, "key_dim": 3, **settings}
    theirs = keras.layers.MultiHeadAttention(**settings)
    theirs.build((None, None, query), (None, None, value), (None, None, key or value))
    rng = np.random.default_rng(1)
    for weight in theirs.trainable_weights:
        weight.assign(rng.normal(scale=0.4, size=weight.shape))
    return theirs, ka.MultiHeadAttention.from_keras(theirs)


def random(*shape, seed=2):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def fixed_in_keras(what):
    """The message of a test of a Keras bug that is no more."""
    return (
        f"Keras {keras.__version__} no longer shows this bug: {what}. Good news: "
        "delete the half of this test that is about Keras, and what the docs say of it."
    )


# --- the same numbers ------------------------------------------------------------

FULL = {
    "plain": {},
    "without-bias": {"use_bias": False},
    "value-dim": {"value_dim": 5},
    "output-shape": {"output_shape": 13},
    "output-shape-in-a-tuple": {"output_shape": (13,)},
    "dropout": {"dropout": 0.3, "seed": 3},
    "sliding-window": {"sliding_window": 2},
    "one-head": {"num_heads": 1},
    "gate": {"use_gate": True},
    "output-shape-of-two-sizes": {"output_shape": (2, 13)},
}


@pytest.mark.parametrize("settings", FULL.values(), ids=FULL)
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_is_the_same(settings, causal):
    theirs, ours = pair(E, E, **settings)
    x = random(B, S, E)
    keep = drawn("1 1 1 1 1\n1 1 1 . .")
    calls = [{}, {"attention_mask": np.broadcast_to(keep[:, None, :], (B, S, S))}]
    calls.append({"attention_mask": np.tril(np.ones((B, S, S), bool))})
    for call in calls:
        expected, scores = theirs(
            x, x, use_causal_mask=causal, return_attention_scores=True, **call
        )
        output, weights = ours(
            x, x, use_causal_mask=causal, return_attention_scores=True, **call
        )
        assert relative_error(output, expected) <= 1e-6
        assert relative_error(weights, scores) <= 1e-6
        output = ours(x, x, use_causal_mask=causal, **call)
        assert relative_error(output, expected) <= 1e-6


@pytest.mark.parametrize("other_key", [False, True])
def test_cross_attention_is_the_same(other_key):
    theirs, ours = pair(E, V, 13 if other_key else None)
    tensors = [random(B, T, E), random(B, S, V, seed=3)]
    tensors += [random(B, S, 13, seed=4)] if other_key else []
    keep = drawn("1 1 1 1 1\n1 1 1 . .")
    masks = [
        {},
        {"value_mask": keep},
        {
            "query_mask": None,
            "value_mask": keep,
            "attention_mask": np.ones((B, T, S)) > 0,
        },
        {
            "attention_mask": np.repeat(
                drawn("1 . 1 1 .\n. 1 . . .\n. . . . 1")[None], B, 0
            )
        },
    ]
    for mask in masks:
        assert relative_error(ours(*tensors, **mask), theirs(*tensors, **mask)) <= 1e-6


def test_a_mask_for_each_head_is_the_same():
    theirs, ours = pair()
    query, value = random(B, T, E), random(B, S, V, seed=3)
    mask = np.random.default_rng(5).random((B, 4, T, S)) < 0.6
    mask[..., 0] = True
    expected = theirs(query, value, attention_mask=mask)
    assert relative_error(ours(query, value, attention_mask=mask), expected) <= 1e-6


@pytest.mark.tensorflow
def test_gradients_are_the_same():
    theirs, ours = pair()
    query, value = tf.constant(random(B, T, E)), tf.constant(random(B, S, V, seed=3))
    found = []
    for layer in (theirs, ours):
        weights = [w.value for w in layer.trainable_weights]
        with tf.GradientTape() as tape:
            tape.watch([query, value])
            loss = tf.reduce_sum(layer(query, value) ** 2)
        found.append(tape.gradient(loss, [query, value, *weights]))
    scale = max(abs(g).numpy().max() for g in found[0])
    for expected, actual in zip(*found, strict=True):
        assert abs(expected - actual).numpy().max() <= 1e-6 * scale


def test_half_precision_is_at_least_as_exact_as_in_keras():
    query, value = random(B, 31, E), random(B, 37, V, seed=3)
    for policy in ("mixed_float16", "mixed_bfloat16"):
        exact, _ = pair(dtype="float64")
        theirs, ours = pair(dtype=policy)
        expected = exact(query.astype("float64"), value.astype("float64"))
        errors = [
            relative_error(to_numpy(layer(query, value)), expected)
            for layer in (ours, theirs)
        ]
        assert errors[0] <= 1.05 * errors[1]


def test_weights_have_the_same_names_shapes_and_order():
    theirs, ours = pair()
    names = [w.path.split("/", 1)[1] for w in theirs.weights]
    assert [w.path.split("/", 1)[1] for w in ours.weights] == names
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]


def test_layer_normalization_is_the_same():
    theirs = keras.layers.LayerNormalization(epsilon=1e-5)
    from keras_attention.layers.layer_normalization import LayerNormalization

    ours = LayerNormalization()
    x = random(B, T, E) * 5 + 3
    theirs.build(x.shape), ours.build(x.shape)
    for theirs_weight, weight in zip(theirs.weights, ours.weights, strict=True):
        weight.assign(random(E))
        theirs_weight.assign(random(E))
    assert relative_error(ours(x), theirs(x)) <= 1e-6


# --- where Keras is wrong ----------------------------------------------------------


def nothing_for_the_second_query():
    mask = np.ones((B, T, S), bool)
    mask[:, 1] = False
    return mask


def test_a_query_that_can_attend_to_nothing_has_two_results_in_keras_and_one_here():
    theirs, ours = pair()
    query, value = random(B, T, E), random(B, S, V, seed=3)
    call = {"attention_mask": nothing_for_the_second_query()}
    silent = to_numpy(theirs(query, value, **call))
    asked, _ = to_numpy(theirs(query, value, return_attention_scores=True, **call))
    assert abs(silent - asked)[:, 1].max() > 0.1, fixed_in_keras("masked rows differ")

    output = to_numpy(ours(query, value, **call))
    again, weights = to_numpy(ours(query, value, return_attention_scores=True, **call))
    assert np.array_equal(output, again)
    assert (weights[:, :, 1] == 0).all()
    bias = np.array(ours.output_projection.bias)
    assert np.array_equal(output[:, 1], np.stack([bias] * B))
    assert relative_error(output, asked) <= 1e-6


def test_dropout_changes_inference_in_keras_but_not_here():
    query, value = random(B, T, E), random(B, S, V, seed=3)
    call = {"attention_mask": nothing_for_the_second_query(), "training": False}
    answers = []
    for dropout in (0.0, 0.1):
        theirs, ours = pair(dropout=dropout)
        answers.append(
            [to_numpy(layer(query, value, **call)) for layer in (theirs, ours)]
        )
    (theirs, ours), (theirs_dropping, ours_dropping) = answers
    assert abs(theirs - theirs_dropping).max() > 0.1, fixed_in_keras("dropout at rest")
    assert np.array_equal(ours, ours_dropping)


def test_a_cached_causal_step_sees_only_token_zero_in_keras_and_all_here():
    theirs, ours = pair(E, E)
    x = random(1, 4, E)
    _, scores = to_numpy(
        theirs(x[:, 3:], x, use_causal_mask=True, return_attention_scores=True)
    )
    only_first = np.broadcast_to([1.0, 0.0, 0.0, 0.0], scores.shape)
    assert np.allclose(scores, only_first), fixed_in_keras("causal from lengths")

    _, full = to_numpy(ours(x, x, use_causal_mask=True, return_attention_scores=True))
    empty = ka.KVCache.empty(batch_size=1, key_size=12, value_size=12)
    _, cache = ours(x[:, :3], x[:, :3], use_causal_mask=True, cache=empty)
    _, step, _ = ours(
        x[:, 3:],
        x[:, 3:],
        use_causal_mask=True,
        return_attention_scores=True,
        cache=cache,
    )
    assert relative_error(step, full[:, :, 3:]) <= 1e-6
    _, placed = ours(
        x[:, 3:],
        x,
        positions=np.array([3]),
        use_causal_mask=True,
        return_attention_scores=True,
    )
    assert relative_error(placed, full[:, :, 3:]) <= 1e-6
    with pytest.raises(ValueError, match="position of the first query is unknown"):
        ours(x[:, 3:], x, use_causal_mask=True)


def test_an_additive_mask_is_inverted_by_keras_and_refused_or_added_here():
    theirs, ours = pair()
    query, value = random(B, T, E), random(B, S, V, seed=3)
    mask = np.repeat(drawn("1 . 1 1 .\n. 1 . . 1\n1 1 . . 1")[None], B, 0)
    additive = np.where(mask, 0.0, -1e9).astype("float32")
    swallowed = theirs(query, value, attention_mask=additive)
    inverted = theirs(query, value, attention_mask=~mask)
    assert np.array_equal(swallowed, inverted), fixed_in_keras("inverted float mask")

    with pytest.raises(ValueError, match="attention_bias="):
        ours(query, value, attention_mask=additive)
    expected = ours(query, value, attention_mask=mask)
    output = ours(query, value, attention_bias=additive)
    assert relative_error(output, expected) <= 1e-6


def test_a_padding_mask_is_used_as_an_attention_mask_by_keras_if_sizes_fit():
    theirs, ours = pair()
    query, value = random(S, S, E), random(S, S, V, seed=3)
    padding = np.tri(S, dtype=bool)[::-1]  # [B, S], but B = T
    as_given = theirs(query, value, attention_mask=padding)
    as_queries = theirs(query, value, attention_mask=np.stack([padding] * S))
    assert np.array_equal(as_given, as_queries), fixed_in_keras("(B, S) as (T, S)")

    with pytest.raises(ValueError, match=r"passed as `value_mask=`.*Received"):
        ours(query, value, attention_mask=padding)
    expected = theirs(query, value, attention_mask=np.stack([padding] * S, axis=1))
    assert relative_error(ours(query, value, value_mask=padding), expected) <= 1e-6


def test_an_explicit_query_mask_is_ignored_by_keras_and_used_here():
    theirs, ours = pair()
    query, value = random(B, T, E), random(B, S, V, seed=3)
    keep = drawn("1 1 1\n1 1 .")
    call = {"query_mask": keep, "return_attention_scores": True}
    _, scores = to_numpy(theirs(query, value, **call))
    assert abs(scores[1, :, 2]).max() > 0, fixed_in_keras("query_mask ignored")
    _, weights = to_numpy(ours(query, value, **call))
    assert (weights[1, :, 2] == 0).all()
    assert np.allclose(weights[0], scores[0], atol=1e-6)


def test_nan_at_padding_makes_outputs_nan_in_keras_and_not_here():
    theirs, ours = pair()
    query, value = random(B, T, E), random(B, S, V, seed=3)
    keep = drawn("1 1 1 1 1\n1 1 1 . .")
    poisoned = np.where(keep[..., None], value, np.nan).astype("float32")
    spoiled = to_numpy(theirs(query, poisoned, value_mask=keep))
    assert np.isnan(spoiled[1]).all(), fixed_in_keras("NaN at padding")
    expected = ours(query, value, value_mask=keep)
    assert np.array_equal(ours(query, poisoned, value_mask=keep), expected)


@pytest.mark.tensorflow
def test_masked_values_get_gradient_in_keras_and_none_here():
    theirs, ours = pair()
    query, value = random(B, T, E), tf.constant(random(B, S, V, seed=3))
    nothing = np.zeros((B, T, S), bool)
    found = []
    for layer in (theirs, ours):
        with tf.GradientTape() as tape:
            tape.watch(value)
            loss = tf.reduce_sum(layer(query, value, attention_mask=nothing) ** 2)
        found.append(tape.gradient(loss, value).numpy())
    assert abs(found[0]).max() > 0.01, fixed_in_keras("gradient into masked values")
    assert (found[1] == 0).all()


def test_symbolic_scores_of_cross_attention_have_the_wrong_shape_in_keras():
    query, value = keras.Input((T, E)), keras.Input((S, V))
    theirs, ours = pair()
    _, scores = theirs(query, value, return_attention_scores=True)
    assert scores.shape == (None, 4, T, T), fixed_in_keras("symbolic shape of scores")
    _, weights = ours(query, value, return_attention_scores=True)
    assert weights.shape == (None, 4, T, S)


def test_large_logits_are_nan_in_keras_float16_and_correct_here():
    # q · k overflows float16 though the scaled score, 32 · 32 · 64 / 8, would fit.
    query = np.full((1, T, 64), 32.0, "float32")
    key = np.full((1, S, 64), 32.0, "float32")
    key[:, 0] = 0.0
    value = random(1, S, V)
    half = [keras.ops.cast(x[:, :, None], "float16") for x in (query, key, value)]
    theirs = to_numpy(keras.ops.dot_product_attention(*half))
    assert np.isnan(theirs).all(), fixed_in_keras("float16 overflow")

    layer = ka.DotProductAttention(dtype="mixed_float16")
    output, weights = layer(query, value, key, return_attention_scores=True)
    assert np.allclose(weights, np.where(np.arange(S) > 0, 0.25, 0.0), atol=1e-6)
    expected = value[:, 1:].mean(axis=1, keepdims=True)
    assert relative_error(output, np.repeat(expected, T, axis=1)) <= 1e-3


def test_a_mask_is_lost_by_adding_positions_in_keras_and_kept_here():
    embedding = keras.layers.Embedding(13, 8, mask_zero=True)
    embedded = embedding(np.array([[5, 3, 0], [1, 0, 0]]))
    summed = embedded + random(3, 8)
    assert getattr(summed, "_keras_mask", None) is None, fixed_in_keras("mask in x + p")
    for layer in (ka.SinusoidalEncoding(), ka.PositionEmbedding(17)):
        mask = layer(embedding(np.array([[5, 3, 0], [1, 0, 0]])))._keras_mask
        assert np.array_equal(mask, drawn("1 1 .\n1 . ."))


def test_sinusoids_computed_in_half_precision_are_wrong_in_keras_and_correct_here():
    # What keras_hub.layers.SinePositionEncoding does: angles in the compute dtype.
    length, size = 1024, 64
    exponents = np.arange(0, size, 2) / size
    angles = np.arange(length)[:, None] / 10000.0**exponents
    exact = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, size)
    positions = keras.ops.cast(np.arange(length), "bfloat16")[:, None]
    rates = keras.ops.cast(10000.0**-exponents, "bfloat16")
    naive = keras.ops.sin(positions * rates)
    assert abs(to_numpy(keras.ops.cast(naive, "float32")) - exact[:, ::2]).max() > 1.5

    layer = ka.SinusoidalEncoding(dtype="mixed_bfloat16")
    ours = layer(np.zeros((1, length, size), "float32"))
    ours = to_numpy(keras.ops.cast(ours, "float32"))[0]
    assert abs(ours - exact).max() <= 2**-8  # one rounding
    assert len(np.unique(ours, axis=0)) == length


def test_a_wrong_token_id_reads_a_wrong_row_in_keras_and_is_refused_here():
    from keras_attention.layers.token_embedding import TokenEmbedding

    theirs, ours = keras.layers.Embedding(5, 3), TokenEmbedding(5, 3)
    last, minus_one = theirs(np.array([4])), theirs(np.array([-1]))
    assert np.array_equal(last, minus_one), fixed_in_keras("id -1 is the last row")
    with pytest.raises(ValueError, match="from 0 to 4"):
        ours(np.array([-1]))
