"""The tokenizer of a checkpoint's folder, fitted to its model."""

from pathlib import Path
from typing import Any

from keras_attention.text.sentence_piece import files as sentence_piece_files

FILES = ("tokenizer.json", "vocab.txt", "vocab.json", *sentence_piece_files.FILES)


def load_tokenizer(folder: Path, backbone: Any, max_length: int | None = None) -> Any:
    """The tokenizer of a folder.

    Args:
        folder: With the files that `ka.load_tokenizer` reads.
        backbone: The model it must fit.
        max_length: Tokens a text is cut to, at most those the model has positions for.

    Raises:
        ValueError: If its vocabulary is not the model's.
    """
    from keras_attention.text import loading
    from keras_attention.text.wordpiece.tokenizer import WordPieceTokenizer

    lengths = [x for x in (max_length, backbone.max_sequence_length) if x is not None]
    length = min(lengths, default=None)
    tokenizer = loading.load_tokenizer(folder, max_length=length)
    tokens, rows = tokenizer.vocabulary_size, backbone.vocabulary_size
    # The tables of byte-level models are often rounded up.
    exact = isinstance(tokenizer, WordPieceTokenizer)
    if tokens > rows or (exact and tokens != rows):
        raise ValueError(
            "The tokenizer does not fit the model: its vocabulary has another size. "
            f"Received: {tokenizer.vocabulary_size} tokens in {folder}, "
            f"{backbone.vocabulary_size} rows in the model"
        )
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer."""
    return any((folder / name).is_file() for name in FILES)
