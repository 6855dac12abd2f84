"""The `Precompiled` normalizer: SentencePiece's table, as the crate uses it.

The table is a trie of UTF-8 texts and what replaces each. The crate looks up grapheme
clusters of less than six bytes, and otherwise each character. Of the texts in the
table that a cluster begins with it takes the shortest, for the whole cluster.
Reference: the crate `spm_precompiled`.
"""

import base64
import binascii
import struct
from typing import Any

import numpy as np
import tensorflow as tf

from keras_attention.text.codes import state as pieces
from keras_attention.text.codes import unicode_categories
from keras_attention.text.codes.state import ADDED, CodeTable, State
from keras_attention.text.codes.trie import Trie
from keras_attention.text.json_files import refuse

_MOST_BYTES = 6  # of a cluster that is looked up as a whole
_EXTEND, _CONTROL, _PREPEND = 1, 2, 3
# Marks that do not extend the character before them, and others that do.
_APART = (
    "102b-102c 1038 1062-1064 1067-106d 1083 1087-108c 108f 109a-109c 1a61 1a63-1a64 "
    "aa7b aa7d 11720-11721"
)
_EXTENDS = "200c-200d ff9e-ff9f e33 eb3"
_PREPENDS = "600-605 6dd 70f 890-891 8e2 d4e"


class Charsmap:
    """The `Precompiled` normalizer.

    Args:
        charsmap: The entry `precompiled_charsmap`, in base 64.
    """

    def __init__(self, charsmap: str) -> None:
        table = _read(charsmap)
        distinct = {text: n + 1 for n, text in enumerate(dict.fromkeys(table.values()))}
        numbers = np.zeros(ADDED, np.int32)
        for key, text in table.items():
            if len(key) == 1:
                numbers[ord(key)] = distinct[text]
        clusters = [x for x in table if len(x) > 1 and len(x.encode()) < _MOST_BYTES]
        self._trie = Trie(clusters) if clusters else None
        extends = unicode_categories.members("M") & ~unicode_categories.read_set(_APART)
        extends |= unicode_categories.read_set(_EXTENDS)
        role = np.zeros(ADDED, np.int32)
        for name in ("Cc", "Cf", "Zl", "Zp"):
            role[unicode_categories.members(name)] = _CONTROL
        role[extends] = _EXTEND
        role[unicode_categories.read_set(_PREPENDS)] = _PREPEND
        self._numbers, self._role = CodeTable(numbers), CodeTable(role, _CONTROL)
        sizes = [1, *map(len, distinct)]
        letters = [0, *(ord(letter) for text in distinct for letter in text)]
        with tf.init_scope():
            self._texts = tf.constant([0, *(distinct[x] for x in clusters)], tf.int32)
            self._sizes = tf.constant(sizes, tf.int32)
            self._first = tf.constant(np.cumsum(sizes) - sizes, tf.int32)
            self._letters = tf.constant(letters, tf.int32)

    def __call__(self, state: State) -> State:
        """Returns the normalized state."""
        numbers = self._numbers(state.codes)
        remains = tf.ones_like(numbers, tf.bool)
        if self._trie is not None:
            role = self._role(state.codes)
            joins = (role == _EXTEND) & ~_after(role == _CONTROL)
            joins |= _after(role == _PREPEND) & (role != _CONTROL)
            joins |= (state.codes == 10) & _after(state.codes == 13)
            joins &= ~pieces.first_codes(state)
            numbers, remains = tf.cond(
                tf.reduce_any(joins),
                lambda: self._clusters(state.codes, numbers, joins),
                lambda: (numbers, remains),
            )
        return tf.cond(
            tf.reduce_any(numbers > 0),
            lambda: self._mapped(state, numbers, remains),
            lambda: state,
        )

    def _clusters(self, codes, numbers, joins):
        """Returns the replacements where clusters are looked up, and what remains."""
        trie: Any = self._trie
        cluster = tf.cumsum(tf.cast(~joins, tf.int32)) - 1
        first = tf.cast(tf.where(~joins)[:, 0], tf.int32)
        count = tf.size(first)
        sizes = pieces.utf8_sizes(codes)
        sizes = tf.math.unsorted_segment_sum(sizes, cluster, count)
        bounds = tf.concat([first, [tf.size(codes)]], 0)
        is_whole = (sizes < _MOST_BYTES) & (bounds[1:] - bounds[:-1] > 1)
        roots = tf.where(tf.gather(is_whole, cluster) & ~joins, trie.roots(codes), 0)
        stops = tf.gather(bounds, cluster + 1)
        places, lengths, keys = trie.matches(codes, roots, stops)
        # The shortest key is found for the whole cluster; one letter is the shortest.
        shortest = tf.math.unsorted_segment_min(lengths, places, tf.size(codes))
        is_chosen = tf.gather(shortest, places) == lengths
        chosen = tf.scatter_nd(
            tf.boolean_mask(places, is_chosen)[:, None],
            tf.gather(self._texts, tf.boolean_mask(keys, is_chosen) + 1),
            tf.shape(codes),
        )
        whole = tf.where(numbers > 0, numbers, chosen)
        whole = tf.where(is_whole, tf.gather(whole, first), 0)
        whole = tf.gather(whole, cluster)
        return tf.where(whole > 0, whole, numbers), ~((whole > 0) & joins)

    def _mapped(self, state, numbers, remains):
        counts = tf.gather(self._sizes, numbers) * tf.cast(remains, tf.int32)
        state, place, turn = pieces.repeated(state, counts)
        numbers = tf.gather(numbers, place)
        new = tf.gather(self._letters, tf.gather(self._first, numbers) + turn)
        return state._replace(codes=tf.where(numbers > 0, new, state.codes))


def _after(flags: Any) -> Any:
    return tf.concat([[False], flags[:-1]], 0)


def _read(charsmap: str) -> dict[str, str]:
    """Returns the texts of the table and what replaces each."""
    try:
        data = base64.b64decode(charsmap, validate=True)
        (size,) = struct.unpack_from("<I", data)
        units = np.frombuffer(data, "<u4", size // 4, 4).astype(np.int64)
        texts = data[4 + size :]
        found = _keys(units)
        return {
            key.decode(): texts[at : texts.index(b"\0", at)].decode()
            for key, at in found
        }
    except (binascii.Error, struct.error, ValueError, IndexError, TypeError) as error:
        return refuse("the precompiled_charsmap", "SentencePiece's table", str(error))


def _keys(units: np.ndarray) -> list[tuple[bytes, int]]:
    """Returns the keys of a double array (Darts) and their values."""
    found = []
    labels = np.arange(1, 256)
    offsets = (units >> 10) << ((units & 0x200) >> 6)
    nodes, names = np.array([0]), [b""]
    ids = offsets[nodes]  # of a node's children: id xor label
    for _ in range(64):  # bytes of the longest key
        places = ids[:, None] ^ labels  # [nodes, 255]
        inside = places < len(units)
        unit = units[np.where(inside, places, 0)]
        hits = inside & ((unit & 0x800000FF) == labels)
        parents, columns = np.nonzero(hits)
        if not len(parents):
            return found
        nodes = places[parents, columns]
        names = [
            names[parent] + bytes([label])
            for parent, label in zip(parents, labels[columns], strict=True)
        ]
        ids = nodes ^ offsets[nodes]
        is_key = (units[nodes] & 0x100) > 0
        for place in np.flatnonzero(is_key):
            value = units[ids[place]] & 0x7FFFFFFF
            found.append((names[place], int(value)))
    raise ValueError("keys of more than 64 bytes")
