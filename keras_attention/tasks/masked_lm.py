"""The words that were hidden from a text."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.blocks.heads import MaskedTokenHead
from keras_attention.tasks.base import BackboneTask
from keras_attention.tasks.batches import IGNORED, PaddedBatches
from keras_attention.tasks.common import (
    check_lengths,
    check_texts,
    cross_entropy,
    tokenized,
)
from keras_attention.tasks.masking import MaskedBatches
from keras_attention.tasks.metrics import token_metrics
from keras_attention.tasks.packing import packed_rows


@keras.saving.register_keras_serializable("keras_attention")
class MaskedLM(BackboneTask):
    """The token that was at each `[MASK]`: BERT's first training task.

    The table of the token vectors is the last matrix too.

    Reference: Devlin et al., 2018 (arXiv:1810.04805), section 3.1.

    Args:
        backbone: A `BertEncoder`, or another encoder with a `token_embedding`.
        tokenizer: The backbone's tokenizer, or `None`. `fill` and `batches` need it.
        activation: The activation in the head; the backbone's when `None`.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of all inputs.
        segment_ids: Int `[B, T]`, if the backbone takes them.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at non-padding tokens.
        training: Whether dropout is active.

    Returns:
        Logits `[B, T, vocabulary size]`.

    Example:
    >>> backbone = ka.BertEncoder(
    ...     vocabulary_size=100,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> tuple(ka.MaskedLM(backbone)(np.array([[1, 2, 3]])).shape)
    (1, 3, 100)
    """

    SETTINGS = ("activation",)

    def __init__(
        self,
        backbone: keras.Model,
        tokenizer: Any = None,
        *,
        activation: Any = None,
        **kwargs: Any,
    ):
        super().__init__(backbone, tokenizer, **kwargs)
        self.activation = backbone.activation if activation is None else activation
        self._add_head(
            MaskedTokenHead,
            backbone.vocabulary_size,
            activation=self.activation,
            epsilon=backbone.layer_norm_epsilon,
        )

    def _logits(self, inputs, training):
        table = self.backbone.token_embedding.embeddings
        return self.head(self.features(inputs, training), table)  # [B, T, V]

    def fill(
        self,
        texts: Sequence[str],
        *,
        top: int = 5,
        batch_size: int = 32,
        verbose: bool | str = "auto",
    ) -> list[list[list[dict[str, Any]]]]:
        """Returns the likeliest tokens at each `[MASK]` of each text.

        Args:
            texts: Any number of texts.
            top: The number of tokens per mask.
            batch_size: The number of texts that are computed together.
            verbose: Whether to show a progress bar; `"auto"` shows it from 10 batches
                on.

        Returns:
            A list per text with one entry per mask: a list of dicts of `token` and
            `score`.
        """
        texts = check_texts(self, texts, "texts", "fill")
        rows = tokenized(self.tokenizer, texts)
        answers: list[list[list[dict[str, Any]]]] = [[] for _ in texts]
        for chosen, inputs, logits in self._predict(rows, batch_size, verbose):
            for row, token in np.argwhere(inputs["token_ids"] == self._mask_id()):
                scores = ops.convert_to_numpy(self.scores(logits[row, token]))
                answers[chosen[row]].append(self._likeliest(scores, top))
        return answers

    def _likeliest(self, scores: np.ndarray, top: int) -> list[dict[str, Any]]:
        """Returns the tokens with the largest scores `[V]`."""
        return [
            {
                "token": self.tokenizer.id_to_token(int(token)),
                "score": float(scores[token]),
            }
            for token in np.argsort(-scores)[:top]
        ]

    def batches(
        self,
        texts: Sequence[str],
        *,
        mask_rate: float = 0.15,
        whole_words: bool = False,
        packing: bool = False,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
    ) -> PaddedBatches:
        """Returns texts as batches for `fit`; other tokens are hidden each epoch.

        Of the chosen tokens 80 % become `[MASK]`, 10 % become a random token, and 10 %
        stay unchanged.

        Args:
            texts: One or more texts.
            mask_rate: The share of the tokens that are to be predicted.
            whole_words: Whether all tokens of a word are chosen together.
            packing: Whether short texts share a row of as many tokens as the backbone
                has positions, so that less is computed for padding. A text does not see
                the others, and its positions begin at 0. The backbone takes
                `document_ids`, as `BertEncoder` does.
            batch_size: The number of texts per batch.
            shuffle: Whether the order of the texts changes each epoch.
            seed: The seed of the order and of the hidden tokens.
            pad_to_multiple_of: The number whose multiples the lengths of batches are.
                When `None`, they are a few lengths, 4 between two powers of 2, so that
                XLA compiles few shapes; 1 pads to the longest row only.
        """
        texts = check_texts(self, texts, "texts", "batches")
        prefix = None
        if whole_words:
            prefix = self.tokenizer.get_config()["continuing_subword_prefix"]
        rows, length = tokenized(self.tokenizer, texts), pad_to_multiple_of
        check_lengths(rows, self.backbone)
        if packing:
            length = self.backbone.max_sequence_length
            rows, _ = packed_rows(rows, None, length)
        return MaskedBatches(
            rows,
            self.tokenizer,
            mask_id=self._mask_id(),
            mask_rate=mask_rate,
            continuing_prefix=prefix,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            multiple=length,
        )

    def _mask_id(self) -> int:
        if self.tokenizer.mask_token_id is None:
            raise ValueError(
                "The tokenizer has no mask token; name one in its `special_tokens`. "
                f"Received: tokenizer={self.tokenizer!r}"
            )
        return self.tokenizer.mask_token_id

    def compile_arguments(self) -> dict[str, Any]:
        """Returns the loss and the metrics for `compile`; only hidden tokens count."""
        return {"loss": cross_entropy(IGNORED), "metrics": token_metrics()}
