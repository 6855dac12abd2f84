"""Finds the tokens of a list that begin at each place of a text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_attention.text.codes.state import ADDED, CodeTable

_CODE_BITS = 21


class Trie:
    """The tokens of a list as a tree of their letters.

    Nodes are numbered level by level, so the keys of all edges (node, letter) are
    sorted, and the child at the end of edge e is node e + 1.

    Args:
        tokens: Strings that are not empty, all different.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        letters = np.frombuffer("".join(tokens).encode("utf-32-le"), np.int32)
        lengths = np.array([*map(len, tokens)], np.int64)
        offsets = np.cumsum(lengths) - lengths
        node = np.zeros(len(tokens), np.int64)
        keys, alive = [], np.arange(len(tokens))
        count = 1
        for level in range(max(lengths)):
            alive = alive[lengths[alive] > level]
            key = (node[alive] << _CODE_BITS) | letters[offsets[alive] + level]
            edges, places = np.unique(key, return_inverse=True)
            node[alive] = count + places
            count += len(edges)
            keys.append(edges)
        tokens_of_nodes = np.full(count, -1, np.int32)
        tokens_of_nodes[node] = np.arange(len(tokens))
        root = np.zeros(ADDED, np.int32)
        root[keys[0]] = np.arange(1, 1 + len(keys[0]))
        self._root = CodeTable(root)
        with tf.init_scope():
            last = np.iinfo(np.int64).max
            self._keys = tf.constant(np.concatenate([*keys, [last]]), tf.int64)
            self._tokens = tf.constant(tokens_of_nodes)

    def roots(self, codes: tf.Tensor) -> tf.Tensor:
        """Returns the node of each code as a first letter, 0 if no token has it."""
        return self._root(codes)

    def matches(
        self, codes: Any, roots: Any, stops: Any, order: Any = None
    ) -> tuple[Any, Any, Any]:
        """Returns places, lengths and numbers of all tokens in a text, each `[C]`.

        They are sorted by length, and those of one length as the places are.

        Args:
            codes: The code points `[N]`.
            roots: Their nodes `[N]`, as `roots` returns them; 0 where no token may
                begin.
            stops: The place after the last letter of each code's piece, `[N]`.
            order: The order of the places, `[N]`; by default from left to right.
        """
        if order is None:
            order = tf.range(tf.size(roots))
        places = tf.boolean_mask(order, tf.gather(roots, order) > 0)
        free = tf.TensorShape([None])
        none = tf.zeros([0], tf.int32)

        def step(level, places, nodes, *found):
            tokens = tf.gather(self._tokens, nodes)
            ends = tf.where(tokens >= 0)[:, 0]
            hits = tf.gather(places, ends)
            hits = hits, tf.fill(tf.shape(hits), level), tf.gather(tokens, ends)
            found = [tf.concat([a, b], 0) for a, b in zip(found, hits, strict=True)]
            on = tf.where(places + level < tf.gather(stops, places))[:, 0]
            places, nodes = tf.gather(places, on), tf.gather(nodes, on)
            keys = tf.bitwise.left_shift(tf.cast(nodes, tf.int64), _CODE_BITS)
            keys |= tf.cast(tf.gather(codes, places + level), tf.int64)
            edges = tf.searchsorted(self._keys, keys)
            on = tf.where(tf.gather(self._keys, edges) == keys)[:, 0]
            nodes = tf.gather(edges, on) + 1
            return level + 1, tf.gather(places, on), nodes, *found

        _, _, _, *found = tf.while_loop(
            lambda level, places, *_: tf.size(places) > 0,
            step,
            (1, places, tf.gather(roots, places), none, none, none),
            shape_invariants=(tf.TensorShape([]), *(free,) * 5),
        )
        return tuple(found)
