"""One vector of the vectors of a sentence's tokens, beside their mean."""

from typing import Any

from keras import ops

from keras_attention.blocks.heads import mean_of_tokens
from keras_attention.ops.attend import score_dtype


def first_token(sequence: Any, padding_mask: Any = None) -> Any:
    """The vector in the first place; 0 for a row without any real token.

    Args:
        sequence: `[B, T, E]`.
        padding_mask: Bool `[B, T]`, `True` at real tokens; all when `None`.

    Returns:
        `[B, E]`.
    """
    first = sequence[:, 0]  # [B, E]
    if padding_mask is None:
        return first
    return ops.where(ops.any(padding_mask, axis=1)[:, None], first, 0.0)


def max_of_tokens(sequence: Any, padding_mask: Any = None) -> Any:
    """The largest of each feature over real tokens; 0 for a row without any.

    Args:
        sequence: `[B, T, E]`.
        padding_mask: Bool `[B, T]`, `True` at real tokens; all when `None`.

    Returns:
        `[B, E]`.
    """
    if padding_mask is None:
        return ops.max(sequence, axis=1)
    keep = padding_mask[..., None]
    # At padding the smallest number that is there: it is the largest nowhere else.
    cleared = ops.where(keep, sequence, 0.0)
    least = ops.min(cleared, axis=1, keepdims=True)
    largest = ops.max(ops.where(keep, sequence, least), axis=1)  # [B, E]
    return ops.where(ops.any(padding_mask, axis=1)[:, None], largest, 0.0)


def mean_by_root(sequence: Any, padding_mask: Any = None) -> Any:
    """The sum over real tokens, divided by the root of their number; 0 without any.

    Args:
        sequence: `[B, T, E]`.
        padding_mask: Bool `[B, T]`, `True` at real tokens; all when `None`.

    Returns:
        `[B, E]`.
    """
    dtype = score_dtype(sequence)
    keep = ops.ones_like(sequence[..., 0]) if padding_mask is None else padding_mask
    count = ops.sum(ops.cast(keep, dtype), axis=1)[:, None]  # [B, 1]
    mean = ops.cast(mean_of_tokens(sequence, padding_mask), dtype)
    return ops.cast(mean * ops.sqrt(count), sequence.dtype)
