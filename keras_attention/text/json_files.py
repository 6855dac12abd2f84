"""Reads the files that the tokenizer folders of every kind have: JSON and plain text.

What only one kind of tokenizer has is read in its own folder, in `files.py` there.
"""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

Path = str | os.PathLike[str]

SETTINGS_FILE = "tokenizer_config.json"
ROLES = ("bos", "eos", "unk", "cls", "sep", "pad", "mask")
_LONGEST = 10**6  # transformers writes 1e30 for "no limit"
_MOST_CHARACTERS = 300  # of a value in an error


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file."""
    text = read_text(path, "a JSON file that Hugging Face's tokenizers wrote")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"A tokenizer file is not valid JSON ({error}). Download or write it "
            f"again. Received: path={str(path)!r}"
        ) from error
    if not isinstance(data, dict):
        raise ValueError(
            "A tokenizer file holds one JSON object; this one holds something else. "
            f"Give the path of a tokenizer.json. Received: {type(data).__name__} in "
            f"{str(path)!r}"
        )
    return data


def read_optional_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file, or an empty one if there is no such file."""
    return read_json(path) if pathlib.Path(path).is_file() else {}


def read_text(path: Path, expected: str) -> str:
    """Returns the text of a UTF-8 file.

    Args:
        path: The path of the file.
        expected: What the file should be, for the errors.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no such tokenizer file; expected {expected}. Check the path. "
            f"Received: path={str(path)!r}"
        )
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"A tokenizer file is not UTF-8 ({error}); expected {expected}. Convert "
            f"it to UTF-8. Received: path={str(path)!r}"
        ) from error


def special_tokens(
    settings: Mapping[str, Any], roles: Iterable[str] = ROLES
) -> dict[str, str]:
    """Returns the special token of each role that a `tokenizer_config.json` names."""
    found = {}
    for role in roles:
        token = settings.get(f"{role}_token")
        if isinstance(token, Mapping):  # an AddedToken, written out
            token = token.get("content")
        if token is not None:
            found[role] = token
    return found


def limits(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the maximal length and the sides that a `tokenizer_config.json` names."""
    length = settings.get("model_max_length") or _LONGEST + 1
    return {
        "max_length": None if length > _LONGEST else int(length),
        "padding_side": settings.get("padding_side") or "right",
        "truncation_side": settings.get("truncation_side") or "right",
    }


def tokens_by_id(ids: Mapping[str, int]) -> list[str]:
    """Returns the tokens of a `{token: id}` dict as a list sorted by id."""
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(ids))):
        refuse("the ids of the vocabulary", "0, 1, 2, … without gaps", len(ids))
    return tokens


def refuse(
    what: str,
    expected: str,
    received: Any,
    remedy: str = "Pass token ids that its own library made.",
) -> NoReturn:
    """Raises the error about a part of a file that would change tokens.

    Args:
        what: The part that is not supported.
        expected: What is supported instead.
        received: The part's value.
        remedy: A sentence that says what to do.
    """
    text = repr(received)
    if len(text) > _MOST_CHARACTERS:
        text = text[:_MOST_CHARACTERS] + "…"
    raise ValueError(
        f"This tokenizer cannot be reproduced exactly because of {what}; supported: "
        f"{expected}. {remedy} Received: {text}"
    )
