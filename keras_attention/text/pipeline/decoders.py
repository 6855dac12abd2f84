"""The decoders of a `tokenizer.json`: from tokens to texts.

What a decoder makes of a token depends on the token and on whether it is the first or
the last of its text, so up to `Fuse` all of it is a table. What follows `Fuse` changes
whole texts.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_attention.text import sections
from keras_attention.text.json_files import refuse
from keras_attention.text.patterns import byte_characters

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
# What the crate's `cleanup` replaces, in its order.
_CLEANUP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
_INVALID = "\ufffd"
# A function of a token's text and of its place: 0 first, 1 inside, 2 last, 3 alone.
TextOf = Callable[[str, int], str]
_FIRST, _LAST = {0, 3}, {2, 3}


def _replace(section: Any) -> TextOf:
    pattern, content = sections.entries(section, pattern=None, content="")
    text = pattern.get("String") if isinstance(pattern, Mapping) else None
    if not isinstance(text, str) or not text:
        refuse("the decoder's Replace", "a String", section)
    return lambda token, _: token.replace(text, content)


def _strip(section: Any) -> TextOf:
    content, start, stop = sections.entries(section, content=" ", start=0, stop=0)
    if len(content) != 1:
        refuse("'content' of the decoder's Strip", "one character", section)

    def text_of(token: str, _: int) -> str:
        left = min(start, len(token) - len(token.lstrip(content)))
        token = token[left:]
        right = min(stop, len(token) - len(token.rstrip(content)))
        return token[: len(token) - right]

    return text_of


def _metaspace(section: Any) -> TextOf:
    letter, scheme, _, add_space, _ = sections.entries(
        section,
        replacement="▁",
        prepend_scheme="",
        split=True,
        add_prefix_space=None,
        str_rep=None,
    )
    scheme = scheme or ("never" if add_space is False else "always")

    def text_of(token: str, place: int) -> str:
        is_dropped = place in _FIRST and scheme != "never"
        return token.replace(letter, "" if is_dropped else " ")

    return text_of


def _word_piece(section: Any) -> TextOf:
    prefix, cleans = sections.entries(section, prefix="##", cleanup=True)

    def text_of(token: str, place: int) -> str:
        if place not in _FIRST:
            starts = token.startswith(prefix)
            token = token[len(prefix) :] if starts else f" {token}"
        for old, new in _CLEANUP if cleans else ():
            token = token.replace(old, new)
        return token

    return text_of


def _bpe(section: Any) -> TextOf:
    (suffix,) = sections.entries(section, suffix="</w>")
    return lambda token, place: token.replace(suffix, "" if place in _LAST else " ")


_DECODERS: dict[str, Callable[[Any], TextOf]] = {
    "BPEDecoder": _bpe,
    "Metaspace": _metaspace,
    "Replace": _replace,
    "Strip": _strip,
    "WordPiece": _word_piece,
}
_BY_PLACE = ("BPEDecoder", "Metaspace", "WordPiece")
_OF_BYTES = ("ByteFallback", "ByteLevel", "Fuse")


class Decoder:
    """Joins tokens to texts as a decoder of a `tokenizer.json` does.

    Args:
        section: The decoder, or `None`: tokens are joined by spaces.
        vocabulary: The tokens; the index of each is its id.
    """

    def __init__(self, section: Any, vocabulary: Sequence[str]) -> None:
        steps = sections.steps(section, "decoders")
        # One table for all places, or one for each.
        tables: list[list[Any]] = [[*vocabulary]]
        if section is None:
            spaced = [f" {token}" for token in vocabulary]
            tables = [[*vocabulary], spaced, spaced, [*vocabulary]]
        known = {**_DECODERS, **dict.fromkeys(_OF_BYTES)}
        is_byte = [False] * len(vocabulary)
        self._afterwards: list[Callable[[tf.Tensor], tf.Tensor]] = []
        is_fused = False
        for step in steps:
            read = sections.one_of(step, "decoder", known)
            name = step["type"]
            if name in {"Fuse", "ByteFallback"}:
                sections.entries(step)
            if name == "Fuse":
                is_fused = True
            elif name == "ByteFallback" and not is_fused:
                is_byte = [_BYTE.fullmatch(token) is not None for token in vocabulary]
            elif name == "ByteLevel" and not is_fused:
                tables = [_level(table) for table in tables]
                is_fused = True
            elif read is None:
                refuse("the decoder", f"{name} before Fuse", section)
            elif is_fused:
                self._afterwards.append(_of_texts(step))
            else:
                text_of = read(step)
                if name in _BY_PLACE and len(tables) == 1:
                    tables *= 4
                tables = [
                    [
                        x if byte else text_of(x, place)
                        for x, byte in zip(table, is_byte, strict=True)
                    ]
                    for place, table in enumerate(tables)
                ]
        self._build(tables, is_byte)

    def _build(self, tables, is_byte):
        raw = [
            [
                bytes.fromhex(x[3:5]) if byte else x
                for x, byte in zip(table, is_byte, strict=True)
            ]
            for table in tables
        ]
        with tf.init_scope():
            self._texts = tf.constant(raw, tf.string)
            self._is_byte = tf.constant(is_byte) if any(is_byte) else None

    def __call__(self, rows: Any) -> tf.Tensor:
        """Returns the texts `[B]` of ids `[B, None]`, ragged."""
        if len(self._texts) == 1:
            texts = rows.with_values(tf.gather(self._texts[0], rows.values))
        else:
            place = tf.range(tf.size(rows.values, tf.int64))
            row = rows.value_rowids()
            is_first = place == tf.gather(rows.row_starts(), row)
            is_last = place == tf.gather(rows.row_limits(), row) - 1
            number = tf.where(
                is_first, tf.where(is_last, 3, 0), tf.where(is_last, 2, 1)
            )
            index = tf.stack([number, tf.cast(rows.values, tf.int32)], 1)
            texts = rows.with_values(tf.gather_nd(self._texts, index))
        if self._is_byte is not None:
            texts = self._characters(rows, texts, tf.gather(self._is_byte, rows.values))
        joined = tf.strings.reduce_join(texts, axis=1)
        joined = tf.strings.unicode_transcode(
            joined, "UTF-8", "UTF-8", errors="replace"
        )
        for step in self._afterwards:
            joined = step(joined)
        return joined

    def _characters(self, rows, texts, is_byte):
        """Joins the bytes of each stretch; where they are no text, each is invalid."""
        starts = tf.scatter_nd(
            rows.row_splits[:, None],
            tf.ones_like(rows.row_splits, tf.int32),
            [tf.size(is_byte, tf.int64) + 1],
        )[:-1]
        before = tf.concat([[False], is_byte[:-1]], 0)[: tf.size(is_byte)]
        stretch = tf.cumsum(tf.cast(~is_byte | ~before | (starts > 0), tf.int32)) - 1
        count = tf.reduce_max(tf.pad(stretch + 1, [[0, 1]]))
        joined = tf.strings.unsorted_segment_join(texts.values, stretch, count)
        sound = tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace")
        is_sound = tf.gather(joined == sound, stretch)
        values = tf.where(is_byte & ~is_sound, _INVALID, texts.values)
        return texts.with_values(values)


def _level(tokens: Sequence[str]) -> list[bytes]:
    """Returns the bytes that GPT-2's letters stand for; other text is itself."""
    codes = {letter: bytes([byte]) for byte, letter in byte_characters().items()}
    return [
        token.encode()
        if any(letter not in codes for letter in token)
        else b"".join([codes[letter] for letter in token])
        for token in tokens
    ]


def _of_texts(section: Any) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the step that changes whole texts."""
    if section["type"] == "Strip":
        content, start, stop = sections.entries(section, content=" ", start=0, stop=0)
        letter = re.escape(content)
        if len(content) != 1:
            refuse("'content' of the decoder's Strip", "one character", section)
        left, right = f"^(?:{letter}){{0,{start}}}", f"(?:{letter}){{0,{stop}}}$"

        def strip(texts: tf.Tensor) -> tf.Tensor:
            if start:
                texts = tf.strings.regex_replace(texts, left, "", replace_global=False)
            if stop:
                texts = tf.strings.regex_replace(texts, right, "")
            return texts

        return strip
    if section["type"] == "Replace":
        pattern, content = sections.entries(section, pattern=None, content="")
        text = pattern.get("String") if isinstance(pattern, Mapping) else None
        if isinstance(text, str) and text:
            old, new = re.escape(text), content.replace("\\", "\\\\")
            return lambda texts: tf.strings.regex_replace(texts, old, new)
    return refuse("the decoder after Fuse", "Strip or Replace of a String", section)
