"""Batches for `fit`, on every backend: of rows of one length, or of different ones.

What a batch holds is a function of the seed, the epoch and the number of the batch. A
training that was interrupted goes on with the same batches when `epoch` is set.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

# The number of batches whose rows are sorted by length together. It is a compromise:
# batches stay random, and padding stays small.
_BATCHES_SORTED_TOGETHER = 50
IGNORED = -100  # the label of a token that does not count in the loss


class EpochBatches(keras.utils.PyDataset):
    """Batches whose order is drawn from the seed and the epoch.

    A subclass sets its attributes, then calls `super().__init__`, and defines
    `order_of`. `fit` raises `epoch` by 1 after each epoch.

    Args:
        num_rows: The number of rows.
        batch_size: The number of rows per batch.
        shuffle: Whether the order of the rows changes each epoch.
        seed: The seed of everything that is drawn.
    """

    def __init__(self, num_rows: int, batch_size: int, shuffle: bool, seed: int):
        super().__init__()
        if not num_rows or batch_size < 1:
            raise ValueError(
                "There must be at least one row to train on, and one in a batch. "
                f"Received: {num_rows} rows, batch_size={batch_size}"
            )
        self.num_rows, self.batch_size = num_rows, batch_size
        self.shuffle, self.seed = shuffle, seed
        self.epoch = 0

    @property
    def epoch(self) -> int:
        """The number of the epoch. Setting it chooses the batches of that epoch."""
        return self._epoch

    @epoch.setter
    def epoch(self, number: int):
        self._epoch = int(number)
        self._batches = self.order_of(self.random())

    @property
    def num_batches(self) -> int:
        """The number of batches per epoch."""
        return len(self._batches)

    def random(self, *numbers: int) -> np.random.Generator:
        """Returns a generator of this epoch.

        Args:
            *numbers: Other numbers that it depends on, such as that of a batch.
        """
        return np.random.default_rng([self.seed, self.epoch, *numbers])

    def order_of(self, random: np.random.Generator) -> list[Any]:
        """Returns the row numbers of each batch of an epoch.

        Args:
            random: The generator that draws the order.
        """
        raise NotImplementedError

    def on_epoch_end(self):
        """Goes on to the next epoch."""
        self.epoch += 1


class PaddedBatches(EpochBatches):
    """Batches of rows of different lengths; each batch has rows of similar length.

    A batch is padded to its longest row only. Tasks return it from `batches`, for
    `fit`, `evaluate` and `ka.fine_tune`.

    Args:
        rows: One dict of arrays per row, whose first axis may differ in length.
        targets: One target per row: numbers, or arrays of one shape.
        per_token: Whether a target has one number per token, and is padded like its
            row.
        batch_size: The number of rows per batch.
        shuffle: Whether the order of the rows changes each epoch.
        padding: The value that fills shorter rows, by the input's name; 0 where none
            is named.
        seed: The seed of the order.
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
        self.rows, self.targets, self.per_token = rows, targets, per_token
        self.padding = padding or {}
        self._lengths = np.array([len(row["token_ids"]) for row in rows])
        super().__init__(len(rows), batch_size, shuffle, seed)

    def __getitem__(self, index):
        return self.batch_of(self._batches[index])

    def batch_of(self, chosen: Sequence[int]) -> tuple[dict[str, np.ndarray], Any]:
        """Returns the inputs and the targets of one batch.

        Args:
            chosen: The numbers of its rows.
        """
        rows = [self.rows[index] for index in chosen]
        inputs = padded_rows(rows, self.padding)
        targets = [np.asarray(self.targets[index]) for index in chosen]
        return inputs, pad(targets, IGNORED) if self.per_token else np.stack(targets)

    def order_of(self, random):
        rows = np.arange(self.num_rows)
        if self.shuffle:
            rows = random.permutation(rows)
        step = self.batch_size * (_BATCHES_SORTED_TOGETHER if self.shuffle else 10**9)
        batches = []
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            part = part[np.argsort(self._lengths[part], kind="stable")]
            cuts = range(self.batch_size, len(part), self.batch_size)
            batches += np.split(part, cuts)
        if self.shuffle:
            order = random.permutation(len(batches))
            batches = [batches[index] for index in order]
        # Keras takes an axis as dynamic only if the first two batches differ there.
        longest = [self._lengths[batch].max() for batch in batches]
        first, second = int(np.argmax(longest)), int(np.argmin(longest))
        ends = [first] if first == second else [first, second]
        rest = [batches[i] for i in range(len(batches)) if i not in ends]
        return [batches[i] for i in ends] + rest


class PairBatches(PaddedBatches):
    """Batches of sources and targets for an encoder and a decoder (teacher forcing).

    The decoder's input is the start token, then the target without its last token.
    The labels are the target.

    Args:
        rows: One dict of `token_ids` `[S]` per source.
        targets: One array of token ids `[T]` per source.
        start_token_id: The first token that the decoder reads.
        multiple: Both lengths of a batch are padded to a multiple of it.
        padding: The value that fills shorter rows, by the input's name.
        **kwargs: The arguments `batch_size`, `shuffle` and `seed` of `PaddedBatches`.
    """

    def __init__(
        self,
        rows: Sequence[dict[str, np.ndarray]],
        targets: Sequence[np.ndarray],
        *,
        start_token_id: int,
        multiple: int = 1,
        padding: dict[str, int],
        **kwargs: Any,
    ):
        if any(len(target) == 0 for target in targets):
            raise ValueError(
                "Each target must have at least one token, for example an end token. "
                f"Received: targets of {[len(target) for target in targets]} tokens"
            )
        self.start_token_id, self.multiple = start_token_id, multiple
        super().__init__(rows, targets, per_token=True, padding=padding, **kwargs)

    def __getitem__(self, index):
        # Keras must see that the targets' axis is dynamic too, see `order_of`.
        widths = [self._width(batch) for batch in self._batches[:2]]
        wider = self.multiple if index == 0 and len(set(widths)) == 1 else 0
        return self.batch_of(self._batches[index], wider)

    def batch_of(self, chosen, wider=0):
        inputs, labels = super().batch_of(chosen)
        source, source_mask = inputs["token_ids"], inputs["padding_mask"]
        more = -source.shape[1] % self.multiple
        fill = self.padding["token_ids"]
        source = np.pad(source, [(0, 0), (0, more)], constant_values=fill)
        source_mask = np.pad(source_mask, [(0, 0), (0, more)])
        more = self._width(chosen) + wider - labels.shape[1]
        labels = np.pad(labels, [(0, 0), (0, more)], constant_values=IGNORED)
        target = np.where(labels == IGNORED, fill, labels)[:, :-1]
        return {
            "encoder_token_ids": source,
            "encoder_padding_mask": source_mask,
            "decoder_token_ids": np.pad(
                target, [(0, 0), (1, 0)], constant_values=self.start_token_id
            ),
            "decoder_padding_mask": labels != IGNORED,
        }, labels

    def _width(self, chosen):
        longest = max(len(self.targets[index]) for index in chosen)
        return -(-longest // self.multiple) * self.multiple


class ArrayBatches(EpochBatches):
    """Batches of rows of one shape, such as images or features.

    Args:
        inputs: The rows `[N, ...]`.
        targets: The targets `[N, ...]`.
        batch_size: The number of rows per batch.
        shuffle: Whether the order of the rows changes each epoch.
        seed: The seed of the order.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
    ):
        self.inputs, self.targets = inputs, targets
        super().__init__(len(inputs), batch_size, shuffle, seed)

    def __getitem__(self, index):
        rows = self._batches[index]
        return self.inputs[rows], self.targets[rows]

    def order_of(self, random):
        rows = np.arange(self.num_rows)
        if self.shuffle:
            rows = random.permutation(rows)
        return np.split(rows, range(self.batch_size, len(rows), self.batch_size))


def padded_rows(
    rows: Sequence[dict[str, np.ndarray]], padding: dict[str, int]
) -> dict[str, np.ndarray]:
    """Returns rows as one batch of inputs, with the `padding_mask` of their tokens.

    Args:
        rows: One dict of arrays `[T]` per row.
        padding: The value that fills shorter rows, by the input's name; 0 where none
            is named.
    """
    inputs = {
        name: pad([row[name] for row in rows], padding.get(name, 0)) for name in rows[0]
    }
    ones = [np.ones(len(row["token_ids"]), bool) for row in rows]
    return {**inputs, "padding_mask": pad(ones, 0)}


def pad(rows: Sequence[np.ndarray], value: int) -> np.ndarray:
    """Pads arrays `[T, …]` of different T to one array `[B, longest T, …]`.

    Args:
        rows: The arrays.
        value: The value that fills the shorter ones.
    """
    longest = max(len(row) for row in rows)
    batch = np.full((len(rows), longest, *rows[0].shape[1:]), value, rows[0].dtype)
    for padded, row in zip(batch, rows, strict=True):
        padded[: len(row)] = row
    return batch
