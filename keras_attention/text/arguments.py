"""Checks of a tokenizer's arguments, with errors that say how to correct them."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_attention import untrusted
from keras_attention.text import json_files

_ROLES = ("unk", "cls", "sep", "pad", "mask")
MAX_ADDED_TOKEN = 1000  # characters


def tensorflow_text() -> Any:
    """Returns the module `tensorflow_text`, or raises how to install it."""
    try:
        import tensorflow_text
    except ImportError as error:
        raise ImportError(
            "Tokenizing in the graph needs tensorflow_text. Install it: "
            'pip install "keras-attention-layers[text]". '
            "Received: no module tensorflow_text"
        ) from error
    return tensorflow_text


def token_ids(vocabulary: Sequence[str]) -> dict[str, int]:
    """Returns `{token: id}` of a vocabulary without repetitions."""
    if not vocabulary:
        raise ValueError(
            "A vocabulary needs tokens, at least the special ones. Give a list of "
            "strings or the path of a vocab.txt. Received: an empty vocabulary"
        )
    ids: dict[str, int] = {}
    for token_id, token in enumerate(vocabulary):
        if not isinstance(token, str):
            raise ValueError(
                "A vocabulary is a list of strings; the index of each is its id. "
                "Turn a {token: id} dict into a list sorted by id. "
                f"Received: {token!r:.100} at index {token_id}"
            )
        if token in ids:
            raise ValueError(
                "Each token is in a vocabulary only once, or its id would be "
                "ambiguous. Rename one of the two, such as '[unused1]'. "
                f"Received: {token!r:.100} at indices {ids[token]} and {token_id}"
            )
        ids[token] = token_id
    return ids


def special_tokens(
    given: Mapping[str, str | None], ids: Mapping[str, int]
) -> dict[str, str | None]:
    """Returns WordPiece's token of each role; `"mask"` may be missing."""
    _check_roles(given, _ROLES)
    tokens: dict[str, str | None] = {role: f"[{role.upper()}]" for role in _ROLES}
    if "[MASK]" not in ids:
        tokens["mask"] = None
    tokens.update(given)
    for role, token in tokens.items():
        if not (role == "mask" and token is None):
            _check_in_vocabulary(role, token, ids)
    return tokens


def check_special_tokens(given: Mapping[str, str], ids: Mapping[str, int]) -> None:
    """Refuses unknown roles, and special tokens that the vocabulary lacks."""
    _check_roles(given, json_files.ROLES)
    for role, token in given.items():
        _check_in_vocabulary(role, token, ids)


def _check_roles(given: Mapping[str, Any], roles: Sequence[str]) -> None:
    unknown = sorted(set(given) - set(roles))
    if unknown:
        raise ValueError(
            f"Special tokens are named by {', '.join(roles)}. Rename or remove the "
            f"others. Received: special_tokens with {unknown}"
        )


def _check_in_vocabulary(role: str, token: Any, ids: Mapping[str, int]) -> None:
    if token not in ids:
        raise ValueError(
            f"The vocabulary lacks the special token {token!r:.100} ({role}). Add it, "
            f"or give the name it has: special_tokens={{{role!r}: …}}. "
            f"Received: {len(ids)} tokens, the first are "
            f"{untrusted.show(list(ids)[:5])}"
        )


def added_tokens(given: Sequence[str], ids: Mapping[str, int]) -> list[str]:
    """Returns the tokens to find in raw text; refuses unknown or overlapping ones."""
    tokens = list(dict.fromkeys(given))
    for token in tokens:
        if not token or token not in ids or len(token) > MAX_ADDED_TOKEN:
            raise ValueError(
                "Added tokens are tokens of the vocabulary, of at most "
                f"{MAX_ADDED_TOKEN:,} characters. Add this one to the vocabulary or "
                f"remove it from the list. Received: added_tokens with {token!r:.100}"
            )
    # The proper ends of all tokens, compared with the proper starts of each.
    ends = {one[n:]: one for one in tokens for n in range(1, len(one))}
    for other in tokens:
        for length in range(1, len(other)):
            one = ends.get(other[:length])
            if one is not None:
                raise ValueError(
                    "Added tokens must not overlap: the end of one is the start of "
                    "another, so a text could be split in two ways. Remove one of "
                    f"them from added_tokens. Received: {one!r:.100} and {other!r:.100}"
                )
    return tokens


def check_lengths(max_length: Any, max_input_chars_per_word: Any) -> None:
    """Refuses lengths that are not integers or are too small."""
    least = {"max_length": 3, "max_input_chars_per_word": 1}
    values = {
        "max_length": 3 if max_length is None else max_length,
        "max_input_chars_per_word": max_input_chars_per_word,
    }
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least[name]:
            raise ValueError(
                f"{name} is an integer of at least {least[name]}"
                f"{' (the special tokens of a pair) or None' * (name == 'max_length')}"
                f". Choose a larger one. Received: {name}={value!r}"
            )


def strings(texts: Any, name: str) -> tf.Tensor:
    """Returns texts as a string tensor `[B]`."""
    if isinstance(texts, str | bytes):
        _refuse_scalar(name, repr(texts))
    tensor: Any = texts
    if not tf.is_tensor(texts):
        try:
            tensor = tf.convert_to_tensor(texts, tf.string)
        except (TypeError, ValueError, AttributeError, UnicodeError) as error:
            raise ValueError(
                f"The tokenizer takes {name} as strings [B], one per row: a list of "
                "str or a string tensor. Token ids go to the model directly. "
                f"Received: {name}={_shortened(texts)} ({type(texts).__name__})"
            ) from error
    if tensor.dtype != tf.string:
        raise ValueError(
            f"The tokenizer takes {name} as strings [B]. Token ids go to the model "
            f"directly. Received: {name} with dtype={tensor.dtype.name}"
        )
    if tensor.shape.rank == 0:
        _refuse_scalar(name, "a scalar string tensor")
    if isinstance(tensor, tf.RaggedTensor) or tensor.shape.rank not in (1, None):
        raise ValueError(
            f"The tokenizer takes {name} as strings [B], one per row. Flatten it, for "
            f"example with tf.reshape({name}, [-1]); for two texts per row use "
            f"texts_pair. Received: {name} with shape={tensor.shape}"
        )
    return tensor


def same_batch(texts: tf.Tensor, texts_pair: tf.Tensor) -> tf.Tensor:
    """Returns the second texts; refuses another number of them than of the first.

    The numbers are compared at once if they are known, else when the graph runs.
    """
    message = (
        "Each row needs both texts: texts and texts_pair must have the same length. "
        "Give two lists of the same length. Received:"
    )
    counts = texts.shape[0], texts_pair.shape[0]
    if None not in counts and counts[0] != counts[1]:
        raise ValueError(f"{message} {counts[0]} texts and {counts[1]} texts_pair")
    check = tf.debugging.assert_equal(
        tf.size(texts), tf.size(texts_pair), message=message
    )
    # Without the dependency another operation may fail first, with a worse error.
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(texts_pair)


def id_rows(ids: Any, vocabulary_size: int) -> Any:
    """Returns ids `[B, T]`, dense or ragged, as ragged rows of tokens that have a text.

    A model's table is often larger than its vocabulary (T5: 32,128 rows for 32,100
    tokens), so that it can generate ids without a token. They are left out, as by the
    `tokenizers` package.
    """
    rows = _rows(ids)
    return tf.ragged.boolean_mask(rows, rows < tf.cast(vocabulary_size, rows.dtype))


def _rows(ids):
    if isinstance(ids, tf.RaggedTensor):
        return ids
    ids = tf.convert_to_tensor(ids)
    if ids.shape.rank != 2 or not ids.dtype.is_integer:
        raise ValueError(
            "detokenize takes integer ids [B, T], one row per text. Put a "
            "single row into a list. "
            f"Received: shape={ids.shape}, dtype={ids.dtype.name}"
        )
    return tf.RaggedTensor.from_tensor(ids)


def _refuse_scalar(name: str, received: str) -> None:
    raise ValueError(
        f"The tokenizer takes {name} as strings [B], one per row, not a single one. "
        f"Wrap it in a list: [text]. Received: {name}={received}"
    )


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "…"
