"""Metrics that count only what is labelled, while training and evaluating."""

from typing import Any

import keras
from keras import ops

from keras_attention.tasks.batches import IGNORED
from keras_attention.tasks.losses import similarities_of_groups


@keras.saving.register_keras_serializable("keras_attention")
class LabelledAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """The share of the labels that are right, without those that do not count.

    Args:
        name: The metric's name.
        dtype: The metric's dtype.
    """

    def __init__(self, name: str = "accuracy", dtype: Any = None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Counts the labels of a batch.

        Args:
            y_true: The labels, `[B, T]`; -100 does not count.
            y_pred: The logits, `[B, T, C]`.
            sample_weight: The weight of each label or row.
        """
        labels, weights = _labels_and_weights(y_true, y_pred, sample_weight)
        return super().update_state(labels, y_pred, sample_weight=weights)


@keras.saving.register_keras_serializable("keras_attention")
class Perplexity(keras.metrics.Mean):
    """The exponential of the mean cross-entropy of the labels that count.

    Args:
        name: The metric's name.
        dtype: The metric's dtype.
    """

    def __init__(self, name: str = "perplexity", dtype: Any = None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Counts the labels of a batch.

        Args:
            y_true: The labels, `[B, T]`; -100 does not count.
            y_pred: The logits, `[B, T, C]`.
            sample_weight: The weight of each label or row.
        """
        labels, weights = _labels_and_weights(y_true, y_pred, sample_weight)
        logits = ops.cast(y_pred, self.dtype)
        losses = keras.losses.sparse_categorical_crossentropy(
            labels, logits, from_logits=True
        )
        return super().update_state(losses, sample_weight=weights)

    def result(self):
        """Returns the perplexity of all labels since the last reset."""
        return ops.exp(super().result())


@keras.saving.register_keras_serializable("keras_attention")
class InBatchRecall(keras.metrics.Mean):
    """How often the second text of a pair is the most similar one in its batch.

    Args:
        name: The metric's name.
        dtype: The metric's dtype.
    """

    def __init__(self, name: str = "recall_in_batch", dtype: Any = None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Counts the pairs of a batch.

        Args:
            y_true: The targets of `GroupBatches`, `[R, 2]`.
            y_pred: The vectors, `[R, E]`.
            sample_weight: Not used by tasks.
        """
        cosines, first, second = similarities_of_groups(y_true, y_pred)
        best = ops.argmax(ops.where(first[None, :], -3.0, cosines), axis=-1)
        right = ops.take_along_axis(second, best[:, None], axis=-1)[:, 0]
        return super().update_state(right, sample_weight=first)


def token_metrics() -> list[keras.metrics.Metric]:
    """Returns the metrics of tasks that predict tokens."""
    return [LabelledAccuracy(), Perplexity()]


def _labels_and_weights(y_true, y_pred, sample_weight):
    labels = ops.cast(ops.reshape(y_true, ops.shape(y_pred)[:-1]), "int32")
    counted = ops.not_equal(labels, IGNORED)
    weights = ops.cast(counted, "float32")
    if sample_weight is not None:
        given = ops.cast(sample_weight, "float32")
        missing = len(weights.shape) - len(given.shape)
        weights = weights * ops.reshape(given, (*given.shape, *([1] * missing)))
    return ops.where(counted, labels, 0), weights
