"""`memory=` of multi-head attention: keys and values that are projected once."""

import keras
import numpy as np
import pytest
from backends import to_numpy
from oracle import drawn

import keras_attention as ka

B, T, S, E, V = 2, 3, 5, 7, 11
RNG = np.random.default_rng(1)
QUERY, VALUE = RNG.normal(size=(B, T, E)), RNG.normal(size=(B, S, V))
QUERY, VALUE = QUERY.astype("float32"), VALUE.astype("float32")
KEEP = drawn("""
    1 1 1 . .
    . 1 1 1 1
""")


def built(**settings):
    layer = ka.MultiHeadAttention(4, 3, **settings)
    layer.build((B, T, E), (B, S, V))
    return layer


@pytest.mark.parametrize(
    "settings", [{}, {"num_key_value_heads": 2}, {"chunked": True}]
)
def test_a_call_with_a_memory_is_a_call_with_its_value(settings):
    layer = built(**settings)
    memory = layer.remember(VALUE, value_mask=KEEP)
    whole = layer(QUERY, VALUE, value_mask=KEEP)
    assert np.array_equal(*to_numpy((layer(QUERY, memory=memory), whole)))
    output, weights = layer(QUERY, memory=memory, return_attention_scores=True)
    assert np.allclose(*to_numpy((output, whole)), atol=1e-6)
    assert not to_numpy(weights)[
        ~np.broadcast_to(KEEP[:, None, None], weights.shape)
    ].any()


def test_a_memory_may_be_an_input_of_a_functional_model():
    layer, query = built(), keras.Input((T, E))
    tensors = [keras.Input((S, 12)), keras.Input((S, 12))]
    tensors.append(keras.Input((S,), dtype="int32"))
    output = layer(query, memory=ka.StaticKVCache(*tensors))
    model = keras.Model([query, *tensors], output)
    memory = layer.remember(VALUE, value_mask=KEEP)
    found = model(to_numpy([QUERY, *memory]))
    whole = layer(QUERY, VALUE, value_mask=KEEP)
    assert np.allclose(*to_numpy((found, whole)), atol=1e-6)


REPLACED = {
    "value": {"value": VALUE[:, :4]},
    "key": {"key": VALUE},
    "value_mask": {"value_mask": KEEP},
    "key_mask": {"key_mask": KEEP},
    "cache": {"cache": ka.KVCache.empty(batch_size=B, key_size=12, value_size=12)},
}


@pytest.mark.parametrize("name", REPLACED)
def test_an_argument_that_a_memory_replaces_is_refused(name):
    layer = built()
    memory = layer.remember(VALUE)
    with pytest.raises(ValueError, match=rf"omit.*Received: memory and {name}"):
        layer(QUERY, memory=memory, **REPLACED[name])


def test_a_list_of_inputs_is_refused_with_a_memory():
    layer = built()
    memory = layer.remember(VALUE)
    for listed in ([QUERY, VALUE], [QUERY, VALUE, VALUE], [QUERY]):
        with pytest.raises(ValueError, match="Received: memory and a list of inputs"):
            layer(listed, memory=memory)


def test_a_memory_is_refused_as_cache_with_and_without_a_value():
    layer = built()
    memory = layer.remember(VALUE)
    for value in (None, VALUE, VALUE[:, :4]):
        with pytest.raises(ValueError, match=r"`memory=`.*Received: cache=Static"):
            layer(QUERY, value, cache=memory)


def test_a_sequence_is_refused_as_memory():
    with pytest.raises(ValueError, match=r"layer.remember.*Received: memory=float32"):
        built()(QUERY, memory=VALUE)
