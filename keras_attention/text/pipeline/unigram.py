"""Unigram: the segmentation of each word with the highest score."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_attention.text.codes.trie import Trie
from keras_attention.text.json_files import refuse
from keras_attention.text.pipeline import tokens as found
from keras_attention.text.pipeline.tokens import Tokens, Words

_PENALTY = 10.0  # of an unknown character, below the lowest score


class Unigram:
    """The model of SentencePiece's unigram tokenizers, for many words at once.

    Scores are added in float64, from the left, and of two equal ones the first is
    kept, so ties are broken as Hugging Face's `tokenizers` breaks them. Reference:
    [Kudo, 2018](https://arxiv.org/abs/1804.10959).

    Args:
        vocab: Pairs of token and score.
        unknown: The id of unknown text.
        falls_back: Whether unknown text is encoded as its bytes.
    """

    def __init__(
        self, vocab: Sequence[Sequence[Any]], unknown: int, falls_back: bool
    ) -> None:
        tokens = [token for token, _ in vocab]
        if not all(isinstance(token, str) and token for token in tokens):
            refuse("the vocab of Unigram", "tokens that are not empty", tokens[:5])
        if not 0 <= unknown < len(tokens):
            refuse("'unk_id' of Unigram", "the id of a token", unknown)
        scores = np.array([score for _, score in vocab], np.float64)
        self._trie = Trie(tokens)
        self._unknown = unknown
        ids = {token: number for number, token in enumerate(tokens)}
        self._bytes = found.byte_tokens(ids) if falls_back else None
        with tf.init_scope():
            # The last score is that of an unknown character.
            lowest = scores.min() - _PENALTY
            self._scores = tf.constant([*scores, lowest], tf.float64)

    def __call__(self, words: Words) -> Tokens:
        """Returns the tokens of words."""
        word = found.word_numbers(words)
        begin = tf.gather(words.bounds, word)
        numbers, first = self._best(words, word, begin)
        is_unknown = numbers == len(self._scores) - 1
        ids = tf.where(is_unknown, self._unknown, numbers)
        is_unknown = ids == self._unknown
        again = is_unknown[1:] & is_unknown[:-1]
        again &= tf.gather(begin, first[1:]) != first[1:]
        remains = ~tf.concat([[False], again], 0)[: tf.size(ids)]
        ids, first = tf.boolean_mask(ids, remains), tf.boolean_mask(first, remains)
        tokens = found.from_places(ids, first, words.bounds)
        if self._bytes is None:
            return tokens
        return tf.cond(
            tf.reduce_any(is_unknown),
            lambda: self._as_bytes(tokens, words),
            lambda: tokens,
        )

    def _best(self, words, word, begin):
        """Returns the token and the first place of each step of the best path.

        Unknown characters have the number after the last token.
        """
        size = tf.size(words.codes)
        rank = tf.range(size) - begin  # the place in the word
        order = tf.argsort(rank, stable=True)
        roots = self._trie.roots(words.codes)
        stops = tf.gather(words.bounds, word + 1)
        places, lengths, tokens = self._trie.matches(words.codes, roots, stops, order)
        is_single = tf.scatter_nd(
            tf.boolean_mask(places, lengths == 1)[:, None],
            tf.ones_like(tf.boolean_mask(places, lengths == 1)),
            [size],
        )
        unknown = tf.gather(order, tf.where(tf.gather(is_single, order) == 0)[:, 0])
        places = tf.concat([unknown, places], 0)
        # Matches are sorted by length and then by place in the word; with length 0 the
        # unknown ones are a group of their own.
        lengths = tf.concat([tf.zeros_like(unknown), lengths], 0)
        number = tf.fill(tf.shape(unknown), len(self._scores) - 1)
        tokens = tf.concat([number, tokens], 0)
        longest = tf.reduce_max(tf.pad(rank, [[0, 1]])) + 1
        groups = tf.reduce_max(tf.pad(lengths, [[0, 1]])) + 1
        counts = tf.math.bincount(
            lengths * longest + tf.gather(rank, places), minlength=groups * longest
        )
        limits = tf.transpose(tf.reshape(tf.cumsum(counts), [groups, longest]))
        starts = limits - tf.transpose(tf.reshape(counts, [groups, longest]))
        scores = tf.gather(self._scores, tokens)
        last = places + tf.maximum(lengths, 1) - 1

        def step(turn, best, chosen):
            index = tf.ragged.range(starts[turn], limits[turn]).values
            at, to = tf.gather(places, index), tf.gather(last, index)
            before = tf.gather(best, tf.maximum(at - 1, 0))
            before = tf.where(turn > 0, before, tf.zeros_like(before))
            score = tf.gather(scores, index) + before
            better = tf.where(score > tf.gather(best, to))[:, 0]
            to = tf.gather(to, better)[:, None]
            best = tf.tensor_scatter_nd_update(best, to, tf.gather(score, better))
            chosen = tf.tensor_scatter_nd_update(chosen, to, tf.gather(index, better))
            return turn + 1, best, chosen

        worst = tf.fill([size], tf.constant(-np.inf, tf.float64))
        _, _, chosen = tf.while_loop(
            lambda turn, best, chosen: turn < longest,
            step,
            (0, worst, tf.zeros([size], tf.int32)),
        )
        froms = tf.gather(places, chosen)
        return self._path(words, begin, froms, tf.gather(tokens, chosen))

    def _path(self, words, begin, froms, tokens):
        """Follows the best path of each word from its end to its begin."""
        bounds = words.bounds
        ends = tf.boolean_mask(bounds[1:], bounds[1:] > bounds[:-1]) - 1

        def step(ends, is_end):
            is_end = tf.tensor_scatter_nd_update(
                is_end, ends[:, None], tf.ones_like(ends)
            )
            first = tf.gather(froms, ends)
            return tf.boolean_mask(first, first > tf.gather(begin, ends)) - 1, is_end

        _, is_end = tf.while_loop(
            lambda ends, is_end: tf.size(ends) > 0,
            step,
            (ends, tf.zeros_like(froms)),
            shape_invariants=(tf.TensorShape([None]), tf.TensorShape([None])),
        )
        last = tf.cast(tf.where(is_end > 0)[:, 0], tf.int32)
        return tf.gather(tokens, last), tf.gather(froms, last)

    def _as_bytes(self, tokens, words):
        """Replaces each unknown token by the tokens of its bytes."""
        is_unknown = tokens.ids == self._unknown
        stops = tf.where(is_unknown, tokens.last, tokens.first) + 1
        covered = tf.ragged.range(tokens.first, stops)
        token = tf.cast(covered.value_rowids(), tf.int32)
        chosen = tf.gather(is_unknown, token)
        place, byte = found.utf8(tf.gather(words.codes, covered.values), chosen)
        token = tf.gather(token, place)
        ids = tf.where(
            tf.gather(is_unknown, token),
            tf.gather(self._bytes, byte),
            tf.gather(tokens.ids, token),
        )
        first, last = (tf.gather(values, token) for values in tokens[1:3])
        return Tokens(ids, first, last, tf.searchsorted(token, tokens.splits))
