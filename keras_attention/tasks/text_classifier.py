"""Classes of texts, or of pairs of texts."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.blocks.heads import ClassificationHead, mean_of_tokens
from keras_attention.models.common import initializer
from keras_attention.models.inputs import standardize_ids
from keras_attention.tasks.batches import PaddedBatches, padded_rows
from keras_attention.tasks.common import (
    batches_by_length,
    check_labels,
    check_same_number,
    check_texts,
    freeze_unread_pooler,
    label_ids,
    padding_of,
    parts_config,
    probabilities,
    run_backbone,
    tokenized,
    with_parts,
)

PARTS = ("backbone", "tokenizer")
POOLINGS = ("pooled", "first", "mean")


@keras.saving.register_keras_serializable("keras_attention")
class TextClassifier(keras.Model):
    """One class a text, or several: a vector of the text, then a linear map.

    Fine-tune it with `ka.fine_tune`, or `compile` and `fit` as any Keras model.

    Reference: Devlin et al., 2018 (arXiv:1810.04805), section 4.1.

    Args:
        backbone: A `BertEncoder`, or another encoder of this library.
        labels: Names of the classes, in the order of the logits.
        tokenizer: The backbone's, for `classify`, `batches` and exports that take
            text; or `None`.
        multi_label: Whether a text may have any number of the labels.
        pooling: The vector of the text: `"pooled"` (the backbone's pooler), `"first"`
            (the first token's) or `"mean"` (of all tokens). By default the pooler, or
            the first token where there is none.
        hidden_activation: Of a hidden layer of the head; no such layer when `None`.
        dropout: Rate, in the head.
        **kwargs: Those of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of all inputs.
        segment_ids: Int `[B, T]`, where the backbone takes them.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at real tokens.
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
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.backbone, self.tokenizer = backbone, tokenizer
        self.labels = check_labels(labels)
        self.multi_label = multi_label
        self.pooling = _pooling(pooling, backbone)
        self.hidden_activation = hidden_activation
        self.dropout = dropout
        self.head = ClassificationHead(
            len(self.labels),
            hidden_activation=hidden_activation,
            dropout=dropout,
            kernel_initializer=initializer(),
            name="head",
            dtype=self.dtype_policy,
        )
        freeze_unread_pooler(self)
        self.build()

    def build(self, input_shape=None):
        self.head.build((None, self.backbone.hidden_dim))
        self.built = True

    def call(self, token_ids, segment_ids=None, padding_mask=None, training=None):
        inputs = standardize_ids(
            token_ids, {"segment_ids": segment_ids, "padding_mask": padding_mask}
        )
        return self.head(self.features(inputs, training), training=training)  # [B, C]

    def features(self, inputs: dict[str, Any], training: Any = None) -> Any:
        """The vectors `[B, E]` that the head reads.

        Args:
            inputs: As for a call, in a dict.
            training: Whether dropout is active.
        """
        outputs = run_backbone(self.backbone, inputs, training)
        if self.pooling == "pooled":
            return outputs["pooled_output"]
        sequence = outputs["sequence_output"]  # [B, T, E]
        if self.pooling == "first":
            return sequence[:, 0]  # [B, E]
        keep = inputs.get("padding_mask")
        keep = None if keep is None else ops.cast(keep, "bool")
        return mean_of_tokens(sequence, keep)  # [B, E]

    def scores(self, logits: Any) -> Any:
        """Logits as probabilities: over all labels, or of each by itself."""
        if self.multi_label:
            return ops.sigmoid(ops.cast(logits, "float32"))
        return probabilities(logits)

    def classify(
        self,
        texts: Sequence[str],
        texts_pair: Sequence[str] | None = None,
        *,
        threshold: float = 0.5,
        batch_size: int = 32,
        verbose: bool | str = "auto",
    ) -> list[dict[str, Any]]:
        """The label of each text, similar lengths computed together.

        Args:
            texts: Any number of texts.
            texts_pair: The second text of each, where they come in pairs.
            threshold: With `multi_label`, the score from which a label counts.
            batch_size: Texts computed at a time.
            verbose: Whether to show a progress bar; `"auto"` from 10 batches on.

        Returns:
            A dict a text: `label` and its `score`, or with `multi_label` the
            `labels`; and `scores`, one of each label by name.
        """
        texts = check_texts(self, texts, "texts", "classify")
        check_same_number(texts=texts, texts_pair=texts_pair)
        rows = tokenized(self.tokenizer, texts, texts_pair)
        scores = np.zeros((len(texts), len(self.labels)), "float32")
        lengths = [len(row["token_ids"]) for row in rows]
        for chosen in batches_by_length(lengths, batch_size, verbose):
            inputs = padded_rows([rows[i] for i in chosen], padding_of(self.tokenizer))
            logits = ops.convert_to_tensor(self.predict_on_batch(inputs))
            scores[chosen] = ops.convert_to_numpy(self.scores(logits))
        return [self._answer(row, threshold) for row in scores.tolist()]

    def _answer(self, scores: list[float], threshold: float) -> dict[str, Any]:
        by_name = dict(zip(self.labels, scores, strict=True))
        if self.multi_label:
            chosen = [name for name, score in by_name.items() if score >= threshold]
            return {"labels": chosen, "scores": by_name}
        best = max(by_name, key=by_name.__getitem__)
        return {"label": best, "score": by_name[best], "scores": by_name}

    def batches(
        self,
        texts: Sequence[str],
        labels: Sequence[Any],
        texts_pair: Sequence[str] | None = None,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
    ) -> PaddedBatches:
        """Texts and their labels as batches for `fit` and `evaluate`.

        Args:
            texts: One or more texts.
            labels: One a text: a name or a number; with `multi_label` a list of them.
            texts_pair: The second text of each, where they come in pairs.
            batch_size: Texts at a time.
            shuffle: Whether they come in another order each epoch.
        """
        texts = check_texts(self, texts, "texts", "batches")
        check_same_number(texts=texts, texts_pair=texts_pair, labels=labels)
        return PaddedBatches(
            tokenized(self.tokenizer, texts, texts_pair),
            self._targets(labels),
            batch_size=batch_size,
            shuffle=shuffle,
            padding=padding_of(self.tokenizer),
        )

    def _targets(self, labels: Sequence[Any]) -> np.ndarray:
        if not self.multi_label:
            return label_ids(labels, self.labels)
        targets = np.zeros((len(labels), len(self.labels)), "float32")
        for row, names in zip(targets, labels, strict=True):
            row[label_ids(names, self.labels)] = 1.0
        return targets

    def compile_arguments(self) -> dict[str, Any]:
        """Loss and metrics for `compile`."""
        if self.multi_label:
            loss = keras.losses.BinaryCrossentropy(from_logits=True)
            return {
                "loss": loss,
                "metrics": [keras.metrics.BinaryAccuracy(name="accuracy", threshold=0)],
            }
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"loss": loss, "metrics": ["accuracy"]}

    def get_config(self):
        return {
            **parts_config(self, PARTS),
            "labels": list(self.labels),
            "multi_label": self.multi_label,
            "pooling": self.pooling,
            "hidden_activation": self.hidden_activation,
            "dropout": self.dropout,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**with_parts(config, PARTS))


def _pooling(pooling: str | None, backbone: Any) -> str:
    has_pooler = getattr(backbone, "pooler", None) is not None
    if pooling is None:
        return "pooled" if has_pooler else "first"
    if pooling not in POOLINGS or (pooling == "pooled" and not has_pooler):
        raise ValueError(
            f"`pooling` must be one of {', '.join(POOLINGS)}, and `pooled` needs a "
            f"backbone with a pooler. Received: pooling={pooling!r}, a backbone "
            f"{'with' if has_pooler else 'without'} a pooler"
        )
    return pooling
