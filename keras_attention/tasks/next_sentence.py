"""Whether one text follows another."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_attention.blocks.heads import ClassificationHead
from keras_attention.tasks.base import BackboneTask
from keras_attention.tasks.batches import PaddedBatches
from keras_attention.tasks.common import check_same_number, check_texts, tokenized


@keras.saving.register_keras_serializable("keras_attention")
class NextSentence(BackboneTask):
    """Whether a text follows another: BERT's second training task.

    Reference: Devlin et al., 2018 (arXiv:1810.04805), section 3.1.

    Args:
        backbone: A `BertEncoder` with a pooler.
        tokenizer: The backbone's tokenizer, or `None`. `follows` and `batches` need
            it.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of all inputs.
        segment_ids: Int `[B, T]`, 1 at the tokens of the second text.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at non-padding tokens.
        training: Whether dropout is active.

    Returns:
        Logits `[B, 2]`: of following, and of not following.

    Example:
    >>> backbone = ka.BertEncoder(
    ...     vocabulary_size=100,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> model = ka.NextSentence(backbone)
    >>> tuple(model(np.array([[1, 2, 3]]), np.array([[0, 0, 1]])).shape)
    (1, 2)
    """

    pooling = "pooled"

    def __init__(self, backbone: keras.Model, tokenizer: Any = None, **kwargs: Any):
        super().__init__(backbone, tokenizer, **kwargs)
        if getattr(backbone, "pooler", None) is None:
            raise ValueError(
                "`NextSentence` reads the backbone's pooler: build it with "
                f"`pooler=True`. Received: backbone={backbone!r} without one"
            )
        self._add_head(ClassificationHead, 2)

    def follows(
        self,
        texts: Sequence[str],
        next_texts: Sequence[str],
        *,
        batch_size: int = 32,
        verbose: bool | str = "auto",
    ) -> np.ndarray:
        """Returns the probability that each second text follows the first.

        Args:
            texts: Any number of texts.
            next_texts: One second text per text.
            batch_size: The number of pairs that are computed together.
            verbose: Whether to show a progress bar; `"auto"` shows it from 10 batches
                on.

        Returns:
            `[len(texts)]` float32.
        """
        texts = check_texts(self, texts, "texts", "follows")
        check_same_number(texts=texts, next_texts=next_texts)
        rows = tokenized(self.tokenizer, texts, next_texts)
        return self._scores_of_rows(rows, batch_size, verbose)[:, 0]

    def batches(
        self,
        texts: Sequence[str],
        next_texts: Sequence[str],
        follows: Sequence[bool],
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
    ) -> PaddedBatches:
        """Returns pairs of texts as batches for `fit` and `evaluate`.

        Args:
            texts: One or more texts.
            next_texts: One second text per text.
            follows: Whether the second text follows the first, for each pair.
            batch_size: The number of pairs per batch.
            shuffle: Whether the order of the pairs changes each epoch.
            seed: The seed of the order.
            pad_to_multiple_of: The number whose multiples the lengths of batches are.
                When `None`, they are a few lengths, 4 between two powers of 2, so that
                XLA compiles few shapes; 1 pads to the longest row only.
        """
        texts = check_texts(self, texts, "texts", "batches")
        check_same_number(texts=texts, next_texts=next_texts, follows=follows)
        rows = tokenized(self.tokenizer, texts, next_texts)
        targets = 1 - np.asarray(follows).astype("int32")
        return self._padded_batches(
            rows,
            targets,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            multiple=pad_to_multiple_of,
        )
