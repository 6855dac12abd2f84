"""Words that were hidden from a text."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.blocks.heads import MaskedTokenHead
from keras_attention.models.common import initializer
from keras_attention.models.inputs import standardize_ids
from keras_attention.tasks.batches import IGNORED, PaddedBatches, padded_rows
from keras_attention.tasks.masking import MaskedBatches
from keras_attention.tasks.common import (
    batches_by_length,
    check_texts,
    freeze_unread_pooler,
    padding_of,
    parts_config,
    probabilities,
    run_backbone,
    tokenized,
    with_parts,
)

PARTS = ("backbone", "tokenizer")


@keras.saving.register_keras_serializable("keras_attention")
class MaskedLM(keras.Model):
    """Which tokens stood where `[MASK]` stands: BERT's first training task.

    The last matrix is the table of the token vectors.

    Reference: Devlin et al., 2018 (arXiv:1810.04805), section 3.1.

    Args:
        backbone: A `BertEncoder`, or another encoder with a `token_embedding`.
        tokenizer: The backbone's, for `fill` and `batches`; or `None`.
        activation: Of the head; the backbone's when `None`.
        **kwargs: Those of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of all inputs.
        segment_ids: Int `[B, T]`, where the backbone takes them.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at real tokens.
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

    def __init__(
        self,
        backbone: keras.Model,
        tokenizer: Any = None,
        *,
        activation: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.backbone, self.tokenizer = backbone, tokenizer
        self.activation = backbone.activation if activation is None else activation
        self.head = MaskedTokenHead(
            backbone.vocabulary_size,
            activation=self.activation,
            epsilon=backbone.layer_norm_epsilon,
            kernel_initializer=initializer(),
            name="head",
            dtype=self.dtype_policy,
        )
        freeze_unread_pooler(self)
        self.build()

    def build(self, input_shape=None):
        self.head.build((None, None, self.backbone.hidden_dim))
        self.built = True

    def call(self, token_ids, segment_ids=None, padding_mask=None, training=None):
        inputs = standardize_ids(
            token_ids, {"segment_ids": segment_ids, "padding_mask": padding_mask}
        )
        outputs = run_backbone(self.backbone, inputs, training)
        table = self.backbone.token_embedding.embeddings
        return self.head(outputs["sequence_output"], table)  # [B, T, V]

    def fill(
        self,
        texts: Sequence[str],
        *,
        top: int = 5,
        batch_size: int = 32,
        verbose: bool | str = "auto",
    ) -> list[list[list[dict[str, Any]]]]:
        """The likeliest tokens at each `[MASK]` of each text.

        Args:
            texts: Any number of texts.
            top: How many tokens a mask.
            batch_size: Texts computed at a time.
            verbose: Whether to show a progress bar; `"auto"` from 10 batches on.

        Returns:
            Of each text a list, one entry a mask: dicts of `token` and `score`.
        """
        texts = check_texts(self, texts, "texts", "fill")
        rows = tokenized(self.tokenizer, texts)
        answers: list[list[list[dict[str, Any]]]] = [[] for _ in texts]
        lengths = [len(row["token_ids"]) for row in rows]
        for chosen in batches_by_length(lengths, batch_size, verbose):
            inputs = padded_rows([rows[i] for i in chosen], padding_of(self.tokenizer))
            places = np.argwhere(inputs["token_ids"] == self._mask_id())
            logits = self.predict_on_batch(inputs)
            for row, place in places:
                scores = ops.convert_to_numpy(probabilities(logits[row, place]))
                best = np.argsort(-scores)[:top]
                answers[chosen[row]].append(
                    [
                        {
                            "token": self.tokenizer.id_to_token(int(token)),
                            "score": float(scores[token]),
                        }
                        for token in best
                    ]
                )
        return answers

    def batches(
        self,
        texts: Sequence[str],
        *,
        mask_rate: float = 0.15,
        whole_words: bool = False,
        batch_size: int = 32,
        shuffle: bool = True,
    ) -> PaddedBatches:
        """Texts as batches for `fit`, other tokens hidden each epoch.

        Of the tokens chosen 80 % become `[MASK]`, 10 % a random token, and 10 % stay.

        Args:
            texts: One or more texts.
            mask_rate: Share of the tokens that are to be predicted.
            whole_words: Whether all tokens of a word are chosen together.
            batch_size: Texts at a time.
            shuffle: Whether they come in another order each epoch.
        """
        texts = check_texts(self, texts, "texts", "batches")
        prefix = "##" if whole_words else None
        if whole_words:
            prefix = self.tokenizer.get_config()["continuing_subword_prefix"]
        return MaskedBatches(
            tokenized(self.tokenizer, texts),
            self.tokenizer,
            mask_id=self._mask_id(),
            mask_rate=mask_rate,
            continuing_prefix=prefix,
            batch_size=batch_size,
            shuffle=shuffle,
        )

    def _mask_id(self) -> int:
        if self.tokenizer.mask_token_id is None:
            raise ValueError(
                "The tokenizer has no mask token; name one in its `special_tokens`. "
                f"Received: tokenizer={self.tokenizer!r}"
            )
        return self.tokenizer.mask_token_id

    def compile_arguments(self) -> dict[str, Any]:
        """Loss and metrics for `compile`."""
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=IGNORED
        )
        return {"loss": loss}

    def get_config(self):
        return {**parts_config(self, PARTS), "activation": self.activation}

    @classmethod
    def from_config(cls, config):
        return cls(**with_parts(config, PARTS))
