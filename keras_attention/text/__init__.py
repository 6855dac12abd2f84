"""Tokenizers made of TensorFlow operations, so that exported models take text.

This package imports nothing else of `keras_attention`, and imports TensorFlow only when
a tokenizer is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_attention.text.byte_pair.tokenizer import (
        BytePairTokenizer as BytePairTokenizer,
    )
    from keras_attention.text.loading import load_tokenizer as load_tokenizer
    from keras_attention.text.sentence_piece.tokenizer import (
        SentencePieceTokenizer as SentencePieceTokenizer,
    )
    from keras_attention.text.training import train_byte_pair as train_byte_pair
    from keras_attention.text.training import (
        train_sentence_piece as train_sentence_piece,
    )
    from keras_attention.text.training import train_word_piece as train_word_piece
    from keras_attention.text.wordpiece.tokenizer import (
        WordPieceTokenizer as WordPieceTokenizer,
    )

_DEFINED_IN = {
    "BytePairTokenizer": "byte_pair.tokenizer",
    "SentencePieceTokenizer": "sentence_piece.tokenizer",
    "WordPieceTokenizer": "wordpiece.tokenizer",
    "load_tokenizer": "loading",
    "train_byte_pair": "training",
    "train_sentence_piece": "training",
    "train_word_piece": "training",
}

__all__ = [
    "BytePairTokenizer",
    "SentencePieceTokenizer",
    "WordPieceTokenizer",
    "load_tokenizer",
    "train_byte_pair",
    "train_sentence_piece",
    "train_word_piece",
]


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_DEFINED_IN[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
