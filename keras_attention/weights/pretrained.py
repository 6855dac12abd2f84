"""Hugging Face folders: config.json, model.safetensors and tokenizer files."""

import json
from pathlib import Path
from typing import Any

import keras

from keras_attention.models.bert import BertEncoder
from keras_attention.tasks.sentence_encoder import SentenceEncoder
from keras_attention.weights import bert_hf
from keras_attention.weights.files import (
    WEIGHTS,
    Tensor,
    open_safetensors,
    read_json,
    require_file,
)
from keras_attention.weights.rules import LoadReport, dump, load

FAMILIES = ("bert",)


def from_pretrained(folder: str | Path) -> keras.Model:
    """Loads a model from a folder in Hugging Face's format.

    The config decides the model; a folder of sentence-transformers (with a
    modules.json) gives a `SentenceEncoder` with its tokenizer, any other BERT folder
    a `BertEncoder`. Every tensor of the file and every variable of the model is
    accounted for (see `model.load_report`), or nothing is loaded.

    Args:
        folder: With config.json and model.safetensors; tokenizer.json or vocab.txt
            if the model takes text.

    Returns:
        The model, its weights loaded.

    Raises:
        FileNotFoundError: If the folder or one of the files is missing.
        ValueError: If a file is damaged, does not fit the others, or asks for what
            is not supported.

    Example:
    ```python
    model = ka.from_pretrained("all-MiniLM-L6-v2")
    vectors = model.encode(["The weather is lovely today."])
    ```
    """
    folder = Path(folder)
    config = read_json(require_file(folder, "config.json"))
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(
            f"No model of this family here. Supported: {', '.join(FAMILIES)}. "
            f"Received: model_type={family!r} in {folder / 'config.json'}"
        )
    weights = require_file(folder, WEIGHTS)
    sentence = _sentence_settings(folder)
    with open_safetensors(weights) as file:
        encoder, report = _load_bert(config, file, str(weights))
    if sentence is None:
        encoder.load_report = report
        return encoder
    tokenizer = _load_tokenizer(folder, sentence["max_length"], encoder)
    model = SentenceEncoder(encoder, tokenizer, normalize=sentence["normalize"])
    model.load_report = report
    return model


def save_pretrained(model: keras.Model, folder: str | Path) -> None:
    """Writes an encoder as a folder that transformers and `from_pretrained` read.

    Args:
        model: A `BertEncoder`, or a `SentenceEncoder`, of which the encoder is
            written.
        folder: Must not hold a model.safetensors yet.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    encoder = model.encoder if isinstance(model, SentenceEncoder) else model
    if not isinstance(encoder, BertEncoder):
        raise ValueError(
            "`save_pretrained` writes a BertEncoder or a SentenceEncoder. "
            f"Received: model={model!r}"
        )
    if (folder / WEIGHTS).exists():
        raise FileExistsError(
            "There is a model already, and it stays as it is. Give another folder or "
            f"remove it first. Received: folder={folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(bert_hf.config_of(encoder), indent=2)
    (folder / "config.json").write_text(config + "\n")
    part = folder / f".{WEIGHTS}.part"
    save_file(dump(bert_hf.rules(encoder)), part, metadata={"format": "pt"})
    part.replace(folder / WEIGHTS)


def _load_bert(config: dict, file: Any, source: str) -> tuple[BertEncoder, LoadReport]:
    # Files of a whole BertFor… model put the encoder under "bert.".
    names = list(file.keys())
    prefix = "bert." if any(name.startswith("bert.") for name in names) else ""
    tensors = {name.removeprefix(prefix): Tensor(file, name) for name in names}
    heads = {
        name: "a task head, not part of the encoder"
        for name in tensors
        if prefix and name.startswith(("cls.", "classifier.", "qa_outputs."))
    }
    pooler = "pooler.dense.weight" in tensors
    encoder = BertEncoder(**bert_hf.arguments(config, pooler=pooler), name="bert")
    report = load(
        bert_hf.rules(encoder),
        tensors,
        encoder.weights,
        ignored={**bert_hf.IGNORED, **heads},
        source=source,
    )
    return encoder, report


def _sentence_settings(folder: Path) -> dict[str, Any] | None:
    """How sentence-transformers pools, or `None` if the folder is not one of its."""
    path = folder / "modules.json"
    if not path.exists():
        return None
    modules = read_json(path)
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ValueError(
            "Supported are sentence models of Transformer, Pooling and maybe "
            f"Normalize. Received: {' -> '.join(kinds)} in {path}"
        )
    pooling = read_json(require_file(folder, f"{modules[1]['path']}/config.json"))
    modes = [k for k, on in pooling.items() if k.startswith("pooling_mode") and on]
    if modes != ["pooling_mode_mean_tokens"]:
        raise ValueError(
            "Supported is pooling by the mean of the tokens. "
            f"Received: {', '.join(modes) or 'no pooling mode'} in {path}"
        )
    settings = folder / "sentence_bert_config.json"
    length = read_json(settings).get("max_seq_length") if settings.exists() else None
    return {"normalize": "Normalize" in kinds, "max_length": length}


def _load_tokenizer(folder: Path, max_length: int | None, encoder: BertEncoder) -> Any:
    from keras_attention.text.wordpiece import WordPieceTokenizer

    longest = encoder.max_sequence_length
    length = longest if max_length is None else min(max_length, longest)
    tokenizer = WordPieceTokenizer.from_folder(folder, max_length=length)
    if tokenizer.vocabulary_size != encoder.vocabulary_size:
        raise ValueError(
            "The tokenizer does not fit the model: its vocabulary has another size. "
            f"Received: {tokenizer.vocabulary_size} tokens in {folder}, "
            f"{encoder.vocabulary_size} rows in the model"
        )
    return tokenizer
