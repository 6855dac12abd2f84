"""Writes a checkpoint's folder: config.json, safetensors or shards, tokenizer."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_attention.weights import files
from keras_attention.weights.rules import Rule, dump


def write_folder(
    folder: Path,
    config: dict,
    rules: list[Rule],
    tokenizer: Any = None,
    *,
    others: Mapping[str, Any] | None = None,
    parts: Mapping[str, list[Rule]] | None = None,
) -> None:
    """Writes all files; the weights come last, and appear only when complete.

    Args:
        folder: The path of a folder that must not hold weights.
        config: The content of config.json.
        rules: The rules of the model, with the names to write.
        tokenizer: The tokenizer, which is written if it has a method `save`.
        others: The content of other JSON files by their names; an empty one is not
            written.
        parts: The rules of other files of weights by their names.
    """
    for name in (files.WEIGHTS, files.INDEX):
        if (folder / name).exists():
            raise FileExistsError(
                "There is a model already, and it is not replaced. Pass another folder "
                f"or remove it first. Received: folder={folder}"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"config.json": config, **(others or {})}.items():
        if content:
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text + "\n", "utf-8")
    if hasattr(tokenizer, "save"):
        tokenizer.save(folder)
    for name, own in (parts or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        _write(folder / name, own)
    by_name = {rule.tensor: rule for rule in rules}
    sizes = {name: _bytes(rule) for name, rule in by_name.items()}
    shards = files.plan_shards(sizes.items(), files.MAX_SHARD_BYTES)
    if len(shards) == 1:
        _write(folder / files.WEIGHTS, rules)
        return
    places = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write(folder / name, [by_name[tensor] for tensor in shard])
        places |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
    (folder / files.INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _bytes(rule: Rule) -> int:
    dtype = keras.backend.standardize_dtype(rule.variables[0].dtype)
    digits = re.search(r"\d+$", dtype)
    return math.prod(rule.shape) * (int(digits[0]) // 8 if digits else 1)


def _write(path: Path, rules: list[Rule]) -> None:
    from safetensors.numpy import save_file

    part = path.with_name(f".{path.name}.part")
    save_file(dump(rules), part, metadata={"format": "pt"})
    part.replace(path)
