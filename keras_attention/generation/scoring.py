"""Probabilities of given tokens; long rows are read in windows, in batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_attention.generation.loop import bucket


class Window(NamedTuple):
    """A part of a row that is read at once.

    Attributes:
        row: The row's index.
        start: The index of the window's first token.
        end: The index after the window's last token.
        counted: The number of the row's tokens that earlier windows have scored.
    """

    row: int
    start: int
    end: int
    counted: int


def windows_of(lengths: Sequence[int], window: int, stride: int) -> Iterator[Window]:
    """Yields windows over rows; each token except a row's first is scored in one.

    Args:
        lengths: The number of tokens of each row.
        window: The largest number of tokens of a window.
        stride: The distance between the starts of two windows.
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
    """Computes the log-probability of each token of rows, given those before it.

    Args:
        forward: A function of ids, a bool mask and the ids that follow, each `[B, T]`.
            It returns the log-probabilities of the ids that follow, `[B, T]`. All calls
            have the same shape.
        rows: Arrays of token ids.
        window: As in `windows_of`.
        stride: As in `windows_of`.
        batch_size: The number of windows in a call.
        tell: A function called with the number of windows done and of all windows.

    Returns:
        A float32 array for each row, with one number fewer than it has tokens.
    """
    found = [np.zeros(max(len(row) - 1, 0), "float32") for row in rows]
    parts = list(windows_of([len(row) for row in rows], window, stride))
    width = min(window, bucket(max((len(row) for row in rows), default=0)))
    for first in range(0, len(parts), batch_size):
        batch = parts[first : first + batch_size]
        token_ids, following = np.zeros((2, batch_size, width), "int32")
        for index, (row, start, end, _) in enumerate(batch):
            token_ids[index, : end - start] = rows[row][start:end]
            following[index, : end - start - 1] = rows[row][start + 1 : end]
        sizes = np.zeros(batch_size, int)
        sizes[: len(batch)] = [part.end - part.start for part in batch]
        padding_mask = np.arange(width) < sizes[:, None]
        inputs = map(ops.convert_to_tensor, (token_ids, padding_mask, following))
        results = ops.convert_to_numpy(forward(*inputs))
        for part, result in zip(batch, results, strict=False):
            new = slice(part.counted - part.start, part.end - part.start - 1)
            found[part.row][part.counted : part.end - 1] = result[new]
        tell(first + len(batch), len(parts))
    return found


def of_following(logits: Any, following: Any) -> Any:
    """Returns the log-probabilities `[B, T]` of the ids that follow.

    Args:
        logits: `[B, T, V]`.
        following: Int `[B, T]`.
    """
    log_p = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    return ops.take_along_axis(log_p, following[..., None], axis=-1)[..., 0]
