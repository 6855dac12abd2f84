"""Words of a text, their tokens, and where both stand.

Each word is tokenized by itself, so that every token has a word and every word a place
in the text. For WordPiece the ids are those of the whole text: it splits at the same
places. Other tokenizers are given the space before a word with it.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Words:
    """A text as words.

    Attributes:
        spans: `(start, end)` of each word, in characters.
        token_ids: Of all words, one after the other.
        word_of_token: The number of the word that each token is of.
    """

    spans: list[tuple[int, int]]
    token_ids: np.ndarray
    word_of_token: np.ndarray

    def first_tokens(self) -> np.ndarray:
        """Bool `[T]`: where a word begins."""
        before = np.concatenate([[-1], self.word_of_token[:-1]])
        return self.word_of_token != before


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words of a text stand: split at spaces, punctuation by itself.

    Args:
        text: Any text.

    Returns:
        `(start, end)` of each, in characters.
    """
    spans, start = [], None
    for place, letter in enumerate(text):
        alone = is_punctuation(letter)
        if start is not None and (alone or letter.isspace()):
            spans.append((start, place))
            start = None
        if alone:
            spans.append((place, place + 1))
        elif start is None and not letter.isspace():
            start = place
    return spans if start is None else [*spans, (start, len(text))]


def is_punctuation(letter: str) -> bool:
    """Whether a character is a word by itself."""
    if letter.isascii():
        return letter.isprintable() and not (letter.isalnum() or letter == " ")
    return unicodedata.category(letter).startswith("P")


def words_of_texts(tokenizer: Any, texts: Sequence[str]) -> list[Words]:
    """The words of texts, with their tokens.

    Args:
        tokenizer: With `tokenize`.
        texts: The texts.
    """
    spans = [word_spans(text) for text in texts]
    parts = []
    for text, places in zip(texts, spans, strict=True):
        ends = [0, *(end for _, end in places)]
        parts.append([text[max(ends[i], s - 1) : e] for i, (s, e) in enumerate(places)])
    return _words(tokenizer, parts, spans)


def words_of_lists(tokenizer: Any, sentences: Sequence[Sequence[str]]) -> list[Words]:
    """The same of sentences that are lists of words; spans are in the joined text.

    Args:
        tokenizer: With `tokenize`.
        sentences: Lists of words.
    """
    spans, parts = [], []
    for words in sentences:
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        spans.append(
            [(int(e) - len(w), int(e)) for e, w in zip(ends, words, strict=True)]
        )
        parts.append([f" {w}" if i else w for i, w in enumerate(words)])
    return _words(tokenizer, parts, spans)


def _words(tokenizer, parts, spans) -> list[Words]:
    flat = [part for row in parts for part in row]
    pieces = [np.asarray(ids, "int32") for ids in _tokenize(tokenizer, flat)]
    rows, place = [], 0
    for row, places in zip(parts, spans, strict=True):
        mine = pieces[place : place + len(row)]
        place += len(row)
        counts = [len(ids) for ids in mine]
        ids = np.concatenate([np.zeros(0, "int32"), *mine])
        rows.append(Words(places, ids, np.repeat(np.arange(len(row)), counts)))
    return rows


def _tokenize(tokenizer: Any, texts: list[str]) -> Iterator[Any]:
    for start in range(0, len(texts), 10_000):
        yield from tokenizer.tokenize(texts[start : start + 10_000]).to_list()


@dataclass(frozen=True)
class Frame:
    """The special tokens around one text, or around and between two.

    Attributes:
        before: Ids before the first text.
        between: Ids between the texts of a pair.
        after: Ids at the end.
        segments: Whether the tokenizer gives segment ids.
    """

    before: np.ndarray
    between: np.ndarray
    after: np.ndarray
    segments: bool

    def one(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """A row of one text."""
        token_ids = np.concatenate([self.before, ids, self.after])
        return self._row(token_ids, np.zeros_like(token_ids))

    def pair(self, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
        """A row of two texts."""
        head = np.concatenate([self.before, first, self.between])
        tail = np.concatenate([second, self.after])
        segments = np.concatenate([np.zeros_like(head), np.ones_like(tail)])
        return self._row(np.concatenate([head, tail]), segments)

    def _row(self, token_ids, segments):
        row = {"token_ids": token_ids}
        return {**row, "segment_ids": segments} if self.segments else row


def frame_of(tokenizer: Any) -> Frame:
    """What a tokenizer puts around texts, found by asking for empty ones.

    Args:
        tokenizer: Called with texts, and with pairs.
    """
    batch = tokenizer([""], [""])
    ids = np.asarray(batch["token_ids"])[0].astype("int32")
    return Frame(ids[:1], ids[1:-1], ids[-1:], "segment_ids" in batch)


def windows(
    words: Words, room: int, overlap: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The tokens of a text in parts that fit, one at least.

    Args:
        words: Of the text.
        room: Most tokens of a part.
        overlap: Tokens that a part shares with the one before.

    Yields:
        `(token_ids, word_of_token)` of each part.
    """
    if not 0 <= overlap < room:
        raise ValueError(
            "Windows must move on: their overlap is less than the tokens that fit in "
            f"one. Received: an overlap of {overlap} and room for {room} tokens"
        )
    total = len(words.token_ids)
    for start in range(0, max(1, total - overlap), room - overlap):
        part = slice(start, start + room)
        yield words.token_ids[part], words.word_of_token[part]


def room_for(model: Any, num_others: int) -> int:
    """Tokens that fit beside others: by the positions and by the tokenizer.

    Args:
        model: With `backbone` and `tokenizer`.
        num_others: Special tokens, and those of the first text of a pair.
    """
    limits = (model.backbone.max_sequence_length, model.tokenizer.max_length)
    longest = min([limit for limit in limits if limit is not None], default=512)
    if longest <= num_others:
        raise ValueError(
            "There is no room for the text beside what comes before it. Shorten the "
            f"question. Received: {num_others} tokens, of {longest} that fit"
        )
    return longest - num_others
