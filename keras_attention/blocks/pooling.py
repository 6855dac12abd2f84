"""Pooling: one vector for a sentence, other than the mean of `heads.py`."""

from typing import Any

from keras import ops

from keras_attention.blocks.heads import mean_of_tokens
from keras_attention.ops.attend import score_dtype


def first_token(sequence: Any, padding_mask: Any = None) -> Any:
    """Returns the first token's vector; 0 for a row of padding only.

    Args:
        sequence: `[B, T, E]`.
        padding_mask: Bool `[B, T]`, `True` at non-padding tokens; all when `None`.

    Returns:
        `[B, E]`.
    """
    first = sequence[:, 0]  # [B, E]
    if padding_mask is None:
        return first
    return ops.where(ops.any(padding_mask, axis=1)[:, None], first, 0.0)


def max_of_tokens(sequence: Any, padding_mask: Any = None) -> Any:
    """Returns each feature's maximum over non-padding tokens; 0 for a row without any.

    Args:
        sequence: `[B, T, E]`.
        padding_mask: Bool `[B, T]`, `True` at non-padding tokens; all when `None`.

    Returns:
        `[B, E]`.
    """
    if padding_mask is None:
        return ops.max(sequence, axis=1)
    mask = padding_mask[..., None]
    # Padding becomes the minimum, which cannot be larger than the maximum of the rest.
    cleared = ops.where(mask, sequence, 0.0)
    least = ops.min(cleared, axis=1, keepdims=True)
    largest = ops.max(ops.where(mask, sequence, least), axis=1)  # [B, E]
    return ops.where(ops.any(padding_mask, axis=1)[:, None], largest, 0.0)


def mean_by_root(sequence: Any, padding_mask: Any = None) -> Any:
    """Returns the sum over non-padding tokens, divided by the root of their number.

    It is 0 for a row without any.

    Args:
        sequence: `[B, T, E]`.
        padding_mask: Bool `[B, T]`, `True` at non-padding tokens; all when `None`.

    Returns:
        `[B, E]`.
    """
    dtype = score_dtype(sequence)
    mask = ops.ones_like(sequence[..., 0]) if padding_mask is None else padding_mask
    count = ops.sum(ops.cast(mask, dtype), axis=1)[:, None]  # [B, 1]
    mean = ops.cast(mean_of_tokens(sequence, padding_mask), dtype)
    return ops.cast(mean * ops.sqrt(count), sequence.dtype)
