"""Classes of images."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_attention.blocks.heads import ClassificationHead
from keras_attention.tasks.base import BackboneTask
from keras_attention.tasks.batches import ArrayBatches
from keras_attention.tasks.common import (
    batches_by_length,
    best_label,
    check_labels,
    check_same_number,
    label_ids,
)


@keras.saving.register_keras_serializable("keras_attention")
class ImageClassifier(BackboneTask):
    """One class per image: a linear map of the backbone's first vector.

    Fine-tune it with `ka.fine_tune`, or with `compile` and `fit` like any Keras model.

    Reference: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021
    (arXiv:2010.11929).

    Args:
        backbone: A `VisionTransformer`, or another model that is called with images
            and returns a dict with `sequence_output` `[B, T, E]`, whose first vector
            represents the image.
        labels: The names of the classes, in the order of the logits.
        dropout: The dropout rate in the head.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        images: `[B, height, width, channels]`, as the backbone takes them.
        training: Whether dropout is active.

    Returns:
        Logits `[B, number of labels]`.

    Example:
    >>> backbone = ka.VisionTransformer(
    ...     image_size=8,
    ...     patch_size=4,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> model = ka.ImageClassifier(backbone, ["cat", "dog"])
    >>> tuple(model(np.zeros((3, 8, 8, 3), "float32")).shape)
    (3, 2)
    """

    PARTS = ("backbone",)
    SETTINGS = ("labels", "dropout")
    pooling = "first"

    def __init__(
        self,
        backbone: keras.Model,
        labels: Sequence[str],
        *,
        dropout: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(backbone, **kwargs)
        self.labels = check_labels(labels)
        self.dropout = dropout
        self._add_head(ClassificationHead, len(self.labels), dropout=dropout)

    def call(self, images, training=None):
        return self._logits(images, training)  # [B, C]

    def classify(
        self, images: Any, *, batch_size: int = 32, verbose: bool | str = "auto"
    ) -> list[dict[str, Any]]:
        """Returns the label of each image.

        Args:
            images: `[N, height, width, channels]`.
            batch_size: The number of images that are computed together.
            verbose: Whether to show a progress bar; `"auto"` shows it from 10 batches
                on.

        Returns:
            A dict per image: `label`, its `score`, and `scores`, the score of each
            label by name.
        """
        scores = self._scores_of_rows(images, batch_size, verbose).tolist()
        return [best_label(self.labels, row) for row in scores]

    def _predict(self, rows: Any, batch_size: int, verbose: Any) -> Iterator[Any]:
        for chosen in batches_by_length([0] * len(rows), batch_size, verbose):
            images = rows[chosen]
            yield chosen, images, self.predict_on_batch(images)

    def batches(
        self,
        images: Any,
        labels: Sequence[Any],
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
    ) -> ArrayBatches:
        """Returns images and their labels as batches for `fit` and `evaluate`.

        Args:
            images: `[N, height, width, channels]`.
            labels: One label per image: a name or a number.
            batch_size: The number of images per batch.
            shuffle: Whether the order of the images changes each epoch.
            seed: The seed of the order.
        """
        check_same_number(images=images, labels=labels)
        return ArrayBatches(
            np.asarray(images),
            self.label_ids(labels),
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
        )

    def label_ids(self, labels: Sequence[Any]) -> np.ndarray:
        """Returns the numbers of labels, for `fit(images, model.label_ids(labels))`.

        Args:
            labels: One label per image: a name or a number.
        """
        return label_ids(labels, self.labels)
