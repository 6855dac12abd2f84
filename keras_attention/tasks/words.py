"""The words of a text, their tokens, and the positions of both in the text.

Each word is tokenized by itself, so that every token belongs to a word, and the
characters of every word are known. For WordPiece the ids are those of the whole text,
because it splits at the same characters. Other tokenizers get the space before a word
together with the word.
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
        spans: The `(start, end)` of each word, in characters.
        token_ids: The token ids of all words, one after the other.
        word_of_token: The number of the word that each token belongs to.
    """

    spans: list[tuple[int, int]]
    token_ids: np.ndarray
    word_of_token: np.ndarray

    def first_tokens(self) -> np.ndarray:
        """Returns a bool `[T]`, `True` at the first token of each word."""
        before = np.concatenate([[-1], self.word_of_token[:-1]])
        return self.word_of_token != before


def word_spans(text: str) -> list[tuple[int, int]]:
    """Splits a text into words at spaces; each punctuation character is a word.

    Args:
        text: Any text.

    Returns:
        The `(start, end)` of each word, in characters.
    """
    spans, start = [], None
    for index, character in enumerate(text):
        alone = is_punctuation(character)
        if start is not None and (alone or character.isspace()):
            spans.append((start, index))
            start = None
        if alone:
            spans.append((index, index + 1))
        elif start is None and not character.isspace():
            start = index
    return spans if start is None else [*spans, (start, len(text))]


def is_punctuation(character: str) -> bool:
    """Returns whether a character is a word by itself."""
    if character.isascii():
        return character.isprintable() and not (character.isalnum() or character == " ")
    return unicodedata.category(character).startswith("P")


def words_of_texts(tokenizer: Any, texts: Sequence[str]) -> list[Words]:
    """Returns the words of texts, with their tokens.

    Args:
        tokenizer: A tokenizer with `tokenize`.
        texts: The texts.
    """
    spans = [word_spans(text) for text in texts]
    parts = []
    for text, places in zip(texts, spans, strict=True):
        ends = [0, *(end for _, end in places)]
        parts.append([text[max(ends[i], s - 1) : e] for i, (s, e) in enumerate(places)])
    return _words(tokenizer, parts, spans)


def words_of_lists(tokenizer: Any, sentences: Sequence[Sequence[str]]) -> list[Words]:
    """Returns the words of sentences that are lists of words, with their tokens.

    The spans are those of the words in the sentence joined with spaces.

    Args:
        tokenizer: A tokenizer with `tokenize`.
        sentences: The lists of words.
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
    rows, done = [], 0
    for row, places in zip(parts, spans, strict=True):
        mine = pieces[done : done + len(row)]
        done += len(row)
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
        before: The ids before the first text.
        between: The ids between the texts of a pair.
        after: The ids at the end.
        segments: Whether the tokenizer returns segment ids.
    """

    before: np.ndarray
    between: np.ndarray
    after: np.ndarray
    segments: bool

    def one(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the row of one text."""
        token_ids = np.concatenate([self.before, ids, self.after])
        return self._row(token_ids, np.zeros_like(token_ids))

    def pair(self, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the row of a pair of texts."""
        head = np.concatenate([self.before, first, self.between])
        tail = np.concatenate([second, self.after])
        segments = np.concatenate([np.zeros_like(head), np.ones_like(tail)])
        return self._row(np.concatenate([head, tail]), segments)

    def _row(self, token_ids, segments):
        row = {"token_ids": token_ids}
        return {**row, "segment_ids": segments} if self.segments else row


def frame_of(tokenizer: Any) -> Frame:
    """Finds the special tokens that a tokenizer adds, by tokenizing empty texts.

    Args:
        tokenizer: A tokenizer that is called with texts, or with pairs of texts.
    """
    batch = tokenizer([""], [""])
    ids = np.asarray(batch["token_ids"])[0].astype("int32")
    return Frame(ids[:1], ids[1:-1], ids[-1:], "segment_ids" in batch)


def windows(
    words: Words, room: int, overlap: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Splits the tokens of a text into parts that fit; there is at least one.

    Args:
        words: The words of the text.
        room: The largest number of tokens in a part.
        overlap: The number of tokens that a part shares with the part before.

    Yields:
        The `(token_ids, word_of_token)` of each part.
    """
    if not 0 <= overlap < room:
        raise ValueError(
            "The overlap of windows must be less than the number of tokens that fit in "
            f"one. Received: an overlap of {overlap} and room for {room} tokens"
        )
    total = len(words.token_ids)
    for start in range(0, max(1, total - overlap), room - overlap):
        part = slice(start, start + room)
        yield words.token_ids[part], words.word_of_token[part]


def room_for(model: Any, num_others: int) -> int:
    """Returns how many tokens of a text fit into a row with other tokens.

    Both the model's positions and the tokenizer's `max_length` are limits.

    Args:
        model: A task with `backbone` and `tokenizer`.
        num_others: The number of special tokens, and of tokens of the first text of a
            pair.
    """
    limits = (model.backbone.max_sequence_length, model.tokenizer.max_length)
    longest = min([limit for limit in limits if limit is not None], default=512)
    if longest <= num_others:
        raise ValueError(
            "The special tokens and the question leave no room for the text. Shorten "
            f"the question. Received: {num_others} tokens, of {longest} that fit"
        )
    return longest - num_others
