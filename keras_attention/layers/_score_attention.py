"""Attention of one head by a score function."""

from typing import Any

from keras_attention.layers._scores import Score
from keras_attention.layers.base import AttentionInputs
from keras_attention.ops.attend import attend, dot_product_attention
from keras_attention.ops.heads import HeadSettings


def scores_of(score: Score, inputs: AttentionInputs) -> Any:
    """Computes scores `[B, T, S]`, before bias and mask.

    Args:
        score: The score function.
        inputs: The inputs of `attend_to`.
    """
    return score.compare(inputs.query, _prepared_key(score, inputs))


def attend_with_score(
    score: Score, inputs: AttentionInputs, *, dropout: Any, weight_factor: Any = None
) -> tuple[Any, Any]:
    """Computes attention of one head by a score function.

    A score that is a product uses the dot-product core, for which runtimes have an
    operator; the numbers are the same either way.

    Args:
        score: The score function.
        inputs: The inputs of `attend_to`.
        dropout: A function of the weights, or `None`.
        weight_factor: `[B, T, S]`, multiplied with the weights after the softmax.

    Returns:
        `(output [B, T, V], weights [B, T, S] or None)`.
    """
    if not score.multiplies or weight_factor is not None:
        return attend(
            scores=scores_of(score, inputs),
            value=inputs.value,
            mask=inputs.mask,
            bias=inputs.bias,
            weight_factor=weight_factor,
            soft_cap=inputs.soft_cap,
            dropout=dropout,
        )
    mask, bias = inputs.mask, inputs.bias
    output, weights = dot_product_attention(
        query=score.prepare_query(inputs.query),
        key=_prepared_key(score, inputs),
        value=inputs.value,
        heads=HeadSettings(scale=score.scale, soft_cap=inputs.soft_cap),
        mask=None if mask is None else mask[:, None],
        bias=None if bias is None else bias[:, None],
        dropout=dropout,
        return_weights=inputs.need_weights,
    )
    return output, None if weights is None else weights[:, 0]


def _prepared_key(score, inputs):
    """What the score prepared of the keys: in a step of a decoder, before the step."""
    key = inputs.prepared_key
    return score.prepare(inputs.key) if key is None else key
