"""Classes of images."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.blocks.heads import ClassificationHead
from keras_attention.models.common import initializer
from keras_attention.tasks.common import (
    batches_by_length,
    check_labels,
    label_ids,
    parts_config,
    probabilities,
    with_parts,
)

PARTS = ("backbone",)


@keras.saving.register_keras_serializable("keras_attention")
class ImageClassifier(keras.Model):
    """One class an image: the first vector of a backbone, then a linear map.

    Reference: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021
    (arXiv:2010.11929).

    Args:
        backbone: Called with images; returns a dict with `sequence_output`
            `[B, T, E]`, whose first vector stands for the image.
        labels: Names of the classes, in the order of the logits.
        dropout: Rate, in the head.
        **kwargs: Those of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        images: `[B, height, width, channels]`, as the backbone takes them.
        training: Whether dropout is active.

    Returns:
        Logits `[B, number of labels]`.
    """

    def __init__(
        self,
        backbone: keras.Model,
        labels: Sequence[str],
        *,
        dropout: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.backbone = backbone
        self.labels = check_labels(labels)
        self.dropout = dropout
        self.head = ClassificationHead(
            len(self.labels),
            dropout=dropout,
            kernel_initializer=initializer(),
            name="head",
            dtype=self.dtype_policy,
        )
        self.build()

    def build(self, input_shape=None):
        self.head.build((None, self.backbone.hidden_dim))
        self.built = True

    def call(self, images, training=None):
        frozen = not self.backbone.trainable
        outputs = self.backbone(images, training=False if frozen else training)
        features = outputs["sequence_output"][:, 0]  # [B, E]
        return self.head(features, training=training)  # [B, C]

    def classify(
        self, images: Any, *, batch_size: int = 32, verbose: bool | str = "auto"
    ) -> list[dict[str, Any]]:
        """The label of each image.

        Args:
            images: `[N, height, width, channels]`.
            batch_size: Images computed at a time.
            verbose: Whether to show a progress bar; `"auto"` from 10 batches on.

        Returns:
            A dict an image: `label`, its `score`, and `scores` of all labels by name.
        """
        scores = np.zeros((len(images), len(self.labels)), "float32")
        for chosen in batches_by_length([0] * len(images), batch_size, verbose):
            logits = ops.convert_to_tensor(self.predict_on_batch(images[chosen]))
            scores[chosen] = ops.convert_to_numpy(probabilities(logits))
        answers = []
        for row in scores.tolist():
            by_name = dict(zip(self.labels, row, strict=True))
            best = max(by_name, key=by_name.__getitem__)
            answers.append({"label": best, "score": by_name[best], "scores": by_name})
        return answers

    def label_ids(self, labels: Sequence[Any]) -> np.ndarray:
        """Labels as numbers, for `fit(images, model.label_ids(labels))`.

        Args:
            labels: One an image: a name or a number.
        """
        return label_ids(labels, self.labels)

    def compile_arguments(self) -> dict[str, Any]:
        """Loss and metrics for `compile`."""
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"loss": loss, "metrics": ["accuracy"]}

    def get_config(self):
        config = {"labels": list(self.labels), "dropout": self.dropout}
        return {**parts_config(self, PARTS), **config}

    @classmethod
    def from_config(cls, config):
        return cls(**with_parts(config, PARTS))
