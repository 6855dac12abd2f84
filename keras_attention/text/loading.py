"""Loads the tokenizer of a model folder, of any kind."""

import pathlib
from typing import Any, Literal

from keras_attention import untrusted
from keras_attention.text import chat, json_files


@chat.with_templates
def load_tokenizer(
    folder: json_files.Path,
    *,
    max_length: int | Literal["from_config"] | None = "from_config",
) -> Any:
    r"""Loads the tokenizer of a Hugging Face folder; its files decide the class.

    Args:
        folder: The path of a folder that holds a `tokenizer.json`, a `vocab.txt`, a
            `vocab.json` and a `merges.txt`, or a `.model` or `.spm` file of
            SentencePiece; and usually a `tokenizer_config.json`. Of several, a
            `tokenizer.json` is read.
        max_length: int or `None`. The most tokens in a row. By default
            `model_max_length` of `tokenizer_config.json`.

    Returns:
        A `WordPieceTokenizer`, `BytePairTokenizer`, `SentencePieceTokenizer` or
        `PipelineTokenizer`.

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
    from keras_attention.text.pipeline import old_folders
    from keras_attention.text.pipeline.tokenizer import PipelineTokenizer
    from keras_attention.text.sentence_piece.files import MODEL_FILES, model_file
    from keras_attention.text.sentence_piece.tokenizer import SentencePieceTokenizer
    from keras_attention.text.wordpiece.tokenizer import WordPieceTokenizer

    path = pathlib.Path(folder)
    if (path / "tokenizer.json").exists():  # it wins over a .model, as in transformers
        return _from_tokenizer_json(path, max_length)
    if model_file(path) is not None:
        return SentencePieceTokenizer.from_folder(path, max_length=max_length)
    if (path / "vocab.txt").exists():
        return WordPieceTokenizer.from_folder(path, max_length=max_length)
    if (path / "vocab.json").exists() and (path / "merges.txt").exists():
        settings = json_files.read_optional_json(path / json_files.SETTINGS_FILE)
        kind = str(settings.get("tokenizer_class")).removesuffix("Fast")
        own = kind in old_folders.CLASSES
        found = PipelineTokenizer if own else BytePairTokenizer
        return found.from_folder(path, max_length=max_length)
    raise FileNotFoundError(
        "A tokenizer folder holds a tokenizer.json, a vocab.txt, a vocab.json and a "
        f"merges.txt, or one of {', '.join(MODEL_FILES)}; this one holds none. Give "
        f"the folder of a downloaded model. Received: folder={str(folder)!r}"
    )


def _from_tokenizer_json(path: pathlib.Path, max_length: Any) -> Any:
    """Returns a tokenizer of its own class, or of the one that computes any file."""
    from keras_attention.text.byte_pair.tokenizer import BytePairTokenizer
    from keras_attention.text.pipeline.tokenizer import PipelineTokenizer
    from keras_attention.text.wordpiece.tokenizer import WordPieceTokenizer

    model = json_files.read_json(path / "tokenizer.json").get("model") or {}
    with untrusted.reading(path / "tokenizer.json"):
        kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
    classes = {"WordPiece": WordPieceTokenizer, "BPE": BytePairTokenizer}
    if isinstance(kind, str) and kind in classes:
        try:
            return classes[kind].from_folder(path, max_length=max_length)
        except json_files.RefusedError:
            pass
    return PipelineTokenizer.from_folder(path, max_length=max_length)
