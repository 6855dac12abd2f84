"""Attention of one head over images `[B, ..., T, E]`: each row attends to its keys."""

import keras
import numpy as np
import pytest
from backends import to_numpy

import keras_attention as ka

B, ROWS, T, S, E, V = 2, 3, 5, 7, 4, 6


def random(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


KINDS = {
    "dot": ka.DotProductAttention,
    "additive": lambda: ka.AdditiveAttention(3),
    "global": lambda: ka.GlobalAttention("general"),
    "local": lambda: ka.LocalAttention(window=2),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_the_rows_of_an_image_are_computed_one_by_one(make):
    layer = make()
    query, value, key = random(B, ROWS, T, E), random(B, ROWS, S, V), None
    if isinstance(layer, ka.DotProductAttention):
        key = random(B, ROWS, S, E, seed=2)
    see = np.random.default_rng(3).random((B, ROWS, T, S)) < 0.7
    keep = np.random.default_rng(4).random((B, ROWS, S)) < 0.8
    call = {"return_attention_scores": True}
    inputs = [query, value, *([] if key is None else [key])]
    output, weights = layer(*inputs, attention_mask=see, value_mask=keep, **call)
    assert tuple(weights.shape) == (B, ROWS, T, S)
    assert tuple(layer.compute_output_shape(*[x.shape for x in inputs])) == output.shape
    for row in range(ROWS):
        alone = {"attention_mask": see[:, row], "value_mask": keep[:, row]}
        expected = layer(*[x[:, row] for x in inputs], **alone, **call)
        found = to_numpy([output, weights])
        for actual, wanted in zip(found, to_numpy(expected), strict=True):
            np.testing.assert_allclose(actual[:, row], wanted, rtol=0, atol=1e-6)


def test_an_image_is_attended_as_keras_does():
    query, value = random(B, ROWS, T, E), random(B, ROWS, S, E, seed=2)
    call = {"return_attention_scores": True}  # with a mask, Keras raises an error
    expected = keras.layers.Attention()([query, value], **call)
    found = ka.DotProductAttention("dot")([query, value], **call)
    for actual, wanted in zip(to_numpy(found), to_numpy(expected), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-6)


def test_a_mask_of_heads_is_refused_where_there_are_none():
    query = random(B, ROWS, T, E)
    layer = ka.DotProductAttention()
    with pytest.raises(ValueError, match="Received: attention_mask=bool of shape"):
        layer(query, query, attention_mask=np.ones((B, ROWS, 1, T, T), bool))
    bias = np.ones((B, ROWS, 2, T, T), "float32")
    with pytest.raises(ValueError, match="Received: attention_bias=float32 of shape"):
        layer(query, query, attention_bias=bias)


WRONG_SHAPES = {
    "rank": ((2, 4, 8), (2, 3), (2, 3, 8)),
    "no shape": ((2, 4, 8), (2, 3, 8), 2),
    "batch": ((2, 4, 8), (5, 3, 8), (5, 3, 8)),
    "key length": ((2, 4, 8), (2, 3, 8), (2, 1, 8)),
    "number of axes": ((2, 4, 8), (2, 3, 3, 8), (2, 3, 3, 8)),
}


@pytest.mark.parametrize("shapes", WRONG_SHAPES.values(), ids=WRONG_SHAPES)
def test_shapes_that_no_call_could_have_are_refused(shapes):
    for layer in (ka.MultiHeadAttention(2, 3), ka.AdditiveAttention(3)):
        for use in (layer.compute_output_shape, layer.build):
            with pytest.raises(ValueError, match=r"Received: (query|value|key)="):
                use(*shapes)
