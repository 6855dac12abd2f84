"""Classes of texts, or of pairs of texts."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.blocks.heads import ClassificationHead
from keras_attention.tasks.base import BackboneTask
from keras_attention.tasks.batches import PaddedBatches
from keras_attention.tasks.common import (
    best_label,
    check_labels,
    check_same_number,
    check_texts,
    label_ids,
    pooling_of,
    tokenized,
)


@keras.saving.register_keras_serializable("keras_attention")
class TextClassifier(BackboneTask):
    """One class per text, or several: a linear map of one vector of the text.

    Fine-tune it with `ka.fine_tune`, or with `compile` and `fit` like any Keras model.

    Reference: Devlin et al., 2018 (arXiv:1810.04805), section 4.1.

    Args:
        backbone: A `BertEncoder`, or another encoder of this library.
        labels: The names of the classes, in the order of the logits.
        tokenizer: The backbone's tokenizer, or `None`. `classify`, `batches` and
            exports that take text need it.
        multi_label: Whether a text may have any number of the labels.
        pooling: The vector of the text: `"pooled"` (the backbone's pooler), `"first"`
            (the first token's), `"last"` (the last token's, for causal decoders) or
            `"mean"` (of all tokens). By default the pooler, or the first token if
            there is no pooler.
        hidden_activation: The activation of a hidden layer of the head; no such layer
            when `None`.
        dropout: The dropout rate in the head.
        use_bias: Whether the head's last linear map has a bias.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of all inputs.
        segment_ids: Int `[B, T]`, if the backbone takes them.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at non-padding tokens.
        training: Whether dropout is active.

    Returns:
        Logits `[B, number of labels]`.

    Example:
    >>> backbone = ka.BertEncoder(
    ...     vocabulary_size=100,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> model = ka.TextClassifier(backbone, ["negative", "positive"])
    >>> tuple(model(np.array([[1, 2, 3]])).shape)
    (1, 2)
    """

    SETTINGS = (
        "labels",
        "multi_label",
        "pooling",
        "hidden_activation",
        "dropout",
        "use_bias",
    )

    def __init__(
        self,
        backbone: keras.Model,
        labels: Sequence[str],
        tokenizer: Any = None,
        *,
        multi_label: bool = False,
        pooling: str | None = None,
        hidden_activation: Any = None,
        dropout: float = 0.1,
        use_bias: bool = True,
        **kwargs: Any,
    ):
        super().__init__(backbone, tokenizer, **kwargs)
        self.labels = check_labels(labels)
        self.multi_label = multi_label
        self.pooling = pooling_of(pooling, backbone)
        self.hidden_activation = hidden_activation
        self.dropout, self.use_bias = dropout, use_bias
        self._add_head(
            ClassificationHead,
            len(self.labels),
            hidden_activation=hidden_activation,
            dropout=dropout,
            use_bias=use_bias,
        )

    def scores(self, logits: Any) -> Any:
        """Returns logits as probabilities: of all labels together, or of each alone.

        Args:
            logits: The logits that a call returned.
        """
        if self.multi_label:
            return ops.sigmoid(ops.cast(logits, "float32"))
        return super().scores(logits)

    def classify(
        self,
        texts: Sequence[str],
        texts_pair: Sequence[str] | None = None,
        *,
        threshold: float = 0.5,
        batch_size: int = 32,
        verbose: bool | str = "auto",
    ) -> list[dict[str, Any]]:
        """Returns the label of each text.

        Texts of similar length are computed together.

        Args:
            texts: Any number of texts.
            texts_pair: The second text of each, if they come in pairs.
            threshold: The score from which on a label counts, with `multi_label`.
            batch_size: The number of texts that are computed together.
            verbose: Whether to show a progress bar; `"auto"` shows it from 10 batches
                on.

        Returns:
            A dict per text: `label` and its `score`, or with `multi_label` the
            `labels`; and `scores`, the score of each label by name.
        """
        texts = check_texts(self, texts, "texts", "classify")
        check_same_number(texts=texts, texts_pair=texts_pair)
        rows = tokenized(self.tokenizer, texts, texts_pair)
        scores = self._scores_of_rows(rows, batch_size, verbose).tolist()
        return [self._answer(row, threshold) for row in scores]

    def _answer(self, scores: list[float], threshold: float) -> dict[str, Any]:
        if not self.multi_label:
            return best_label(self.labels, scores)
        by_name = dict(zip(self.labels, scores, strict=True))
        chosen = [name for name, score in by_name.items() if score >= threshold]
        return {"labels": chosen, "scores": by_name}

    def batches(
        self,
        texts: Sequence[str],
        labels: Sequence[Any],
        texts_pair: Sequence[str] | None = None,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
    ) -> PaddedBatches:
        """Returns texts and their labels as batches for `fit` and `evaluate`.

        Args:
            texts: One or more texts.
            labels: One label per text: a name or a number; with `multi_label` a list
                of them.
            texts_pair: The second text of each, if they come in pairs.
            batch_size: The number of texts per batch.
            shuffle: Whether the order of the texts changes each epoch.
            seed: The seed of the order.
            pad_to_multiple_of: The number whose multiples the lengths of batches are.
                When `None`, they are a few lengths, 4 between two powers of 2, so that
                XLA compiles few shapes; 1 pads to the longest row only.
        """
        texts = check_texts(self, texts, "texts", "batches")
        check_same_number(texts=texts, texts_pair=texts_pair, labels=labels)
        rows = tokenized(self.tokenizer, texts, texts_pair)
        return self._padded_batches(
            rows,
            self._targets(labels),
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            multiple=pad_to_multiple_of,
        )

    def _targets(self, labels: Sequence[Any]) -> np.ndarray:
        if not self.multi_label:
            return label_ids(labels, self.labels)
        targets = np.zeros((len(labels), len(self.labels)), "float32")
        for row, names in zip(targets, labels, strict=True):
            row[label_ids(names, self.labels)] = 1.0
        return targets

    def compile_arguments(self) -> dict[str, Any]:
        """Returns the loss and the metrics for `compile`."""
        if not self.multi_label:
            return super().compile_arguments()
        accuracy = keras.metrics.BinaryAccuracy(name="accuracy", threshold=0)
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        return {"loss": loss, "metrics": [accuracy]}
