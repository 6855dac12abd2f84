"""Monotonic alignments: attention that never moves back (Raffel et al., 2017).

A query walks over the source from the position where the query before it stopped, and
stops at position j with probability p_j. An alignment has the probability of each
position that the query stopped there.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_attention.ops.attend import score_dtype
from keras_attention.ops.positions import first_positions

MODES = ("parallel", "recursive", "hard")


def monotonic_alignment(
    probabilities: Any, previous: Any, mode: str = "parallel"
) -> Any:
    """The alignment of a query, given the alignment of the query before it.

    With q_j the probability to arrive at position j:

        q_j = (1 - p_{j-1}) q_{j-1} + previous_j
        alignment_j = p_j q_j

    The alignment need not sum to 1: the rest is the probability to walk past the end.
    Every mode returns exactly 0 where the probability is 0.

    Reference: Raffel et al., "Online and Linear-Time Attention by Enforcing Monotonic
    Alignments", 2017 (arXiv:1704.00784), equations 8 to 13 and algorithm 1.

    Args:
        probabilities: `[B, S]`, the probability to stop at each position; 0 at padding.
        previous: `[B, S]`, the alignment of the query before; one-hot at 0 for the
            first query.
        mode: `"recursive"` computes the equations above, one position after the other.
            `"parallel"` computes the same numbers in log2(S) steps. `"hard"` gives 1 to
            the first position at or after the previous one whose probability is above
            1/2; it is for inference and has no gradient.

    Returns:
        `[B, S]`, float32 (float64 for float64 inputs).

    Example:
    >>> start = np.array([[1.0, 0.0, 0.0]], "float32")
    >>> p = np.array([[0.5, 0.5, 1.0]], "float32")
    >>> ops.convert_to_numpy(monotonic_alignment(p, start)).tolist()
    [[0.5, 0.25, 0.25]]
    """
    step = _STEPS[check_mode(mode)]
    probabilities = ops.convert_to_tensor(probabilities)
    previous = ops.convert_to_tensor(previous)
    dtype = score_dtype(probabilities, previous)
    return step(ops.cast(probabilities, dtype), ops.cast(previous, dtype))


def monotonic_alignments(
    probabilities: Any, previous: Any, mode: str = "parallel", walks: Any = None
) -> Any:
    """Alignments of a sequence of queries, each of which continues the one before.

    Args:
        probabilities: `[B, T, S]`, see `monotonic_alignment`.
        previous: `[B, S]`, the alignment before the first query.
        mode: See `monotonic_alignment`.
        walks: Bool `[B, T]`. A query where it is `False` has alignment 0, and the next
            query continues the one before it. All queries walk when `None`.

    Returns:
        `[B, T, S]`, float32 (float64 for float64 inputs).
    """
    step = _STEPS[check_mode(mode)]
    dtype = score_dtype(probabilities, previous)
    probabilities, previous = (ops.cast(x, dtype) for x in (probabilities, previous))
    if walks is None:
        walks = ops.ones(ops.shape(probabilities)[:2], dtype="bool")  # [B, T]

    def walk(start, query):
        probability, walking = query  # [B, S], [B, 1]
        alignment = step(probability, start)
        stopped = ops.where(walking, alignment, 0.0)
        return ops.where(walking, alignment, start), stopped

    return _over_queries(walk, previous, (probabilities, walks[..., None]))


def check_mode(mode: str) -> str:
    """Returns `mode`; raises an error if it is none of `MODES`."""
    if mode not in MODES:
        raise ValueError(
            "`mode` must be 'parallel', 'recursive' (the same numbers, slower) or "
            f"'hard' (for inference). Received: mode={mode!r}"
        )
    return mode


def first_alignment(alignments: Any) -> Any:
    """The alignment before the first query: one-hot at position 0, `[B, S]`.

    Args:
        alignments: `[B, S]`, a tensor with the shape and dtype of the result.
    """
    first = first_positions(ops.shape(alignments)[1]) == 0
    return ops.zeros_like(alignments) + ops.cast(first, alignments.dtype)


def _over_queries(walk: Callable, start: Any, sequences: tuple) -> Any:
    """`walk(start, query) -> start, alignment` for each query in turn; `[B, T, S]`."""
    probabilities = sequences[0]
    length = probabilities.shape[1]
    if length == 0:
        return probabilities
    if length == 1:
        return walk(start, tuple(x[:, 0] for x in sequences))[1][:, None]
    if keras.backend.backend() == "jax":  # its while loop has no gradient
        sequences = tuple(ops.swapaxes(x, 0, 1) for x in sequences)
        return ops.swapaxes(ops.scan(walk, start, sequences)[1], 0, 1)
    length = ops.shape(probabilities)[1]
    numbers = first_positions(length)[None, :, None]  # [1, T, 1]

    def body(t, start, alignments):
        query = tuple(_at(x, t) for x in sequences)
        start, alignment = walk(start, query)
        # XLA and ONNX cannot append to a list, but they can select by position.
        chosen = ops.where(numbers == t, alignment[:, None], alignments)
        return t + 1, start, ops.reshape(chosen, ops.shape(alignments))

    return ops.while_loop(
        lambda t, *_: t < length,
        body,
        (0, start, ops.zeros_like(probabilities)),
        maximum_iterations=length,
    )[2]


def _at(x: Any, t: Any) -> Any:
    """`x[:, t]`, which keeps a known size of the last axis."""
    batch, _, size = ops.shape(x)
    return ops.reshape(ops.take(x, t, axis=1), (batch, size))


def _recursive(probabilities: Any, previous: Any) -> Any:
    """Equations 10 and 11, one position after the other."""

    def arrive(arrived, here):
        stops, left = here  # [B, 1] each
        arrived = arrived + left
        return (1.0 - stops) * arrived, arrived * stops

    columns = (probabilities[..., None], previous[..., None])  # [B, S, 1]
    start = ops.zeros_like(probabilities[:, :1])
    return _over_queries(arrive, start, columns)[..., 0]  # [B, S]


def _parallel(probabilities: Any, previous: Any) -> Any:
    """The recursion for all positions at once, in log2(S) rounds.

    q_j = f_j q_{j-1} + previous_j is a chain of affine maps, and their composition is
    associative: each round composes every map with the one `reach` positions before it.
    All products and sums are of numbers from 0 to 1, so nothing underflows, unlike the
    paper's division by a cumulative product.
    """
    length = probabilities.shape[1]
    numbers = first_positions(ops.shape(probabilities)[1])
    factors = ops.where(numbers > 0, _earlier(1.0 - probabilities, numbers, 1), 0.0)

    def chain(reach, factors, arrived):
        behind = numbers >= reach
        earlier = ops.where(behind, _earlier(arrived, numbers, reach), 0.0)
        factor = ops.where(behind, _earlier(factors, numbers, reach), 0.0)
        return reach * 2, factors * factor, arrived + factors * earlier

    state = (1, factors, previous)
    if length is None:
        length = ops.shape(probabilities)[1]
        state = ops.while_loop(
            lambda reach, *_: reach < length, chain, state, maximum_iterations=31
        )
    else:
        for _ in range(max(length - 1, 0).bit_length()):
            state = chain(*state)
    return probabilities * state[2]  # [B, S]


def _earlier(x: Any, numbers: Any, reach: Any) -> Any:
    """`[B, S]`: `x` at j - reach for each j, or at 0 where j - reach is below 0."""
    return ops.take(x, ops.maximum(numbers - reach, 0), axis=1)


def _hard(probabilities: Any, previous: Any) -> Any:
    """Algorithm 1: the first chosen position that is not before the previous one."""
    reached = ops.cumsum(previous, axis=-1) > 0.5
    chosen = ops.cast(reached & (probabilities > 0.5), probabilities.dtype)
    first = ops.cumsum(chosen, axis=-1) < 1.5
    return ops.where(first, chosen, 0.0)  # [B, S]


_STEPS = {"parallel": _parallel, "recursive": _recursive, "hard": _hard}
