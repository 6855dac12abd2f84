"""What a model of a `tokenizer.json` takes and returns: words and tokens."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from keras_attention.text.codes import state as pieces
from keras_attention.text.json_files import refuse

_FIRST_LONG = 0x80  # from here on a byte is a part of a character


class Words(NamedTuple):
    """Words as strings `[W]`, and their code points `[N]` with bounds `[W + 1]`.

    The bounds are int32.
    """

    strings: tf.Tensor
    codes: tf.Tensor
    bounds: tf.Tensor


class Tokens(NamedTuple):
    """Ids `[T]`, the first and last code point of each, and splits `[W + 1]`.

    Code points are counted over all words.
    """

    ids: tf.Tensor
    first: tf.Tensor
    last: tf.Tensor
    splits: tf.Tensor


Model = Callable[[Words], Tokens]


def from_places(ids: tf.Tensor, first: tf.Tensor, bounds: tf.Tensor) -> Tokens:
    """Returns tokens that begin at code points; each lasts until the next one."""
    splits = tf.searchsorted(first, bounds)
    following = tf.concat([first[1:], bounds[-1:]], 0)
    end = tf.gather(bounds, tf.searchsorted(bounds, first, side="right"))
    last = tf.maximum(tf.minimum(following, end) - 1, first)
    return Tokens(ids, first, last, splits)


def word_numbers(words: Words) -> tf.Tensor:
    """Returns the number of each code point's word, `[N]`."""
    count = tf.range(tf.size(words.bounds) - 1)
    return tf.repeat(count, words.bounds[1:] - words.bounds[:-1])


def byte_tokens(vocab: Mapping[str, int]) -> tf.Tensor:
    """Returns the ids of the tokens `<0x00>` to `<0xFF>`.

    One may be missing only if its character is a token, and so is never unknown.
    """
    ids = [vocab.get(f"<0x{byte:02X}>") for byte in range(256)]
    missing = [
        byte
        for byte, number in enumerate(ids)
        if number is None and (byte >= _FIRST_LONG or chr(byte) not in vocab)
    ]
    if missing:
        refuse("'byte_fallback'", "a token for each byte", missing[:3])
    return tf.constant([number or 0 for number in ids], tf.int32)


def utf8(codes: Any, is_chosen: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the places `[M]` and bytes of code points, one per code if not chosen."""
    sizes = tf.where(is_chosen, pieces.utf8_sizes(codes), 1)
    place = tf.repeat(tf.range(tf.size(codes)), sizes)
    turn = tf.range(tf.size(place)) - tf.gather(tf.cumsum(sizes, exclusive=True), place)
    return place, pieces.utf8_byte(
        tf.gather(codes, place), tf.gather(sizes, place), turn
    )
