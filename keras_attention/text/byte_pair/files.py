"""Reads the files of byte-level BPE into the arguments of `BytePairTokenizer`.

What is not supported and would change a token is refused by its name.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from keras_attention import untrusted
from keras_attention.text import arguments, json_files
from keras_attention.text.json_files import Path, read_json, refuse
from keras_attention.text.patterns import GPT2_PATTERN

_SETTINGS = {"lstrip": False, "rstrip": False, "special": True}
# Classes that use vocab.json and merges.txt as GPT-2 does, with their templates.
_PLAIN = {"start": [], "middle": [], "end": []}
_ROBERTA = {"start": ["<s>"], "middle": ["</s>", "</s>"], "end": ["</s>"]}
_TEMPLATES = {
    "GPT2Tokenizer": _PLAIN,
    "RobertaTokenizer": _ROBERTA,
    "BartTokenizer": _ROBERTA,
    "CodeGenTokenizer": _PLAIN,
    "LEDTokenizer": _ROBERTA,
    "LongformerTokenizer": _ROBERTA,
    "MvpTokenizer": _ROBERTA,
}
_ROBERTA_TOKENS = {
    "bos": "<s>",
    "eos": "</s>",
    "unk": "<unk>",
    "cls": "<s>",
    "sep": "</s>",
    "pad": "<pad>",
    "mask": "<mask>",
}
_END = "<|endoftext|>"
_GPT2_TOKENS = {"bos": _END, "eos": _END, "unk": _END}


def added_tokens(
    given: Sequence[str | Mapping[str, Any]], ids: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Returns `{token: settings}` of the tokens to find in raw text."""
    found = {}
    for token in given:
        settings = {"content": token} if isinstance(token, str) else dict(token)
        unknown = set(settings) - {"content", *_SETTINGS}
        if unknown:
            raise ValueError(
                "An added token has content, lstrip, rstrip and special. Remove the "
                f"others. Received: {untrusted.show(sorted(unknown))}"
            )
        flags = {name: settings.get(name, False) for name in _SETTINGS}
        if any(type(flag) is not bool for flag in flags.values()):
            refuse("the settings of an added token", "true and false", flags)
        found[settings["content"]] = {**_SETTINGS, **settings}
    arguments.added_tokens(list(found), ids)
    return found


def check_normalization(normalization: str | None) -> None:
    """Refuses a normalization that is not computed here."""
    if normalization not in (None, "NFC"):
        refuse("the normalization", "'NFC' or None", normalization)


def byte_ids(ids: Mapping[str, int], letters: Mapping[int, str]) -> list[int]:
    """Returns the id of each of the 256 bytes."""
    missing = [letter for letter in letters.values() if letter not in ids]
    if missing:
        raise json_files.RefusedError(
            "A byte-level vocabulary has a token for each of the 256 bytes, so that "
            "every text has ids. Give the vocabulary of a byte-level tokenizer. "
            f"Received: a vocabulary without {missing[:5]}"
        )
    return [ids[letters[byte]] for byte in range(256)]


def merge_ids(
    merges: Sequence[Sequence[str]], ids: Mapping[str, int]
) -> list[tuple[int, int, int]]:
    """Returns the ids (left, right, merged) of each merge."""
    triples = []
    for rank, pair in enumerate(merges):
        strings = all(isinstance(token, str) for token in pair)
        if (
            not strings
            or len(pair) != 2
            or any(t not in ids for t in (*pair, "".join(pair)))
        ):
            raise ValueError(
                "A merge is a pair of tokens of the vocabulary that join to a third "
                "one. "
                "Give the merges that belong to this vocabulary. "
                f"Received: merge number {rank}, {untrusted.show(pair)}"
            )
        triples.append((ids[pair[0]], ids[pair[1]], ids["".join(pair)]))
    return triples


def read_files(vocabulary: Path, merges: Path) -> dict[str, Any]:
    """Returns the vocabulary and the merges of `vocab.json` and `merges.txt`."""
    tokens = json_files.tokens_by_id(read_json(vocabulary))
    return {"vocabulary": tokens, "merges": json_files.read_merges(merges)}


def read_tokenizer_json(path: Path) -> dict[str, Any]:
    """Returns the arguments for the tokenizer that a `tokenizer.json` describes."""
    data = read_json(path)
    model = _read_model(data.get("model"))
    options = _read_pre_tokenizer(data.get("pre_tokenizer"))
    if data.get("normalizer") is not None:
        if data["normalizer"] != {"type": "NFC"}:
            refuse("the normalizer", "none or NFC", data["normalizer"])
        options["normalization"] = "NFC"
    if data.get("decoder") is not None and data["decoder"].get("type") != "ByteLevel":
        refuse("the decoder", "ByteLevel", data["decoder"])
    ids = dict(model.pop("vocab"))
    added = []
    for token in data.get("added_tokens") or []:
        if token.get("single_word"):
            refuse("'single_word' of an added token", "false", token)
        if ids.setdefault(token["content"], token["id"]) != token["id"]:
            refuse("the id of an added token", "one id for each token", token)
        wanted = ("content", *_SETTINGS)
        added.append({name: token[name] for name in wanted if name in token})
    section = data.get("post_processor")
    options.update(_read_post_processor(section, ids))
    for step in _steps(section, "processors"):
        # This flag of the post-processor decides how the first word is trimmed.
        prefix = step.get("add_prefix_space", options["add_prefix_space"])
        if options["trim_offsets"] and prefix != options["add_prefix_space"]:
            refuse(
                "'add_prefix_space' of the post_processor, which trims offsets",
                "the pre_tokenizer's",
                prefix,
            )
    tokens = json_files.tokens_by_id(ids)
    return {"vocabulary": tokens, "added_tokens": added, **model, **options}


def read_folder(folder: Path) -> dict[str, Any]:
    """Returns the arguments for a folder, with those of `tokenizer_config.json`."""
    folder = pathlib.Path(folder)
    settings = json_files.read_optional_json(folder / json_files.SETTINGS_FILE)
    if (folder / "tokenizer.json").exists():
        options = read_tokenizer_json(folder / "tokenizer.json")
        defaults = {}
    else:
        options, defaults = _read_old_folder(folder, settings)
    tokens = {**defaults, **json_files.special_tokens(settings)}
    known = set(options["vocabulary"])
    options["special_tokens"] = {r: t for r, t in tokens.items() if t in known}
    return {**options, **json_files.limits(settings)}


def _read_old_folder(
    folder: pathlib.Path, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    kind = settings.get("tokenizer_class") or "GPT2Tokenizer"
    kind = kind.removesuffix("Fast") if isinstance(kind, str) else str(kind)
    if kind not in _TEMPLATES:
        refuse("'tokenizer_class'", f"one of {sorted(_TEMPLATES)}", kind)
    if (folder / "added_tokens.json").exists():
        refuse("added_tokens.json", "a tokenizer.json next to it", str(folder))
    options = read_files(folder / "vocab.json", folder / "merges.txt")
    is_plain = _TEMPLATES[kind] is _PLAIN
    tokens = dict(_GPT2_TOKENS if is_plain else _ROBERTA_TOKENS)
    tokens.update(json_files.special_tokens(settings))
    known = set(options["vocabulary"])
    missing = sorted({token for token in tokens.values() if token not in known})
    if missing:
        refuse("special tokens outside vocab.json", "a tokenizer.json", missing)
    added: list[dict[str, Any]] = [
        {"content": token} for token in dict.fromkeys(tokens.values())
    ]
    for token in added:
        # RoBERTa's mask token includes the space before it.
        token["lstrip"] = not is_plain and token["content"] == tokens.get("mask")
    for part in ("add_bos_token", "add_eos_token"):
        if is_plain and settings.get(part):
            refuse(f"{part!r}", "a tokenizer.json next to it", True)
    options["template"] = {
        part: [{"<s>": tokens["cls"], "</s>": tokens["sep"]}[t] for t in names]
        if not is_plain
        else []
        for part, names in _TEMPLATES[kind].items()
    }
    options["added_tokens"] = added
    options["add_prefix_space"] = bool(settings.get("add_prefix_space", False))
    options["trim_offsets"] = bool(settings.get("trim_offsets", True))
    return options, tokens


def _read_model(model: Any) -> dict[str, Any]:
    if not isinstance(model, Mapping) or model.get("type", "BPE") != "BPE":
        refuse("the model", "BPE", model)
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            refuse(f"the model's {name!r}", "null", model[name])
    if model.get("byte_fallback"):
        refuse("'byte_fallback'", "false; give the folder's .model file", True)
    merges = [
        pair.split(" ") if isinstance(pair, str) else list(pair)
        for pair in model["merges"]
    ]
    ignore = bool(model.get("ignore_merges", False))
    return {"vocab": model["vocab"], "merges": merges, "ignore_merges": ignore}


def _read_pre_tokenizer(section: Any) -> dict[str, Any]:
    steps = _steps(section, "pretokenizers")
    pattern = None
    if len(steps) == 2 and steps[0].get("type") == "Split":
        split = steps.pop(0)
        pattern = (split.get("pattern") or {}).get("Regex")
        if not isinstance(pattern, str):
            refuse("the Split's pattern", "a regular expression", split)
        if split.get("behavior") != "Isolated" or split.get("invert"):
            refuse("the Split's behaviour", "Isolated, not inverted", split)
    if len(steps) != 1 or steps[0].get("type") != "ByteLevel":
        refuse("the pre_tokenizer", "ByteLevel, with one Split before it", section)
    level = steps[0]
    if level.get("use_regex", True) == (pattern is not None):
        refuse("the pre_tokenizer's 'use_regex'", "one regular expression", section)
    prefix = bool(level.get("add_prefix_space", True))
    if pattern is not None and prefix:
        refuse("'add_prefix_space' after a Split", "false", section)
    return {"pattern": pattern or GPT2_PATTERN, "add_prefix_space": prefix}


def _steps(section: Any, name: str) -> list[Any]:
    if section is None:
        return []
    if not isinstance(section, Mapping):
        refuse(name, "a section", section)
    return list(section[name]) if section.get("type") == "Sequence" else [section]


def _read_post_processor(section: Any, ids: Mapping[str, int]) -> dict[str, Any]:
    """Returns the template, and whether offsets are trimmed."""
    found: dict[str, Any] = {"trim_offsets": False, "template": _PLAIN}
    for step in _steps(section, "processors"):
        kind = step.get("type")
        if kind == "ByteLevel":
            found["trim_offsets"] = bool(step.get("trim_offsets", True))
        elif kind == "RobertaProcessing":
            start, end = step["cls"][0], step["sep"][0]
            found["template"] = {"start": [start], "middle": [end, end], "end": [end]}
            found["trim_offsets"] = bool(step.get("trim_offsets", True))
        elif kind == "TemplateProcessing":
            found["template"] = _read_template(step, ids)
        else:
            refuse(
                "the post_processor",
                "ByteLevel, RobertaProcessing or TemplateProcessing",
                step,
            )
    return found


def _read_template(section: Mapping[str, Any], ids: Any) -> dict[str, list[str]]:
    single, pair = (
        [piece["id"] for part in section.get(name) or [] for piece in part.values()]
        for name in ("single", "pair")
    )
    if single.count("A") != 1 or pair.count("A") != 1 or pair.count("B") != 1:
        refuse("the template of the post_processor", "A, and A B", section)
    one, a, b = single.index("A"), pair.index("A"), pair.index("B")
    start, end = single[:one], single[one + 1 :]
    if a > b or pair[:a] != start or pair[b + 1 :] != end:
        refuse(
            "the template of the post_processor",
            "the same tokens around one text and around two",
            section,
        )
    for token in (section.get("special_tokens") or {}).values():
        if [ids.get(name) for name in token["tokens"]] != token["ids"]:
            refuse("the ids of the post_processor", "the vocabulary's", token)
    return {"start": start, "middle": pair[a + 1 : b], "end": end}
