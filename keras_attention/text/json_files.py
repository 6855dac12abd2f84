"""Reads the files that the tokenizer folders of every kind have: JSON and plain text.

What only one kind of tokenizer has is read in its own folder, in `files.py` there.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from keras_attention import untrusted

Path = str | os.PathLike[str]

SETTINGS_FILE = "tokenizer_config.json"
ROLES = ("bos", "eos", "unk", "cls", "sep", "pad", "mask")
_LONGEST = 10**6  # transformers writes 1e30 for "no limit"
MAX_BYTES = 1 << 26  # the largest tokenizer.json has half as many


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file."""
    return untrusted.read_object(path, MAX_BYTES)


def read_optional_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file, or an empty one if there is no such file."""
    return read_json(path) if os.path.exists(path) else {}


def read_text(path: Path, expected: str) -> str:
    """Returns the text of a UTF-8 file.

    Args:
        path: The path of the file.
        expected: What the file should be, for the errors.
    """
    where = untrusted.clip(path)
    try:
        return untrusted.read_bytes(path, MAX_BYTES).decode("utf-8")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There is no such tokenizer file; expected {expected}. Check the path. "
            f"Received: path={where!r}"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"A tokenizer file is not UTF-8 ({error.reason}); expected {expected}. "
            f"Convert it to UTF-8. Received: path={where!r}"
        ) from None


def read_merges(path: Path) -> list[list[str]]:
    """Returns the pairs of a `merges.txt`, which has one per line."""
    expected = "a merges.txt with a pair of tokens per line"
    lines = read_text(path, expected).split("\n")
    if lines[0].startswith("#version"):
        lines = lines[1:]
    return [line.removesuffix("\r").split(" ") for line in lines if line.strip()]


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
            if not isinstance(token, str):
                refuse(f"'{role}_token'", "a string", token)
            found[role] = token
    return found


def limits(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the maximal length and the sides that a `tokenizer_config.json` names."""
    length = settings.get("model_max_length") or _LONGEST + 1
    if isinstance(length, bool) or not isinstance(length, int | float):
        refuse("'model_max_length'", "a number", length)
    sides = {
        name: settings.get(name) or "right"
        for name in ("padding_side", "truncation_side")
    }
    for name, side in sides.items():
        if side not in ("left", "right"):
            refuse(repr(name), "'left' and 'right'", side)
    return {"max_length": None if length > _LONGEST else int(length), **sides}


def tokens_by_id(ids: Mapping[str, int]) -> list[str]:
    """Returns the tokens of a `{token: id}` dict as a list sorted by id."""
    if not isinstance(ids, Mapping):
        refuse("the vocabulary", "an object of tokens and their ids", ids)
    if any(type(number) is not int for number in ids.values()):
        refuse("the ids of the vocabulary", "integers", ids)
    tokens = sorted(ids, key=ids.__getitem__)
    if any(ids[token] != number for number, token in enumerate(tokens)):
        refuse("the ids of the vocabulary", "0, 1, 2, … without gaps", len(ids))
    return tokens


class RefusedError(ValueError):
    """A part of a file would change tokens, and is not computed."""


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
    raise RefusedError(
        f"This tokenizer cannot be reproduced exactly because of "
        f"{untrusted.clip(what)}; supported: {untrusted.clip(expected, 600)}. {remedy} "
        f"Received: {untrusted.show(received)}"
    )
