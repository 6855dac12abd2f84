"""Tokenizers whose every step is a TensorFlow operation, so that models take text.

A leaf of the package: it imports nothing else of `keras_attention`, and TensorFlow
only when a tokenizer is first named.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_attention.text.byte_pair import BytePairTokenizer as BytePairTokenizer
    from keras_attention.text.loading import load_tokenizer as load_tokenizer
    from keras_attention.text.sentence_piece import (
        SentencePieceTokenizer as SentencePieceTokenizer,
    )
    from keras_attention.text.wordpiece import WordPieceTokenizer as WordPieceTokenizer

_DEFINED_IN = {
    "BytePairTokenizer": "byte_pair",
    "SentencePieceTokenizer": "sentence_piece",
    "WordPieceTokenizer": "wordpiece",
    "load_tokenizer": "loading",
}

__all__ = [
    "BytePairTokenizer",
    "SentencePieceTokenizer",
    "WordPieceTokenizer",
    "load_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_DEFINED_IN[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
