import keras
import numpy as np
import pytest
from backends import gradients
from contracts.kinds import relative_error, to_numpy
from oracle import drawn, softmax_row

from keras_attention.ops.attend import (
    attend,
    attention_weights,
    dot_product_attention,
    score_dtype,
)
from keras_attention.ops.heads import HeadSettings

B, T, S, V = 2, 3, 5, 7
RNG = np.random.default_rng(1)
SCORES = RNG.normal(size=(B, T, S)).astype("float32")
VALUE = RNG.normal(size=(B, S, V)).astype("float32")
MASK = np.stack(
    [drawn("1 . 1 1 .\n. . . . .\n1 1 1 1 1"), drawn(". 1 . . .\n1 . . . 1\n. . . . .")]
)


def by_rows(scores, mask):
    rows = zip(scores.reshape(-1, S), mask.reshape(-1, S), strict=True)
    return np.array([softmax_row(*row) for row in rows]).reshape(scores.shape)


def test_weights_are_the_softmax_over_visible_keys():
    weights = to_numpy(attention_weights(scores=SCORES, mask=MASK))
    assert relative_error(weights, by_rows(SCORES.astype("float64"), MASK)) <= 1e-6
    assert (weights[~MASK] == 0).all()


def test_a_row_without_a_visible_key_is_exactly_zero():
    output, weights = to_numpy(attend(scores=SCORES, value=VALUE, mask=MASK))
    blind = ~MASK.any(-1)
    assert blind.sum() == 2
    assert (weights[blind] == 0).all()
    assert (output[blind] == 0).all()
    assert (abs(output[~blind]).max(-1) > 0).all()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
def test_hidden_scores_have_no_effect(poison):
    clean = to_numpy(attention_weights(scores=SCORES, mask=MASK))
    scores = np.where(MASK, SCORES, poison).astype("float32")
    assert np.array_equal(attention_weights(scores=scores, mask=MASK), clean)


def test_gradients_of_hidden_scores_and_values_are_zero():
    mask = MASK & (np.arange(S) != 3)

    def loss(scores, value):
        output, _ = attend(scores=scores, value=value, mask=mask)
        return keras.ops.sum(output**2)

    into_scores, into_value = gradients(loss, [SCORES, VALUE])
    assert (into_scores[~mask] == 0).all()
    assert (into_value[:, 3] == 0).all()
    assert np.isfinite(into_scores).all()
    assert abs(into_scores).max() > 0


def test_a_bias_of_minus_infinity_counts_as_the_blocked_score():
    bias = np.where(MASK, 0.0, -np.inf).astype("float32")
    weights = to_numpy(attention_weights(scores=SCORES, bias=bias))
    seeing = MASK.any(-1)
    expected = by_rows(SCORES.astype("float64"), MASK)
    assert relative_error(weights[seeing], expected[seeing]) <= 1e-6
    # A bias hides nothing: where all biases are equal, all keys are visible.
    assert np.allclose(weights[~seeing], 1 / S)
    masked = to_numpy(attention_weights(scores=SCORES, bias=bias, mask=MASK))
    assert (masked[~seeing] == 0).all()
    # Hidden keys get no share of the softmax either.
    everywhere = np.full_like(bias, -np.inf)
    only_biased = to_numpy(attention_weights(scores=SCORES, bias=everywhere, mask=MASK))
    assert np.allclose(only_biased.sum(-1), seeing, atol=1e-6)


@pytest.mark.parametrize("size", [1e4, 6e4, 1e6, 1e30])
def test_large_logits_and_biases_stay_finite(size):
    scores = (SCORES * size).astype("float32")
    for arguments in ({"scores": scores}, {"scores": SCORES, "bias": scores}):
        weights = to_numpy(attention_weights(mask=MASK, **arguments))
        assert np.isfinite(weights).all()
        assert (weights[~MASK] == 0).all()
        assert np.allclose(weights.sum(-1), MASK.any(-1), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("logit", [1e4, 6e4, 1e6])
def test_products_beyond_float16_are_finite_and_correct(dtype, logit):
    size = 64
    query = np.full((1, 1, size), np.sqrt(logit / size))
    key = np.concatenate([query, query * 0.5, query * -1.0], axis=1)
    value = np.eye(3)[None]
    tensors = [keras.ops.cast(x, dtype) for x in (query, key, value)]
    names = ("query", "key", "value")
    output, weights = dot_product_attention(
        **dict(zip(names, tensors, strict=True)),
        mask=np.array([[[[False, True, True]]]]),
        return_weights=True,
    )
    assert to_numpy(weights).tolist() == [[[[0.0, 1.0, 0.0]]]]
    assert to_numpy(keras.ops.cast(output, "float32")).tolist() == [[[0.0, 1.0, 0.0]]]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (("float16",), "float32"),
        (("bfloat16", "float32"), "float32"),
        (("float16", "float64"), "float64"),
    ],
)
def test_scores_are_at_least_float32(inputs, expected):
    assert score_dtype(*(keras.ops.zeros((1,), dtype) for dtype in inputs)) == expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_output_has_the_dtype_of_the_value(dtype):
    value = keras.ops.cast(VALUE, dtype)
    output, weights = attend(scores=SCORES, value=value, mask=MASK)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    assert keras.backend.standardize_dtype(weights.dtype) == (
        "float64" if dtype == "float64" else "float32"
    )


def test_the_mean_of_integers_is_not_rounded():
    value = np.array([[[1], [2]]])
    output, _ = attend(scores=np.zeros((1, 1, 2), "float32"), value=value)
    assert to_numpy(output).tolist() == [[[1.5]]]
    query = np.zeros((1, 1, 1), "float32")
    output, _ = dot_product_attention(query=query, key=value, value=value)
    assert to_numpy(output).tolist() == [[[1.5]]]


def test_a_weight_factor_comes_after_the_softmax_and_dropout_last():
    factor = RNG.random((B, T, S)).astype("float32")
    output, weights = attend(
        scores=SCORES,
        value=VALUE,
        mask=MASK,
        weight_factor=factor,
        dropout=lambda weights: weights * 2.0,
    )
    expected = by_rows(SCORES.astype("float64"), MASK) * factor
    assert relative_error(weights, expected) <= 1e-6
    assert relative_error(output, 2 * expected @ VALUE) <= 1e-6


def test_heads_are_those_of_keras_with_and_without_weights():
    query, key = RNG.normal(size=(B, T, 12)), RNG.normal(size=(B, S, 6))
    value = RNG.normal(size=(B, S, 10))
    arguments = {"query": query, "key": key, "value": value, "mask": MASK[:, None]}
    arguments["heads"] = HeadSettings(4, 2, scale=0.3)
    output, nothing = dot_product_attention(**arguments)
    again, weights = dot_product_attention(**arguments, return_weights=True)
    assert nothing is None
    assert np.array_equal(output, again)
    for n in range(4):
        k, v = key[..., n // 2 * 3 :][..., :3], value[..., n // 2 * 5 :][..., :5]
        scores = 0.3 * query[..., n * 3 :][..., :3] @ k.swapaxes(1, 2)
        expected = by_rows(scores, MASK)
        assert relative_error(to_numpy(weights)[:, n], expected) <= 1e-12
        assert (
            relative_error(to_numpy(output)[..., n * 5 :][..., :5], expected @ v)
            <= 1e-12
        )
