"""Does one text follow another?"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.blocks.heads import ClassificationHead
from keras_attention.models.common import initializer
from keras_attention.models.inputs import standardize_ids
from keras_attention.tasks.batches import PaddedBatches, padded_rows
from keras_attention.tasks.common import (
    batches_by_length,
    check_same_number,
    check_texts,
    padding_of,
    parts_config,
    probabilities,
    run_backbone,
    tokenized,
    with_parts,
)

PARTS = ("backbone", "tokenizer")


@keras.saving.register_keras_serializable("keras_attention")
class NextSentence(keras.Model):
    """Whether a text follows another: BERT's second training task.

    Reference: Devlin et al., 2018 (arXiv:1810.04805), section 3.1.

    Args:
        backbone: A `BertEncoder` with a pooler.
        tokenizer: The backbone's, for `follows` and `batches`; or `None`.
        **kwargs: Those of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of all inputs.
        segment_ids: Int `[B, T]`: 1 at the second text.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at real tokens.
        training: Whether dropout is active.

    Returns:
        Logits `[B, 2]`: that it follows, and that it does not.

    Example:
    >>> backbone = ka.BertEncoder(
    ...     vocabulary_size=100,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> model = ka.NextSentence(backbone)
    >>> tuple(model(np.array([[1, 2, 3]]), np.array([[0, 0, 1]])).shape)
    (1, 2)
    """

    pooling = "pooled"

    def __init__(self, backbone: keras.Model, tokenizer: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        if getattr(backbone, "pooler", None) is None:
            raise ValueError(
                "`NextSentence` reads the backbone's pooler: build it with "
                f"`pooler=True`. Received: backbone={backbone!r} without one"
            )
        self.backbone, self.tokenizer = backbone, tokenizer
        self.head = ClassificationHead(
            2, kernel_initializer=initializer(), name="head", dtype=self.dtype_policy
        )
        self.build()

    def build(self, input_shape=None):
        self.head.build((None, self.backbone.hidden_dim))
        self.built = True

    def call(self, token_ids, segment_ids=None, padding_mask=None, training=None):
        inputs = standardize_ids(
            token_ids, {"segment_ids": segment_ids, "padding_mask": padding_mask}
        )
        outputs = run_backbone(self.backbone, inputs, training)
        return self.head(outputs["pooled_output"], training=training)  # [B, 2]

    def follows(
        self,
        texts: Sequence[str],
        next_texts: Sequence[str],
        *,
        batch_size: int = 32,
        verbose: bool | str = "auto",
    ) -> np.ndarray:
        """The probability of each second text to follow the first.

        Args:
            texts: Any number of texts.
            next_texts: As many.
            batch_size: Pairs computed at a time.
            verbose: Whether to show a progress bar; `"auto"` from 10 batches on.

        Returns:
            `[len(texts)]` float32.
        """
        texts = check_texts(self, texts, "texts", "follows")
        check_same_number(texts=texts, next_texts=next_texts)
        rows = tokenized(self.tokenizer, texts, next_texts)
        scores = np.zeros(len(texts), "float32")
        lengths = [len(row["token_ids"]) for row in rows]
        for chosen in batches_by_length(lengths, batch_size, verbose):
            inputs = padded_rows([rows[i] for i in chosen], padding_of(self.tokenizer))
            logits = ops.convert_to_tensor(self.predict_on_batch(inputs))
            scores[chosen] = ops.convert_to_numpy(probabilities(logits))[:, 0]
        return scores

    def batches(
        self,
        texts: Sequence[str],
        next_texts: Sequence[str],
        follows: Sequence[bool],
        *,
        batch_size: int = 32,
        shuffle: bool = True,
    ) -> PaddedBatches:
        """Pairs of texts as batches for `fit` and `evaluate`.

        Args:
            texts: One or more texts.
            next_texts: As many.
            follows: Whether the second follows the first.
            batch_size: Pairs at a time.
            shuffle: Whether they come in another order each epoch.
        """
        texts = check_texts(self, texts, "texts", "batches")
        check_same_number(texts=texts, next_texts=next_texts, follows=follows)
        return PaddedBatches(
            tokenized(self.tokenizer, texts, next_texts),
            1 - np.asarray(follows).astype("int32"),
            batch_size=batch_size,
            shuffle=shuffle,
            padding=padding_of(self.tokenizer),
        )

    def compile_arguments(self) -> dict[str, Any]:
        """Loss and metrics for `compile`."""
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"loss": loss, "metrics": ["accuracy"]}

    def get_config(self):
        return parts_config(self, PARTS)

    @classmethod
    def from_config(cls, config):
        return cls(**with_parts(config, PARTS))
