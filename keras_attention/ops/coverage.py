"""Coverage: how much earlier queries have attended to each position of the source."""

from typing import Any

from keras import ops


def coverage_loss(scores: Any) -> Any:
    """How much each query attends to positions that earlier queries attended to.

    Add its mean over the non-padding queries to the loss of a decoder that repeats
    itself. It is 0 for a query that attends only to new positions, and at most 1.

    Reference: See et al., "Get To The Point", 2017 (arXiv:1704.04368), equations 10
    and 12: the sum over s of min(a_s, c_s), where c_s is the sum of the weights of
    earlier queries.

    Args:
        scores: Attention weights `[B, T, S]`; 0 at padding.

    Returns:
        `[B, T]`, one number per query.

    Example:
    >>> scores = np.array([[[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]], "float32")
    >>> ops.convert_to_numpy(coverage_loss(scores)).tolist()
    [[0.0, 0.25]]
    """
    scores = ops.convert_to_tensor(scores)
    sums = ops.cumsum(scores, axis=1)
    coverage = ops.concatenate([ops.zeros_like(sums[:, :1]), sums[:, :-1]], axis=1)
    return ops.sum(ops.minimum(scores, coverage), axis=-1)  # [B, T]
