"""Byte pair merging of many words at once, as one loop of TensorFlow operations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_NUM_BUCKETS = 1 << 16
_NEVER = np.iinfo(np.int32).max


class ByteMerges:
    """Merges neighbouring tokens of words in the order of their ranks.

    Each round merges, in every word at once, all occurrences of the word's pair with
    the lowest rank, from left to right. The result is that of merging one pair at a
    time, provided that the merge that makes a token comes before those that use it. If
    a list of merges breaks that rule, each round merges one pair per word. Reference:
    [Sennrich et al., 2016](https://arxiv.org/abs/1508.07909).

    Args:
        byte_ids: The ids of the 256 bytes.
        merges: Triples of ids (left, right, merged), in the order of their ranks.
        num_tokens: The number of ids.
    """

    def __init__(
        self,
        byte_ids: Sequence[int],
        merges: Sequence[tuple[int, int, int]],
        num_tokens: int,
    ) -> None:
        table = np.array(merges, np.int64).reshape(-1, 3)
        # Hugging Face keeps the last of two equal pairs.
        ranks = {(a, b): rank for rank, (a, b) in enumerate(table[:, :2].tolist())}
        ranks = np.array(sorted(ranks.values()), np.int64)
        keys = table[ranks, 0] * num_tokens + table[ranks, 1]
        order = np.argsort(keys)
        self._is_ordered = _is_ordered(table)
        self._num_tokens = num_tokens
        with tf.init_scope():  # constants of the program, not of one function
            self._byte_ids = tf.constant(byte_ids, tf.int32)
            # The last key is larger than any pair's: a search is never out of range.
            self._keys = tf.constant([*keys[order], np.iinfo(np.int64).max], tf.int64)
            self._ranks = tf.constant([*ranks[order], _NEVER], tf.int32)
            self._merged = tf.constant([*table[:, 2], 0], tf.int32)

        self._whole: Any = None

    def set_whole_words(self, tokens: Sequence[bytes]) -> None:
        """Sets the tokens of `ignore_merges`: a word equal to one is not split."""
        buckets: dict[int, list[int]] = {}
        hashes = tf.strings.to_hash_bucket_fast(
            tf.constant(tokens, tf.string), _NUM_BUCKETS
        )
        for place, bucket in enumerate(hashes.numpy().tolist()):
            buckets.setdefault(bucket, []).append(place)
        width = max(map(len, buckets.values()))
        table = np.zeros([_NUM_BUCKETS, width], np.int32)
        for bucket, places in buckets.items():
            table[bucket, :] = places[0]
            table[bucket, : len(places)] = places
        with tf.init_scope():
            self._whole = tf.constant(table), tf.constant(tokens, tf.string)

    def __call__(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Returns the token ids `[W, None]` of words `[W]`."""
        if self._whole is None:
            return self._merge(words)
        table, tokens = self._whole
        candidates = tf.gather(
            table, tf.strings.to_hash_bucket_fast(words, _NUM_BUCKETS)
        )  # [W, width]
        is_same = tf.gather(tokens, candidates) == words[:, None]
        found = tf.reduce_max(tf.where(is_same, candidates, -1), 1)
        is_whole = found >= 0
        rows: Any = self._merge(tf.where(is_whole, "", words))
        alone = tf.ragged.boolean_mask(found[:, None], is_whole[:, None])
        return tf.concat([rows, alone], 1)

    def _merge(self, words: tf.Tensor) -> Any:
        code = tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8)
        ids = tf.gather(self._byte_ids, tf.cast(code, tf.int32))  # [N]
        number = tf.repeat(tf.range(tf.size(words)), tf.strings.length(words))  # [N]
        everywhere = tf.range(tf.size(ids))
        state = ids, number, self._look_up(ids, number, everywhere)
        ids, number, _ = tf.while_loop(
            lambda ids, number, ranks: tf.reduce_any(ranks < _NEVER),
            lambda ids, number, ranks: self._round(ids, number, ranks, tf.size(words)),
            state,
            shape_invariants=(tf.TensorShape([None]),) * 3,
        )
        count = tf.size(words, tf.int64)
        return tf.RaggedTensor.from_value_rowids(
            ids, tf.cast(number, tf.int64), count, validate=False
        )

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

    def _round(self, ids: Any, number: Any, ranks: Any, num_words: Any) -> Any:
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
        ids, number, ranks, chosen = (
            tf.gather(values, remaining) for values in (ids, number, ranks, chosen)
        )
        is_new = chosen | tf.concat([chosen[1:], [False]], 0)
        places = tf.where(is_new)  # [K, 1]
        found = self._look_up(ids, number, tf.cast(places[:, 0], tf.int32))
        return ids, number, tf.tensor_scatter_nd_update(ranks, places, found)


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


def byte_characters() -> Mapping[int, str]:
    """Returns `{byte: character}`, with which GPT-2's vocabulary writes bytes.

    Visible Latin-1 characters represent their own byte; the other bytes are represented
    by the characters from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    names = {byte: chr(byte) for byte in visible}
    names.update({byte: chr(0x100 + place) for place, byte in enumerate(hidden)})
    return names
