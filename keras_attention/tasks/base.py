"""The base of the tasks that are a head on a backbone."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_attention.blocks.heads import mean_of_tokens
from keras_attention.blocks.pooling import last_token
from keras_attention.models.common import from_base_config, initializer
from keras_attention.models.inputs import standardize_ids
from keras_attention.ops.backend.replicas import ReplicaTraining
from keras_attention.tasks.batches import PaddedBatches, padded_rows
from keras_attention.tasks.common import (
    batches_by_length,
    check_lengths,
    cross_entropy,
    freeze_unread_pooler,
    padding_of,
    parts_config,
    probabilities,
    run_backbone,
    with_parts,
)


class BackboneTask(ReplicaTraining, keras.Model):
    """A head on a backbone: what all tasks of this kind share.

    A subclass defines its constructor (`super().__init__`, its settings,
    `self._add_head(…)`), one method that predicts (such as `classify`) and `batches`.
    It inherits the call, the config, `features`, `scores` and `compile_arguments`, and
    overrides what is different.

    Attributes:
        PARTS: The names of the constructor arguments that are Keras objects.
        SETTINGS: The names of its other arguments, for the config. A setting is stored
            in an attribute of the same name.
        pooling: The vector of a row that the head reads: `"pooled"` (the backbone's
            pooler), `"first"` or `"last"` (that token's) or `"mean"` (of all tokens);
            `None` for a head that reads every token's vector.

    Args:
        backbone: A model of this library that returns a dict with `sequence_output`.
        tokenizer: The backbone's tokenizer, or `None`.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("backbone", "tokenizer")
    SETTINGS: ClassVar[tuple[str, ...]] = ()
    pooling: str | None = None

    def __init__(self, backbone: keras.Model, tokenizer: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.backbone, self.tokenizer = backbone, tokenizer

    def _add_head(self, kind: type[keras.layers.Layer], *args: Any, **settings: Any):
        """Makes the head and builds the task; called last in a constructor."""
        self.head: Any = kind(
            *args,
            kernel_initializer=initializer(),
            name="head",
            dtype=self.dtype_policy,
            **settings,
        )
        freeze_unread_pooler(self)
        self.build()

    def build(self, input_shape=None):
        tokens = () if self.reads_one_vector else (None,)
        self.head.build((None, *tokens, self.backbone.hidden_dim))
        self.built = True

    @property
    def reads_one_vector(self) -> bool:
        """Whether the head reads one vector per row, and not one per token."""
        return self.pooling is not None

    def call(
        self,
        token_ids,
        segment_ids=None,
        padding_mask=None,
        training=None,
        *,
        document_ids=None,
    ):
        others = {
            "segment_ids": segment_ids,
            "padding_mask": padding_mask,
            "document_ids": document_ids,
        }
        inputs = standardize_ids(token_ids, others)
        if self.reads_one_vector and inputs["document_ids"] is not None:
            raise ValueError(
                "A row with several documents has one label per token, and this task "
                "has one per row. Pass one text per row, without `document_ids`. "
                f"Received: document_ids and {type(self).__name__}"
            )
        return self._logits(inputs, training)

    def _logits(self, inputs, training):
        features = self.features(inputs, training)
        return self.head(features, training=training)  # [B, C] or [B, T, C]

    def features(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the vectors that the head reads, `[B, E]` or `[B, T, E]`.

        Args:
            inputs: The inputs of a call, in a dict.
            training: Whether dropout is active.
        """
        outputs = run_backbone(self.backbone, inputs, training)
        if self.pooling == "pooled":
            return outputs["pooled_output"]  # [B, E]
        sequence = outputs["sequence_output"]  # [B, T, E]
        if self.pooling is None:
            return sequence
        if self.pooling == "first":
            return sequence[:, 0]  # [B, E]
        mask = inputs.get("padding_mask")
        mask = None if mask is None else ops.cast(mask, "bool")
        pool = last_token if self.pooling == "last" else mean_of_tokens
        return pool(sequence, mask)  # [B, E]

    def scores(self, logits: Any) -> Any:
        """Returns logits as the probabilities of the classes.

        Args:
            logits: The logits that a call returned.
        """
        return probabilities(logits)

    def _predict(
        self, rows: Sequence[dict[str, np.ndarray]], batch_size: int, verbose: Any
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], Any]]:
        """Yields the row numbers, inputs and logits of batches of similar length."""
        lengths = [len(row["token_ids"]) for row in rows]
        for chosen in batches_by_length(lengths, batch_size, verbose):
            inputs = padded_rows([rows[i] for i in chosen], padding_of(self.tokenizer))
            yield chosen, inputs, self.predict_on_batch(inputs)

    def _scores_of_rows(self, rows: Any, batch_size: int, verbose: Any) -> np.ndarray:
        """Returns the scores `[N, C]` of rows that have one vector of logits each."""
        found = np.zeros((len(rows), self.head.num_classes), "float32")
        for chosen, _, logits in self._predict(rows, batch_size, verbose):
            scores = self.scores(ops.convert_to_tensor(logits))
            found[chosen] = ops.convert_to_numpy(scores)
        return found

    def _padded_batches(self, rows: Any, targets: Any, **settings: Any):
        """Returns rows and their targets as `PaddedBatches`."""
        check_lengths(rows, self.backbone)
        padding = padding_of(self.tokenizer)
        return PaddedBatches(rows, targets, padding=padding, **settings)

    def compile_arguments(self) -> dict[str, Any]:
        """Returns the loss and the metrics for `compile`."""
        return {"loss": cross_entropy(), "metrics": ["accuracy"]}

    def get_config(self):
        settings = {name: getattr(self, name) for name in self.SETTINGS}
        if "labels" in settings:
            settings["labels"] = list(settings["labels"])
        return {**parts_config(self, self.PARTS), **settings}

    @classmethod
    def from_config(cls, config):
        return from_base_config(cls, with_parts(config, cls.PARTS))
