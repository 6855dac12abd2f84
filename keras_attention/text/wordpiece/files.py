"""Reads the files of WordPiece into the arguments of `WordPieceTokenizer`.

What is not supported and would change a token is refused by its name. Truncation and
padding lengths are defaults of Hugging Face's call, not part of the tokenizer, and are
not read: here `max_length` and the longest row of the batch decide.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NoReturn

from keras_attention.text import json_files

# Tokenizers that use a vocab.txt as BERT does, special tokens included.
_BERT_CLASSES = frozenset(
    {
        "BertTokenizer",
        "DistilBertTokenizer",
        "ElectraTokenizer",
        "MobileBertTokenizer",
        "ConvBertTokenizer",
        "RetriBertTokenizer",
        "DPRQuestionEncoderTokenizer",
        "DPRContextEncoderTokenizer",
    }
)
_ROLES = ("unk", "cls", "sep", "pad", "mask")
_NOT_READ = ("version", "truncation", "padding", "decoder", "added_tokens")
_SECTIONS = ("normalizer", "pre_tokenizer", "post_processor", "model")


def read_vocabulary(path: json_files.Path) -> list[str]:
    """Returns the tokens of a `vocab.txt`: one per line, the line number is the id."""
    text = json_files.read_text(path, "a vocab.txt with one token per line")
    lines = text.split("\n")  # not splitlines(): a token may be U+2028 or U+0085
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def read_tokenizer_json(path: json_files.Path) -> dict[str, Any]:
    """Returns the arguments for the tokenizer that a `tokenizer.json` describes."""
    data = json_files.read_json(path)
    for name in data:
        if name not in (*_NOT_READ, *_SECTIONS):
            _refuse(
                f"the section {name!r:.100}", "the sections of tokenizers 0.23", name
            )
    model = _read_model(data.get("model"))
    prefix = model["continuing_subword_prefix"]
    _check_type(data.get("pre_tokenizer"), "pre_tokenizer", "BertPreTokenizer")
    if data.get("decoder") is not None:
        _check_type(data["decoder"], "decoder", "WordPiece")
        if data["decoder"].get("prefix", "##") != prefix:
            _refuse("the decoder's prefix", f"the model's, {prefix!r}", data["decoder"])
    _check_directions(data)
    classifier, separator, ids = _read_post_processor(data.get("post_processor"))
    padding = data.get("padding") or {}
    vocab = model.pop("vocab")
    num_in_model = len(vocab)
    vocabulary, added = _add_tokens(vocab, data.get("added_tokens") or [])
    for token, token_id in ids.items():
        if token_id not in range(len(vocabulary)) or vocabulary[token_id] != token:
            _refuse(f"the id of {token!r} in the post_processor", "the model's", ids)
    options = _read_normalizer(data.get("normalizer"))
    _check_unreachable(vocabulary[num_in_model:], prefix, options)
    special_tokens = {
        "unk": model.pop("unk_token"),
        "cls": classifier,
        "sep": separator,
        "pad": padding.get("pad_token", "[PAD]"),
    }
    return {
        "vocabulary": vocabulary,
        "added_tokens": added,
        "special_tokens": special_tokens,
        **model,
        **options,
    }


def read_folder(folder: json_files.Path) -> dict[str, Any]:
    """Returns the arguments for a folder: its tokenizer or vocabulary, its settings.

    `tokenizer_config.json` may be absent. Where it contradicts `tokenizer.json`,
    libraries differ in which of the two they follow, so that is an error.
    """
    folder = pathlib.Path(folder)
    settings = json_files.read_optional_json(folder / json_files.SETTINGS_FILE)
    if (folder / "tokenizer.json").exists():
        arguments = read_tokenizer_json(folder / "tokenizer.json")
        _check_agreement(arguments, settings)
    elif (folder / "vocab.txt").exists():
        arguments = _read_old_folder(folder, settings)
    else:
        raise FileNotFoundError(
            "A tokenizer folder holds a tokenizer.json or a vocab.txt; this one holds "
            "neither. Give the folder of a downloaded model. "
            f"Received: folder={str(folder)!r}"
        )
    special_tokens = arguments.setdefault("special_tokens", {})
    special_tokens.update(json_files.special_tokens(settings, _ROLES))
    return {**arguments, **json_files.limits(settings)}


def _read_old_folder(
    folder: pathlib.Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    kind = settings.get("tokenizer_class") or "BertTokenizer"
    kind = kind if isinstance(kind, str) else str(kind)
    if kind.removesuffix("Fast") not in _BERT_CLASSES:
        _refuse("'tokenizer_class'", f"one of {sorted(_BERT_CLASSES)}", kind)
    if not settings.get("do_basic_tokenize", True):
        _refuse("'do_basic_tokenize'", "true", False)
    if settings.get("never_split"):
        _refuse("'never_split'", "null", settings["never_split"])
    if (folder / "added_tokens.json").exists():
        _refuse("added_tokens.json", "a tokenizer.json next to it", str(folder))
    vocabulary = read_vocabulary(folder / "vocab.txt")
    named = {"[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"}
    for token_id, token in (settings.get("added_tokens_decoder") or {}).items():
        _check_added_token(token)
        if int(token_id) >= len(vocabulary):
            _refuse("an added token outside vocab.txt", "a tokenizer.json", token)
        named.add(token["content"])
    named.update(json_files.special_tokens(settings, _ROLES).values())
    return {
        "vocabulary": vocabulary,
        "added_tokens": [token for token in vocabulary if token in named],
        **_normalizer_settings(settings),
    }


def _normalizer_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the normaliser's part of a `tokenizer_config.json`, under our names."""
    names = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
        "clean_text": "clean_text",
    }
    found = {ours: settings[name] for name, ours in names.items() if name in settings}
    _check_flags(found)
    return found


def _check_agreement(arguments: dict[str, Any], settings: Mapping[str, Any]) -> None:
    for name, value in _normalizer_settings(settings).items():
        ours, theirs = arguments[name], value
        if name == "strip_accents":  # null follows `lowercase`
            ours = arguments["lowercase"] if ours is None else ours
            theirs = arguments["lowercase"] if theirs is None else theirs
        if ours != theirs:
            raise ValueError(
                "tokenizer.json and tokenizer_config.json contradict each other in "
                f"'{name}', and libraries differ in which one they follow. Correct "
                "one of the files, or choose one: from_tokenizer_json(path) or "
                "from_vocabulary_file(path, lowercase=…). Received: "
                f"{ours!r} in tokenizer.json, {theirs!r} in tokenizer_config.json"
            )


def _read_model(model: Any) -> dict[str, Any]:
    _check_type(model, "model", "WordPiece")
    defaults = {
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    unknown = set(model) - set(defaults) - {"type", "vocab"}
    if unknown or not isinstance(model.get("vocab"), Mapping):
        _refuse("the model", "a WordPiece model with its vocab", sorted(model))
    found = {**defaults, **{name: model[name] for name in model if name != "type"}}
    for name, default in defaults.items():
        if type(found[name]) is not type(default):
            _refuse(f"the model's '{name}'", type(default).__name__, found[name])
    return found


def _add_tokens(
    vocab: Mapping[str, int], added: list[dict[str, Any]]
) -> tuple[list[str], list[str]]:
    """Returns the vocabulary as a list, and the tokens to find in the raw text."""
    ids = dict(vocab)
    for token in added:
        _check_added_token(token)
        if ids.setdefault(token["content"], token["id"]) != token["id"]:
            _refuse(
                f"the id of {token['content']!r:.100}", "one id for each token", token
            )
    return json_files.tokens_by_id(ids), [token["content"] for token in added]


def _check_unreachable(tokens: list[str], prefix: str, options: dict[str, Any]) -> None:
    """Refuses added tokens that could be parts of words and are not in the model.

    Here one vocabulary serves for words and for added tokens. The ids are the same as
    long as the pre-tokenizer never makes such a token ("[X]") of other text.
    """
    if not tokens:
        return
    from keras_attention.text.wordpiece.words import BertWords

    chosen = dict(options)
    if chosen["strip_accents"] is None:
        chosen["strip_accents"] = chosen["lowercase"]
    words = BertWords(**chosen)
    for token in tokens:
        if words.is_one_word(token.removeprefix(prefix)):
            _refuse(
                "an added token that the model's vocab lacks",
                "one that contains punctuation, such as '[X]'",
                token,
            )


def _check_added_token(token: Mapping[str, Any]) -> None:
    # `lstrip` and `rstrip` strip white space, which never becomes a token here.
    wanted = {"special": True, "normalized": False, "single_word": False}
    for name, value in wanted.items():
        if token.get(name, value) != value:
            _refuse(
                f"'{name}' of the added token {token['content']!r:.100}",
                f"{value}: added tokens are found in the raw text, inside words too",
                token[name],
            )


def _read_normalizer(normalizer: Any) -> dict[str, Any]:
    names = ("lowercase", "strip_accents", "handle_chinese_chars", "clean_text")
    if normalizer is None:
        return dict.fromkeys(names, False)
    _check_type(normalizer, "normalizer", "BertNormalizer")
    if set(normalizer) - {"type"} != set(names):
        _refuse("the normalizer", f"{names} and no others", sorted(normalizer))
    found = {name: normalizer[name] for name in names}
    _check_flags(found)
    return found


def _check_flags(flags: Mapping[str, Any]) -> None:
    for name, flag in flags.items():
        unset = name == "strip_accents" and flag is None
        if not unset and not isinstance(flag, bool):
            _refuse(f"the normalizer's '{name}'", "true or false", flag)


def _read_post_processor(section: Any) -> tuple[str, str, dict[str, int]]:
    """Returns the tokens around a text, if the template is `[CLS] A [SEP] B [SEP]`."""
    _check_type(section, "post_processor", "BertProcessing", "TemplateProcessing")
    if section["type"] == "BertProcessing":
        classifier, separator = section["cls"], section["sep"]
        return classifier[0], separator[0], dict([classifier, separator])
    single, pair = (_read_template(section.get(name)) for name in ("single", "pair"))
    ids = {}
    for token in (section.get("special_tokens") or {}).values():
        if token["tokens"] != [token["id"]] or len(token["ids"]) != 1:
            _refuse("a special token of several tokens", "one token", token)
        ids[token["id"]] = token["ids"][0]
    classifier, separator = (single[0][0], single[-1][0]) if single else ("", "")
    first = [(classifier, 0), ("A", 0), (separator, 0)]
    second = [("B", 1), (separator, 1)]
    if single != first or pair != first + second or {classifier, separator} - set(ids):
        _refuse("the template of the post_processor", "[CLS] A [SEP] B [SEP]", section)
    return classifier, separator, ids


def _read_template(template: Any) -> list[tuple[str, int]]:
    return [
        (piece["id"], piece["type_id"])
        for part in template or []
        for piece in part.values()
    ]


def _check_directions(data: Mapping[str, Any]) -> None:
    for name in ("padding", "truncation"):
        section = data.get(name) or {}
        if section.get("direction", "Right") != "Right":
            _refuse(f"'direction' of the {name}", "'Right'", section["direction"])
    strategy = (data.get("truncation") or {}).get("strategy", "LongestFirst")
    if strategy != "LongestFirst":
        _refuse("'strategy' of the truncation", "'LongestFirst'", strategy)


def _check_type(section: Any, name: str, *types: str) -> None:
    found = section.get("type") if isinstance(section, Mapping) else section
    if found not in types:
        _refuse(f"the {name}", " or ".join(types), found)


def _refuse(what: str, expected: str, received: Any) -> NoReturn:
    json_files.refuse(
        what,
        expected,
        received,
        "Use a BERT tokenizer (WordPiece, BertNormalizer, BertPreTokenizer), or pass "
        "token ids that its own library made.",
    )
