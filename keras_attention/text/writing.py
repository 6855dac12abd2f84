"""Writes tokenizers as files of Hugging Face, which this package reads again."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from keras_attention.text.patterns import GPT2_PATTERN


def byte_level_json(
    ids: Mapping[str, int], config: Mapping[str, Any], added: Sequence[Mapping]
) -> dict[str, Any]:
    """Returns the `tokenizer.json` of byte-level BPE, as `byte_pair.files` reads it.

    Args:
        ids: A dict of token to id.
        config: The config of a `BytePairTokenizer`.
        added: Its added tokens, each a dict of settings.
    """
    trims = {"add_prefix_space": config["add_prefix_space"]}
    trims["trim_offsets"] = config["trim_offsets"]
    level = {"type": "ByteLevel", **trims, "use_regex": True}
    steps: Any = level
    if config["pattern"] != GPT2_PATTERN:
        split = {"type": "Split", "pattern": {"Regex": config["pattern"]}}
        split |= {"behavior": "Isolated", "invert": False}
        steps = [split, {**level, "use_regex": False}]
        steps = {"type": "Sequence", "pretokenizers": steps}
    return {
        **_head(ids, added),
        "normalizer": {"type": "NFC"} if config["normalization"] else None,
        "pre_tokenizer": steps,
        "post_processor": _post_processor(ids, config["template"], level),
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": config["ignore_merges"],
            "vocab": dict(ids),
            "merges": [" ".join(pair) for pair in config["merges"]],
        },
    }


def word_piece_json(
    ids: Mapping[str, int], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the `tokenizer.json` of WordPiece, as `wordpiece.files` reads it.

    Args:
        ids: A dict of token to id.
        config: The config of a `WordPieceTokenizer`.
    """
    tokens, prefix = config["special_tokens"], config["continuing_subword_prefix"]
    names = ("lowercase", "strip_accents", "handle_chinese_chars", "clean_text")
    template = {"start": [tokens["cls"]], "middle": [tokens["sep"]]}
    template["end"] = template["middle"]
    settings = {"special": True, "lstrip": False, "rstrip": False}
    added = [{"content": token, **settings} for token in config["added_tokens"]]
    return {
        **_head(ids, added),
        "normalizer": {"type": "BertNormalizer", **{n: config[n] for n in names}},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _framing(ids, template, segment=1),
        "decoder": {"type": "WordPiece", "prefix": prefix, "cleanup": False},
        "model": {
            "type": "WordPiece",
            "unk_token": tokens["unk"],
            "continuing_subword_prefix": prefix,
            "max_input_chars_per_word": config["max_input_chars_per_word"],
            "vocab": dict(ids),
        },
    }


def settings_json(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of `tokenizer_config.json` that all kinds of tokenizers have.

    Args:
        kind: The name of the class of transformers that reads it.
        config: The config of any tokenizer of this package.
    """
    tokens = sorted(config["special_tokens"].items())
    return {
        "tokenizer_class": kind,
        **{f"{role}_token": token for role, token in tokens if token is not None},
        "model_max_length": config["max_length"] or 10**30,
        "padding_side": config["padding_side"],
        "truncation_side": config["truncation_side"],
    }


def write(folder: str | os.PathLike, files: Mapping[str, Any]) -> None:
    """Writes files; each one appears only when it is complete.

    Args:
        folder: The path of the folder, which is created if it does not exist.
        files: A dict of name to content: bytes, a string, or a value to write as JSON.
    """
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if not isinstance(content, bytes | str):
            content = json.dumps(content, indent=2, ensure_ascii=False) + "\n"  # noqa: PLW2901
        if isinstance(content, str):
            content = content.encode()  # noqa: PLW2901
        part = path / f".{name}.part"
        part.write_bytes(content)
        part.replace(path / name)


def _head(ids, added):
    plain = {"single_word": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[token["content"]], **plain, **token} for token in added
        ],
    }


def _post_processor(ids, template, level):
    """Returns the section that trims offsets and adds the special tokens."""
    if not any(template.values()):
        return level
    return {"type": "Sequence", "processors": [level, _framing(ids, template)]}


def _framing(ids, template, segment=0):
    """Returns the section that adds the special tokens to one text and to a pair."""

    def special(part, segment=0):
        return [{"SpecialToken": {"id": t, "type_id": segment}} for t in template[part]]

    a = [{"Sequence": {"id": "A", "type_id": 0}}]
    b = [{"Sequence": {"id": "B", "type_id": segment}}]
    first = special("start") + a
    used = {token for part in template.values() for token in part}
    return {
        "type": "TemplateProcessing",
        "single": first + special("end"),
        "pair": first + special("middle") + b + special("end", segment),
        "special_tokens": {
            token: {"id": token, "ids": [ids[token]], "tokens": [token]}
            for token in sorted(used)
        },
    }
