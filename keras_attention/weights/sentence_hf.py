"""Reads the settings of a sentence-transformers folder."""

from pathlib import Path
from typing import Any

from keras_attention.weights.files import read_json, read_object, require_file

# Entry of the pooling's config -> its name in `SentenceEncoder`.
POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_cls_token": "cls",
}


def sentence_settings(folder: Path) -> dict[str, Any] | None:
    """Returns `normalize`, `max_length` and `pooling`; `None` for another folder."""
    path = folder / "modules.json"
    if not path.exists():
        return None
    modules = read_json(path)
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ValueError(
            "Supported are sentence models of Transformer, Pooling and optionally "
            f"Normalize. Received: {' -> '.join(kinds)} in {path}"
        )
    pooling = read_object(require_file(folder, f"{modules[1]['path']}/config.json"))
    modes = [k for k, on in pooling.items() if k.startswith("pooling_mode") and on]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ValueError(
            f"Supported is one pooling mode of {', '.join(POOLINGS)}. "
            f"Received: {', '.join(modes) or 'no pooling mode'} in {path}"
        )
    settings = folder / "sentence_bert_config.json"
    length = read_object(settings).get("max_seq_length") if settings.exists() else None
    return {
        "normalize": "Normalize" in kinds,
        "max_length": length,
        "pooling": POOLINGS[modes[0]],
    }
