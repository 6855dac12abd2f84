"""Writes a byte-level tokenizer as Hugging Face's `tokenizer.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras_attention.text.byte_words import GPT2_PATTERN


def tokenizer_json(
    ids: Mapping[str, int], config: Mapping[str, Any], added: Sequence[Mapping]
) -> dict[str, Any]:
    """The content of `tokenizer.json`, which `byte_files.read_tokenizer_json` reads.

    Args:
        ids: Token to id.
        config: Of a `BytePairTokenizer`.
        added: Its added tokens, dicts of their settings.
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
    plain = {"single_word": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[token["content"]], **plain, **token} for token in added
        ],
        "normalizer": None,
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


def _post_processor(ids, template, level):
    """Trimmed offsets, and the special tokens around texts."""
    if not any(template.values()):
        return level

    def special(part):
        return [{"SpecialToken": {"id": t, "type_id": 0}} for t in template[part]]

    a, b = ([{"Sequence": {"id": name, "type_id": 0}}] for name in "AB")
    start, middle, end = map(special, ("start", "middle", "end"))
    used = {token for part in template.values() for token in part}
    framing = {
        "type": "TemplateProcessing",
        "single": start + a + end,
        "pair": start + a + middle + b + end,
        "special_tokens": {
            token: {"id": token, "ids": [ids[token]], "tokens": [token]}
            for token in sorted(used)
        },
    }
    return {"type": "Sequence", "processors": [level, framing]}
