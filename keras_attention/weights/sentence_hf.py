"""How sentence-transformers says that a folder is a sentence encoder."""

from pathlib import Path
from typing import Any

from keras_attention.weights.files import read_json, read_object, require_file


def sentence_settings(folder: Path) -> dict[str, Any] | None:
    """`normalize` and `max_length`, or `None` if the folder is not one of its."""
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
    pooling = read_object(require_file(folder, f"{modules[1]['path']}/config.json"))
    modes = [k for k, on in pooling.items() if k.startswith("pooling_mode") and on]
    if modes != ["pooling_mode_mean_tokens"]:
        raise ValueError(
            "Supported is pooling by the mean of the tokens. "
            f"Received: {', '.join(modes) or 'no pooling mode'} in {path}"
        )
    settings = folder / "sentence_bert_config.json"
    length = read_object(settings).get("max_seq_length") if settings.exists() else None
    return {"normalize": "Normalize" in kinds, "max_length": length}
