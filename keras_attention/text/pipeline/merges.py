"""Byte pair merging of many words at once, as one loop of TensorFlow operations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_NUM_BUCKETS = 1 << 16
_NEVER = np.iinfo(np.int32).max


class PairMerges:
    """Merges neighbouring tokens of words in the order of their ranks.

    Each round merges, in every word at once, all occurrences of the word's pair with
    the lowest rank, from left to right. The result is that of merging one pair at a
    time, provided that the merge that makes a token comes before those that use it. If
    a list of merges breaks that rule, each round merges one pair per word. Reference:
    [Sennrich et al., 2016](https://arxiv.org/abs/1508.07909).

    Args:
        merges: Triples of ids (left, right, merged), in the order of their ranks.
        num_tokens: The number of ids.
    """

    def __init__(self, merges: Sequence[tuple[int, int, int]], num_tokens: int) -> None:
        table = np.array(merges, np.int64).reshape(-1, 3)
        # Hugging Face keeps the last of two equal pairs.
        ranks = {(a, b): rank for rank, (a, b) in enumerate(table[:, :2].tolist())}
        ranks = np.array(sorted(ranks.values()), np.int64)
        keys = table[ranks, 0] * num_tokens + table[ranks, 1]
        order = np.argsort(keys)
        self._is_ordered = _is_ordered(table)
        self._num_tokens = num_tokens
        with tf.init_scope():  # constants of the program, not of one function
            # The last key is larger than any pair's: a search is never out of range.
            self._keys = tf.constant([*keys[order], np.iinfo(np.int64).max], tf.int64)
            self._ranks = tf.constant([*ranks[order], _NEVER], tf.int32)
            self._merged = tf.constant([*table[:, 2], 0], tf.int32)
            self._joints = self._joinable(table)

    def _joinable(self, table: np.ndarray) -> Any:
        """Returns the pairs of first tokens between which something is merged."""
        first, last = {}, {}
        for left, right, merged in table.tolist():
            first[merged] = first.get(left, left)
            last[merged] = last.get(right, right)
        pairs = {
            last.get(left, left) * self._num_tokens + first.get(right, right)
            for left, right, _ in table.tolist()
        }
        return tf.constant([*sorted(pairs), np.iinfo(np.int64).max], tf.int64)

    def parts(self, ids: Any, words: Any) -> tf.Tensor:
        """Cuts words where nothing is ever merged; returns the parts' numbers `[N]`.

        Args:
            ids: The ids of the letters, `[N]`.
            words: The number of each one's word, `[N]`.
        """
        left, right = tf.cast(ids[:-1], tf.int64), tf.cast(ids[1:], tf.int64)
        key = left * self._num_tokens + right
        found = tf.searchsorted(self._joints, key)
        apart = words[:-1] != words[1:]
        if self._is_ordered:
            apart |= tf.gather(self._joints, found) != key
        zero = tf.zeros_like(words[:1])
        return tf.concat([zero, tf.cumsum(tf.cast(apart, tf.int32))], 0)

    def __call__(
        self, ids: Any, words: Any, places: Any, num_words: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the ids and the places of the tokens, `[T]`.

        Args:
            ids: The ids of the letters, `[N]`.
            words: The number of each one's word, `[N]`.
            places: A number for each letter; a token has that of its first letter.
            num_words: The number of words.
        """
        state = ids, words, places, self._look_up(ids, words, tf.range(tf.size(ids)))
        ids, _, places, _ = tf.while_loop(
            lambda ids, words, places, ranks: tf.reduce_any(ranks < _NEVER),
            lambda ids, words, places, ranks: self._round(
                ids, words, places, ranks, num_words
            ),
            state,
            shape_invariants=(tf.TensorShape([None]),) * 4,
        )
        return ids, places

    def _look_up(self, ids: Any, number: Any, places: Any) -> tf.Tensor:
        """Returns the rank of the pair that starts at each of the places."""
        after = tf.minimum(places + 1, tf.size(ids) - 1)
        left = tf.cast(tf.gather(ids, places), tf.int64)
        right = tf.cast(tf.gather(ids, after), tf.int64)
        key = left * self._num_tokens + right
        found = tf.searchsorted(self._keys, key)
        is_pair = tf.gather(self._keys, found) == key
        is_pair &= tf.gather(number, places) == tf.gather(number, after)
        is_pair &= after > places
        return tf.where(is_pair, tf.gather(self._ranks, found), _NEVER)

    def _round(
        self, ids: Any, number: Any, sources: Any, ranks: Any, num_words: Any
    ) -> Any:
        best = tf.math.unsorted_segment_min(ranks, number, num_words)
        is_best = (ranks < _NEVER) & (ranks == tf.gather(best, number))
        place = tf.range(tf.size(ids))
        if self._is_ordered:
            # "aaa" contains a pair twice, overlapping: every second one is merged.
            starts = is_best & ~_moved_right(is_best)
            run = tf.cumsum(tf.cast(starts, tf.int32)) - 1
            first = tf.gather(tf.where(starts)[:, 0], tf.maximum(run, 0))
            chosen = is_best & ((place - tf.cast(first, tf.int32)) % 2 == 0)
        else:
            candidate = tf.where(is_best, place, _NEVER)
            first = tf.math.unsorted_segment_min(candidate, number, num_words)
            chosen = is_best & (place == tf.gather(first, number))
        merged = tf.gather(self._merged, tf.where(chosen, ranks, 0))
        ids = tf.where(chosen, merged, ids)
        remaining = tf.where(~_moved_right(chosen))[:, 0]
        ids, number, sources, ranks, chosen = (
            tf.gather(values, remaining)
            for values in (ids, number, sources, ranks, chosen)
        )
        is_new = chosen | tf.concat([chosen[1:], [False]], 0)
        places = tf.where(is_new)  # [K, 1]
        found = self._look_up(ids, number, tf.cast(places[:, 0], tf.int32))
        ranks = tf.tensor_scatter_nd_update(ranks, places, found)
        return ids, number, sources, ranks


class WordTable:
    """Finds whole words in a list.

    Args:
        words: The words, all different.
    """

    def __init__(self, words: Sequence[bytes]) -> None:
        buckets: dict[int, list[int]] = {}
        hashes = tf.strings.to_hash_bucket_fast(
            tf.constant(words, tf.string), _NUM_BUCKETS
        )
        for place, bucket in enumerate(hashes.numpy().tolist()):
            buckets.setdefault(bucket, []).append(place)
        width = max(map(len, buckets.values()))
        table = np.zeros([_NUM_BUCKETS, width], np.int32)
        for bucket, places in buckets.items():
            table[bucket, :] = places[0]
            table[bucket, : len(places)] = places
        with tf.init_scope():
            self._table, self._words = tf.constant(table), tf.constant(words, tf.string)

    def __call__(self, words: tf.Tensor) -> tf.Tensor:
        """Returns the place in the list of each word `[W]`, −1 if it is not there."""
        buckets = tf.strings.to_hash_bucket_fast(words, _NUM_BUCKETS)
        candidates = tf.gather(self._table, buckets)  # [W, width]
        is_same = tf.gather(self._words, candidates) == words[:, None]
        return tf.reduce_max(tf.where(is_same, candidates, -1), 1)


def _moved_right(flags: tf.Tensor) -> tf.Tensor:
    return tf.concat([[False], flags[:-1]], 0)


def _is_ordered(table: np.ndarray) -> bool:
    """Whether every merge that makes a token comes before those that use it."""
    made: dict[int, int] = {}
    for rank, (_, _, merged) in enumerate(table.tolist()):
        made[merged] = rank  # the last one
    return all(
        made.get(part, -1) < rank
        for rank, (left, right, _) in enumerate(table.tolist())
        for part in (left, right)
    )
