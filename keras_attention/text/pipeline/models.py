"""The models of a `tokenizer.json`: from words to tokens."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_attention.text import sections
from keras_attention.text.codes.state import ADDED, CodeTable
from keras_attention.text.json_files import refuse
from keras_attention.text.pipeline.merges import PairMerges, WordTable
from keras_attention.text.pipeline.tokens import (
    Model,
    Tokens,
    Words,
    byte_tokens,
    from_places,
    utf8,
    word_numbers,
)
from keras_attention.text.pipeline.unigram import Unigram
from keras_attention.text.wordpiece.words import fast_wordpiece


class _Pairs:
    """Byte-pair encoding of code points, with bytes for unknown ones or without."""

    def __init__(self, section: Mapping[str, Any]) -> None:
        dropout, unknown, prefix, suffix, *rest, vocab, merges = sections.entries(
            section,
            dropout=None,
            unk_token=None,
            continuing_subword_prefix=None,
            end_of_word_suffix=None,
            fuse_unk=False,
            byte_fallback=False,
            ignore_merges=False,
            vocab={},
            merges=[],
        )
        self._fuses, falls_back, ignores = rest
        if dropout:
            refuse("'dropout' of BPE", "null: ids would be random", dropout)
        self._count = 1 + max(vocab.values(), default=0)
        prefix, suffix = prefix or "", suffix or ""
        # By whether the letter is inside of the word, and whether it is the last one.
        self._symbols = {
            (inside, last): _letters(vocab, prefix * inside, suffix * last)
            for inside in (False, True)[: 1 + bool(prefix)]
            for last in (False, True)[: 1 + bool(suffix)]
        }
        self._bytes = byte_tokens(vocab) if falls_back else None
        if unknown is not None and unknown not in vocab:
            refuse("'unk_token' of BPE", "a token of the vocab", unknown)
        self._unknown = vocab.get(unknown)
        pairs = [_pair(one, vocab, len(prefix)) for one in merges]
        self._merges = PairMerges(pairs, self._count)
        self._whole = None
        if ignores:
            self._whole = WordTable([token.encode() for token in vocab])
            self._ids = tf.constant([*vocab.values()], tf.int32)

    def __call__(self, words: Words) -> Tokens:
        """Returns the tokens of words."""
        if self._whole is None:
            return self._split(words)
        found = self._whole(words.strings)
        is_whole = found >= 0
        gone = tf.gather(is_whole, word_numbers(words))
        split = self._split(words._replace(codes=tf.where(gone, ADDED, words.codes)))
        ids = tf.gather(self._ids, tf.maximum(found, 0))
        return _with_whole(split, words, is_whole, ids)

    def _split(self, words: Words) -> Tokens:
        word = word_numbers(words)
        place = tf.range(tf.size(words.codes))
        symbols = self._looked_up(words.codes, word)
        ids, place = tf.cond(
            tf.reduce_all(symbols > 0),
            lambda: (symbols - 1, place),
            lambda: self._known(words.codes, symbols, word),
        )
        part = self._merges.parts(ids, tf.gather(word, place))
        count = tf.reduce_max(tf.pad(part, [[0, 1]])) + 1
        ids, place = self._merges(ids, part, place, count)
        return from_places(ids, place, words.bounds)

    def _looked_up(self, codes, word):
        edge = word[1:] != word[:-1]
        inside = tf.concat([[False], ~edge], 0)[: tf.size(codes)]
        is_last = tf.concat([edge, [True]], 0)[: tf.size(codes)]
        found = self._symbols[False, False](codes)
        for (is_inside, last), table in self._symbols.items():
            is_here = (inside | (not is_inside)) & (is_last | (not last))
            if is_inside or last:
                found = tf.where(is_here, table(codes), found)
        return found

    def _known(self, codes, symbols, word):
        """Returns ids and places where some code points have no token."""
        is_there = codes < ADDED
        unknown = (symbols == 0) & is_there
        if self._bytes is not None:
            place, byte = utf8(codes, unknown)
            is_byte = tf.gather(unknown, place)
            ids = tf.gather(symbols, place) - 1
            ids = tf.where(is_byte, tf.gather(self._bytes, byte), ids)
            is_there = tf.gather(is_there, place)
            return tf.boolean_mask(ids, is_there), tf.boolean_mask(place, is_there)
        if self._unknown is None:
            is_there &= ~unknown
        elif self._fuses:
            again = unknown[1:] & unknown[:-1] & (word[1:] == word[:-1])
            is_there &= ~tf.concat([[False], again], 0)[: tf.size(codes)]
        ids = tf.where(unknown, self._unknown or 0, symbols - 1)
        place = tf.range(tf.size(codes))
        return tf.boolean_mask(ids, is_there), tf.boolean_mask(place, is_there)


def _with_whole(split, words, is_whole, ids):
    """Returns the tokens with one for each whole word."""
    lengths = split.splits[1:] - split.splits[:-1] + tf.cast(is_whole, tf.int32)
    splits = tf.concat([[0], tf.cumsum(lengths)], 0)
    alone = tf.boolean_mask(splits[:-1], is_whole)[:, None]
    size = splits[-1]
    is_alone = tf.scatter_nd(alone, tf.ones_like(alone[:, 0]), [size]) > 0
    others = tf.cast(tf.where(~is_alone), tf.int32)
    bounds = words.bounds
    columns = [
        tf.tensor_scatter_nd_update(
            tf.scatter_nd(others, old, [size]), alone, tf.boolean_mask(new, is_whole)
        )
        for old, new in zip(split[:3], (ids, bounds[:-1], bounds[1:] - 1), strict=True)
    ]
    ids, first, last = columns
    return Tokens(ids, first, last, splits)


def _letters(vocab, prefix, suffix):
    """Returns the table of the ids of single letters, plus 1."""
    found = np.zeros(ADDED, np.int32)
    size = len(prefix) + len(suffix) + 1
    for token, number in vocab.items():
        if len(token) == size and token.startswith(prefix) and token.endswith(suffix):
            found[ord(token[len(prefix)])] = number + 1
    return CodeTable(found)


def _pair(one: Any, vocab: Mapping[str, int], prefix_size: int) -> Any:
    """Returns the ids of the left, the right and the merged token of a merge."""
    pair = one.split(" ") if isinstance(one, str) else one
    if isinstance(pair, list) and len(pair) == 2 and all(type(t) is str for t in pair):
        merged = pair[0] + pair[1][prefix_size:]
        found = [vocab.get(token) for token in (*pair, merged)]
        if None not in found:
            return tuple(found)
    return refuse("a merge", "two tokens of the vocab that join to a third", one)


def _one_each(ids, words):
    """Returns tokens that are whole words; none where a word is empty."""
    bounds = words.bounds
    has = bounds[1:] > bounds[:-1]
    count = tf.cumsum(tf.cast(has, tf.int32))
    return Tokens(
        tf.boolean_mask(ids, has),
        tf.boolean_mask(bounds[:-1], has),
        tf.boolean_mask(bounds[1:] - 1, has),
        tf.concat([[0], count], 0),
    )


def _word_level(section: Mapping[str, Any]) -> Model:
    vocab, unknown = sections.entries(section, vocab={}, unk_token="")
    if unknown not in vocab:
        refuse("'unk_token' of WordLevel", "a token of the vocab", unknown)
    table = WordTable([token.encode() for token in vocab])
    ids = tf.constant([*vocab.values(), vocab[unknown]], tf.int32)

    def model(words: Words) -> Tokens:
        found = table(words.strings)
        number = tf.where(found < 0, len(vocab), found)
        return _one_each(tf.gather(ids, number), words)

    return model


def _word_piece(section: Mapping[str, Any]) -> Model:
    vocab, unknown, prefix, most = sections.entries(
        section,
        vocab={},
        unk_token="[UNK]",
        continuing_subword_prefix="##",
        max_input_chars_per_word=100,
    )
    tokens = [*vocab]
    operation = fast_wordpiece(tokens, prefix, unknown)
    ids = tf.constant([*vocab.values()], tf.int32)
    sizes = [len(token) - len(prefix) * token.startswith(prefix) for token in tokens]
    sizes = tf.constant(sizes)

    def model(words: Words) -> Tokens:
        bounds = words.bounds
        lengths = bounds[1:] - bounds[:-1]
        strings = tf.where(lengths > most, unknown, words.strings)
        found = operation.tokenize(strings)
        word = tf.cast(found.value_rowids(), tf.int32)
        size = tf.gather(sizes, found.values)
        before = tf.cumsum(size, exclusive=True)
        begin = tf.gather(tf.concat([before, [0]], 0), found.row_starts())
        first = before - tf.gather(begin, word) + tf.gather(bounds, word)
        alone = tf.gather(found.row_lengths() == 1, word)
        last = tf.where(alone, tf.gather(bounds, word + 1), first + size) - 1
        splits = tf.cast(found.row_splits, tf.int32)
        return Tokens(tf.gather(ids, found.values), first, last, splits)

    return model


def _unigram(section: Mapping[str, Any]) -> Model:
    vocab, unknown, falls_back = sections.entries(
        section, vocab=[], unk_id=0, byte_fallback=False
    )
    return Unigram(vocab, unknown, falls_back)


_MODELS: dict[str, Callable[[Any], Model]] = {
    "BPE": _Pairs,
    "Unigram": _unigram,
    "WordLevel": _word_level,
    "WordPiece": _word_piece,
}


def read(section: Any) -> tuple[Model, dict[str, int]]:
    """Returns the model of a `tokenizer.json`, and its tokens with their ids."""
    if isinstance(section, Mapping) and "type" not in section:
        section = {**section, "type": "BPE" if "merges" in section else "WordPiece"}
    model = sections.one_of(section, "model", _MODELS)(section)
    vocab = section["vocab"]
    if isinstance(vocab, list):
        vocab = {token: number for number, (token, _) in enumerate(vocab)}
    return model, dict(vocab)
