"""Sentence embeddings from an encoder."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.blocks.heads import mean_of_tokens
from keras_attention.blocks.pooling import (
    first_token,
    max_of_tokens,
    mean_by_root,
)
from keras_attention.models.inputs import standardize_ids
from keras_attention.ops.attend import score_dtype
from keras_attention.tasks.common import (
    batches_by_length,
    check_texts,
    parts_config,
    with_parts,
)

PARTS = ("encoder", "tokenizer")

# Each is a function of the sequence `[B, T, E]` and the mask `[B, T]` or `None`.
POOLINGS = {
    "mean": mean_of_tokens,
    "mean_sqrt_len": mean_by_root,
    "max": max_of_tokens,
    "cls": first_token,
}


@keras.saving.register_keras_serializable("keras_attention")
class SentenceEncoder(keras.Model):
    """One vector per sentence: the pooled token vectors of an encoder, normalised.

    Reference: Reimers & Gurevych, "Sentence-BERT", 2019 (arXiv:1908.10084).

    Args:
        encoder: A `BertEncoder`, or another encoder of this library.
        tokenizer: The encoder's tokenizer, or `None`. `encode` and exports that take
            text need it.
        normalize: Whether the vectors are scaled to length 1.
        pooling: How token vectors become one vector: `"mean"` of the non-padding
            tokens, `"mean_sqrt_len"` (their sum over the root of their number),
            `"max"` of them, or `"cls"`, the vector of the first token.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of `token_ids`, `segment_ids`,
            `padding_mask`.
        segment_ids: Int `[B, T]`; 0 when omitted.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at non-padding tokens.
        training: Whether dropout is active.

    Returns:
        A dict: `sentence_embedding` `[B, E]`, 0 for a row that is all padding, and
        `sequence_output` `[B, T, E]`.

    Example:
    >>> encoder = ka.BertEncoder(
    ...     vocabulary_size=100,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> model = ka.SentenceEncoder(encoder)
    >>> tuple(model(np.array([[1, 2, 3]]))["sentence_embedding"].shape)
    (1, 16)
    """

    def __init__(
        self,
        encoder: keras.Model,
        tokenizer: Any = None,
        *,
        normalize: bool = True,
        pooling: str = "mean",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if pooling not in POOLINGS:
            raise ValueError(
                f"`pooling` must be one of {', '.join(POOLINGS)}. "
                f"Received: pooling={pooling!r}"
            )
        self.pooling = pooling
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.normalize = normalize
        self.built = True

    def call(self, token_ids, segment_ids=None, padding_mask=None, training=None):
        inputs = standardize_ids(
            token_ids, {"segment_ids": segment_ids, "padding_mask": padding_mask}
        )
        sequence = self.encoder(inputs, training=training)["sequence_output"]
        pool = POOLINGS[self.pooling]
        embedding = pool(sequence, inputs["padding_mask"])  # [B, E]
        if self.normalize:
            embedding = _unit_length(embedding)
        return {"sentence_embedding": embedding, "sequence_output": sequence}

    def encode(
        self, texts: list[str], *, batch_size: int = 32, verbose: bool | str = "auto"
    ) -> np.ndarray:
        """Returns the vectors of texts.

        Texts of similar length are computed together.

        Args:
            texts: Any number of texts.
            batch_size: The number of texts that are computed together.
            verbose: Whether to show a progress bar; `"auto"` shows it from 10 batches
                on.

        Returns:
            `[len(texts), E]` float32, in the order of `texts`.
        """
        texts = check_texts(self, texts, "texts", "encode")
        vectors = np.zeros((len(texts), self.encoder.hidden_dim), "float32")
        lengths = [len(text) for text in texts]
        for rows in batches_by_length(lengths, batch_size, verbose):
            inputs = self.tokenizer([texts[row] for row in rows])
            vectors[rows] = self.predict_on_batch(inputs)["sentence_embedding"]
        return vectors

    def get_config(self):
        settings = {"normalize": self.normalize, "pooling": self.pooling}
        return {**parts_config(self, PARTS), **settings}

    @classmethod
    def from_config(cls, config):
        return cls(**with_parts(config, PARTS))


def _unit_length(x: Any) -> Any:
    dtype = score_dtype(x)
    wide = ops.cast(x, dtype)
    squares = ops.sum(ops.square(wide), axis=-1, keepdims=True)
    return ops.cast(wide / ops.maximum(ops.sqrt(squares), 1e-12), x.dtype)
