"""Training data of masked language models: tokens that are hidden at random."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_attention.tasks.batches import IGNORED, PaddedBatches
from keras_attention.tasks.common import padding_of


class MaskedBatches(PaddedBatches):
    """Batches whose targets are hidden tokens; other tokens are hidden each time.

    Args:
        rows: One dict of arrays per row.
        tokenizer: The tokenizer that made the rows.
        mask_id: The id that hides a token.
        mask_rate: The share of the tokens that are to be predicted.
        continuing_prefix: The prefix of a token that continues a word, to choose whole
            words; `None` to choose single tokens.
        **kwargs: The arguments `batch_size`, `shuffle`, `seed` and `multiple` of
            `PaddedBatches`.
    """

    def __init__(
        self,
        rows: Sequence[dict[str, np.ndarray]],
        tokenizer: Any,
        *,
        mask_id: int,
        mask_rate: float,
        continuing_prefix: str | None,
        **kwargs: Any,
    ):
        if not 0 < mask_rate < 1:
            raise ValueError(
                f"`mask_rate` must be between 0 and 1. Received: mask_rate={mask_rate}"
            )
        self._mask_id, self._rate = mask_id, mask_rate
        vocabulary = tokenizer.vocabulary
        special = set(np.unique(np.asarray(tokenizer([""], [""])["token_ids"])))
        special |= {mask_id, tokenizer.pad_token_id}
        self._special = np.isin(np.arange(len(vocabulary)), list(special))
        self._continues = np.zeros(len(vocabulary), bool)
        if continuing_prefix is not None:
            starts = [token.startswith(continuing_prefix) for token in vocabulary]
            self._continues = np.array(starts)
        super().__init__(
            rows,
            np.zeros(len(rows)),
            padding=padding_of(tokenizer),
            **kwargs,
        )

    def __getitem__(self, index):
        inputs, _ = super().__getitem__(index)
        ids = inputs["token_ids"]
        hidden, targets = hide_tokens(
            ids,
            may_hide=inputs["padding_mask"] & ~self._special[ids],
            continues=self._continues[ids],
            mask_id=self._mask_id,
            rate=self._rate,
            num_tokens=len(self._special),
            random=self.random(index),
        )
        return {**inputs, "token_ids": hidden}, targets


def hide_tokens(
    ids: np.ndarray,
    *,
    may_hide: np.ndarray,
    continues: np.ndarray,
    mask_id: int,
    rate: float,
    num_tokens: int,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Hides tokens as BERT does: 80 % masked, 10 % random, 10 % unchanged.

    Args:
        ids: The token ids `[B, T]`.
        may_hide: Bool `[B, T]`, `False` at padding and special tokens.
        continues: Bool `[B, T]`, `True` at tokens that are chosen together with the
            token before.
        mask_id: The id that hides a token.
        rate: The share of the tokens to be predicted.
        num_tokens: The size of the vocabulary.
        random: The generator of random numbers.

    Returns:
        The ids with hidden tokens, and the targets: the original id at a chosen token,
        -100 elsewhere.
    """
    word = np.cumsum(~continues, axis=1) - 1  # [B, T]
    word = np.maximum(word, 0)
    draws = random.random(ids.shape)
    chosen = np.take_along_axis(draws, word, axis=1) < rate
    chosen &= may_hide
    choice = random.random(ids.shape)
    other = random.integers(0, num_tokens, ids.shape)
    hidden = np.where(choice < 0.8, mask_id, np.where(choice < 0.9, other, ids))
    hidden = np.where(chosen, hidden, ids).astype(ids.dtype)
    return hidden, np.where(chosen, ids, IGNORED).astype("int32")
