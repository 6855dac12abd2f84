"""Unicode's composed form (NFC) of code points, and where each came from."""

from typing import Any

import tensorflow as tf

from keras_attention.text import arguments

_FIRST_CHANGED = 0x300  # what lies below is composed already, alone and together
_PLACEHOLDER = 0xFFFD  # for what is no character


def composed(state: Any, first_token: int) -> Any:
    """The state with its texts in NFC, as Hugging Face's `tokenizers` has it.

    Args:
        state: `(codes [N], row splits [B + 1], starts [N], ends [N])`.
        first_token: Codes from here on are tokens, which are left alone and which
            nothing is composed across.
    """
    codes = state[0]
    might = (codes >= _FIRST_CHANGED) & (codes < first_token)
    return tf.cond(
        tf.reduce_any(might), lambda: _checked(state, first_token), lambda: state
    )


def _checked(state, first_token):
    codes, splits, _, _ = state
    size = tf.size(codes, tf.int64)
    is_token = codes >= first_token
    begins = is_token | tf.concat([[False], is_token], 0)[:-1]
    begins |= tf.scatter_nd(splits[:, None], splits >= 0, [size + 1])[:-1]
    bounds = tf.concat([tf.where(begins)[:, 0], [size]], 0)  # of stretches, [P + 1]
    letters = tf.where(is_token, _PLACEHOLDER, codes)
    stretches = tf.RaggedTensor.from_row_splits(letters, bounds, validate=False)
    strings = tf.strings.unicode_encode(stretches, "UTF-8")
    changed = arguments.tensorflow_text().normalize_utf8(strings, "NFC")
    return tf.cond(
        tf.reduce_all(strings == changed),
        lambda: state,
        lambda: _composed(state, first_token, bounds, letters, changed),
    )


def _composed(state, first_token, bounds, letters, changed):
    codes, splits, starts, ends = state
    decoded: Any = tf.strings.unicode_decode(changed, "UTF-8")
    # A stretch that is a token is one code before and after.
    token = tf.gather(tf.gather(codes, bounds[:-1]), decoded.value_rowids())
    new_codes = tf.where(token >= first_token, token, decoded.values)
    splits = tf.gather(decoded.row_splits, tf.searchsorted(bounds, splits))
    taken = _taken(letters, decoded.values)
    # What only others were taken for stands where the last of them does.
    source = tf.cumsum(taken, exclusive=True) - tf.cast(taken == 0, tf.int64)
    return new_codes, splits, tf.gather(starts, source), tf.gather(ends, source)


def _taken(old, new):
    """How many of the old characters each new one stands for, `[M]`.

    Both are taken apart. The parts of one code point keep their order, however they
    are moved among others, so that the n-th is the n-th; of the parts of an old
    character the first counts.
    """
    before, after = _apart(old), _apart(new)
    counts = tf.concat(
        [[True], before.value_rowids()[1:] != before.value_rowids()[:-1]], 0
    )
    order = tf.argsort(before.values, stable=True)
    places = tf.argsort(after.values, stable=True)
    counts = tf.gather(tf.cast(counts, tf.int64), order)
    rows = tf.gather(after.value_rowids(), places)
    return tf.math.unsorted_segment_sum(counts, rows, tf.size(new))


def _apart(codes) -> Any:
    """The canonical parts of each code point, `[N, None]`."""
    strings = tf.strings.unicode_encode(codes[:, None], "UTF-8")
    parts = arguments.tensorflow_text().normalize_utf8(strings, "NFD")
    return tf.strings.unicode_decode(parts, "UTF-8")
