"""The layouts of heads: which number is where, and that every layout can be undone."""

import dataclasses
import json

import numpy as np
import pytest
from contracts.kinds import to_numpy

from keras_attention.ops import heads
from keras_attention.ops.heads import HeadSettings

B, T, K, G, H, L = 2, 12, 3, 2, 5, 4
N = K * G
X = np.arange(B * T * N * H, dtype="float32").reshape(B, T, N * H)


def test_there_are_as_many_key_value_heads_as_query_heads_by_default():
    assert HeadSettings(6).num_key_value_heads == 6
    assert HeadSettings(6).group_size == 1
    assert HeadSettings(6, 2).group_size == 3


def test_settings_are_values_that_go_through_json():
    settings = HeadSettings(6, 2, scale=np.float32(0.5), soft_cap=3)
    assert settings.to_dict() == {
        "num_heads": 6,
        "num_key_value_heads": 2,
        "scale": 0.5,
        "soft_cap": 3.0,
    }
    assert HeadSettings(**json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.scale = 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_head_n_is_the_n_th_part_of_the_features():
    split = to_numpy(heads.split_heads(X, N))
    assert split.shape == (B, N, T, H)
    for n in range(N):
        assert np.array_equal(split[:, n], X[..., n * H : (n + 1) * H])
    assert np.array_equal(heads.merge_heads(split), X)
    assert np.array_equal(heads.merge_features(heads.split_features(X, N)), X)


def test_groups_are_the_rows_of_neighbouring_heads():
    split = to_numpy(heads.split_heads(X, N))
    folded = to_numpy(heads.fold_groups(split, G))
    assert folded.shape == (B, K, G * T, H)
    for n in range(N):
        start = n % G * T
        assert np.array_equal(folded[:, n // G, start : start + T], split[:, n])
    assert np.array_equal(heads.unfold_groups(folded, G, T), split)


def test_groups_of_blocks_are_the_rows_of_neighbouring_heads_in_each_block():
    split = to_numpy(heads.split_blocks(X, N, T // L, L))
    assert split.shape == (B, N, T // L, L, H)
    whole = to_numpy(heads.split_heads(X, N))
    assert np.array_equal(split.reshape(whole.shape), whole)
    folded = to_numpy(heads.fold_groups(split, G))
    assert folded.shape == (B, K, T // L, G * L, H)
    for n in range(N):
        start = n % G * L
        assert np.array_equal(folded[:, n // G, :, start : start + L], split[:, n])
    assert np.array_equal(heads.unfold_groups(folded, G, L), split)
    assert np.array_equal(heads.merge_blocks(split), X)


def test_the_last_block_is_filled_with_zeros():
    split = to_numpy(heads.split_blocks(X[:, :9], N, 3, L))
    assert not split[:, :, 2, 1:].any()
    assert np.array_equal(to_numpy(heads.merge_blocks(split))[:, :9], X[:, :9])


def test_chunks_are_folded_groups_of_a_part_of_the_positions():
    chunks = to_numpy(heads.split_chunks(X, (K, G), (T // L, L), B))
    assert chunks.shape == (T // L, B, K, G * L, H)
    for number, chunk in enumerate(chunks):
        part = heads.split_heads(X[:, number * L : (number + 1) * L], N)
        assert np.array_equal(chunk, heads.fold_groups(part, G))
    assert np.array_equal(heads.merge_chunks(chunks, (K, G), (T // L, L), B), X)
