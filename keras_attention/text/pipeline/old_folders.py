"""Describes folders with `vocab.json` and `merges.txt` as a `tokenizer.json` would.

Reference: what transformers makes of the classes of these folders.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from keras_attention.text.json_files import refuse, special_tokens

_CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_END = "<|endoftext|>"
_TOKENS = {
    "CLIPTokenizer": {"bos": "<|startoftext|>", "eos": _END, "unk": _END, "pad": _END},
    "Qwen2Tokenizer": {"eos": _END, "pad": _END},
}
CLASSES = tuple(_TOKENS)
# What a tokenizer.json says of each added token; other programs need all of it.
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "special": False}


def read(
    vocab: Mapping[str, int], merges: Sequence[Any], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the content of a `tokenizer.json`, and the special tokens.

    Args:
        vocab: The content of `vocab.json`.
        merges: The pairs of `merges.txt`.
        settings: The content of `tokenizer_config.json`; its class is in `CLASSES`.
    """
    kind = settings["tokenizer_class"].removesuffix("Fast")
    roles = {**_TOKENS[kind], **special_tokens(settings)}
    added = _added_tokens(vocab, roles, settings)
    ids = {**vocab, **{token["content"]: token["id"] for token in added}}
    model = {"type": "BPE", "vocab": dict(vocab), "merges": list(merges)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    data: dict[str, Any] = {"decoder": {**level}, "added_tokens": added}
    if kind == "CLIPTokenizer":
        model |= {"end_of_word_suffix": "</w>", "unk_token": roles["unk"]}
        spaces = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
        normalizers = [{"type": "NFC"}, spaces, {"type": "Lowercase"}]
        split = _split(_CLIP_PATTERN, "Removed", True)
        data["normalizer"] = {"type": "Sequence", "normalizers": normalizers}
        data["post_processor"] = {
            "type": "RobertaProcessing",
            "cls": [roles["bos"], ids.get(roles["bos"])],
            "sep": [roles["eos"], ids.get(roles["eos"])],
            "trim_offsets": False,
            "add_prefix_space": False,
        }
    else:
        split = _split(_QWEN2_PATTERN, "Isolated", False)
        data["normalizer"] = {"type": "NFC"}
        data["post_processor"] = level
        level = {**level, "use_regex": False}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    return {**data, "model": model}, roles


def _split(pattern, behavior, invert):
    pattern = {"Regex": pattern}
    return {
        "type": "Split",
        "pattern": pattern,
        "behavior": behavior,
        "invert": invert,
    }


def _added_tokens(vocab, roles, settings):
    """Returns the added tokens that the settings list, and the special ones."""
    found = {}
    for number, token in (settings.get("added_tokens_decoder") or {}).items():
        found[token["content"]] = {**token, "id": int(number)}
    for token in roles.values():
        if token not in found:
            if token not in vocab:
                refuse("a special token outside vocab.json", "a tokenizer.json", token)
            found[token] = {"content": token, "id": vocab[token], "special": True}
    tokens = [
        {**_FLAGS, "normalized": not token.get("special"), **token}
        for token in found.values()
    ]
    return sorted(tokens, key=lambda token: token["id"])
