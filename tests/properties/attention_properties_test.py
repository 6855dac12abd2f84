"""Properties of every kind, mask, dtype and size: 251 drawn cases, 10,040 if slow."""

import functools
from unittest import mock

import keras
import numpy as np
import pytest
from contracts.kinds import BY_NAME, QUERY, VALUE, to_numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_attention as ka

# A few sizes from 0 to 33: each new shape costs the runtime a new primitive.
SIZES = st.sampled_from([0, 1, 2, 5, 16, 33])
BATCHES = st.sampled_from([0, 1, 3])
DTYPES = st.sampled_from(["float32", "float32", "mixed_float16", "mixed_bfloat16"])
KIND_NAMES = st.sampled_from(sorted(BY_NAME))
BY_CONTENT = st.sampled_from(sorted(n for n in BY_NAME if BY_NAME[n].by_content))
SCHEMES = {
    "none": lambda: None,
    "rotary": ka.RotaryEmbedding,
    "rotary-partial": lambda: ka.RotaryEmbedding(layout="interleaved", rotary_dim=2),
    "alibi": lambda: ka.AlibiBias(symmetric=True),
    "t5": lambda: ka.RelativePositionBias(8, 16),
    "shaw": lambda: ka.RelativePositionRepresentation(3),
}
SHARES = st.sampled_from([0.0, 0.2, 0.7, 1.0])
SEEDS = st.integers(0, 2**16)
TOLERANCE = {"float32": 1e-5, "mixed_float16": 1e-2, "mixed_bfloat16": 6e-2}


# JAX compiles every new shape: 0.3 s and more per case.
SHARE = {"tensorflow": 1, "torch": 1, "jax": 8}[keras.backend.backend()]


def fast_and_slow(count, **strategies):
    """Run the test with `count` cases, and with 40 times as many in the slow tier."""
    count //= SHARE

    def decorate(test):
        @pytest.mark.timeout(1800)
        @pytest.mark.parametrize(
            "cases", [count, pytest.param(40 * count, marks=pytest.mark.slow)]
        )
        def run(cases):
            with_settings = settings(
                max_examples=cases,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            with_settings(given(**strategies)(test))()

        functools.update_wrapper(
            run, test, assigned=("__name__", "__doc__"), updated=()
        )
        del run.__wrapped__
        return run

    return decorate


@functools.cache
def layer_of(name, dtype):
    kind = BY_NAME[name]
    if "location" in name:  # longer than the longest sequence drawn
        layer = ka.GlobalAttention("location", 17, max_length=37, dtype=dtype)
        layer.build((1, 1, QUERY), (1, 1, VALUE), (1, 1, kind.key_size))
        return layer
    return kind.built(dtype=dtype)


@functools.cache
def heads(num_heads, num_key_value_heads, window, scheme):
    layer = ka.MultiHeadAttention(
        num_heads,
        4,
        num_key_value_heads=num_key_value_heads,
        sliding_window=window,
        position=SCHEMES[scheme](),
    )
    layer.build((1, 1, QUERY), (1, 1, QUERY))
    return layer


def in_float32(tensors):
    output, weights = tensors
    output = to_numpy(keras.ops.cast(output, "float32"))
    weights = to_numpy(weights)
    return output, weights if weights.ndim == 4 else weights[:, None]


def call(name, layer, inputs, **masks):
    """Output and weights `[B, N, T, S]` of a kind."""
    masks["return_attention_scores"] = True
    return in_float32(BY_NAME[name].call(layer, *inputs, **masks))


@fast_and_slow(
    75,
    name=KIND_NAMES,
    dtype=DTYPES,
    batch=BATCHES,
    queries=SIZES,
    keys=SIZES,
    share=SHARES,
    padding=SHARES,
    poison=st.sampled_from([np.nan, np.inf, -np.inf, 1e30]),
    seed=SEEDS,
)
def test_weights_sum_to_one_or_zero_and_padding_is_hidden(
    *, name, dtype, batch, queries, keys, share, padding, poison, seed
):
    rng, kind = np.random.default_rng(seed), BY_NAME[name]
    layer = layer_of(name, dtype)
    inputs = kind.inputs(seed, batch=batch, queries=queries, keys=keys)
    masks = {
        "attention_mask": rng.random((batch, queries, keys)) >= share,
        "query_mask": rng.random((batch, queries)) >= padding,
        "value_mask": rng.random((batch, keys)) >= padding,
    }
    query_mask, key_mask = masks["query_mask"], masks["value_mask"]
    seen = masks["attention_mask"] & query_mask[:, :, None] & key_mask[:, None, :]
    output, weights = call(name, layer, inputs, **masks)

    assert output.shape == (batch, queries, kind.size or VALUE)
    assert weights.shape[-2:] == (queries, keys)
    assert np.isfinite(output).all()
    assert kind.mixed or (weights >= 0).all()
    assert (weights[~np.broadcast_to(seen[:, None], weights.shape)] == 0).all()
    sums = weights.sum(axis=-1)
    if kind.sums_to_one:
        is_one = abs(sums - 1) <= 1e-5
        assert (is_one | (sums == 0)).all()
    hides_nothing = kind.by_content or "location" in name  # no window
    if hides_nothing and not kind.mixed:
        assert ((sums > 0) == np.broadcast_to(seen.any(-1)[:, None], sums.shape)).all()
    assert kind.mixed or (sums <= 1 + 1e-5).all()

    poisoned = [
        np.where(mask[..., None], x, poison).astype("float32")
        for mask, x in zip((query_mask, key_mask, key_mask), inputs, strict=True)
    ]
    again, same = call(name, layer, poisoned, **masks)
    assert np.array_equal(again, output)
    assert np.array_equal(same, weights)


@fast_and_slow(
    50,
    num_heads=st.sampled_from([1, 2, 4]),
    groups=st.sampled_from([1, 2]),
    window=st.sampled_from([1, 2, 7, (0, 0), (3, 0), (1, 4), (40, 40)]),
    scheme=st.sampled_from(sorted(SCHEMES)),
    causal=st.booleans(),
    batch=BATCHES,
    length=SIZES,
    padding=SHARES,
    seed=SEEDS,
)
def test_a_window_equals_the_mask_of_its_band_also_in_blocks(
    *, num_heads, groups, window, scheme, causal, batch, length, padding, seed
):
    rng = np.random.default_rng(seed)
    shared = num_heads // groups if num_heads % groups == 0 else num_heads
    x = rng.normal(size=(batch, length, QUERY)).astype("float32")
    padding_mask = rng.random((batch, length)) >= padding
    behind, ahead = (window - 1, window - 1) if isinstance(window, int) else window
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    band = (distance >= -behind) & (distance <= (0 if causal else ahead))
    plain = heads(num_heads, shared, None, scheme)
    windowed = heads(num_heads, shared, window, scheme)
    plain.set_weights(windowed.get_weights())
    masks = {"query_mask": padding_mask, "value_mask": padding_mask}
    scores = {"return_attention_scores": True}
    expected, expected_weights = in_float32(
        plain(x, x, attention_mask=band[None], **masks, **scores)
    )
    masks["use_causal_mask"] = causal
    output, weights = in_float32(windowed(x, x, **masks, **scores))
    assert np.array_equal(weights, expected_weights)
    assert np.array_equal(output, expected)
    assert (weights[..., ~band] == 0).all()
    with mock.patch.object(type(windowed.pattern), "pays", return_value=True):
        blocked = to_numpy(windowed(x, x, **masks))
    assert np.allclose(blocked, expected, rtol=0, atol=2e-6)


@fast_and_slow(
    38,
    name=BY_CONTENT,
    dtype=DTYPES,
    batch=BATCHES,
    queries=SIZES,
    keys=SIZES,
    share=SHARES,
    padding=SHARES,
    seed=SEEDS,
)
def test_reordering_keys_reorders_only_their_weights(
    *, name, dtype, batch, queries, keys, share, padding, seed
):
    kind, rng = BY_NAME[name], np.random.default_rng(seed)
    layer = layer_of(name, dtype)
    query, value, key = kind.inputs(seed, batch=batch, queries=queries, keys=keys)
    mask = rng.random((batch, queries, keys)) >= share
    padding_mask = rng.random((batch, keys)) >= padding
    order = rng.permutation(keys)
    inputs, masks = (
        (query, value, key),
        {"attention_mask": mask, "value_mask": padding_mask},
    )
    output, weights = call(name, layer, inputs, **masks)
    inputs = query, value[:, order], key[:, order]
    masks = {"attention_mask": mask[..., order], "value_mask": padding_mask[:, order]}
    moved, moved_weights = call(name, layer, inputs, **masks)
    near = {"rtol": 0, "atol": TOLERANCE[dtype]}
    assert np.allclose(moved, output, **near)
    assert np.allclose(moved_weights, weights[..., order], **near)


@fast_and_slow(
    38,
    name=KIND_NAMES,
    dtype=DTYPES,
    batch=st.sampled_from([1, 2, 3]),
    queries=SIZES,
    keys=SIZES,
    padding=SHARES,
    seed=SEEDS,
)
def test_a_row_does_not_depend_on_the_other_rows(
    *, name, dtype, batch, queries, keys, padding, seed
):
    kind, rng = BY_NAME[name], np.random.default_rng(seed)
    layer = layer_of(name, dtype)
    inputs = kind.inputs(seed, batch=batch, queries=queries, keys=keys)
    masks = {
        "query_mask": rng.random((batch, queries)) >= padding,
        "value_mask": rng.random((batch, keys)) >= padding,
    }
    output, weights = call(name, layer, inputs, **masks)
    row = int(rng.integers(batch))
    one = slice(row, row + 1)
    masks = {key: mask[one] for key, mask in masks.items()}
    alone, alone_weights = call(name, layer, [x[one] for x in inputs], **masks)
    near = {"rtol": 0, "atol": TOLERANCE[dtype]}
    assert np.allclose(alone, output[one], **near)
    assert np.allclose(alone_weights, weights[one], **near)


@fast_and_slow(
    50,
    name=KIND_NAMES,
    dtype=DTYPES,
    batch=BATCHES,
    length=SIZES,
    cut=st.integers(0, 33),
    share=SHARES,
    seed=SEEDS,
)
def test_no_future_leaks_through_a_causal_mask(
    *, name, dtype, batch, length, cut, share, seed
):
    kind, rng = BY_NAME[name], np.random.default_rng(seed)
    layer = layer_of(name, dtype)
    inputs = kind.inputs(seed, batch=batch, queries=length, keys=length)
    masks = {"attention_mask": rng.random((batch, length, length)) >= share}
    masks["use_causal_mask"] = True
    output, weights = call(name, layer, inputs, **masks)
    assert not np.triu(weights, 1).any()
    changed = [x.copy() for x in inputs]
    for x in changed:
        x[:, cut:] += 3.0
    moved, moved_weights = call(name, layer, changed, **masks)
    near = {"rtol": 0, "atol": TOLERANCE[dtype]}
    assert np.allclose(moved[:, :cut], output[:, :cut], **near)
    assert np.allclose(moved_weights[:, :, :cut], weights[:, :, :cut], **near)
