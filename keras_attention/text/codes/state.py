"""The code points of a batch of texts, cut into pieces, each with its source."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

ADDED = 0x110000  # from here on a code is an added token; no text has such codes
_BYTES_FROM = (0x80, 0x800, 0x10000)  # from here on UTF-8 takes 2, 3, 4 bytes
_PAGE_BITS = 7
_PAGE = 1 << _PAGE_BITS


class State(NamedTuple):
    """Code points `[N]`, each from the characters `starts` to `ends` of its text.

    Piece p has the code points `bounds[p]` to `bounds[p + 1]`, and row b the pieces
    `rows[b]` to `rows[b + 1]`. An added token is a piece of one code from `ADDED` on.
    """

    codes: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor
    bounds: tf.Tensor
    rows: tf.Tensor


class CodeTable:
    """A number for each code point, as pages: most of them are equal.

    Args:
        values: The numbers `[0x110000]`.
        other: The number of every added token.
    """

    def __init__(self, values: np.ndarray, other: int = 0) -> None:
        table = np.concatenate([values, np.full(_PAGE, other, values.dtype)])
        rows = table.astype(np.int32).reshape(-1, _PAGE)
        numbers: dict[bytes, int] = {}
        pages = [numbers.setdefault(row.tobytes(), len(numbers)) for row in rows]
        values = np.frombuffer(b"".join(numbers), np.int32)
        with tf.init_scope():  # constants of the program, not of one function
            self._pages = tf.constant(np.array(pages) * _PAGE, tf.int32)
            self._values = tf.constant(values)

    def __call__(self, codes: tf.Tensor) -> tf.Tensor:
        """Returns the number of each code."""
        codes = tf.minimum(codes, ADDED)
        page = tf.gather(self._pages, tf.bitwise.right_shift(codes, _PAGE_BITS))
        return tf.gather(self._values, page + (codes & (_PAGE - 1)))


def decoded(texts: tf.Tensor) -> State:
    """Returns texts `[B]` as code points; each text is one piece."""
    found: Any = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
    place = tf.range(tf.size(found.values))
    lengths = found.row_lengths()
    starts = place - tf.repeat(tf.cast(found.row_starts(), tf.int32), lengths)
    rows = tf.range(tf.size(found.row_splits, tf.int64))
    return State(found.values, starts, starts + 1, found.row_splits, rows)


def first_codes(state: State) -> tf.Tensor:
    """Returns whether each code is the first of its piece, `[N]`."""
    return _edges(state)[:-1]


def last_codes(state: State) -> tf.Tensor:
    """Returns whether each code is the last of its piece, `[N]`."""
    return _edges(state)[1:]


def _edges(state):
    size = tf.size(state.codes, tf.int64)
    ones = tf.ones_like(state.bounds, tf.int32)
    return tf.scatter_nd(state.bounds[:, None], ones, [size + 1]) > 0


def piece_numbers(state: State) -> tf.Tensor:
    """Returns the number of each code's piece, `[N]` (int32)."""
    count = tf.range(tf.size(state.bounds) - 1)
    return tf.repeat(count, state.bounds[1:] - state.bounds[:-1])


def cut(state: State, is_start: tf.Tensor) -> State:
    """Cuts the pieces before each code that is flagged; empty pieces are left out."""
    first = tf.where(is_start | first_codes(state))[:, 0]
    inner = tf.gather(state.bounds, state.rows)
    rows = tf.searchsorted(first, inner, out_type=tf.int64)
    bounds = tf.concat([first, [tf.size(state.codes, tf.int64)]], 0)
    return state._replace(bounds=bounds, rows=rows)


def only(state: State, remains: tf.Tensor) -> State:
    """Returns the state without the codes that are not flagged."""
    return tf.cond(tf.reduce_all(remains), lambda: state, lambda: _only(state, remains))


def _only(state, remains):
    index = tf.where(remains)[:, 0]
    codes, starts, ends = (tf.gather(values, index) for values in state[:3])
    bounds = tf.searchsorted(index, state.bounds, out_type=tf.int64)
    return State(codes, starts, ends, bounds, state.rows)


def repeated(state: State, counts: tf.Tensor) -> tuple[State, Any, Any]:
    """Repeats each code `counts` times; returns the state, places and turns, `[M]`.

    Places are the indices of the old codes, turns count from 0 for each of them.
    """
    total = tf.concat([[0], tf.cumsum(counts)], 0)
    place = tf.repeat(tf.range(tf.size(counts)), counts)
    turn = tf.range(tf.size(place)) - tf.gather(total, place)
    codes, starts, ends = (tf.gather(values, place) for values in state[:3])
    bounds = tf.cast(tf.gather(total, state.bounds), tf.int64)
    return State(codes, starts, ends, bounds, state.rows), place, turn


def inserted(state: State, where: tf.Tensor, letters: str) -> State:
    """Puts letters before each code that is flagged; they have that code's source."""
    counts = 1 + len(letters) * tf.cast(where, tf.int32)
    state, place, turn = repeated(state, counts)
    is_new = turn < tf.gather(counts, place) - 1
    new = tf.gather(tf.constant([*map(ord, letters), 0]), turn)
    return state._replace(codes=tf.where(is_new, new, state.codes))


def strings(state: State) -> tf.Tensor:
    """Returns each piece as a string, `[P]`; added tokens are empty."""
    is_text = state.codes < ADDED
    text: Any = only(state, is_text)
    ragged = tf.RaggedTensor.from_row_splits(text.codes, text.bounds, validate=False)
    return tf.strings.unicode_encode(ragged, "UTF-8")


def utf8_sizes(codes: tf.Tensor) -> tf.Tensor:
    """Returns the number of bytes of each code point."""
    return 1 + sum(tf.cast(codes >= least, tf.int32) for least in _BYTES_FROM)


def utf8_byte(codes: tf.Tensor, sizes: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Returns one byte of each code point: the first where the turn is 0."""
    bits = tf.bitwise.right_shift(codes, 6 * (sizes - 1 - turns))
    lead = tf.gather(tf.constant([0, 0, 0xC0, 0xE0, 0xF0]), sizes)
    return tf.where(turns == 0, lead | bits, 0x80 | (bits & 0x3F)) & 0xFF
