"""The tokenizer of a model folder, whatever its kind."""

import pathlib
from typing import Any, Literal

from keras_attention.text import json_files


def load_tokenizer(
    folder: json_files.Path,
    *,
    max_length: int | Literal["from_config"] | None = "from_config",
) -> Any:
    r"""The tokenizer of a Hugging Face folder, of the class its files ask for.

    Args:
        folder: holds a `tokenizer.json` (WordPiece or byte-level BPE), a `vocab.txt`,
            a `vocab.json` and a `merges.txt`, or a `.model` or `.spm` file of
            SentencePiece; and mostly a `tokenizer_config.json`.
        max_length: int or `None`. Most tokens in a row. By default `model_max_length`
            of `tokenizer_config.json`.

    Returns:
        A `WordPieceTokenizer`, `BytePairTokenizer` or `SentencePieceTokenizer`.

    Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tokens = "[PAD] [UNK] [CLS] [SEP] [MASK] hello".split()
    ...     _ = pathlib.Path(folder, "vocab.txt").write_text("\n".join(tokens))
    ...     tokenizer = load_tokenizer(folder)
    >>> tokenizer.tokens(["Hello"])
    [['[CLS]', 'hello', '[SEP]']]
    """
    from keras_attention.text.byte_pair.tokenizer import BytePairTokenizer
    from keras_attention.text.sentence_piece.files import FILES, model_file
    from keras_attention.text.sentence_piece.tokenizer import SentencePieceTokenizer
    from keras_attention.text.wordpiece.tokenizer import WordPieceTokenizer

    path = pathlib.Path(folder)
    if model_file(path) is not None:  # what a tokenizer.json beside it was made from
        return SentencePieceTokenizer.from_folder(path, max_length=max_length)
    if (path / "tokenizer.json").exists():
        model = json_files.read_json(path / "tokenizer.json").get("model") or {}
        kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
        classes = {"WordPiece": WordPieceTokenizer, "BPE": BytePairTokenizer}
        if kind not in classes:
            raise ValueError(
                "This tokenizer cannot be reproduced exactly because of its model; "
                f"supported: {', '.join(classes)}, and SentencePiece by its .model "
                "file. Put that into the folder. Received: a tokenizer.json with the "
                f"model {kind!r} in {path}"
            )
        return classes[kind].from_folder(path, max_length=max_length)
    if (path / "vocab.txt").exists():
        return WordPieceTokenizer.from_folder(path, max_length=max_length)
    if (path / "vocab.json").exists() and (path / "merges.txt").exists():
        return BytePairTokenizer.from_folder(path, max_length=max_length)
    raise FileNotFoundError(
        "A tokenizer folder holds a tokenizer.json, a vocab.txt, a vocab.json and a "
        f"merges.txt, or one of {', '.join(FILES)}; this one holds none of them. Give "
        f"the folder of a downloaded model. Received: folder={str(folder)!r}"
    )
