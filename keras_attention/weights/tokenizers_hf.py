"""Loads the tokenizer of a checkpoint's folder and checks that it fits the model."""

from pathlib import Path
from typing import Any

from keras_attention.text.sentence_piece.files import MODEL_FILES

FILES = ("tokenizer.json", "vocab.txt", "vocab.json", *MODEL_FILES)


def load_tokenizer(
    folder: Path,
    backbone: Any,
    max_length: int | None = None,
    *,
    lowercase: bool = False,
) -> Any:
    """Loads the tokenizer of a folder.

    Args:
        folder: A folder with files that `ka.load_tokenizer` reads.
        backbone: The model that the tokenizer must fit.
        max_length: The most tokens in a row; the `model_max_length` of the folder's
            tokenizer_config.json when `None`. It is never more than the model has
            positions.
        lowercase: Whether texts are lower-cased, whatever the files say.

    Raises:
        ValueError: If its vocabulary has another size than the model's.
    """
    from keras_attention.text import json_files, loading
    from keras_attention.text.wordpiece.tokenizer import WordPieceTokenizer

    if max_length is None:
        settings = json_files.read_optional_json(folder / json_files.SETTINGS_FILE)
        max_length = json_files.limits(settings)["max_length"]
    lengths = [x for x in (max_length, backbone.max_sequence_length) if x is not None]
    length = min(lengths, default=None)
    tokenizer = loading.load_tokenizer(folder, max_length=length)
    if lowercase:
        tokenizer = _lowercased(tokenizer)
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


def _lowercased(tokenizer: Any) -> Any:
    """Returns a tokenizer that lower-cases, as sentence-transformers makes one."""
    from keras_attention.text.wordpiece.tokenizer import WordPieceTokenizer

    config = tokenizer.get_config()
    if config.get("lowercase"):
        return tokenizer
    if not isinstance(tokenizer, WordPieceTokenizer):
        raise ValueError(
            "The sentence-transformers config has do_lower_case=true, which is "
            "supported here only for WordPiece tokenizers. "
            f"Received: do_lower_case=True, {type(tokenizer).__name__}"
        )
    accents = bool(config.get("strip_accents"))
    changed = {"lowercase": True, "strip_accents": accents}
    return type(tokenizer).from_config({**config, **changed})


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer."""
    return any((folder / name).is_file() for name in FILES)
