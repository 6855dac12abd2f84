import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import relative_error, to_numpy
from oracle import drawn

import keras_attention as ka

B, E = 2, 7


def random(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def empty(layer, **kwargs):
    size = layer.num_key_value_heads
    return ka.KVCache.empty(
        batch_size=B,
        key_size=size * layer.key_dim,
        value_size=size * layer.value_dim,
        **kwargs,
    )


def test_append_returns_a_longer_cache_and_leaves_the_old_one():
    old = ka.KVCache.empty(batch_size=B, key_size=3, value_size=5)
    new = old.append(
        key=random(B, 2, 3),
        value=random(B, 2, 5),
        positions=np.array([[0, 1], [-1, 0]]),
    )
    assert old.key.shape == (B, 0, 3)
    assert np.array_equal(new.key, random(B, 2, 3))
    assert np.array_equal(new.value, random(B, 2, 5))
    assert to_numpy(new.lengths).tolist() == [2, 1]


def test_new_positions_continue_each_row():
    cache = ka.KVCache.empty(batch_size=B, key_size=1, value_size=1).append(
        key=random(B, 3, 1),
        value=random(B, 3, 1),
        positions=np.array([[0, 1, 2], [-1, -1, 0]]),
    )
    padding_mask = drawn("1 1\n. 1")
    assert to_numpy(cache.next_positions(padding_mask)).tolist() == [[3, 4], [-1, 1]]


def test_explicit_positions_are_continued_too():
    layer, x = ka.MultiHeadAttention(2, 3), random(B, 2, E)
    _, cache = layer(x, x, cache=empty(layer), positions=np.array([[7, 8], [3, 5]]))
    _, cache = layer(x, x, cache=cache)
    assert to_numpy(cache.positions).tolist() == [[7, 8, 9, 10], [3, 5, 6, 7]]


def test_a_cache_is_not_for_cross_attention():
    layer = ka.MultiHeadAttention(2, 3)
    with pytest.raises(ValueError, match=r"`cache` holds .* one sequence.*Received"):
        layer(random(B, 2, E), random(B, 3, E), cache=empty(layer))


def test_keys_are_kept_in_the_dtype_of_the_cache():
    cache = ka.KVCache.empty(batch_size=B, key_size=3, value_size=5, dtype="float16")
    cache = cache.append(
        key=random(B, 2, 3), value=random(B, 2, 5), positions=np.zeros((B, 2), "int32")
    )
    assert (cache.key.dtype, cache.value.dtype) == ("float16", "float16")


SETTINGS = {
    "full": {},
    "grouped": {"num_key_value_heads": 1, "value_dim": 5},
    "window": {"sliding_window": (2, 0)},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_steps_and_chunks_are_the_whole(settings):
    layer = ka.MultiHeadAttention(2, 3, **settings)
    x = random(B, 6, E)
    whole = to_numpy(layer(x, x, use_causal_mask=True))
    for cuts in ([1, 2, 3, 4, 5], [4], [2, 3]):
        cache, parts = empty(layer), []
        for part in np.split(x, cuts, axis=1):
            output, cache = layer(part, part, use_causal_mask=True, cache=cache)
            parts.append(output)
        assert relative_error(np.concatenate(parts, axis=1), whole) <= 1e-6
        assert cache.key.shape[1] == 6


def test_rows_of_different_lengths_are_each_their_own_sequence():
    layer = ka.MultiHeadAttention(2, 3)
    x, step = random(B, 4, E), random(B, 1, E, seed=2)
    x[0, :2] = np.nan  # left padding
    x[1, 3:] = np.nan  # right padding
    padding_mask = drawn(". . 1 1\n1 1 1 .")
    call = {"use_causal_mask": True}
    prompt, cache = layer(
        x,
        x,
        cache=empty(layer),
        value_mask=padding_mask,
        query_mask=padding_mask,
        **call,
    )
    output, cache = layer(step, step, cache=cache, **call)
    assert to_numpy(cache.lengths).tolist() == [3, 4]
    for row in range(B):
        tokens = np.concatenate([x[row][padding_mask[row]], step[row]])[None]
        alone = to_numpy(layer(tokens, tokens, **call))
        assert relative_error(to_numpy(output)[row], alone[0, -1:]) <= 1e-6
        assert (
            relative_error(to_numpy(prompt)[row][padding_mask[row]], alone[0, :-1])
            <= 1e-6
        )


def test_later_chunks_may_be_padded_too():
    layer = ka.MultiHeadAttention(2, 3)
    x, call = random(B, 5, E), {"use_causal_mask": True}
    whole = to_numpy(layer(x, x, **call))
    _, cache = layer(x[:, :2], x[:, :2], cache=empty(layer), **call)
    chunk = np.insert(x[:, 2:], 1, np.nan, axis=1)  # 3 tokens and a hole
    padding_mask = drawn("1 . 1 1\n1 . 1 1")
    masks = {"query_mask": padding_mask, "value_mask": padding_mask}
    output, cache = layer(chunk, chunk, cache=cache, **masks, **call)
    assert to_numpy(cache.positions).tolist() == [[0, 1, 2, -1, 3, 4]] * B
    assert relative_error(to_numpy(output)[:, [0, 2, 3]], whole[:, 2:]) <= 1e-6


@pytest.mark.tensorflow
def test_a_while_loop_carries_it():
    layer = ka.MultiHeadAttention(2, 3)
    x = random(B, 5, E)
    whole = to_numpy(layer(x, x, use_causal_mask=True))

    @tf.function
    def loop(x):
        def step(t, cache, outputs):
            token = x[:, t : t + 1]
            output, cache = layer(token, token, use_causal_mask=True, cache=cache)
            return t + 1, cache, tf.concat([outputs, output], axis=1)

        shapes = ka.KVCache(
            tf.TensorShape((B, None, 6)),
            tf.TensorShape((B, None, 6)),
            tf.TensorShape((B, None)),
        )
        _, cache, outputs = tf.while_loop(
            lambda t, *_: t < 5,
            step,
            (0, empty(layer), tf.zeros((B, 0, E))),
            shape_invariants=(tf.TensorShape(()), shapes, tf.TensorShape((B, None, E))),
        )
        return cache, outputs

    cache, outputs = loop(x)
    assert isinstance(cache, ka.KVCache)
    assert to_numpy(cache.positions).tolist() == [[0, 1, 2, 3, 4]] * B
    assert relative_error(outputs, whole) <= 1e-6
