"""Losses of `SentenceEncoder` for triplets, and for vectors that may be shortened."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from keras_attention.tasks.losses import mean_of_rows


@keras.saving.register_keras_serializable("keras_attention")
class TripletLoss(keras.losses.Loss):
    """A text must be nearer to its second text than to its third one, by a margin.

    The loss of a triplet is `max(0, distance to second - distance to third + margin)`.
    The batches come from `SentenceEncoder.batches(texts, texts_pair, negatives=…)`.

    Reference: Schroff et al., "FaceNet", 2015 (arXiv:1503.03832), section 3.1; Reimers
    & Gurevych, "Sentence-BERT", 2019 (arXiv:1908.10084), section 3.

    Args:
        margin: The margin. The default is for vectors of length 1.
        distance: `"cosine"` (1 - cosine) or `"euclidean"`.
        **kwargs: The arguments of `keras.losses.Loss`.

    Example:
    >>> targets = np.array([[0, 0], [0, 1], [0, 2]], "float32")  # (group, text)
    >>> vectors = np.array([[1, 0], [0, 1], [1, 0]], "float32")
    >>> round(float(ka.TripletLoss(margin=0.5)(targets, vectors)), 4)
    1.5
    """

    whole_batch = True  # rows of all replicas are compared, see `ReplicaTraining`

    def __init__(
        self,
        margin: float = 0.3,
        distance: Literal["cosine", "euclidean"] = "cosine",
        **kwargs: Any,
    ):
        kwargs.setdefault("name", "triplet_loss")
        super().__init__(**kwargs)
        if distance not in ("cosine", "euclidean"):
            raise ValueError(
                "`distance` must be 'cosine' or 'euclidean'. "
                f"Received: distance={distance!r}"
            )
        self.margin, self.distance = margin, distance

    def call(self, y_true, y_pred):
        vectors = ops.cast(y_pred, y_true.dtype)
        if self.distance == "cosine":
            vectors = ops.normalize(vectors, axis=-1, epsilon=1e-12)
        # Rows follow one another: a text, its second, its third.
        first, second, third = (ops.roll(vectors, -k, axis=0) for k in range(3))
        excess = self._between(first, second) - self._between(first, third)
        losses = ops.relu(excess + self.margin)
        return mean_of_rows(losses, ops.equal(y_true[:, 1], 0.0))

    def _between(self, one, other):
        if self.distance == "cosine":
            return 1.0 - ops.sum(one * other, axis=-1)
        squares = ops.sum(ops.square(one - other), axis=-1)
        # The root of 0 has no gradient.
        return ops.sqrt(ops.maximum(squares, 1e-12))

    def get_config(self):
        settings = {"margin": self.margin, "distance": self.distance}
        return {**super().get_config(), **settings}


@keras.saving.register_keras_serializable("keras_attention")
class MatryoshkaLoss(keras.losses.Loss):
    """A loss of the whole vectors and of their first numbers, summed.

    Vectors that were trained so may be cut to one of the lengths and keep most of what
    they tell.

    Reference: Kusupati et al., "Matryoshka Representation Learning", 2022
    (arXiv:2205.13147).

    Args:
        loss: The loss of vectors of each length, e.g. `ka.MultipleNegativesRanking()`.
        lengths: The lengths, e.g. `[384, 192, 96]`.
        weights: The weight of each length; 1 when `None`.
        **kwargs: The arguments of `keras.losses.Loss`.

    Example:
    >>> loss = ka.MatryoshkaLoss(ka.MultipleNegativesRanking(), [4, 2])
    >>> loss.lengths
    [4, 2]
    """

    whole_batch = True

    def __init__(
        self,
        loss: keras.losses.Loss,
        lengths: Sequence[int],
        weights: Sequence[float] | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("name", "matryoshka_loss")
        super().__init__(**kwargs)
        self.lengths = [int(length) for length in lengths]
        self.weights = [1.0] * len(self.lengths) if weights is None else [*weights]
        if not self.lengths or len(self.weights) != len(self.lengths):
            raise ValueError(
                "There must be at least one length, and one weight for each. "
                f"Received: lengths={lengths}, weights={weights}"
            )
        self.loss = keras.losses.get(loss)

    def call(self, y_true, y_pred):
        size = y_pred.shape[-1]
        if not 0 < min(self.lengths) <= max(self.lengths) <= size:
            raise ValueError(
                f"The lengths must be from 1 to {size}, the length of the vectors. "
                f"Received: lengths={self.lengths}"
            )
        pairs = zip(self.lengths, self.weights, strict=True)
        losses = [w * self.loss.call(y_true, y_pred[:, :n]) for n, w in pairs]
        return sum(losses[1:], losses[0])

    def get_config(self):
        return {
            **super().get_config(),
            "loss": keras.losses.serialize(self.loss),
            "lengths": self.lengths,
            "weights": self.weights,
        }
