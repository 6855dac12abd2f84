"""Reads the settings of a sentence-transformers folder."""

from pathlib import Path
from typing import Any

from keras_attention import untrusted
from keras_attention.weights.files import require_file

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
    with untrusted.reading(path):
        modules = untrusted.read_json(path)
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ValueError(
            "Supported are sentence models of Transformer, Pooling and optionally "
            f"Normalize. Received: {untrusted.clip(' -> '.join(kinds))} in "
            f"{untrusted.clip(path)}"
        )
    for module in modules:
        untrusted.inside(folder, module.get("path"), "modules.json")
    name = f"{modules[1]['path']}/config.json"
    untrusted.inside(folder, name, "modules.json")
    pooling = untrusted.read_object(require_file(folder, name))
    modes = [k for k, on in pooling.items() if k.startswith("pooling_mode") and on]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ValueError(
            f"Supported is one pooling mode of {', '.join(POOLINGS)}. "
            f"Received: {untrusted.clip(', '.join(modes) or 'no pooling mode')} in "
            f"{untrusted.clip(path)}"
        )
    settings, length = folder / "sentence_bert_config.json", None
    if settings.exists():
        length = untrusted.read_object(settings).get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        raise ValueError(
            f"{settings.name} must have a positive integer or null as max_seq_length. "
            f"Fetch the file again. Received: max_seq_length={untrusted.show(length)}"
        )
    return {
        "normalize": "Normalize" in kinds,
        "max_length": length,
        "pooling": POOLINGS[modes[0]],
    }
