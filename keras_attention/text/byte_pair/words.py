"""The regular expressions of GPT-2 and Llama 3 as TensorFlow operations: text -> words.

RE2 has no lookahead, and TensorFlow's character classes follow another version of
Unicode than Hugging Face's. So each code point is looked up in a table (letter, number,
white space, other), and words are split between code points by the kinds of these.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_attention.text.byte_pair import nfc, tables
from keras_attention.text.patterns import GPT2_PATTERN

_LETTER, _NUMBER, _SPACE, _OTHER, _EDGE = range(5)
_BLANK, _APOSTROPHE = 0x20, 0x27
_PAGE_BITS = 7
_PAGE = 1 << _PAGE_BITS
_FIRST_ADDED = 0x110000  # code points of added tokens; no text has these

_NEWER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Pattern -> the most digits in a word; None: GPT-2's pattern, which has no limit.
PATTERNS: dict[str, int | None] = {
    GPT2_PATTERN: None,
    _NEWER.replace("DIGITS", r"\p{N}{1,3}"): 3,
    _NEWER.replace("DIGITS", r"\p{N}"): 1,
}


def check_pattern(pattern: str) -> None:
    """Refuses a pattern that is not supported here."""
    if pattern not in PATTERNS:
        raise ValueError(
            "This tokenizer cannot be reproduced exactly because of its regular "
            "expression; supported: those of GPT-2, Llama 3 and Qwen2. Pass token ids "
            f"that its own library made. Received: pattern={pattern!r}"
        )


class ByteWords(NamedTuple):
    """Words `[W]`, numbers of added tokens or −1 `[W]`, row splits `[B + 1]`.

    `codes` are the code points of all words, one after the other, `[N]`. Each comes
    from the characters `starts` to `ends` of its text.
    """

    strings: tf.Tensor
    added: tf.Tensor
    row_splits: tf.Tensor
    codes: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor


class ByteSplitter:
    """Splits texts into words as a regular expression of `PATTERNS` does.

    Args:
        pattern: One of `PATTERNS`.
        add_prefix_space: bool. Whether to put a space before a text that starts with
            none.
        added_tokens: `{token: (lstrip, rstrip)}`. They are found before the text is
            split; the flags say whether the white space on the left and on the right
            of a token is removed.
        normalization: `"NFC"` or `None`, for the text between added tokens.
    """

    def __init__(
        self,
        pattern: str,
        add_prefix_space: bool,
        added_tokens: Mapping[str, tuple[bool, bool]],
        normalization: str | None = None,
    ) -> None:
        self._normalization = normalization
        self._digits = PATTERNS[pattern]
        self._add_prefix_space = add_prefix_space
        self._added = sorted(added_tokens, key=len)  # the longest last, which wins
        self._strips = np.array(
            [added_tokens[token] for token in self._added] or [(False, False)]
        )
        kinds = np.full(_FIRST_ADDED, _OTHER, np.int32)
        kinds[tables.letters()] = _LETTER
        kinds[tables.numbers()] = _NUMBER
        kinds[tables.whitespace()] = _SPACE
        room = -(-max(1, len(self._added)) // _PAGE) * _PAGE
        kinds = np.concatenate([kinds, np.full(room, _EDGE, np.int32)])
        rows, pages = np.unique(kinds.reshape(-1, _PAGE), axis=0, return_inverse=True)
        with tf.init_scope():
            self._pages = tf.constant(pages.reshape(-1), tf.int32)
            self._kinds = tf.constant(rows.reshape(-1), tf.int32)

    @property
    def added(self) -> Sequence[str]:
        """The added tokens, in the order of their numbers in `ByteWords.added`."""
        return self._added

    def __call__(self, texts: tf.Tensor) -> ByteWords:
        decoded = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        codes, splits = decoded.values, decoded.row_splits
        place = tf.range(tf.size(codes, tf.int64))
        starts = place - tf.repeat(splits[:-1], splits[1:] - splits[:-1])
        state = codes, splits, starts, starts + 1
        if self._added:
            letters = sorted({ord(token[0]) for token in self._added})
            is_candidate = tf.reduce_any(codes[:, None] == tf.constant(letters), 1)
            state = tf.cond(
                tf.reduce_any(is_candidate),
                lambda: self._mark_added(state, tf.where(is_candidate)[:, 0]),
                lambda: state,
            )
        if self._normalization is not None:
            state = nfc.composed(state, _FIRST_ADDED)
        if self._add_prefix_space:
            state = self._prefix(*state)
        codes, splits, starts, ends = state
        return self._cut(codes, splits, starts, ends)

    def _kind(self, codes: tf.Tensor) -> tf.Tensor:
        page = tf.gather(self._pages, tf.bitwise.right_shift(codes, _PAGE_BITS))
        return tf.gather(self._kinds, page * _PAGE + (codes & (_PAGE - 1)))

    def _mark_added(self, state: Any, candidates: Any) -> Any:
        """Replaces each added token in the text by one special code point."""
        codes, splits, starts, ends = state
        row_end = tf.gather(splits, tf.searchsorted(splits, candidates, side="right"))
        longest = max(map(len, self._added))
        window = candidates[:, None] + tf.range(longest, dtype=tf.int64)
        ahead = tf.gather(tf.pad(codes, [[0, longest]]), window)  # [K, longest]
        found = tf.fill(tf.shape(candidates), -1)
        stops = candidates
        for number, token in enumerate(self._added):
            is_here = tf.reduce_all(ahead[:, : len(token)] == [*map(ord, token)], 1)
            is_here &= candidates + len(token) <= row_end
            found = tf.where(is_here, number, found)
            stops = tf.where(is_here, candidates + len(token), stops)
        hit = tf.where(found >= 0)[:, 0]
        first, found = tf.gather(candidates, hit), tf.gather(found, hit)
        last = tf.gather(stops, hit) - 1
        ends = tf.tensor_scatter_nd_update(ends, first[:, None], tf.gather(ends, last))
        codes = tf.tensor_scatter_nd_update(codes, first[:, None], _FIRST_ADDED + found)
        rest = tf.ragged.range(first + 1, last + 1).values
        state = _without(rest, codes, splits, starts, ends)
        return self._strip(*state) if self._strips.any() else state

    def _strip(self, codes: Any, splits: Any, starts: Any, ends: Any) -> Any:
        """Removes the white space next to added tokens that strip it."""
        place = tf.range(tf.size(codes, tf.int64))
        row = tf.searchsorted(splits, place, side="right")
        solid = tf.where(self._kind(codes) != _SPACE)[:, 0]
        is_space = self._kind(codes) == _SPACE
        after = tf.searchsorted(solid, place)
        is_removed = tf.zeros_like(codes, tf.bool)
        count = tf.size(solid)
        for side, other, is_inside in (
            (0, after, after < count),  # lstrip: the token comes after the space
            (1, after - 1, after > 0),
        ):
            index = tf.gather(tf.pad(solid, [[0, 1]]), tf.maximum(other, 0))
            number = tf.gather(codes, index) - _FIRST_ADDED
            strips = tf.gather(self._strips[:, side], tf.maximum(number, 0))
            same = is_inside & (tf.gather(row, index) == row)
            is_removed |= is_space & same & (number >= 0) & strips
        return _without(tf.where(is_removed)[:, 0], codes, splits, starts, ends)

    def _prefix(self, codes: Any, splits: Any, starts: Any, ends: Any) -> Any:
        """Puts a space before each stretch of text between added tokens."""
        before = _before(codes, splits, _FIRST_ADDED)
        needs = (before >= _FIRST_ADDED) & (codes < _FIRST_ADDED) & (codes != _BLANK)
        counts = 1 + tf.cast(needs, tf.int64)
        new = tf.concat([[0], tf.cumsum(counts)], 0)  # [N + 1]
        codes, starts, ends = (
            tf.repeat(values, counts) for values in (codes, starts, ends)
        )
        place = tf.boolean_mask(new[:-1], needs)
        blanks = tf.fill(tf.shape(place), _BLANK)
        codes = tf.tensor_scatter_nd_update(codes, place[:, None], blanks)
        return codes, tf.gather(new, splits), starts, ends

    def _cut(self, codes: Any, splits: Any, starts: Any, ends: Any) -> ByteWords:
        kinds = self._kind(codes)
        cut = _gpt2_starts if self._digits is None else self._newer_starts
        is_start = cut(codes, kinds, splits)
        first = tf.where(is_start)[:, 0]
        row_splits = tf.searchsorted(first, splits, out_type=tf.int64)
        bounds = tf.concat([first, [tf.size(codes, tf.int64)]], 0)
        letters = tf.minimum(codes, _FIRST_ADDED - 1)
        strings = tf.strings.unicode_encode(
            tf.RaggedTensor.from_row_splits(letters, bounds, validate=False), "UTF-8"
        )
        added = tf.maximum(tf.gather(codes, first) - _FIRST_ADDED, -1)
        return ByteWords(strings, added, row_splits, codes, starts, ends)

    def _newer_starts(self, codes: Any, kinds: Any, splits: Any) -> tf.Tensor:
        before, after, blank = _neighbours(codes, kinds, splits)
        is_space, is_line = kinds == _SPACE, (codes == 10) | (codes == 13)
        place = tf.range(tf.size(codes))
        line_before = (before == _SPACE) & _moved(is_line)
        # White space: a word up to the last line break, then a word of the rest without
        # its last character.
        run = tf.cumsum(tf.cast(is_space & (before != _SPACE), tf.int32))
        num_runs = tf.size(codes) + 1
        far = tf.size(codes)
        no_line = tf.where(is_space & ~is_line, place, far)
        first_no_line = tf.math.unsorted_segment_min(no_line, run, num_runs)
        after_other = tf.math.unsorted_segment_max(
            tf.cast(is_space & (before == _OTHER), tf.int32), run, num_runs
        )
        # Line breaks immediately after punctuation belong to its word.
        absorbed = is_line & (place < tf.gather(first_no_line, run))
        absorbed &= tf.gather(after_other, run) == 1
        lines = tf.where(is_line & ~absorbed, place, -1)
        last_line = tf.gather(tf.math.unsorted_segment_max(lines, run, num_runs), run)
        was_absorbed = _moved(absorbed) & (before == _SPACE)
        space_starts = ~absorbed & (
            (before != _SPACE)
            | was_absorbed
            | (place == last_line + 1)
            | ((after < _EDGE) & (after != _SPACE) & (place > last_line))
        )
        # A letter joins the character before it, unless that is a line break, a number
        # or a part of longer punctuation.
        lone = (kinds == _OTHER) & (before != _OTHER) & ~blank
        joins = (before == _SPACE) & ~line_before
        joins |= (before == _OTHER) & _moved(lone)
        letter_starts = (before != _LETTER) & ~joins
        other_starts = (before != _OTHER) & ~blank
        digit = tf.where((kinds == _NUMBER) & (before != _NUMBER), place, -1)
        number_run = tf.cumsum(tf.cast(digit >= 0, tf.int32))
        begin = tf.math.unsorted_segment_max(digit, number_run, num_runs)
        offset = place - tf.gather(begin, number_run)
        choices = {
            _SPACE: space_starts,
            _LETTER: letter_starts,
            _OTHER: other_starts,
            _NUMBER: offset % self._digits == 0,
        }
        is_start = kinds == _EDGE
        for kind, starts in choices.items():
            is_start |= (kinds == kind) & starts
        lower = tf.where((codes >= 65) & (codes <= 90), codes + 32, codes)
        lower = tf.where(codes == 0x17F, ord("s"), lower)  # ſ, the old small s
        can = (codes == _APOSTROPHE) & (before != _OTHER) & ~blank
        return _contractions(is_start, can, lower, splits)


def _gpt2_starts(codes: Any, kinds: Any, splits: Any) -> tf.Tensor:
    before, after, blank = _neighbours(codes, kinds, splits)
    space_starts = (before != _SPACE) | ((after != _SPACE) & (after != _EDGE))
    other_starts = (kinds != before) & ~blank
    is_start = tf.where(kinds == _SPACE, space_starts, other_starts)
    is_start |= kinds == _EDGE
    can = (codes == _APOSTROPHE) & (before != _OTHER) & ~blank
    return _contractions(is_start, can, codes, splits)


def _contractions(is_start: Any, can: Any, codes: Any, splits: Any) -> tf.Tensor:
    """Makes words of `'s 't 're 've 'm 'll 'd`; what follows begins another word."""
    one, two = _after(codes, splits, 0), _after(codes, splits, 0, 2)
    short = can & tf.reduce_any(one[:, None] == [*map(ord, "stmd")], 1)
    long = tf.zeros_like(can)
    for first, second in ("re", "ve", "ll"):
        long |= (one == ord(first)) & (two == ord(second))
    long &= can
    is_start &= ~_moved(short | long)
    return is_start | _moved(short, 2) | _moved(long, 3)


def _neighbours(codes: Any, kinds: Any, splits: Any) -> tuple[Any, Any, Any]:
    """Returns the kinds before and after, and whether a space (U+0020) is before."""
    before = _before(kinds, splits, _EDGE)
    after = _after(kinds, splits, _EDGE)
    return before, after, _before(codes, splits, 0) == _BLANK


def _moved(flags: tf.Tensor, by: int = 1) -> tf.Tensor:
    return tf.concat([tf.zeros([by], tf.bool), flags], 0)[: tf.size(flags)]


def _before(values: tf.Tensor, splits: tf.Tensor, edge: int) -> tf.Tensor:
    """Returns each value's left neighbour in its row, `edge` at the row's start."""
    moved = tf.concat([[edge], values], 0)  # [N + 1]
    edges = tf.fill(tf.shape(splits), edge)
    return tf.tensor_scatter_nd_update(moved, splits[:, None], edges)[:-1]


def _after(values: Any, splits: Any, edge: int, by: int = 1) -> tf.Tensor:
    """Returns each value's right neighbour in its row, `edge` at the row's end."""
    row_end = tf.repeat(splits[1:], splits[1:] - splits[:-1])
    place = tf.range(tf.size(values, tf.int64)) + by
    moved = tf.concat([values, tf.fill([by], edge)], 0)[by:]
    return tf.where(place < row_end, moved, edge)


def _without(removed: Any, codes: Any, splits: Any, starts: Any, ends: Any) -> Any:
    """Returns the code points without those that have the indices `removed`."""
    flags = tf.zeros_like(removed, tf.bool)
    remains = tf.tensor_scatter_nd_update(
        tf.ones_like(codes, tf.bool), removed[:, None], flags
    )
    remaining = tf.where(remains)[:, 0]
    splits = tf.searchsorted(remaining, splits, out_type=tf.int64)
    return (
        tf.gather(codes, remaining),
        splits,
        tf.gather(starts, remaining),
        tf.gather(ends, remaining),
    )
