"""Rows of different lengths as batches for `fit`, on every backend."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

# Rows that are sorted by length together: batches stay random, padding stays small.
_BATCHES_SORTED_TOGETHER = 50
IGNORED = -100  # the label of a token that is not scored


class PaddedBatches(keras.utils.PyDataset):
    """Rows of different lengths, batched with rows of similar length.

    Padding goes to the longest row of a batch only. What tasks return from `batches`;
    made for `fit`, `evaluate` and `ka.fine_tune`.

    Args:
        rows: One dict of arrays a row, whose first axis may differ in length.
        targets: One a row: numbers, or arrays of one shape.
        per_token: Whether a target has one number a token, padded like its row.
        batch_size: Rows at a time.
        shuffle: Whether rows come in another order each epoch.
        padding: Input name to what fills it; 0 where nothing is said.
        seed: Of the order.
    """

    def __init__(
        self,
        rows: Sequence[dict[str, np.ndarray]],
        targets: Sequence[Any] | np.ndarray,
        *,
        per_token: bool = False,
        batch_size: int = 32,
        shuffle: bool = True,
        padding: dict[str, int] | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if not rows:
            raise ValueError("There must be rows to train on. Received: 0 rows")
        self.rows, self.targets, self.per_token = rows, targets, per_token
        self.batch_size, self.shuffle = batch_size, shuffle
        self.padding = padding or {}
        self._lengths = np.array([len(row["token_ids"]) for row in rows])
        self._random = np.random.default_rng(seed)
        self._batches = self._order()

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, index):
        return self.batch_of(self._batches[index])

    def on_epoch_end(self):
        """Draws the order of the next epoch."""
        if self.shuffle:
            self._batches = self._order()

    def batch_of(self, chosen: Sequence[int]) -> tuple[dict[str, np.ndarray], Any]:
        """The rows of these numbers as one batch.

        Args:
            chosen: Numbers of rows.
        """
        rows = [self.rows[index] for index in chosen]
        inputs = padded_rows(rows, self.padding)
        targets = [np.asarray(self.targets[index]) for index in chosen]
        return inputs, pad(targets, IGNORED) if self.per_token else np.stack(targets)

    def _order(self) -> list[np.ndarray]:
        """The rows of each batch."""
        rows = np.arange(len(self.rows))
        if self.shuffle:
            rows = self._random.permutation(rows)
        step = self.batch_size * (_BATCHES_SORTED_TOGETHER if self.shuffle else 10**9)
        batches = []
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            part = part[np.argsort(self._lengths[part], kind="stable")]
            cuts = range(self.batch_size, len(part), self.batch_size)
            batches += np.split(part, cuts)
        if self.shuffle:
            order = self._random.permutation(len(batches))
            batches = [batches[place] for place in order]
        # Keras takes an axis for dynamic if the first two batches differ there.
        longest = [self._lengths[batch].max() for batch in batches]
        first, second = int(np.argmax(longest)), int(np.argmin(longest))
        ends = [first] if first == second else [first, second]
        rest = [batches[i] for i in range(len(batches)) if i not in ends]
        return [batches[i] for i in ends] + rest


def padded_rows(
    rows: Sequence[dict[str, np.ndarray]], padding: dict[str, int]
) -> dict[str, np.ndarray]:
    """Rows as one batch of inputs, with the `padding_mask` of their tokens.

    Args:
        rows: One dict of arrays `[T]` a row.
        padding: Input name to what fills it; 0 where nothing is said.
    """
    inputs = {
        name: pad([row[name] for row in rows], padding.get(name, 0)) for name in rows[0]
    }
    ones = [np.ones(len(row["token_ids"]), bool) for row in rows]
    return {**inputs, "padding_mask": pad(ones, 0)}


def pad(rows: Sequence[np.ndarray], value: int) -> np.ndarray:
    """Arrays `[T, …]` of different T as one `[B, longest T, …]`.

    Args:
        rows: The arrays.
        value: What fills the shorter ones.
    """
    longest = max(len(row) for row in rows)
    batch = np.full((len(rows), longest, *rows[0].shape[1:]), value, rows[0].dtype)
    for place, row in zip(batch, rows, strict=True):
        place[: len(row)] = row
    return batch
