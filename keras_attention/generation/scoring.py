"""Probabilities of given tokens: long rows in windows, windows in batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_attention.generation.loop import bucket


class Window(NamedTuple):
    """A part of a row that is read at once.

    Attributes:
        row: Number of the row.
        start: Its first token.
        end: The one behind its last.
        counted: How many tokens of the row earlier windows have counted.
    """

    row: int
    start: int
    end: int
    counted: int


def windows_of(lengths: Sequence[int], window: int, stride: int) -> Iterator[Window]:
    """Windows over rows; each token but the first of a row is counted in one.

    Args:
        lengths: Tokens of each row.
        window: Tokens of a window, at most.
        stride: How far each begins behind the one before.
    """
    for row, length in enumerate(lengths):
        counted = 0
        for start in range(0, length - 1, stride):
            end = min(start + window, length)
            yield Window(row, start, end, counted)
            counted = end - 1
            if end == length:
                break


def log_probabilities(
    forward: Callable,
    rows: Sequence[np.ndarray],
    *,
    window: int,
    stride: int,
    batch_size: int,
    tell: Callable[[int, int], Any] = lambda done, total: None,
) -> list[np.ndarray]:
    """Log-probabilities of the tokens of rows, each given those before it.

    Args:
        forward: Called with ids, a bool mask and the ids that follow, each `[B, T]`;
            returns log-probabilities of the latter, `[B, T]`. Always of one shape.
        rows: Token ids.
        window: See `windows_of`.
        stride: See `windows_of`.
        batch_size: Windows at a time.
        tell: Called with how many windows are done, and of how many.

    Returns:
        Float32, one number fewer than tokens for each row.
    """
    found = [np.zeros(max(len(row) - 1, 0), "float32") for row in rows]
    parts = list(windows_of([len(row) for row in rows], window, stride))
    width = min(window, bucket(max((len(row) for row in rows), default=0)))
    for first in range(0, len(parts), batch_size):
        batch = parts[first : first + batch_size]
        token_ids, following = np.zeros((2, batch_size, width), "int32")
        for place, (row, start, end, _) in enumerate(batch):
            token_ids[place, : end - start] = rows[row][start:end]
            following[place, : end - start - 1] = rows[row][start + 1 : end]
        sizes = np.zeros(batch_size, int)
        sizes[: len(batch)] = [part.end - part.start for part in batch]
        keep = np.arange(width) < sizes[:, None]
        given = (ops.convert_to_tensor(x) for x in (token_ids, keep, following))
        results = ops.convert_to_numpy(forward(*given))
        for part, result in zip(batch, results, strict=False):
            new = slice(part.counted - part.start, part.end - part.start - 1)
            found[part.row][part.counted : part.end - 1] = result[new]
        tell(first + len(batch), len(parts))
    return found


def of_following(logits: Any, following: Any) -> Any:
    """Log-probabilities `[B, T]` that logits give to the ids that follow.

    Args:
        logits: `[B, T, V]`.
        following: Int `[B, T]`.
    """
    log_p = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    return ops.take_along_axis(log_p, following[..., None], axis=-1)[..., 0]
