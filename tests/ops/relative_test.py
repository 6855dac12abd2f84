"""ALiBi, T5 and Shaw against numbers that were published, and float64 loops."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import relative_error, to_numpy

from keras_attention.ops.positions import distances
from keras_attention.ops.relative import (
    alibi_bias,
    alibi_slopes,
    bias_by_distance,
    relative_scores,
    relative_values,
    t5_buckets,
)

B, T, S, N, H, V, K = 2, 3, 5, 7, 4, 6, 2
RNG = np.random.default_rng(1)
QUERY_POSITIONS = np.array([[4, 0, 7], [1, 3, -1]], "int32")
KEY_POSITIONS = np.array([[0, 1, 4, 7, 9], [-1, -1, 0, 1, 2]], "int32")


def tensor(x):
    return keras.ops.convert_to_tensor(x)


def test_distances_count_positions_ahead_of_the_query():
    rows = distances(tensor(QUERY_POSITIONS), tensor(KEY_POSITIONS))
    assert tuple(rows.shape) == (B, T, S)
    assert to_numpy(rows)[0].tolist() == [
        [-4, -3, 0, 3, 5],
        [0, 1, 4, 7, 9],
        [-7, -6, -3, 0, 2],
    ]
    one = distances(tensor(QUERY_POSITIONS[0]), tensor(KEY_POSITIONS[0]))
    assert np.array_equal(one, rows[:1])
    mixed = distances(tensor(QUERY_POSITIONS[0]), tensor(KEY_POSITIONS))
    assert np.array_equal(mixed[0], rows[0])
    assert tuple(mixed.shape) == (B, T, S)


def test_alibi_slopes_of_8_and_12_heads_are_those_of_the_paper():
    eight = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert alibi_slopes(8).tolist() == eight
    between = [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    assert np.allclose(alibi_slopes(12), [*eight, *between], rtol=1e-15)
    assert np.allclose(alibi_slopes(16)[:3], [2**-0.5, 2**-1, 2**-1.5], rtol=1e-15)
    assert alibi_slopes(1).tolist() == [1 / 256]
    assert alibi_slopes(3).tolist() == [1 / 16, 1 / 256, 1 / 4]
    assert alibi_slopes(2, max_bias=4).tolist() == [1 / 4, 1 / 16]


@pytest.mark.parametrize("symmetric", [False, True])
def test_alibi_falls_with_the_distance(symmetric):
    slopes = alibi_slopes(N)
    distance = distances(tensor(QUERY_POSITIONS), tensor(KEY_POSITIONS))
    actual = alibi_bias(distance, slopes, symmetric=symmetric, dtype="float32")
    assert tuple(actual.shape) == (B, N, T, S)
    expected = np.zeros((B, N, T, S))
    for b, n, t, s in np.ndindex(B, N, T, S):
        behind = int(QUERY_POSITIONS[b, t]) - int(KEY_POSITIONS[b, s])
        away = abs(behind) if symmetric else max(behind, 0)
        expected[b, n, t, s] = -slopes[n] * away
    assert relative_error(actual, expected) <= 1e-7


def test_alibi_is_correct_at_large_positions():
    distance = distances(tensor([100_000]), tensor([0, 1, 99_999]))
    bias = to_numpy(alibi_bias(distance, alibi_slopes(8), dtype="float32"))
    assert bias[0, 0, 0].tolist() == [-50_000.0, -49_999.5, -0.5]


def test_t5_buckets_are_those_computed_by_hand():
    # Distances behind: 0 to 7 have one each, then from 8, 12, 16, 23, 32, 46, 64, 91.
    starts = [8, 12, 16, 23, 32, 46, 64, 91]
    hand = list(range(8)) + [
        7 + sum(distance >= start for start in starts) for distance in range(8, 129)
    ]
    buckets = t5_buckets(32, 128)
    assert buckets[128::-1].tolist() == hand
    ahead = [0, *(16 + bucket for bucket in hand[1:])]
    assert buckets[128:].tolist() == ahead
    causal = t5_buckets(32, 128, bidirectional=False)
    assert causal[128:].tolist() == [0] * 129
    assert causal[128::-1][:17].tolist() == list(range(17))
    assert causal[128 - np.array([18, 19, 20, 21, 113, 128])].tolist() == [
        *(16, 17, 17, 18),
        *(31, 31),
    ]


def published_bucket(ahead, count, farthest, bidirectional):
    """T5's code for one distance, its logarithm in float32."""
    offset = 0
    if bidirectional:
        count //= 2
        offset, behind = (count if ahead > 0 else 0), abs(ahead)
    else:
        behind = max(-ahead, 0)
    if behind < count // 2:
        return offset + behind
    power = np.log(np.float32(behind) / np.float32(count // 2))
    power = power / np.float32(np.log(farthest / (count // 2)))
    coarse = count // 2 + int(power * np.float32(count - count // 2))
    return offset + min(coarse, count - 1)


def exact_bucket(behind, count, farthest):
    """The same for large distances without a logarithm, in integers."""
    start = count // 2
    wide = count - start
    full = [
        k
        for k in range(wide + 1)
        if behind**wide * start**k >= farthest**k * start**wide
    ]
    return min(start + full[-1], count - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("count", "farthest"), [(32, 128), (32, 256), (64, 100)])
def test_t5_buckets_are_those_of_its_code_at_every_distance(
    count, farthest, bidirectional
):
    buckets = t5_buckets(count, farthest, bidirectional=bidirectional)
    table = np.arange(count)[:, None].astype("float32")[buckets]
    reach = np.r_[-400:401, -100_000, -99_999, -1024, 1023, 77_777, 100_000]
    rows = bias_by_distance(tensor(table), tensor(reach[None, None].astype("int32")))
    expected = [published_bucket(d, count, farthest, bidirectional) for d in reach]
    assert to_numpy(rows)[0, 0, 0].tolist() == expected


@pytest.mark.parametrize("bidirectional", [True, False])
def test_float32_logarithms_give_every_distance_of_t5_its_exact_bucket(bidirectional):
    count = 16 if bidirectional else 32
    buckets = t5_buckets(32, 128, bidirectional=bidirectional)
    for behind in range(count // 2, 129):
        assert buckets[128 - behind] == exact_bucket(behind, count, 128)


def test_a_bias_by_distance_is_one_number_per_head_and_distance():
    table = RNG.normal(size=(2 * K + 1, N)).astype("float32")
    distance = distances(tensor(QUERY_POSITIONS), tensor(KEY_POSITIONS))
    actual = to_numpy(bias_by_distance(tensor(table), distance))
    assert actual.shape == (B, N, T, S)
    for b, n, t, s in np.ndindex(B, N, T, S):
        ahead = int(KEY_POSITIONS[b, s]) - int(QUERY_POSITIONS[b, t])
        assert actual[b, n, t, s] == table[min(max(ahead, -K), K) + K, n]


def shaw(query, weights, keys, values):
    """Equations 3 and 4 of the paper, one query and one key at a time."""
    scores, contexts = np.zeros((B, N, T, S)), np.zeros((B, T, N, V))
    for b, n, t, s in np.ndindex(B, N, T, S):
        ahead = int(KEY_POSITIONS[b, s]) - int(QUERY_POSITIONS[b, t])
        row = min(max(ahead, -K), K) + K
        scores[b, n, t, s] = query[b, t, n * H : (n + 1) * H] @ keys[row]
        contexts[b, t, n] += weights[b, n, t, s] * values[row]
    return scores, contexts.reshape(B, T, N * V)


SHAW = {
    "query": RNG.normal(size=(B, T, N * H)),
    "weights": RNG.dirichlet(np.ones(S), (B, N, T)),
    "keys": RNG.normal(size=(2 * K + 1, H)),
    "values": RNG.normal(size=(2 * K + 1, V)),
}


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("float64", 1e-14)])
def test_shaw_scores_and_values_are_those_of_the_loop(dtype, error):
    scores, contexts = shaw(**SHAW)
    given = {name: tensor(x.astype(dtype)) for name, x in SHAW.items()}
    distance = distances(tensor(QUERY_POSITIONS), tensor(KEY_POSITIONS))
    actual = relative_scores(given["query"], given["keys"], distance)
    assert keras.backend.standardize_dtype(actual.dtype) == dtype
    assert relative_error(actual, scores) <= error
    actual = relative_values(given["weights"], given["values"], distance)
    assert keras.backend.standardize_dtype(actual.dtype) == dtype
    assert relative_error(actual, contexts) <= error


def test_one_row_of_positions_serves_all_rows_of_the_batch():
    given = {name: tensor(x.astype("float32")) for name, x in SHAW.items()}
    one = distances(tensor(QUERY_POSITIONS[0]), tensor(KEY_POSITIONS[0]))
    every = keras.ops.tile(one, (B, 1, 1))
    for function, left, right in (
        (relative_scores, given["query"], given["keys"]),
        (relative_values, given["weights"], given["values"]),
    ):
        assert relative_error(
            function(left, right, one), function(left, right, every)
        ) <= (1e-6)


@pytest.mark.tensorflow
@pytest.mark.parametrize("rows", [None, 1])
def test_shaw_is_the_same_compiled_with_unknown_shapes(rows):
    def function(query, weights, distance):
        keys, values = (SHAW[name].astype("float32") for name in ("keys", "values"))
        scores = relative_scores(query, tensor(keys), distance)
        return scores, relative_values(weights, tensor(values), distance)

    distance = distances(tensor(QUERY_POSITIONS), tensor(KEY_POSITIONS))[:rows]
    given = [tensor(SHAW[name].astype("float32")) for name in ("query", "weights")]
    given = [*given, distance]
    specs = [
        tf.TensorSpec((None, None, N * H)),
        tf.TensorSpec((None, N, None, None)),
        tf.TensorSpec((rows, None, None), "int32"),
    ]
    for settings in ({}, {"jit_compile": True}):
        graph = tf.function(function, input_signature=specs, **settings)
        for actual, expected in zip(graph(*given), function(*given), strict=True):
            assert relative_error(actual, to_numpy(expected)) <= 1e-6
