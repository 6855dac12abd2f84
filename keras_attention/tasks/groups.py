"""Batches of groups of texts, for vectors that are compared with each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_attention.tasks.batches import PaddedBatches, padded_rows


class GroupBatches(PaddedBatches):
    """Batches of groups of texts, such as pairs, whose rows follow one another.

    A batch of B groups has `B * size` rows: the first text of the first group, its
    second, and so on. The targets have one row per text: the number of the group in the
    batch, that of the text in the group and, with scores, the group's score.

    Attributes:
        compile_settings: What `ka.fine_tune` passes to the task's `compile_arguments`.

    Args:
        rows: One dict of arrays per text, group after group.
        size: The number of texts in a group.
        scores: One number per group, or `None`.
        batch_size: The number of groups per batch.
        **kwargs: The arguments `shuffle`, `padding`, `seed` and `multiple` of
            `PaddedBatches`.
    """

    def __init__(
        self,
        rows: Sequence[dict[str, np.ndarray]],
        size: int,
        scores: Sequence[float] | None = None,
        *,
        batch_size: int = 32,
        **kwargs: Any,
    ):
        self.size = size
        self.compile_settings = {"scored": scores is not None}
        targets = np.zeros(0) if scores is None else np.asarray(scores)
        super().__init__(rows, targets, batch_size=batch_size, **kwargs)

    def _set_rows(self, rows, targets):
        super()._set_rows(rows, targets)
        self._lengths = self._lengths.reshape(-1, self.size).max(axis=1)

    def batch_of(self, chosen):
        of_texts = [g * self.size + k for g in chosen for k in range(self.size)]
        width = self._width(self._lengths, chosen)
        inputs = padded_rows([self.rows[i] for i in of_texts], self.padding, width)
        number = np.arange(len(of_texts))
        targets = [number // self.size, number % self.size]
        if self.compile_settings["scored"]:
            scores = [self.targets[group] for group in chosen]
            targets.append(np.repeat(scores, self.size))
        target = np.stack(targets, axis=1).astype("float32")
        # The metrics of Keras want a target of each output; the second is not read.
        return inputs, {"sentence_embedding": target, "sequence_output": target}
