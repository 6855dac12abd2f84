"""Every cache against rows of plain Python lists, token by token."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from oracle import drawn, softmax_row

from keras_attention.ops import masks
from keras_attention.ops.attend import dot_product_attention
from keras_attention.ops.caches.fixed import FixedKVCache
from keras_attention.ops.caches.growing import KVCache
from keras_attention.ops.caches.rolling import RollingKVCache
from keras_attention.ops.caches.storage import Quantized, decode, encode
from keras_attention.ops.heads import HeadSettings

B, K, H, V = 2, 3, 5, 7
CAPACITY, WINDOW, SINKS = 23, 5, 2
SIZES = {"batch_size": B, "key_size": K * H, "value_size": K * V, "num_heads": K}
MAKERS = {
    "growing": lambda **kw: KVCache.empty(**SIZES, **kw),
    "fixed": lambda **kw: FixedKVCache.empty(**SIZES, capacity=CAPACITY, **kw),
    "rolling": lambda **kw: RollingKVCache.empty(
        **SIZES, window=WINDOW, num_sink_tokens=SINKS, **kw
    ),
}
every_policy = pytest.mark.parametrize("policy", MAKERS)
# Storage in bfloat16 is that of float32 after a cast, the same in every policy.
STORES = [*((policy, dtype) for policy in MAKERS for dtype in ("float32", "int8"))]
every_store = pytest.mark.parametrize(("policy", "dtype"), STORES)


def to_numpy(x):
    return keras.tree.map_structure(ops.convert_to_numpy, x)


def random(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def chunk_of(length, seed):
    """Keys, values and their padding mask: padding left, right and in the middle."""
    rng = np.random.default_rng(seed)
    key = rng.normal(size=(B, length, K * H)).astype("float32")
    value = rng.normal(size=(B, length, K * V)).astype("float32")
    padding_mask = rng.random((B, length)) < 0.7
    key[~padding_mask], value[~padding_mask] = np.nan, np.inf
    return key, value, padding_mask


def step(cache, key, value, padding_mask):
    """The view that queries attend to, as tensors, and the new cache."""
    positions = cache.next_positions(padding_mask)
    view, cache = cache.extend(
        key=key, value=value, positions=positions, query_positions=positions
    )
    mask = masks.causal if view.mask is None else masks.causal & view.mask
    seen = mask.visible(view.query_positions, view.positions)
    return (view.key, view.value, view.positions, view.query_positions, seen), cache


class Row:
    """One row of a batch: a list of its tokens."""

    def __init__(self, policy):
        self.policy, self.held, self.count = policy, [], 0

    def add(self, key, value, first):
        """Add a token; return the tokens that its query sees, and their distances."""
        self.held.append((self.count, key, value))
        if self.policy == "rolling" and len(self.held) > SINKS + WINDOW:
            del self.held[SINKS]
        order = [number for number, _, _ in self.held]
        distances = [self.count - number for number in order]
        if self.policy == "rolling":
            # The sinks are directly before the window of the chunk's first query.
            gone = max(0, first + 1 - SINKS - WINDOW)
            distances[:SINKS] = [self.count - gone - s for s in order[:SINKS]]
        self.count += 1
        return list(self.held), distances


def check_step(rows, chunk, got, dtype):
    key, value, padding_mask = chunk
    got_key, got_value, at, query_at, seen = to_numpy(got)
    for b, row in enumerate(rows):
        first = row.count
        for t in np.flatnonzero(padding_mask[b]):
            held, distances = row.add(key[b, t], value[b, t], first)
            slots = np.flatnonzero(seen[b, t])
            slots = slots[np.argsort(at[b, slots])]
            assert len(slots) == len(held)
            assert (query_at[b, t] - at[b, slots]).tolist() == distances
            close(got_key[b, slots], [k for _, k, _ in held], dtype)
            close(got_value[b, slots], [v for _, _, v in held], dtype)


def close(got, expected, dtype):
    got, expected = np.asarray(got, "float64"), np.stack(expected)
    if dtype == "float32":
        assert np.array_equal(got, expected)
    elif dtype == "bfloat16":
        rounded = np.asarray(tf.cast(expected, "bfloat16"), "float64")
        assert np.array_equal(got, rounded)
    else:
        heads = expected.reshape(len(expected), K, -1)
        half = abs(heads).max(-1, keepdims=True) / 127 / 2
        assert (abs(got.reshape(heads.shape) - heads) <= half * (1 + 1e-5)).all()


# 17 tokens with the seeds below: fewer than CAPACITY, more than the rolling cache.
LENGTHS = [3, 1, 1, 6, 1, 2, 5, 1, 4, 1]


@pytest.mark.tensorflow
@pytest.mark.parametrize(("policy", "dtype"), [*STORES, ("growing", "bfloat16")])
def test_queries_see_what_a_list_would_hold(policy, dtype):
    cache, rows = MAKERS[policy](dtype=dtype), [Row(policy) for _ in range(B)]
    for seed, length in enumerate(LENGTHS):
        chunk = chunk_of(length, seed)
        got, cache = step(cache, *chunk)
        check_step(rows, chunk, got, dtype)
        assert to_numpy(cache.lengths).tolist() == [len(row.held) for row in rows]
    assert type(cache) is type(MAKERS[policy]())
    assert min(row.count for row in rows) > SINKS + WINDOW


@every_policy
def test_positions_continue_each_row_after_evictions(policy):
    cache = MAKERS[policy]()
    for seed in range(9):
        key, value, _ = chunk_of(2, seed)
        _, cache = step(cache, key, value, drawn("1 1\n. 1"))
    padding_mask = drawn("1 . 1\n. 1 1")
    assert to_numpy(cache.next_positions(padding_mask)).tolist() == [
        [18, -1, 19],
        [-1, 9, 10],
    ]


def filled(policy, tokens, **kwargs):
    """A cache with `tokens` tokens in each row, and those tokens."""
    key, value = random(B, tokens, K * H), random(B, tokens, K * V, seed=2)
    _, cache = step(MAKERS[policy](**kwargs), key, value, np.full((B, tokens), True))
    return cache, key, value


def held_tokens(cache, row):
    """`{position: key}` of a row."""
    key = to_numpy(decode(cache.key, "float32"))[row]
    at = to_numpy(cache.positions)[row]
    return {int(p): key[slot] for slot, p in enumerate(at) if p >= 0}


@every_store
def test_reordering_selects_rows_of_every_tensor(policy, dtype):
    key, value, padding_mask = chunk_of(6, 3)
    _, cache = step(MAKERS[policy](dtype=dtype), key, value, padding_mask)
    new = cache.reorder([1, 1, 0])
    assert type(new) is type(cache)
    for old, moved in zip(
        keras.tree.flatten(cache), keras.tree.flatten(new), strict=True
    ):
        assert np.array_equal(to_numpy(old)[[1, 1, 0]], to_numpy(moved))
    counts = padding_mask.sum(-1)
    next_at = to_numpy(new.next_positions(np.full((3, 1), True)))
    assert next_at[:, 0].tolist() == [counts[1], counts[1], counts[0]]


@every_policy
def test_rows_that_do_not_exist_are_refused(policy):
    for rows in ([0, 2], [-1]):
        with pytest.raises(
            ValueError, match=r"`rows` must be from 0 to 1: .*Received: "
        ):
            MAKERS[policy]().reorder(rows)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("policy", "dtype", "lengths"),
    [
        *((policy, "float32", lengths) for policy in MAKERS for lengths in (4, [2, 6])),
        *((policy, "int8", [0, 99]) for policy in MAKERS),
    ],
)
def test_a_cropped_cache_continues_as_if_it_had_never_been_longer(
    policy, dtype, lengths
):
    cache, key, _ = filled(policy, 7, dtype=dtype)
    cropped = cache.crop(lengths)
    ends = np.minimum(np.broadcast_to(lengths, (B,)), 7)
    assert to_numpy(cropped.lengths).tolist() == ends.tolist()
    assert to_numpy(cache.lengths).tolist() == [7, 7]
    rows = [Row(policy) for _ in range(B)]
    value = random(B, 7, K * V, seed=2)
    for b, row in enumerate(rows):
        for t in range(ends[b]):
            row.add(key[b, t], value[b, t], t)
    for seed, length in enumerate([1, 3, 1, 2]):
        chunk = chunk_of(length, seed)
        got, cropped = step(cropped, *chunk)
        check_step(rows, chunk, got, dtype)


def test_a_growing_cache_removes_slots_that_no_row_uses():
    cache, _, _ = filled("growing", 7)
    assert cache.crop([2, 3]).key.shape == (B, 3, K * H)
    assert cache.crop(0).key.shape == (B, 0, K * H)


@every_policy
def test_lengths_below_zero_are_refused(policy):
    with pytest.raises(ValueError, match=r"`lengths` must be 0 or more.*lengths=-1"):
        MAKERS[policy]().crop(-1)


@every_policy
def test_cropping_removes_numbers_that_are_not_finite(policy):
    bad = np.full((B, 2, K * H), np.nan, "float32")
    value = random(B, 2, K * V)
    _, cache = step(MAKERS[policy](), bad, value, np.full((B, 2), True))
    cache = cache.crop(0)
    assert np.isfinite(to_numpy(cache.key)).all()


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("taken", "lengths", "lost"),
    [
        (7, 1, False),  # nothing evicted yet
        (8, 7, False),  # the window of the next query is still whole
        (9, 7, True),
        (12, 6, True),  # between the sinks and the window
        (12, 3, True),
        (12, 2, False),  # the sinks alone
        (12, 1, False),
        (12, 0, False),
        (12, 12, False),
    ],
)
def test_a_rolling_cache_does_not_go_back_to_what_it_has_evicted(taken, lengths, lost):
    cache, key, _ = filled("rolling", taken)
    crop = tf.function(lambda cache: cache.crop([lengths, 99]))
    rows = to_numpy(crop(cache).key)
    assert np.isnan(rows[0]).all() == lost
    assert np.isfinite(rows[1]).all()
    if lost:
        with pytest.raises(
            ValueError, match=r"evicted: .* of row 0 .*lengths=\[\d, 99"
        ):
            cache.crop([lengths, 99])
        return
    cropped = cache.crop([lengths, 99])
    token, value = random(B, 1, K * H, seed=5), random(B, 1, K * V)
    _, cropped = step(cropped, token, value, np.full((B, 1), True))
    held = held_tokens(cropped, 0)
    wanted = sorted({*range(min(SINKS, lengths)), *range(max(0, lengths - 4), lengths)})
    assert sorted(held) == [*wanted, lengths]
    for p in wanted:
        assert np.array_equal(held[p], key[0, p])


@pytest.mark.parametrize(("window", "sinks"), [(1, 0), (1, 3), (4, 0), (3, 2)])
@pytest.mark.parametrize("sizes", [[1] * 13, [13], [4, 1, 6, 2]], ids=str)
def test_rolling_in_any_chunks_is_dense_attention_under_its_mask(window, sinks, sizes):
    query, key = random(B, 13, K * H, seed=3), random(B, 13, K * H)
    value = random(B, 13, K * V, seed=2)
    cache = RollingKVCache.empty(**SIZES, window=window, num_sink_tokens=sinks)
    outputs, start = [], 0
    for size in sizes:
        part = slice(start, start + size)
        chunk = key[:, part], value[:, part], np.full((B, size), True)
        (view_key, view_value, _, _, seen), cache = step(cache, *chunk)
        output, _ = dot_product_attention(
            query=query[:, part],
            key=view_key,
            value=view_value,
            heads=HeadSettings(K),
            mask=seen[:, None],
        )
        outputs.append(to_numpy(output))
        start += size
    expected = dense(query, key, value, window, sinks)
    assert np.allclose(np.concatenate(outputs, 1), expected, atol=1e-5, rtol=1e-5)


def dense(query, key, value, window, sinks):
    output = np.zeros((B, 13, K * V))
    for b in range(B):
        for t in range(13):
            seen = np.array(
                [s <= t and (s < sinks or s > t - window) for s in range(13)]
            )
            for k in range(K):
                keys = key[b, :, k * H : (k + 1) * H].astype("float64")
                values = value[b, :, k * V : (k + 1) * V]
                scores = keys @ query[b, t, k * H : (k + 1) * H]
                output[b, t, k * V : (k + 1) * V] = softmax_row(scores, seen) @ values
    return output


def test_views_of_a_rolling_cache_are_numbered_within_it():
    cache, _, _ = filled("rolling", 12)
    one = random(B, 1, K * H), random(B, 1, K * V), np.full((B, 1), True)
    (_, _, at, query_at, seen), _ = step(cache, *one)
    assert sorted(to_numpy(at)[0].tolist()) == [0, 1, 2, 3, 4, 5, 6]
    assert to_numpy(query_at).tolist() == [[6], [6]]
    assert to_numpy(seen).all()
    assert RollingKVCache.renumbers
    assert not KVCache.renumbers
    assert not FixedKVCache.renumbers


def test_positions_with_gaps_are_kept_and_the_window_counts_tokens():
    cache, at = MAKERS["rolling"](), np.array([[3, 5, 7, 20, 30, 40, 50, 60, 70]] * B)
    for t in range(9):
        token = {"key": random(B, 1, K * H), "value": random(B, 1, K * V)}
        now = at[:, t : t + 1]
        view, cache = cache.extend(**token, positions=now, query_positions=now)
    assert sorted(held_tokens(cache, 0)) == [3, 5, 30, 40, 50, 60, 70]
    assert sorted(to_numpy(view.positions)[0].tolist()) == [0, 1, 2, 3, 4, 5, 6]
    assert to_numpy(cache.next_positions(np.full((B, 1), True)))[0, 0] == 71
    assert sorted(held_tokens(cache.crop(61), 0)) == [3, 5, 30, 40, 50, 60]


@pytest.mark.tensorflow
def test_settings_are_read_from_shapes():
    rolling = MAKERS["rolling"]()
    assert (rolling.window, rolling.num_sink_tokens, rolling.capacity) == (5, 2, 7)
    assert MAKERS["fixed"]().capacity == 23
    assert MAKERS["growing"]().capacity is None
    unknown = tf.function(
        lambda at: rolling._replace(window_positions=at).window,
        input_signature=[tf.TensorSpec([B, None], tf.int32)],
    )
    with pytest.raises(
        ValueError, match=r"read from its shapes.*Received: window_positions"
    ):
        unknown(np.zeros((B, 3), "int32"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MAKERS["fixed"](dtype="int32"), "must be a float or 'int8'"),
        (lambda: FixedKVCache.empty(**SIZES, capacity=0), "`capacity` must be an int"),
        (lambda: RollingKVCache.empty(**SIZES, window=0), "`window` must be an int"),
        (
            lambda: RollingKVCache.empty(**SIZES, window=3, num_sink_tokens=-1),
            "`num_sink_tokens` must be an int of 0 or more",
        ),
        (
            lambda: KVCache.empty(
                batch_size=B, key_size=6, value_size=6, num_heads=4, dtype="int8"
            ),
            "pass `num_heads=`.*num_heads=4, size=6",
        ),
        (
            lambda: KVCache.empty(batch_size=B, key_size=6, value_size=6, dtype="int8"),
            "pass `num_heads=`.*num_heads=None",
        ),
    ],
)
def test_wrong_settings_of_a_cache_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@every_policy
def test_tokens_of_another_size_are_refused(policy):
    padding_mask = np.full((B, 1), True)
    one_row = random(1, 1, K * H), random(1, 1, K * V), padding_mask[:1]
    other_size = random(B, 1, K * H), random(B, 1, K * V + 1), padding_mask
    for name, chunk in (("key", one_row), ("value", other_size)):
        with pytest.raises(ValueError, match=f"`{name}` must have the batch.*Received"):
            step(MAKERS[policy](), *chunk)


def test_int8_is_within_half_a_step_and_keeps_nan_and_inf_visible():
    x = random(B, 11, K * V) * 10.0 ** np.arange(-5, 6)[:, None]
    x[0, 0] = 0.0
    x[1, 3, :V], x[1, 4, V + 2] = np.inf, np.nan
    like = KVCache.empty(**SIZES, dtype="int8").value
    store = encode(ops.convert_to_tensor(x.astype("float32")), like)
    assert isinstance(store, Quantized)
    got = to_numpy(decode(store, "float32")).reshape(B, 11, K, V)
    x, bad = x.reshape(B, 11, K, V), np.zeros((B, 11, K), bool)
    bad[1, 3, 0] = bad[1, 4, 1] = True
    assert np.isnan(got[bad]).all()
    error = abs(got - x)[~bad].max(-1)
    half = to_numpy(store.scales)[~bad] / 2
    assert (error <= half * (1 + 1e-5)).all()
    assert (error > half * 0.5).any()
    assert store.values.dtype == "int8"
    assert decode(store, "bfloat16").dtype == "bfloat16"
