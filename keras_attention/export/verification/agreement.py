"""Measures how well outputs agree with a reference, in the terms of their use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Agreement:
    """The agreement of one output with the reference, over all inputs.

    Attributes:
        output: The output's name.
        worst_cosine: The lowest cosine of a text's or token's vector with its
            reference.
        mean_cosine: The mean of these cosines.
        same: The share of texts or tokens with the same decision.
        decision: The kind of decision: `"label"`, `"next token"`, or `"neighbour"`,
            the text that is nearest by cosine.
        perplexity: The perplexity of the texts, if the outputs are logits of next
            tokens.
        reference_perplexity: The reference's perplexity.
    """

    output: str
    worst_cosine: float
    mean_cosine: float
    same: float
    decision: str
    perplexity: float | None = None
    reference_perplexity: float | None = None


def agreement(
    output: str,
    expected: Sequence[np.ndarray],
    got: Sequence[np.ndarray],
    ids: Sequence[np.ndarray] | None = None,
    masks: Sequence[np.ndarray] | None = None,
) -> Agreement:
    """Compares one output over several batches.

    Args:
        output: The output's name. Logits and scores are compared by their largest
            entry, other vectors by their neighbours.
        expected: The reference, `[batch, size]` or `[batch, sequence, size]`.
        got: The outputs, of the same shapes.
        ids: Token ids `[batch, sequence]`, for a perplexity.
        masks: Padding masks, bool `[batch, sequence]`.
    """
    by_token = expected[0].ndim > 2
    decides = output in {"logits", "scores", "probabilities"}
    if by_token and masks is not None:
        reference = _without_padding(expected, masks)
        answers = _without_padding(got, masks)
    else:
        reference = np.concatenate([x.reshape(-1, x.shape[-1]) for x in expected])
        answers = np.concatenate([x.reshape(-1, x.shape[-1]) for x in got])
    cosines = _cosines(reference, answers)
    if decides:
        decision = "next token" if by_token else "label"
        same = reference.argmax(-1) == answers.argmax(-1)
    else:
        decision = "neighbour"
        same = _neighbours(reference) == _neighbours(answers)
    perplexities: list[float | None] = [None, None]
    if decides and by_token and ids is not None and masks is not None:
        perplexities = [_perplexity(x, ids, masks) for x in (got, expected)]
    return Agreement(
        output,
        float(cosines.min()),
        float(cosines.mean()),
        float(same.mean()),
        decision,
        *perplexities,
    )


def worst_cosine(
    expected: Sequence[Mapping[str, Any]], got: Sequence[Mapping[str, Any]]
) -> float:
    """Return the lowest cosine of a vector with its reference over all outputs.

    Args:
        expected: One dict of arrays per input.
        got: The same, to be compared.
    """
    return min(
        float(_cosines(_rows(values), _rows(answers[name])).min())
        for each, answers in zip(expected, got, strict=True)
        for name, values in each.items()
        if values.size
    )


def _rows(values):
    return values.reshape(-1, values.shape[-1])


def _without_padding(batches, masks):
    """The vectors of non-padding tokens, `[tokens, size]`."""
    pairs = zip(batches, masks, strict=True)
    return np.concatenate([values[np.asarray(mask, bool)] for values, mask in pairs])


def _cosines(a, b):
    """The cosine of each row; 1 where both rows are 0."""
    a, b = a.astype("float64"), b.astype("float64")
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    both = ~a.any(-1) & ~b.any(-1)
    cosines = (a * b).sum(-1) / np.where(lengths == 0, 1, lengths)
    return np.where(both, 1.0, cosines)


def _neighbours(vectors, limit=4096):
    """The nearest other row by cosine, of up to `limit` rows."""
    vectors = vectors[:limit].astype("float32")
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors = vectors / np.maximum(lengths, 1e-30)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    return cosines.argmax(-1)


def _perplexity(logits, ids, masks):
    total, count = 0.0, 0
    for batch, tokens, padding_mask in zip(logits, ids, masks, strict=True):
        values, mask = batch.astype("float64"), np.asarray(padding_mask, bool)
        top = values.max(-1, keepdims=True)
        norm = np.log(np.exp(values - top).sum(-1)) + top[..., 0]
        following = np.take_along_axis(values[:, :-1], tokens[:, 1:, None], -1)[..., 0]
        both = mask[:, :-1] & mask[:, 1:]
        total += (norm[:, :-1] - following)[both].sum()
        count += int(both.sum())
    return float(np.exp(total / max(count, 1)))
