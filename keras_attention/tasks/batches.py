"""Batches for `fit`, on every backend: of rows of one length, or of different ones.

What a batch holds is a function of the seed, the epoch and the number of the batch. A
training that was interrupted goes on with the same batches when `epoch` is set.
"""

import copy
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

# The number of batches whose rows are sorted by length together. It is a compromise:
# batches stay random, and padding stays small.
_BATCHES_SORTED_TOGETHER = 50
IGNORED = -100  # the label of a token that does not count in the loss


def padded_length(length: int, multiple: int | None = None) -> int:
    """Returns the length that a batch is padded to: XLA compiles each, so few.

    By default there are four lengths between two powers of 2, all multiples of 4: 4, 8,
    12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, …

    Args:
        length: The number of tokens of the longest row.
        multiple: The number whose multiples the lengths are instead; 1 for no padding
            beyond the longest row.
    """
    step = multiple or max(4, 2 ** ((length - 1).bit_length() - 3))
    return -(-length // step) * step


class EpochBatches(keras.utils.PyDataset):
    """Batches whose order is drawn from the seed and the epoch.

    A subclass sets its attributes, then calls `super().__init__`, and defines
    `order_of`. `fit` begins with the batches of `epoch`, and raises it by 1 after each
    epoch. Pass `shuffle=False` to `fit`, as `ka.fine_tune` does: otherwise Keras
    shuffles the batches once more, with a generator that no seed of theirs sets.

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
        self._began, self._extra_ends = False, 0
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

    def on_epoch_begin(self):
        """Takes back what `fit` ended without having begun it.

        Keras says that an epoch has ended once more before the first one, and where
        data runs out.
        """
        if self._extra_ends:
            self.epoch -= self._extra_ends
        self._began = True

    def on_epoch_end(self):
        """Goes on to the next epoch."""
        extra = 0 if self._began else self._extra_ends + 1
        self.epoch += 1
        self._extra_ends = extra


class PaddedBatches(EpochBatches):
    """Batches of rows of different lengths; each batch has rows of similar length.

    A batch is padded to a little more than its longest row, see `padded_length`, but
    never to more than the longest row of all. Tasks return it from `batches`, for
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
        multiple: The number whose multiples the lengths of batches are; see
            `padded_length`.

    Attributes:
        num_full: The number of rows that are as long as the tokenizer allows, if the
            rows are from files.
    """

    num_full = 0

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
        multiple: int | None = None,
    ):
        self.per_token, self.padding = per_token, padding or {}
        self.multiple = multiple
        self._set_rows(rows, targets)
        super().__init__(len(self._lengths), batch_size, shuffle, seed)

    def _set_rows(self, rows, targets):
        self.rows, self.targets = rows, targets
        self._lengths = np.array([_num_tokens(row) for row in rows])

    def with_rows(self, rows: Sequence[Any], targets: Sequence[Any]) -> "PaddedBatches":
        """Returns batches of the same kind and settings, of other rows.

        Args:
            rows: The rows, as in the constructor; any sequence, also one on disk.
            targets: The targets.
        """
        found = copy.copy(self)
        found._set_rows(rows, targets)
        found.num_rows = len(found._lengths)
        found.epoch = 0
        return found

    def __getitem__(self, index):
        return self.batch_of(self._batches[index])

    def batch_of(self, chosen: Sequence[int]) -> tuple[dict[str, np.ndarray], Any]:
        """Returns the inputs and the targets of one batch.

        Args:
            chosen: The numbers of its rows.
        """
        rows = [self.rows[index] for index in chosen]
        width = self._width(self._lengths, chosen)
        inputs = padded_rows(rows, self.padding, width)
        targets = [np.asarray(self.targets[index]) for index in chosen]
        per_token = self.per_token
        return inputs, pad(targets, IGNORED, width) if per_token else np.stack(targets)

    def _width(self, lengths: np.ndarray, chosen: Any) -> int:
        """Returns the length that rows are padded to."""
        width = padded_length(int(lengths[chosen].max()), self.multiple)
        # A length that no row has may be more than the model's positions.
        return width if self.multiple else min(width, int(lengths.max()))

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
        return self._longest_and_shortest_first(batches)

    def _longest_and_shortest_first(self, batches):
        """Keras takes an axis as dynamic only if the first two batches differ there."""
        widths = [self._width(self._lengths, batch) for batch in batches]
        if len(batches) > 1 and len(set(widths)) == 1:
            # Another epoch may have a shorter batch: if one can be made, it is here.
            size = min(map(len, batches))
            rows = np.concatenate(batches)
            order = np.argsort(self._lengths[rows], kind="stable")
            shortest, others = rows[order[:size]], rows[np.sort(order[size:])]
            cuts = range(self.batch_size, len(others), self.batch_size)
            if self._width(self._lengths, shortest) < widths[0]:
                return [
                    *np.split(others, cuts)[:1],
                    shortest,
                    *np.split(others, cuts)[1:],
                ]
        first, second = int(np.argmax(widths)), int(np.argmin(widths))
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
        padding: The value that fills shorter rows, by the input's name.
        **kwargs: The arguments `batch_size`, `shuffle`, `seed` and `multiple` of
            `PaddedBatches`.
    """

    def __init__(
        self,
        rows: Sequence[dict[str, np.ndarray]],
        targets: Sequence[np.ndarray],
        *,
        start_token_id: int,
        padding: dict[str, int],
        **kwargs: Any,
    ):
        if any(len(target) == 0 for target in targets):
            raise ValueError(
                "Each target must have at least one token, for example an end token. "
                f"Received: targets of {[len(target) for target in targets]} tokens"
            )
        self.start_token_id = start_token_id
        super().__init__(rows, targets, per_token=True, padding=padding, **kwargs)

    def _set_rows(self, rows, targets):
        super()._set_rows(rows, targets)
        self._target_lengths = np.array([len(target) for target in targets])

    def __getitem__(self, index):
        # Keras must see that the targets' axis is dynamic too, see `order_of`.
        widths = [self._width(self._target_lengths, b) for b in self._batches[:2]]
        may_differ = len(widths) == 2 and len(set(self._target_lengths)) > 1
        wider = int(index == 0 and may_differ and widths[0] == widths[1])
        return self.batch_of(self._batches[index], wider)

    def batch_of(self, chosen, wider=0):
        rows = [self.rows[index] for index in chosen]
        width = self._width(self._lengths, chosen)
        inputs, fill = padded_rows(rows, self.padding, width), self.padding["token_ids"]
        width = self._width(self._target_lengths, chosen)
        width += wider * (self.multiple or 1)
        labels = pad([self.targets[index] for index in chosen], IGNORED, width)
        target = np.where(labels == IGNORED, fill, labels)[:, :-1]
        return {
            "encoder_token_ids": inputs["token_ids"],
            "encoder_padding_mask": inputs["padding_mask"],
            "decoder_token_ids": np.pad(
                target, [(0, 0), (1, 0)], constant_values=self.start_token_id
            ),
            "decoder_padding_mask": labels != IGNORED,
        }, labels


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


def _num_tokens(row):
    return len(row["token_ids"])


def padded_rows(
    rows: Sequence[dict[str, np.ndarray]], padding: dict[str, int], width: int = 0
) -> dict[str, np.ndarray]:
    """Returns rows as one batch of inputs, with the `padding_mask` of their tokens.

    Args:
        rows: One dict of arrays `[T]` per row.
        padding: The value that fills shorter rows, by the input's name; 0 where none
            is named.
        width: The length that rows are padded to, if it is more than the longest row.
    """
    inputs = {
        name: pad([row[name] for row in rows], padding.get(name, 0), width)
        for name in rows[0]
    }
    ones = [np.ones(_num_tokens(row), bool) for row in rows]
    return {**inputs, "padding_mask": pad(ones, 0, width)}


def pad(rows: Sequence[np.ndarray], value: int, width: int = 0) -> np.ndarray:
    """Pads arrays `[T, …]` of different T to one array `[B, longest T, …]`.

    Args:
        rows: The arrays.
        value: The value that fills the shorter ones.
        width: The length that rows are padded to, if it is more than the longest row.
    """
    longest = max(width, *map(len, rows))
    batch = np.full((len(rows), longest, *rows[0].shape[1:]), value, rows[0].dtype)
    for padded, row in zip(batch, rows, strict=True):
        padded[: len(row)] = row
    return batch
