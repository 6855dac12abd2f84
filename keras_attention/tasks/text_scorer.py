"""A score per text, or per pair of texts."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.blocks.heads import ClassificationHead
from keras_attention.ops.attend import score_dtype
from keras_attention.tasks.base import BackboneTask
from keras_attention.tasks.batches import PaddedBatches
from keras_attention.tasks.common import (
    check_same_number,
    check_texts,
    pooling_of,
    tokenized,
)

ACTIVATIONS = ("linear", "sigmoid")


@keras.saving.register_keras_serializable("keras_attention")
class TextScorer(BackboneTask):
    """One number per text, or per pair of texts: regression and ranking.

    Use it for ratings, for the similarity of two texts, or as a cross-encoder, which
    reads a query and a text together and scores how well the text answers the query.
    It is more exact than the product of two vectors of a `SentenceEncoder`, but reads
    each pair again: let the encoder find candidates, and rank these.

    Fine-tune it with `ka.fine_tune`, or with `compile` and `fit` like any Keras model.

    Reference: Devlin et al., 2018 (arXiv:1810.04805), section 4.1; Nogueira & Cho,
    "Passage Re-ranking with BERT", 2019 (arXiv:1901.04085).

    Args:
        backbone: A `BertEncoder`, or another encoder of this library.
        tokenizer: The backbone's tokenizer, or `None`. `score`, `rank`, `batches` and
            exports that take text need it.
        activation: `"linear"` for scores of any size, which are trained with the
            squared error; `"sigmoid"` for scores from 0 to 1, which are trained with
            the binary cross-entropy.
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
        Scores before the activation, `[B, 1]`.

    Example:
    >>> backbone = ka.BertEncoder(
    ...     vocabulary_size=100,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> model = ka.TextScorer(backbone, activation="sigmoid")
    >>> tuple(model(np.array([[1, 2, 3]])).shape)
    (1, 1)
    """

    SETTINGS = (
        "activation",
        "pooling",
        "hidden_activation",
        "dropout",
        "use_bias",
    )

    def __init__(
        self,
        backbone: keras.Model,
        tokenizer: Any = None,
        *,
        activation: str = "linear",
        pooling: str | None = None,
        hidden_activation: Any = None,
        dropout: float = 0.1,
        use_bias: bool = True,
        **kwargs: Any,
    ):
        super().__init__(backbone, tokenizer, **kwargs)
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"`activation` must be one of {', '.join(ACTIVATIONS)}. "
                f"Received: activation={activation!r}"
            )
        self.activation = activation
        self.pooling = pooling_of(pooling, backbone)
        self.hidden_activation = hidden_activation
        self.dropout, self.use_bias = dropout, use_bias
        self._add_head(
            ClassificationHead,
            1,
            hidden_activation=hidden_activation,
            dropout=dropout,
            use_bias=use_bias,
        )

    def scores(self, logits: Any) -> Any:
        """Returns what a call returned as scores `[B, 1]`, after the activation.

        Args:
            logits: The scores before the activation, `[B, 1]`.
        """
        scores = ops.cast(logits, score_dtype(logits))
        return ops.sigmoid(scores) if self.activation == "sigmoid" else scores

    def score(
        self,
        texts: Sequence[str],
        texts_pair: Sequence[str] | None = None,
        *,
        batch_size: int = 32,
        verbose: bool | str = "auto",
    ) -> np.ndarray:
        """Returns the score of each text, or of each pair of texts.

        Texts of similar length are computed together.

        Args:
            texts: Any number of texts.
            texts_pair: The second text of each, if they come in pairs.
            batch_size: The number of texts that are computed together.
            verbose: Whether to show a progress bar; `"auto"` shows it from 10 batches
                on.

        Returns:
            `[len(texts)]` float32, in the order of `texts`.
        """
        rows = self._rows("score", texts, texts_pair)
        return self._scores_of_rows(rows, batch_size, verbose)[:, 0]

    def rank(
        self,
        query: str,
        texts: Sequence[str],
        *,
        top_k: int | None = None,
        batch_size: int = 32,
        verbose: bool | str = "auto",
    ) -> list[dict[str, Any]]:
        """Returns texts in the order of their scores as the second text of a query.

        Args:
            query: One text: the first one of every pair.
            texts: Any number of texts.
            top_k: The number of texts that are returned; all when `None`.
            batch_size: The number of pairs that are computed together.
            verbose: Whether to show a progress bar; `"auto"` shows it from 10 batches
                on.

        Returns:
            A dict per text, the one with the largest score first: `text`, its `index`
            in `texts` and its `score`. Texts of equal score stay in their order.
        """
        if not isinstance(query, str):
            raise ValueError(f"`query` must be one text. Received: query={query!r}")
        if top_k is not None and top_k < 1:
            raise ValueError(
                "`top_k` must be at least 1, or `None` for all texts. "
                f"Received: top_k={top_k}"
            )
        texts = check_texts(self, texts, "texts", "rank")
        settings: dict[str, Any] = {"batch_size": batch_size, "verbose": verbose}
        scores = self.score([query] * len(texts), texts, **settings)
        order = np.argsort(-scores, kind="stable")[:top_k].tolist()
        return [
            {"text": texts[index], "index": index, "score": float(scores[index])}
            for index in order
        ]

    def batches(
        self,
        texts: Sequence[str],
        scores: Sequence[float],
        texts_pair: Sequence[str] | None = None,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
    ) -> PaddedBatches:
        """Returns texts and their scores as batches for `fit` and `evaluate`.

        Args:
            texts: One or more texts.
            scores: One number per text, from 0 to 1 with `activation="sigmoid"`.
            texts_pair: The second text of each, if they come in pairs.
            batch_size: The number of texts per batch.
            shuffle: Whether the order of the texts changes each epoch.
            seed: The seed of the order.
            pad_to_multiple_of: The number whose multiples the lengths of batches are.
                When `None`, they are a few lengths, 4 between two powers of 2, so that
                XLA compiles few shapes; 1 pads to the longest row only.
        """
        rows = self._rows("batches", texts, texts_pair, scores=scores)
        return self._padded_batches(
            rows,
            self._targets(scores),
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            multiple=pad_to_multiple_of,
        )

    def _rows(self, method: str, texts: Any, texts_pair: Any, **others: Any):
        texts = check_texts(self, texts, "texts", method)
        if texts_pair is not None:
            texts_pair = check_texts(self, texts_pair, "texts_pair", method)
        check_same_number(texts=texts, texts_pair=texts_pair, **others)
        return tokenized(self.tokenizer, texts, texts_pair)

    def _targets(self, scores: Sequence[float]) -> np.ndarray:
        targets = np.asarray(scores, "float32")
        low, high = (0.0, 1.0) if self.activation == "sigmoid" else (-np.inf, np.inf)
        fits = np.isfinite(targets) & (targets >= low) & (targets <= high)
        if targets.ndim != 1 or not fits.all():
            numbers = "from 0 to 1" if self.activation == "sigmoid" else "finite"
            raise ValueError(
                f"`scores` must have one number per text, {numbers} for "
                f"activation={self.activation!r}. Received: shape {targets.shape}, "
                f"first wrong values {targets[~fits].ravel()[:3].tolist()}"
            )
        return targets[:, None]  # [N, 1], as the logits

    def compile_arguments(self) -> dict[str, Any]:
        """Returns the loss and the metrics for `compile`."""
        if self.activation == "linear":
            metric = keras.metrics.MeanAbsoluteError()
            return {"loss": keras.losses.MeanSquaredError(), "metrics": [metric]}
        metric = keras.metrics.MeanMetricWrapper(
            error_of_sigmoid, name="mean_absolute_error"
        )
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        return {"loss": loss, "metrics": [metric]}


@keras.saving.register_keras_serializable("keras_attention")
def error_of_sigmoid(targets: Any, logits: Any) -> Any:
    """Returns the absolute error of the sigmoid of logits, per row.

    Args:
        targets: The true scores, `[B, 1]`.
        logits: The scores before the activation, `[B, 1]`.
    """
    return keras.losses.mean_absolute_error(targets, ops.sigmoid(logits))
