"""Losses of tasks that Keras does not have."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_attention")
class SmoothedCrossEntropy(keras.losses.Loss):
    """The cross-entropy of logits and label numbers, smoothed and weighted.

    With a smoothing of e, the target of the right class is 1 - e, and e is shared by
    all C classes, as in torch: `(1 - e) * -log p[label] + e * mean(-log p)`. The loss
    of a label is multiplied by the weight of its class. The mean is over the number of
    the labels that count, as with the `class_weight` of `fit`.

    Reference: Szegedy et al., "Rethinking the Inception Architecture", 2016
    (arXiv:1512.00567), section 7.

    Args:
        ignore_class: The label number that does not count, or `None`.
        label_smoothing: The share of the target that all classes get, from 0 to 1.
        class_weight: The weight of each class by its number; 1 where none is named.
        **kwargs: The arguments of `keras.losses.Loss`.

    Example:
    >>> loss = ka.SmoothedCrossEntropy(label_smoothing=0.1)
    >>> round(float(loss(np.array([1]), np.array([[0.0, 2.0]]))), 4)
    0.2269
    """

    def __init__(
        self,
        ignore_class: int | None = None,
        label_smoothing: float = 0.0,
        class_weight: Mapping[int, float] | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("name", "smoothed_cross_entropy")
        super().__init__(**kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                "`label_smoothing` must be at least 0 and less than 1. "
                f"Received: label_smoothing={label_smoothing}"
            )
        self.ignore_class, self.label_smoothing = ignore_class, label_smoothing
        weights = {int(number): float(x) for number, x in (class_weight or {}).items()}
        self.class_weight = weights

    def call(self, y_true, y_pred):
        labels = ops.cast(ops.reshape(y_true, ops.shape(y_pred)[:-1]), "int32")
        ignored = -1 if self.ignore_class is None else self.ignore_class
        counted = ops.not_equal(labels, ignored)
        labels = ops.where(counted, labels, 0)
        log_p = ops.log_softmax(y_pred, axis=-1)
        of_label = ops.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
        smooth = self.label_smoothing
        loss = (smooth - 1) * of_label - smooth * ops.mean(log_p, axis=-1)
        if self.class_weight:
            classes = range(y_pred.shape[-1])
            weights = [self.class_weight.get(number, 1.0) for number in classes]
            table = ops.convert_to_tensor(weights, loss.dtype)
            loss = loss * ops.take(table, labels, axis=0)
        counted = ops.cast(counted, loss.dtype)
        # Keras divides by the number of all labels.
        share = ops.maximum(ops.mean(counted), 1.0 / _size(counted))
        return ops.where(counted > 0, loss, 0.0) / share

    def get_config(self):
        names = ("ignore_class", "label_smoothing", "class_weight")
        settings = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **settings}


def _size(x):
    return ops.cast(ops.size(x), x.dtype)


def similarities_of_groups(targets: Any, vectors: Any) -> tuple[Any, Any, Any]:
    """Returns how similar the texts of a batch of `GroupBatches` are.

    Args:
        targets: The targets `[R, 2]` or `[R, 3]` of the batch: the number of the group,
            the number of the text in the group and the score.
        vectors: The vectors of the texts, `[R, E]`.

    Returns:
        The cosine of all pairs of texts, `[R, R]`; which rows are the first texts of
        their groups, bool `[R]`; and where the second text of a row's group is, bool
        `[R, R]`.
    """
    vectors = ops.cast(vectors, targets.dtype)
    vectors = ops.normalize(vectors, axis=-1, epsilon=1e-12)
    cosines = ops.matmul(vectors, ops.transpose(vectors))
    group, text = targets[:, 0], targets[:, 1]
    second = ops.equal(group[:, None], group[None, :]) & ops.equal(text, 1.0)[None, :]
    return cosines, ops.equal(text, 0.0), second


@keras.saving.register_keras_serializable("keras_attention")
class MultipleNegativesRanking(keras.losses.Loss):
    """The second text of a pair must be more similar to the first than all others are.

    The others are the second texts of all other pairs of the batch, and the third and
    further texts of all groups. It is the cross-entropy of the scaled cosines.

    Reference: Henderson et al., "Efficient Natural Language Response Suggestion for
    Smart Reply", 2017 (arXiv:1705.00652), section 4.4.

    Args:
        scale: The factor of the cosines.
        **kwargs: The arguments of `keras.losses.Loss`.
    """

    whole_batch = True  # rows of all replicas are compared, see `ReplicaTraining`

    def __init__(self, scale: float = 20.0, **kwargs: Any):
        kwargs.setdefault("name", "multiple_negatives_ranking")
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, y_true, y_pred):
        cosines, first, second = similarities_of_groups(y_true, y_pred)
        # What is 60 below all others has no share: exp(-60) is 1e-26.
        logits = ops.where(first[None, :], -self.scale - 60.0, self.scale * cosines)
        log_p = ops.log_softmax(logits, axis=-1)
        loss = -ops.sum(ops.where(second, log_p, 0.0), axis=-1)
        return mean_of_rows(loss, first)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable("keras_attention")
class CosineScore(keras.losses.Loss):
    """The squared difference of the cosine of a pair's vectors and its score.

    Reference: Reimers & Gurevych, "Sentence-BERT", 2019 (arXiv:1908.10084), section 3.

    Args:
        **kwargs: The arguments of `keras.losses.Loss`.
    """

    whole_batch = True

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("name", "cosine_score")
        super().__init__(**kwargs)

    def call(self, y_true, y_pred):
        cosines, first, second = similarities_of_groups(y_true, y_pred)
        of_pair = ops.sum(ops.where(second, cosines, 0.0), axis=-1)
        return mean_of_rows(ops.square(of_pair - y_true[:, 2]), first)


def mean_of_rows(losses: Any, rows: Any) -> Any:
    """Returns losses whose mean over all rows is the mean over some of them."""
    rows = ops.cast(rows, losses.dtype)
    return losses * rows * (_size(rows) / ops.maximum(ops.sum(rows), 1.0))
