"""Random numbers from a seed, a row and a step, equal on every backend."""

from typing import Any

from keras import ops

from keras_attention.ops.positions import first_positions

_FACTORS = (-2048144789, -1028477387)  # MurmurHash3's factors, as int32
_GOLDEN = -1640531527


def sample(logits: Any, seeds: Any, step: Any) -> Any:
    """Draws one token per row from the probabilities of the logits.

    An exponential number is drawn for each token and divided by its probability; the
    token with the smallest quotient is chosen. No sum over the vocabulary is rounded.

    Args:
        logits: `[B, V]`.
        seeds: Int32 `[B]`.
        step: Int32 scalar or `[B]`; each step has other random numbers.

    Returns:
        Int32 `[B]`.
    """
    drawn = -ops.log1p(-uniform(seeds, step, logits.shape[-1]))
    scores = ops.log_softmax(logits, axis=-1) - ops.log(drawn)
    return ops.cast(ops.argmax(scores, axis=-1), "int32")


def uniform(seeds: Any, step: Any, count: int) -> Any:
    """Draws numbers above 0 and below 1, float32 `[B, count]`.

    Args:
        seeds: Int32 `[B]`.
        step: Int32 scalar or `[B]`.
        count: The number of numbers per row.
    """
    step = ops.cast(ops.convert_to_tensor(step), "int32")
    key = _mixed(seeds + _mixed(step * _GOLDEN + 1))  # [B]
    column = _mixed(first_positions(count) * _GOLDEN + 7)
    mixed = _mixed(_mixed(column[None] + key[:, None]) ^ _mixed(key + 3)[:, None])
    positive = ops.bitwise_and(mixed, 2**31 - 1)
    # Numbers near 0 have fine steps, and none is 0 or 1.
    value = (ops.cast(positive, "float32") + 0.5) * 2.0**-31
    return ops.minimum(value, 1 - 2.0**-24)  # [B, count]


def seeds_of_rows(seed: Any, count: int) -> Any:
    """Returns one seed per row, int32 `[count]`.

    If `seed` is `[B]`, `count` must be 1: each of the seeds gives that of a first row.
    """
    if isinstance(seed, int):
        seed = (seed + 2**31) % 2**32 - 2**31
    start = _mixed(ops.convert_to_tensor(seed, dtype="int32"))
    return _mixed(start + first_positions(count) * _GOLDEN)


def _mixed(x: Any) -> Any:
    """Applies MurmurHash3's last rounds; int32 products wrap on every backend."""
    x = x ^ _shifted(x, 16)
    x = x * _FACTORS[0]
    x = x ^ _shifted(x, 13)
    x = x * _FACTORS[1]
    return x ^ _shifted(x, 16)


def _shifted(x: Any, by: int) -> Any:
    shifted = ops.bitwise_right_shift(x, by)
    return ops.bitwise_and(shifted, 2 ** (32 - by) - 1)
