"""Unicode's forms (NFC and others) of code points, with the source of each."""

from typing import Any

import tensorflow as tf

from keras_attention.text import arguments

# Texts that have only lower code points are in these forms.
_FIRST_CHANGED = {"NFC": 0x300, "NFD": 0xC0, "NFKC": 0xA0, "NFKD": 0xA0}
_PLACEHOLDER = 0xFFFD  # for an added token, which is not a character


def composed(state: Any, first_token: int, form: str = "NFC") -> Any:
    """Returns the state with its texts in a form, equal to Hugging Face's `tokenizers`.

    Args:
        state: `(codes [N], row splits [B + 1], starts [N], ends [N])`.
        first_token: The first code that is an added token. Tokens are not changed, and
            characters before and after one are not composed with each other.
        form: `"NFC"`, `"NFD"`, `"NFKC"` or `"NFKD"`.
    """
    codes = state[0]
    might = (codes >= _FIRST_CHANGED[form]) & (codes < first_token)
    return tf.cond(
        tf.reduce_any(might), lambda: _checked(state, first_token, form), lambda: state
    )


def _checked(state, first_token, form):
    codes, splits, _, _ = state
    size = tf.size(codes, tf.int64)
    is_token = codes >= first_token
    begins = is_token | tf.concat([[False], is_token], 0)[:-1]
    begins |= tf.scatter_nd(splits[:, None], splits >= 0, [size + 1])[:-1]
    bounds = tf.concat([tf.where(begins)[:, 0], [size]], 0)  # [P + 1]
    letters = tf.where(is_token, _PLACEHOLDER, codes)
    stretches = tf.RaggedTensor.from_row_splits(letters, bounds, validate=False)
    strings = tf.strings.unicode_encode(stretches, "UTF-8")
    changed = arguments.tensorflow_text().normalize_utf8(strings, form)
    return tf.cond(
        tf.reduce_all(strings == changed),
        lambda: state,
        lambda: _composed(
            state, first_token, (bounds, letters), changed, form[:-1] + "D"
        ),
    )


def _composed(state, first_token, before, changed, parts):
    bounds, letters = before
    codes, splits, starts, ends = state
    decoded: Any = tf.strings.unicode_decode(changed, "UTF-8")
    # A stretch of text that is a token is one code before and after.
    token = tf.gather(tf.gather(codes, bounds[:-1]), decoded.value_rowids())
    new_codes = tf.where(token >= first_token, token, decoded.values)
    splits = tf.gather(decoded.row_splits, tf.searchsorted(bounds, splits))
    counts = _num_sources(letters, decoded.values, parts)
    # A character of which no old one is the source gets the last one's offsets.
    source = tf.cumsum(counts, exclusive=True) - tf.cast(counts == 0, tf.int64)
    return new_codes, splits, tf.gather(starts, source), tf.gather(ends, source)


def _num_sources(old, new, parts):
    """Returns the number of old characters that each new one replaces, `[M]`.

    Both are decomposed. Parts with the same code point keep their order when marks are
    reordered, so the n-th one before is the n-th one after. An old character is counted
    where its first part is.
    """
    before, after = _decomposed(old, parts), _decomposed(new, parts)
    counts = tf.concat(
        [[True], before.value_rowids()[1:] != before.value_rowids()[:-1]], 0
    )
    order = tf.argsort(before.values, stable=True)
    places = tf.argsort(after.values, stable=True)
    counts = tf.gather(tf.cast(counts, tf.int64), order)
    rows = tf.gather(after.value_rowids(), places)
    return tf.math.unsorted_segment_sum(counts, rows, tf.size(new))


def _decomposed(codes, parts) -> Any:
    """Returns the parts of each code point, `[N, None]`."""
    strings = tf.strings.unicode_encode(codes[:, None], "UTF-8")
    strings = arguments.tensorflow_text().normalize_utf8(strings, parts)
    return tf.strings.unicode_decode(strings, "UTF-8")
