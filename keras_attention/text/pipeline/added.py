"""Finds added tokens in texts, as `AddedVocabulary` of Hugging Face does."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_attention.text.codes import state as pieces
from keras_attention.text.codes import unicode_categories
from keras_attention.text.codes.state import ADDED, CodeTable, State
from keras_attention.text.codes.trie import Trie


class AddedTokens:
    """Replaces added tokens in texts by codes from `ADDED` on; each is a piece.

    Of tokens that begin at the same letter the longest is found, and after a token the
    search goes on behind it.

    Args:
        tokens: The settings of each token, under the names of a `tokenizer.json`, with
            the `text` to find.
        numbers: The number of each, which is its code minus `ADDED`.
    """

    def __init__(
        self, tokens: Sequence[Mapping[str, Any]], numbers: Sequence[int]
    ) -> None:
        self._trie = Trie([token["text"] for token in tokens])
        flags = {
            name: [bool(token.get(name)) for token in tokens]
            for name in ("single_word", "lstrip", "rstrip")
        }
        self._used = {name for name, values in flags.items() if any(values)}
        with tf.init_scope():
            self._numbers = tf.constant(numbers, tf.int32)
            self._flags = {name: tf.constant(v) for name, v in flags.items()}
        if "single_word" in self._used:
            self._is_word = CodeTable(unicode_categories.words().astype("int32"))
        if self._used & {"lstrip", "rstrip"}:
            spaces = unicode_categories.members("space")
            self._is_space = CodeTable(spaces.astype("int32"))

    def __call__(self, state: State) -> State:
        """Returns the state with its added tokens."""
        roots = self._trie.roots(state.codes)
        return tf.cond(
            tf.reduce_any(roots > 0), lambda: self._found(state, roots), lambda: state
        )

    def _found(self, state, roots):
        size = tf.size(state.codes)
        piece = pieces.piece_numbers(state)
        limits = tf.gather(tf.cast(state.bounds, tf.int32), piece + 1)
        places, lengths, tokens = self._trie.matches(state.codes, roots, limits)
        longest = tf.math.unsorted_segment_max(lengths, places, size)
        hit = tf.where(tf.gather(longest, places) == lengths)[:, 0]
        places, lengths, tokens = (
            tf.gather(values, hit) for values in (places, lengths, tokens)
        )
        order = tf.argsort(places)
        places, lengths, tokens = (
            tf.gather(values, order) for values in (places, lengths, tokens)
        )
        chosen = tf.where(_without_overlap(places, places + lengths, size))[:, 0]
        places, lengths, tokens = (
            tf.gather(values, chosen) for values in (places, lengths, tokens)
        )
        stops = places + lengths
        if "single_word" in self._used:
            whole = ~self._next_to_word(state, places, stops, tokens)
            whole = tf.where(whole)[:, 0]
            places, stops, tokens = (
                tf.gather(values, whole) for values in (places, stops, tokens)
            )
        froms, tos = self._widened(state, places, stops, tokens)
        return self._marked(state, froms, tos, tokens)

    def _next_to_word(self, state, places, stops, tokens):
        is_word = tf.concat([self._is_word(state.codes) > 0, [False]], 0)
        is_first = tf.gather(pieces.first_codes(state), places)
        is_last = tf.gather(pieces.last_codes(state), stops - 1)
        left = ~is_first & tf.gather(is_word, tf.maximum(places - 1, 0))
        right = ~is_last & tf.gather(is_word, stops)
        return (left | right) & tf.gather(self._flags["single_word"], tokens)

    def _widened(self, state, places, stops, tokens):
        """Returns the begins and ends of tokens with the white space that they take."""
        if not self._used & {"lstrip", "rstrip"}:
            return places, stops
        size = tf.size(state.codes)
        solid = tf.where(self._is_space(state.codes) == 0)[:, 0]
        solid = tf.concat([tf.cast(solid, tf.int32), [size]], 0)
        bounds = tf.cast(state.bounds, tf.int32)
        right = tf.gather(solid, tf.searchsorted(solid, stops))
        row_end = tf.gather(bounds, tf.searchsorted(bounds, places, side="right"))
        right = tf.minimum(right, row_end)
        right = tf.where(tf.gather(self._flags["rstrip"], tokens), right, stops)
        before = tf.searchsorted(solid, places) - 1
        left = tf.gather(solid, tf.maximum(before, 0)) + 1
        left = tf.where(before < 0, 0, left)
        row = tf.searchsorted(bounds, places, side="right") - 1
        left = tf.maximum(left, tf.gather(bounds, row))
        left = tf.maximum(left, tf.concat([[0], right[:-1]], 0))
        return tf.where(tf.gather(self._flags["lstrip"], tokens), left, places), right

    def _marked(self, state, froms, tos, tokens):
        size = tf.size(state.codes)
        codes = ADDED + tf.gather(self._numbers, tokens)
        where = froms[:, None]
        codes = tf.tensor_scatter_nd_update(state.codes, where, codes)
        ends = tf.tensor_scatter_nd_update(
            state.ends, where, tf.gather(state.ends, tos - 1)
        )
        rest = tf.ragged.range(froms + 1, tos).values
        gone = tf.scatter_nd(rest[:, None], tf.ones_like(rest), [size]) > 0
        found: Any = pieces.only(state._replace(codes=codes, ends=ends), ~gone)
        is_token = found.codes >= ADDED
        return pieces.cut(found, is_token | tf.concat([[False], is_token[:-1]], 0))


def _without_overlap(begins, stops, size):
    """Returns whether each match is found if the search goes on after each match."""
    ones = tf.ones_like(begins)
    delta = tf.scatter_nd(begins[:, None] + 1, ones, [size + 2])
    delta -= tf.scatter_nd(stops[:, None], ones, [size + 2])
    # A match that no earlier one covers is found whatever the others are.
    free = tf.gather(tf.cumsum(delta), begins) == 0
    following = tf.searchsorted(begins, stops)
    count = tf.size(begins)

    def step(kept, fresh):
        ahead = tf.gather(following, tf.where(fresh)[:, 0])
        ahead = tf.boolean_mask(ahead, ahead < count)
        flags = tf.scatter_nd(ahead[:, None], tf.ones_like(ahead), [count]) > 0
        return kept | flags, flags & ~kept

    kept, _ = tf.while_loop(
        lambda kept, fresh: tf.reduce_any(fresh), step, (free, free)
    )
    return kept
