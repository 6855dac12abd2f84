"""Attention pooling: a sequence as one vector or a few."""

import keras
import numpy as np
import pytest
from backends import to_numpy

import keras_attention as ka

B, S, E, Q = 2, 5, 7, 3
KINDS = {
    "default": lambda: None,
    "additive": lambda: ka.AdditiveAttention(11),
    "dot": lambda: ka.DotProductAttention("dot"),
    "general": lambda: ka.GlobalAttention("general", attentional_vector=False),
    "multi-head": lambda: ka.MultiHeadAttention(2, 4),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


@pytest.fixture
def states():
    return np.random.default_rng(3).normal(size=(B, S, E)).astype("float32")


def drawn(layer, shape=(B, S, E)):
    layer.build(shape)
    for number, weight in enumerate(layer.trainable_weights):
        draw = np.random.default_rng(number)
        weight.assign(draw.normal(scale=0.4, size=weight.shape))
    return layer


def test_one_additive_query_is_the_attention_over_time_steps_of_the_tutorials(states):
    pooling = drawn(ka.AttentionPooling(ka.AdditiveAttention(11)))
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    vectors, weights = pooling(states, mask=mask, return_attention_scores=True)
    by_name = {w.path.split("/", 1)[1]: np.array(w, "float64") for w in pooling.weights}
    named = {name.rsplit("/", 1)[-1]: value for name, value in by_name.items()}
    query = next(v for n, v in by_name.items() if "query/kernel" in n)
    key = next(v for n, v in by_name.items() if "key/kernel" in n)
    bias = named["queries"][0] @ query.reshape(E, 11)
    bias = bias + next(v for n, v in by_name.items() if "bias" in n).reshape(11)
    for row in range(B):
        scores = np.array(
            [
                named["score_vector"] @ np.tanh(h @ key.reshape(E, 11) + bias)
                for h in states[row].astype("float64")
            ]
        )
        chances = np.exp(scores - scores.max()) * mask[row]
        chances = chances / chances.sum()
        np.testing.assert_allclose(weights[row], chances, atol=1e-6)
        np.testing.assert_allclose(vectors[row], chances @ states[row], atol=1e-6)


@every_kind
@pytest.mark.parametrize("number", [None, 1, Q])
def test_shapes_are_as_declared(kind, number, states):
    layer = ka.AttentionPooling(kind(), number)
    output, weights = layer(states, return_attention_scores=True)
    heads = (2,) if isinstance(layer.attention, ka.MultiHeadAttention) else ()
    queries = () if number is None else (number,)
    assert tuple(output.shape) == (B, *queries, E)
    assert tuple(weights.shape) == (B, *heads, *queries, S)
    symbolic = layer(keras.Input((None, E)))
    assert tuple(symbolic.shape) == (None, *queries, E)


@every_kind
def test_several_queries_are_single_ones_next_to_each_other(kind, states):
    layer = drawn(ka.AttentionPooling(kind(), Q))
    together = to_numpy(layer(states))
    queries = np.array(layer.queries)
    for number in range(Q):
        single = ka.AttentionPooling(layer.attention)
        single.build((B, S, E))
        single.queries.assign(queries[number : number + 1])
        np.testing.assert_allclose(single(states), together[:, number], atol=1e-6)


@every_kind
def test_padding_has_no_weight_whatever_is_in_it(kind, states):
    mask = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 1, 1]], bool)
    layer = drawn(ka.AttentionPooling(kind()))
    clean, weights = layer(states, mask=mask, return_attention_scores=True)
    poisoned = np.where(mask[..., None], states, np.nan).astype("float32")
    np.testing.assert_array_equal(layer(poisoned, mask=mask), clean)
    weights = np.moveaxis(to_numpy(weights), -1, 1)  # [B, S] or [B, S, N]
    assert not weights[~mask].any()


def test_a_mask_that_keras_carries_is_used(states):
    ids = np.array([[3, 1, 2, 0, 0], [4, 5, 1, 2, 3]])
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, E, mask_zero=True)(tokens)
    pooled, weights = ka.AttentionPooling()(x, return_attention_scores=True)
    model = keras.Model(tokens, [pooled, weights])
    _, weights = model(ids)
    assert not to_numpy(weights)[0, 3:].any()
    np.testing.assert_allclose(to_numpy(weights).sum(-1), 1, atol=1e-6)
    assert getattr(pooled, "_keras_mask", None) is None


def test_a_sequence_without_a_visible_position_gives_zero(states):
    layer = drawn(ka.AttentionPooling())
    vectors = to_numpy(layer(states, mask=np.zeros((B, S), bool)))
    assert not vectors.any()


def test_it_is_saved_and_loaded_with_its_attention(states, tmp_path):
    inputs = keras.Input((None, E))
    attention = ka.MultiHeadAttention(2, 4, dropout=0.1)
    outputs = ka.AttentionPooling(attention, Q, query_dim=11)(inputs)
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(states), model(states))


@pytest.mark.tensorflow
def test_every_step_of_a_longer_sequence_is_pooled_under_time_distributed(states):
    words = keras.Input((4, S, E))
    sentences = keras.layers.TimeDistributed(ka.AttentionPooling())(words)
    model = keras.Model(words, ka.AttentionPooling(ka.AdditiveAttention(6))(sentences))
    assert tuple(model(np.stack([states] * 4, axis=1)).shape) == (B, E)


@pytest.mark.tensorflow
def test_it_learns_where_the_answer_is():
    keras.utils.set_random_seed(0)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(512, S, E)).astype("float32")
    marked = draw.integers(S, size=512)
    x[..., 0] = 0.0
    x[np.arange(512), marked, 0] = 4.0
    y = x[np.arange(512), marked, 1:]
    inputs = keras.Input((S, E))
    pooled, weights = ka.AttentionPooling()(inputs, return_attention_scores=True)
    model = keras.Model(inputs, pooled[:, 1:])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    model.fit(x, y, epochs=30, verbose=0)
    weights = keras.Model(inputs, weights).predict(x, verbose=0)
    assert weights[np.arange(512), marked].mean() > 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": "additive"}, r"`attention` must be .*Received: attention='add"),
        ({"num_queries": 0}, r"`num_queries` must be .*Received: num_queries=0"),
        ({"num_queries": 1.5}, r"`num_queries` must be .*Received: num_queries=1.5"),
        ({"query_dim": True}, r"`query_dim` must be .*Received: query_dim=True"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ka.AttentionPooling(**arguments)


def test_an_input_of_another_rank_is_refused():
    with pytest.raises(ValueError, match=r"\[batch, length, features\].*Received"):
        ka.AttentionPooling()(np.zeros((2, 3), "float32"))
