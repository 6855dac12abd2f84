"""Text that grows with the tokens, in whole characters."""

from collections.abc import Iterator
from typing import Any

import numpy as np

UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def text_of(tokenizer: Any, token_ids: Any) -> str:
    """The text of a row of ids.

    Args:
        tokenizer: Has `detokenize`, of ids `[B, T]`, giving texts or bytes.
        token_ids: A list of ids.
    """
    if not len(token_ids):
        return ""
    texts = tokenizer.detokenize(np.asarray(token_ids, "int32")[None])
    text = np.asarray(texts.numpy() if hasattr(texts, "numpy") else texts).item(0)
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


class TextStream:
    """Turns a growing list of ids into pieces that put together are its text.

    A character of several tokens is held back until it is whole.

    Args:
        tokenizer: See `text_of`; `None` to give ids instead.
    """

    def __init__(self, tokenizer: Any = None):
        self._tokenizer = tokenizer
        self._ids: Any = ()
        self._given = 0

    def more(self, token_ids: Any) -> Iterator[Any]:
        """What is new in all ids so far."""
        self._ids = token_ids
        if self._tokenizer is None:
            new = [int(token) for token in token_ids[self._given :]]
            self._given += len(new)
            yield from new
            return
        yield from self._piece(text_of(self._tokenizer, token_ids).rstrip(UNKNOWN))

    def end(self) -> Iterator[str]:
        """What was held back."""
        if self._tokenizer is not None:
            yield from self._piece(text_of(self._tokenizer, self._ids))

    def _piece(self, text):
        if len(text) > self._given:
            yield text[self._given :]
            self._given = len(text)
