"""Pooling: one vector for a sentence, other than the mean of `heads.py`."""

from typing import Any

import keras
from keras import ops

from keras_attention.blocks.heads import mean_of_tokens
from keras_attention.ops.attend import score_dtype


def first_token(sequence: Any, padding_mask: Any = None) -> Any:
    """Returns the first non-padding token's vector; 0 for a row without any.

    Args:
        sequence: `[B, T, E]`.
        padding_mask: Bool `[B, T]`, `True` at non-padding tokens; all when `None`.

    Returns:
        `[B, E]`.
    """
    if padding_mask is None:
        return sequence[:, 0]  # [B, E]
    counts = ops.cumsum(ops.cast(padding_mask, "int32"), axis=1)  # [B, T]
    return _token_where(sequence, padding_mask & (counts == 1))


def last_token(sequence: Any, padding_mask: Any = None) -> Any:
    """Returns the last non-padding token's vector; 0 for a row without any.

    Args:
        sequence: `[B, T, E]`.
        padding_mask: Bool `[B, T]`, `True` at non-padding tokens; all when `None`.

    Returns:
        `[B, E]`.
    """
    if padding_mask is None:
        return sequence[:, -1]  # [B, E]
    counts = ops.cumsum(ops.cast(padding_mask, "int32"), axis=1)  # [B, T]
    return _token_where(sequence, padding_mask & (counts == counts[:, -1:]))


def _token_where(sequence: Any, chosen: Any) -> Any:
    """Returns the vectors `[B, E]` where `chosen` `[B, T]` has its only `True`."""
    return ops.sum(ops.where(chosen[..., None], sequence, 0.0), axis=1)


def mean_by_position(
    sequence: Any, padding_mask: Any = None, counted: Any = None
) -> Any:
    """Returns the mean over non-padding tokens, weighted by 1, 2, 3, …; 0 without any.

    Reference: Muennighoff, "SGPT: GPT Sentence Embeddings for Semantic Search", 2022
    (arXiv:2202.08904).

    Args:
        sequence: `[B, T, E]`.
        padding_mask: Bool `[B, T]`, `True` at non-padding tokens; all when `None`.
        counted: Bool `[B, T]`, the tokens of the mean; the non-padding ones when
            `None`. The weights count those before them too.

    Returns:
        `[B, E]`.
    """
    dtype = score_dtype(sequence)
    mask = ops.ones_like(sequence[..., 0]) if padding_mask is None else padding_mask
    counted = ops.cast(mask if counted is None else counted, dtype)
    weights = ops.cumsum(ops.cast(mask, dtype), axis=1) * counted  # [B, T]
    cleared = ops.where(weights[..., None] > 0, ops.cast(sequence, dtype), 0.0)
    total = ops.sum(weights, axis=1)[:, None]  # [B, 1]
    mean = ops.sum(cleared * weights[..., None], axis=1) / ops.maximum(total, 1.0)
    return ops.cast(mean, sequence.dtype)  # [B, E]


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


@keras.saving.register_keras_serializable("keras_attention")
class EndTokenPooler(keras.layers.Layer):
    """The vector at the last end token of each row: what BART's classifiers read.

    Where a row has no end token, it is the vector of the last non-padding token.

    Reference: Lewis et al., 2019 (arXiv:1910.13461), section 3.1.

    Args:
        end_token_id: The id of the token that ends a text; the last non-padding token
            when `None`.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        sequence: `[B, T, E]`.
        token_ids: Int `[B, T]`.
        padding_mask: Bool `[B, T]`, `True` at non-padding tokens; all when `None`.

    Returns:
        `[B, E]`.
    """

    def __init__(self, end_token_id: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.end_token_id = end_token_id
        self.built = True

    def call(self, sequence, token_ids, padding_mask=None):
        if padding_mask is None:
            padding_mask = ops.ones_like(token_ids, dtype="bool")
        if self.end_token_id is None:
            return last_token(sequence, padding_mask)
        ends = (token_ids == self.end_token_id) & padding_mask  # [B, T]
        has_end = ops.any(ends, axis=1, keepdims=True)  # [B, 1]
        return last_token(sequence, ops.where(has_end, ends, padding_mask))

    def get_config(self):
        return {**super().get_config(), "end_token_id": self.end_token_id}
