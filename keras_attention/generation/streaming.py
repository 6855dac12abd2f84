"""Streams the text of tokens as they are generated, in whole characters."""

from collections.abc import Iterator
from typing import Any

import numpy as np

UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def text_of(tokenizer: Any, token_ids: Any) -> str:
    """Returns the text of a row of ids.

    Args:
        tokenizer: An object with `detokenize`, which returns the texts, as strings or
            bytes, of ids `[B, T]`.
        token_ids: A list of ids.
    """
    if not len(token_ids):
        return ""
    texts = tokenizer.detokenize(np.asarray(token_ids, "int32")[None])
    text = np.asarray(texts.numpy() if hasattr(texts, "numpy") else texts).item(0)
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


class TextStream:
    """Yields the text of a growing list of ids in pieces.

    A character that consists of several tokens is held back until it is complete.

    Args:
        tokenizer: As in `text_of`; `None` to yield ids instead.
    """

    def __init__(self, tokenizer: Any = None):
        self._tokenizer = tokenizer
        self._ids: Any = ()
        self._num_yielded = 0

    def more(self, token_ids: Any) -> Iterator[Any]:
        """Yields what is new, given all ids so far."""
        self._ids = token_ids
        if self._tokenizer is None:
            new = [int(token) for token in token_ids[self._num_yielded :]]
            self._num_yielded += len(new)
            yield from new
            return
        yield from self._piece(text_of(self._tokenizer, token_ids).rstrip(UNKNOWN))

    def end(self) -> Iterator[str]:
        """Yields the text that was held back."""
        if self._tokenizer is not None:
            yield from self._piece(text_of(self._tokenizer, self._ids))

    def _piece(self, text):
        if len(text) > self._num_yielded:
            yield text[self._num_yielded :]
            self._num_yielded = len(text)
