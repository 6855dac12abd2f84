"""BERT's normaliser and pre-tokenizer as TensorFlow operations: text -> words.

Texts are decoded to code points, a table has the result of normalising each of them,
and words are split between code points by the kinds of these. No regular expression and
no character class of TensorFlow is used: `unicode_sets` explains why.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_attention import untrusted
from keras_attention.text import arguments
from keras_attention.text.codes import unicode_sets

# The kinds of code points. The word splitter sees those from _SPACE on.
_DROP, _DROP_STARTER, _SPACE, _ALONE, _LETTER, _SEVERAL = range(6)

# One table entry is an int32: 22 bits for (new code point − old) + _ZERO or, for kind
# _SEVERAL, (row of the sequences) + _ZERO; 3 bits for the kind; 6 bits for the rank in
# canonical reordering. With differences instead of new code points most pages of the
# table are equal, so 1.1 million code points need only about 250 pages.
_ZERO = 0x110000
_KIND_SHIFT, _RANK_SHIFT = 22, 25
_MOST_RANKS = 1 << 6
_PAGE_BITS = 7
_PAGE = 1 << _PAGE_BITS
# Added tokens found in the text are replaced by code points from here on, which no
# text contains.
_FIRST_ADDED = unicode_sets.NUM_CODE_POINTS
_MOST_BYTES_PER_WORD = 2**31 - 1  # the limit in characters is applied before


class Words(NamedTuple):
    """The words of a batch: `[W]` strings, `[W]` lengths, `[B + 1]` row splits.

    `codes` are the code points of all words, `[N]`, split by `code_splits`, `[W + 1]`.
    Each comes from the characters `starts` to `ends` of its text.
    """

    strings: tf.Tensor
    num_characters: tf.Tensor
    row_splits: tf.Tensor
    codes: tf.Tensor
    code_splits: tf.Tensor
    is_added: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor


class BertWords:
    """Splits texts into normalised words, equal to Hugging Face's `tokenizers`.

    The same as `BertNormalizer` followed by `BertPreTokenizer`; added tokens
    (`special=True, normalized=False`) are found before the text is normalised.
    Reference: [Devlin et al., 2018](https://arxiv.org/abs/1810.04805).

    Args:
        lowercase: bool. Whether to lower-case each code point, regardless of its
            neighbours.
        strip_accents: bool. Whether to decompose (NFD) and remove nonspacing marks.
        handle_chinese_chars: bool. Whether each Chinese character is a word.
        clean_text: bool. Whether to remove control and format characters, NUL and
            U+FFFD.
        added_tokens: Strings that are not split, wherever they are in the text.
    """

    def __init__(
        self,
        lowercase: bool,
        strip_accents: bool,
        handle_chinese_chars: bool,
        clean_text: bool,
        added_tokens: Sequence[str] = (),
    ) -> None:
        settings = (lowercase, strip_accents, handle_chinese_chars, clean_text)
        table = _paged_table(*settings, -(-len(added_tokens) // _PAGE))
        self._is_plain, self._is_alone = table.is_plain, table.is_alone
        # Shortest first: where two start at the same character, the longer one wins.
        self._added = [
            (token, [ord(char) for char in token])
            for token in sorted(added_tokens, key=len)
        ]
        with tf.init_scope():  # constants of the program, not of one function
            self._pages = tf.constant(table.pages, tf.int32)
            self._entries = tf.constant(table.entries, tf.int32)
            self._sequences = tf.constant(table.sequences, tf.int32)
            self._added_strings = tf.constant(
                [token for token, _ in self._added] or [""]
            )

    def is_one_word(self, text: str) -> bool:
        """Whether text without added tokens can become exactly this word."""
        codes = [ord(char) for char in text]
        if len(codes) == 1 and self._is_alone[codes[0]]:
            return True
        return all(self._is_plain[code] for code in codes)

    def __call__(self, texts: tf.Tensor) -> Words:
        decoded = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        codes, row_splits = decoded.values, decoded.row_splits
        places = tf.ragged.range(decoded.row_lengths()).values  # in each text
        if self._added:
            first_letters = {letters[0] for _, letters in self._added}
            candidates = [codes == letter for letter in sorted(first_letters)]
            is_candidate = functools.reduce(tf.logical_or, candidates)
            codes, places, row_splits = tf.cond(
                tf.reduce_any(is_candidate),
                lambda: self._mark_added(
                    codes, places, row_splits, tf.where(is_candidate)
                ),
                lambda: (codes, places, row_splits),
            )
        return self._cut(*self._normalize(codes, places, row_splits))

    def _mark_added(
        self, codes: Any, places: Any, row_splits: Any, candidates: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Replaces each added token in the text by one special code point."""
        starts = candidates[:, 0]
        row = tf.searchsorted(row_splits, starts, side="right")
        row_end = tf.gather(row_splits, row)
        longest = max(len(letters) for _, letters in self._added)
        window = starts[:, None] + tf.range(longest, dtype=tf.int64)
        ahead = tf.gather(tf.pad(codes, [[0, longest]]), window)  # [K, longest]
        found = tf.zeros_like(starts, tf.int32)
        ends = starts
        for number, (_, letters) in enumerate(self._added):
            size = len(letters)
            is_here = tf.reduce_all(ahead[:, :size] == letters, axis=1)
            is_here &= starts + size <= row_end
            found = tf.where(is_here, _FIRST_ADDED + number, found)
            ends = tf.where(is_here, starts + size, ends)
        is_found = ends > starts
        starts, ends = (
            tf.boolean_mask(starts, is_found),
            tf.boolean_mask(ends, is_found),
        )
        found = tf.boolean_mask(found, is_found)
        codes = tf.tensor_scatter_nd_update(codes, starts[:, None], found)
        # The rest of each token is removed: from its second code point to its end.
        rest = tf.ragged.range(starts + 1, ends).values
        remains = tf.tensor_scatter_nd_update(
            tf.ones_like(codes, tf.bool), rest[:, None], tf.zeros_like(rest, tf.bool)
        )
        remaining = tf.where(remains)[:, 0]
        codes, places = tf.gather(codes, remaining), tf.gather(places, remaining)
        return codes, places, _shrink(row_splits, remaining)

    def _normalize(
        self, codes: tf.Tensor, places: tf.Tensor, row_splits: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the new code points, their places, their kinds and the row splits."""
        page = tf.gather(self._pages, tf.bitwise.right_shift(codes, _PAGE_BITS))
        entries = tf.gather(self._entries, page * _PAGE + (codes & (_PAGE - 1)))
        if self._sequences.shape[0]:
            # The largest entry shows whether the batch has one of these code points.
            codes, places, entries, row_splits = tf.cond(
                tf.reduce_max(entries) >= _SEVERAL << _KIND_SHIFT,
                lambda: self._expand_and_reorder(codes, places, entries, row_splits),
                lambda: (codes, places, entries, row_splits),
            )
        codes, kinds = codes + _value(entries), _kind(entries)
        return tf.cond(
            tf.reduce_min(kinds) < _SPACE,
            lambda: _remove_dropped(codes, places, kinds, row_splits),
            lambda: (codes, places, kinds, row_splits),
        )

    def _expand_and_reorder(
        self, codes: Any, places: Any, entries: Any, row_splits: Any
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Replaces each code point that becomes several by its sequence."""
        is_several = _kind(entries) == _SEVERAL
        row = tf.where(is_several, _value(entries), 0)
        width = self._sequences.shape[1]
        nothing = tf.fill([tf.size(entries), width - 1], _pack(0, _DROP))
        alone = tf.concat([entries[:, None], nothing], 1)  # [N, width]
        several = tf.gather(self._sequences, row)  # [N, width]
        entries = tf.where(is_several[:, None], several, alone)
        entries = tf.reshape(entries, [-1])  # [N × width]
        codes = tf.where(is_several, 0, codes)  # sequences count from 0
        codes = tf.repeat(codes, width)  # [N × width]
        places = tf.repeat(places, width)  # [N × width]
        row_splits = row_splits * width
        codes, places, entries = tf.cond(
            tf.reduce_any(_rank(entries) > 0),
            lambda: _reorder(codes, places, entries, row_splits),
            lambda: (codes, places, entries),
        )
        return codes, places, entries, row_splits

    def _cut(self, codes: Any, places: Any, kinds: Any, row_splits: Any) -> Words:
        """Splits between words, and encodes each as a string."""
        before = tf.concat([[_SPACE], kinds], 0)  # [N + 1]
        row_ends = tf.fill(tf.shape(row_splits), _SPACE)
        before = tf.tensor_scatter_nd_update(before, row_splits[:, None], row_ends)
        is_visible = kinds > _SPACE
        is_start = is_visible & ((kinds == _ALONE) | (before[:-1] != _LETTER))
        row_splits = _shrink(row_splits, tf.where(is_start)[:, 0])
        visible = tf.where(is_visible)[:, 0]
        codes, places = tf.gather(codes, visible), tf.gather(places, visible)
        starts = tf.where(tf.gather(is_start, visible))[:, 0]
        ends = tf.concat([starts, [tf.size(codes, tf.int64)]], 0)
        letters = tf.minimum(codes, _FIRST_ADDED - 1) if self._added else codes
        words = tf.strings.unicode_encode(
            tf.RaggedTensor.from_row_splits(letters, ends, validate=False), "UTF-8"
        )
        sizes = tf.ones_like(places)
        is_added = tf.zeros_like(starts, tf.bool)
        if self._added:
            number = tf.gather(codes, starts) - _FIRST_ADDED
            is_added = number >= 0
            lengths = tf.constant([len(token) for token, _ in self._added], tf.int64)
            sizes = tf.tensor_scatter_nd_update(
                sizes,
                tf.where(codes >= _FIRST_ADDED),
                tf.gather(lengths, tf.boolean_mask(number, is_added)),
            )
            words = tf.cond(
                tf.reduce_any(number >= 0),
                lambda: tf.where(
                    number >= 0,
                    tf.gather(self._added_strings, tf.maximum(number, 0)),
                    words,
                ),
                lambda: words,
            )
        return Words(
            words,
            ends[1:] - ends[:-1],
            row_splits,
            letters,
            ends,
            is_added,
            places,
            places + sizes,
        )


def _reorder(
    codes: Any, places: Any, entries: Any, row_splits: Any
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Sorts the marks that `strip_accents` does not remove, as Unicode prescribes.

    Marks that will be removed are sorted too: a starter among them ends a run.
    """
    ranks, kinds = _rank(entries), _kind(entries)
    is_starter = (ranks == 0) & (kinds != _DROP)
    num_codes = tf.size(codes)
    row_starts = tf.math.unsorted_segment_sum(
        tf.ones_like(row_splits, tf.int32), row_splits, num_codes + 1
    )
    run = tf.cumsum(tf.cast(is_starter, tf.int32) + row_starts[:-1])
    key = tf.cast(run * _MOST_RANKS + ranks, tf.int64) * tf.cast(num_codes, tf.int64)
    order = tf.argsort(key + tf.range(num_codes, dtype=tf.int64))  # no two are equal
    codes, places, entries = (tf.gather(v, order) for v in (codes, places, entries))
    return codes, places, entries


def _remove_dropped(
    codes: tf.Tensor, places: tf.Tensor, kinds: tf.Tensor, row_splits: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    remaining = tf.where(kinds >= _SPACE)[:, 0]
    row_splits = _shrink(row_splits, remaining)
    codes, places, kinds = (
        tf.gather(values, remaining) for values in (codes, places, kinds)
    )
    return codes, places, kinds, row_splits


def _shrink(row_splits: tf.Tensor, remaining: tf.Tensor) -> tf.Tensor:
    """Returns the row splits of the values with the indices `remaining`."""
    return tf.searchsorted(remaining, row_splits, out_type=tf.int64)


def _pack(value: Any, kind: Any, rank: Any = 0) -> Any:
    return (value + _ZERO) | (kind << _KIND_SHIFT) | (rank << _RANK_SHIFT)


def _value(entries: tf.Tensor) -> tf.Tensor:
    return (entries & ((1 << _KIND_SHIFT) - 1)) - _ZERO


def _kind(entries: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.right_shift(entries, _KIND_SHIFT) & 7


def _rank(entries: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.right_shift(entries, _RANK_SHIFT)


class _Table(NamedTuple):
    """The results of normalising all code points.

    The entry of a code point is `entries[pages[code // _PAGE] * _PAGE + code % _PAGE]`;
    `sequences` are those of kind _SEVERAL.
    """

    pages: np.ndarray
    entries: np.ndarray
    sequences: np.ndarray
    is_plain: np.ndarray
    is_alone: np.ndarray


@functools.lru_cache(maxsize=4)  # of 3 MB each, and a third of a second to make
def _paged_table(
    lowercase: bool,
    strip_accents: bool,
    handle_chinese_chars: bool,
    clean_text: bool,
    num_added_pages: int,
) -> _Table:
    """Returns the table of these settings, with room for added tokens behind it."""
    entries, sequences = _character_table(
        lowercase, strip_accents, handle_chinese_chars, clean_text
    )
    is_plain, is_alone = entries == _pack(0, _LETTER), entries == _pack(0, _ALONE)
    added = np.full(num_added_pages * _PAGE, _pack(0, _ALONE))
    pages = np.concatenate([entries, added]).astype(np.int32).reshape(-1, _PAGE)
    numbers: dict[bytes, int] = {}  # of the pages that differ
    found = [numbers.setdefault(page.tobytes(), len(numbers)) for page in pages]
    different = np.frombuffer(b"".join(numbers), np.int32)
    return _Table(np.array(found), different, sequences, is_plain, is_alone)


def _character_table(
    lowercase: bool, strip_accents: bool, handle_chinese_chars: bool, clean_text: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns packed entries `[0x110000]` and packed sequences `[M, width]`."""
    kind = np.full(_FIRST_ADDED, _LETTER)
    kind[unicode_sets.punctuation()] = _ALONE
    kind[unicode_sets.whitespace()] = _SPACE
    rank = np.zeros_like(kind)
    if strip_accents:
        classes = unicode_sets.kept_nonstarters()
        order = sorted(set(classes.values()))
        for code, combining_class in classes.items():
            rank[code] = 1 + order.index(combining_class)
    entries = _pack(0, kind, rank)
    targets = _targets(lowercase, strip_accents)
    width = max(map(len, targets.values()), default=1)
    sequences = []
    for code, target in targets.items():
        if len(target) == 1:
            new = target[0]
            entries[code] = _pack(new - code, kind[new], rank[new])
        else:
            entries[code] = _pack(len(sequences), _SEVERAL)
            row = [_pack(new, kind[new], rank[new]) for new in target]
            sequences.append(row + [_pack(0, _DROP)] * (width - len(row)))
    if strip_accents:
        entries[unicode_sets.marks()] = _pack(0, _DROP)
        entries[unicode_sets.starter_marks()] = _pack(0, _DROP_STARTER)
    if handle_chinese_chars:
        chosen = unicode_sets.chinese()
        entries[chosen] = _pack(_value(entries[chosen]), _ALONE)
    if clean_text:
        entries[unicode_sets.controls()] = _pack(0, _DROP)
    return entries, np.array(sequences, np.int32).reshape(-1, width)


def _targets(lowercase: bool, strip_accents: bool) -> dict[int, tuple[int, ...]]:
    """Returns `{code: new codes}`: accents are stripped first, then case is lowered."""
    targets = unicode_sets.decomposed() if strip_accents else {}
    if not lowercase:
        return targets
    lower = unicode_sets.lowered()
    for code, letters in targets.items():
        targets[code] = tuple(
            new for letter in letters for new in lower.get(letter, (letter,))
        )
    return {**lower, **targets}


def fast_wordpiece(vocabulary: Sequence[str], prefix: str, unknown: str) -> Any:
    """Returns the operation that splits words; it holds the vocabulary."""
    try:
        with tf.init_scope():
            return arguments.tensorflow_text().FastWordpieceTokenizer(
                list(vocabulary),
                suffix_indicator=prefix,
                max_bytes_per_word=_MOST_BYTES_PER_WORD,
                token_out_type=tf.int32,
                unknown_token=unknown,
                no_pretokenization=True,
            )
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"tensorflow_text cannot hold this vocabulary: {untrusted.clip(error)} "
            f"Change the token that it names. Received: {len(vocabulary)} tokens"
        ) from error
