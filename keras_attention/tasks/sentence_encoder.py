"""Sentence embeddings from an encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.blocks.heads import mean_of_tokens
from keras_attention.blocks.pooling import (
    first_token,
    last_token,
    max_of_tokens,
    mean_by_position,
    mean_by_root,
)
from keras_attention.layers.projection import Projection, fresh_initializer
from keras_attention.models.common import from_base_config, initializer
from keras_attention.models.inputs import standardize_ids
from keras_attention.ops.activations import get_activation
from keras_attention.ops.attend import score_dtype
from keras_attention.ops.backend.replicas import ReplicaTraining
from keras_attention.tasks.common import (
    batches_by_length,
    check_lengths,
    check_same_number,
    check_texts,
    padding_of,
    parts_config,
    run_backbone,
    tokenized,
    with_parts,
)
from keras_attention.tasks.groups import GroupBatches
from keras_attention.tasks.losses import CosineScore, MultipleNegativesRanking
from keras_attention.tasks.metrics import InBatchRecall

PARTS = ("encoder", "tokenizer")
SETTINGS = (
    "normalize",
    "pooling",
    "dense",
    "prompts",
    "default_prompt_name",
    "include_prompt",
)

# Each is a function of the sequence `[B, T, E]` and the mask `[B, T]` or `None`.
POOLINGS = {
    "mean": mean_of_tokens,
    "mean_sqrt_len": mean_by_root,
    "max": max_of_tokens,
    "cls": first_token,
    "weightedmean": mean_by_position,
    "lasttoken": last_token,
}
DENSE = {"units": None, "activation": None, "use_bias": True}


@keras.saving.register_keras_serializable("keras_attention")
class SentenceEncoder(ReplicaTraining, keras.Model):
    """One vector per sentence: the pooled token vectors of an encoder, normalised.

    Reference: Reimers & Gurevych, "Sentence-BERT", 2019 (arXiv:1908.10084).

    Args:
        encoder: A `BertEncoder`, or another encoder of this library.
        tokenizer: The encoder's tokenizer, or `None`. `encode` and exports that take
            text need it.
        normalize: Whether the vectors are scaled to length 1.
        pooling: How token vectors become one vector: `"mean"` of the non-padding
            tokens, `"mean_sqrt_len"` (their sum over the root of their number),
            `"weightedmean"` (weighted by 1, 2, 3, …), `"max"` of them, `"cls"` or
            `"lasttoken"`, the vector of the first or last token. The vectors of
            several, in a list, are concatenated.
        dense: The linear layers after the pooling: a list of dicts with `units`,
            `activation` (none by default) and `use_bias` (`True` by default).
        prompts: A dict of names to texts that `encode` puts before the given ones.
        default_prompt_name: The name of the prompt that is used if none is named.
        include_prompt: Whether the tokens of a prompt are pooled too.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of `token_ids`, `segment_ids`,
            `padding_mask`.
        segment_ids: Int `[B, T]`; 0 when omitted.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at non-padding tokens.
        pooling_mask: Bool or 0 / 1 `[B, T]`, `True` at the tokens that are pooled;
            all non-padding ones when omitted.
        training: Whether dropout is active.

    Returns:
        A dict: `sentence_embedding` `[B, embedding_dim]`, 0 for a row that is all
        padding, and `sequence_output` `[B, T, E]`.

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
        pooling: str | Sequence[str] = "mean",
        dense: Sequence[Mapping[str, Any]] = (),
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        include_prompt: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        names = [pooling] if isinstance(pooling, str) else list(pooling)
        if not names or any(name not in POOLINGS for name in names):
            raise ValueError(
                f"`pooling` must be one of {', '.join(POOLINGS)}, or a list of them. "
                f"Received: pooling={pooling!r}"
            )
        self.pooling = pooling if isinstance(pooling, str) else names
        self.dense = [{**DENSE, **entries} for entries in dense]
        self.prompts = dict(prompts or {})
        self.default_prompt_name = default_prompt_name
        self.prompt_of(default_prompt_name)
        self.include_prompt = include_prompt
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.normalize = normalize
        self._make_dense(encoder.hidden_dim * len(names))
        self.built = True

    def _make_dense(self, size):
        self.dense_layers, draw = [], initializer()
        for index, entries in enumerate(self.dense):
            if entries.keys() != DENSE.keys() or not entries["units"]:
                raise ValueError(
                    f"An entry of `dense` must have {', '.join(DENSE)}. "
                    f"Received: dense={self.dense!r}"
                )
            layer = Projection(
                (entries["units"],),
                activation=get_activation(entries["activation"]),
                use_bias=entries["use_bias"],
                kernel_initializer=fresh_initializer(draw),
                name=f"dense_{index}",
                dtype=self.dtype_policy,
            )
            layer.build((None, size))
            self.dense_layers.append(layer)
            size = entries["units"]
        self.embedding_dim = size

    def prompt_of(self, name: str | None) -> str:
        """Returns the prompt of that name; an empty one for `None`.

        Args:
            name: The name of one of the `prompts`, or `None`.
        """
        if name is not None and name not in self.prompts:
            raise ValueError(
                "There is no prompt of this name. The prompts are: "
                f"{', '.join(map(repr, self.prompts)) or 'none'}. "
                f"Received: prompt_name={name!r}"
            )
        return "" if name is None else self.prompts[name]

    def call(
        self,
        token_ids,
        segment_ids=None,
        padding_mask=None,
        pooling_mask=None,
        training=None,
    ):
        others = {
            "segment_ids": segment_ids,
            "padding_mask": padding_mask,
            "pooling_mask": pooling_mask,
        }
        inputs = standardize_ids(token_ids, others)
        chosen, mask = inputs.pop("pooling_mask"), inputs["padding_mask"]
        sequence = run_backbone(self.encoder, inputs, training)["sequence_output"]
        embedding = self._pooled(sequence, mask, chosen)  # [B, E]
        for layer in self.dense_layers:
            embedding = layer(embedding)
        if self.dense_layers and mask is not None:
            is_text = ops.any(mask, axis=1)[:, None]  # [B, 1]
            embedding = ops.where(is_text, embedding, 0.0)
        if self.normalize:
            embedding = _unit_length(embedding)
        return {"sentence_embedding": embedding, "sequence_output": sequence}

    def _pooled(self, sequence, mask, chosen):
        names = [self.pooling] if isinstance(self.pooling, str) else self.pooling
        if chosen is not None:
            chosen = ops.cast(chosen, "bool")
            chosen = chosen if mask is None else chosen & mask
        found = [
            mean_by_position(sequence, mask, chosen)
            if name == "weightedmean"
            else POOLINGS[name](sequence, mask if chosen is None else chosen)
            for name in names
        ]
        return found[0] if len(found) == 1 else ops.concatenate(found, axis=-1)

    def encode(
        self,
        texts: list[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        verbose: bool | str = "auto",
    ) -> np.ndarray:
        """Returns the vectors of texts.

        Texts of similar length are computed together.

        Args:
            texts: Any number of texts.
            prompt_name: The name of the prompt that is put before each text;
                `default_prompt_name` when `None`.
            prompt: The prompt itself, instead of a name; an empty one for no prompt.
            batch_size: The number of texts that are computed together.
            verbose: Whether to show a progress bar; `"auto"` shows it from 10 batches
                on.

        Returns:
            `[len(texts), embedding_dim]` float32, in the order of `texts`.
        """
        texts = check_texts(self, texts, "texts", "encode")
        texts, skipped = self._prompted(texts, prompt_name, prompt)
        vectors = np.zeros((len(texts), self.embedding_dim), "float32")
        lengths = [len(text) for text in texts]
        for rows in batches_by_length(lengths, batch_size, verbose):
            inputs = dict(self.tokenizer([texts[row] for row in rows]))
            if skipped:
                counts = np.cumsum(np.asarray(inputs["padding_mask"]), axis=1)
                inputs["pooling_mask"] = counts > skipped
            vectors[rows] = self.predict_on_batch(inputs)["sentence_embedding"]
        return vectors

    def _prompted(self, texts, name=None, prompt=None) -> tuple[list[str], int]:
        """Returns texts behind their prompt, and the number of tokens not pooled."""
        if prompt is None:
            prompt = self.prompt_of(self.default_prompt_name if name is None else name)
        if not prompt:
            return texts, 0
        skipped = 0 if self.include_prompt else self._length_of(prompt)
        return [prompt + text for text in texts], skipped

    def _length_of(self, prompt: str) -> int:
        """Returns the number of a prompt's tokens, without the one that ends a text."""
        batch = {name: np.asarray(x) for name, x in self.tokenizer([prompt]).items()}
        ids = batch["token_ids"][batch["padding_mask"].astype(bool)]
        ends = (getattr(self.tokenizer, f"{role}_token_id") for role in ("sep", "eos"))
        return len(ids) - int(len(ids) > 0 and ids[-1] in [*ends])

    @property
    def backbone(self) -> keras.Model:
        """The encoder, under the name that every task has for its model."""
        return self.encoder

    def __dir__(self):
        # Keras stores weights under the first name that it finds here: `encoder`.
        return [name for name in super().__dir__() if name != "backbone"]

    def batches(
        self,
        texts: Sequence[str],
        texts_pair: Sequence[str],
        scores: Sequence[float] | None = None,
        *,
        negatives: Sequence[str] | None = None,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
    ) -> GroupBatches:
        """Returns pairs or triplets of texts as batches for `ka.fine_tune`.

        Without scores, the texts of a pair belong together (a question and its answer),
        and the second texts of the other pairs of a batch are wrong answers: large
        batches teach more. With scores, the cosine of the vectors learns the score. The
        default prompt is put before each text, as in `encode`.

        Args:
            texts: The first text of each pair.
            texts_pair: The second text of each pair.
            scores: How similar the texts of a pair are, from -1 to 1, or `None`.
            negatives: A third text for each pair, which is a wrong answer for it, or
                `None`. It is one for the other pairs too; with
                `fine_tune(…, loss=ka.TripletLoss())` for its own pair only.
            batch_size: The number of pairs or triplets per batch.
            shuffle: Whether the order of the pairs changes each epoch.
            seed: The seed of the order.
            pad_to_multiple_of: As for the other tasks: few lengths when `None`; 1 pads
                to the longest row only.
        """
        texts = check_texts(self, texts, "texts", "batches")
        texts_pair = check_texts(self, texts_pair, "texts_pair", "batches")
        groups = [texts, texts_pair]
        if negatives is not None:
            groups.append(check_texts(self, negatives, "negatives", "batches"))
            if scores is not None:
                raise ValueError(
                    "Triplets have no scores: pass `scores` or `negatives`. "
                    "Received: both"
                )
        others = {"scores": scores, "negatives": negatives}
        check_same_number(texts=texts, texts_pair=texts_pair, **others)
        given = [text for group in zip(*groups, strict=True) for text in group]
        given, skipped = self._prompted(given)
        rows = tokenized(self.tokenizer, given)
        check_lengths(rows, self.encoder)
        for row in rows if skipped else ():
            row["pooling_mask"] = np.arange(len(row["token_ids"])) >= skipped
        if scores is not None:
            numbers = np.asarray(scores, "float64")
            if not (np.abs(numbers) <= 1).all():
                raise ValueError(
                    "A score must be a number from -1 to 1, as a cosine is. Received: "
                    f"scores from {numbers.min()} to {numbers.max()}"
                )
        return GroupBatches(
            rows,
            len(groups),
            scores,
            batch_size=batch_size,
            shuffle=shuffle,
            padding=padding_of(self.tokenizer),
            seed=seed,
            multiple=pad_to_multiple_of,
        )

    def compile_arguments(self, scored: bool = False) -> dict[str, Any]:
        """Returns the loss and the metrics for `compile`.

        Args:
            scored: Whether the pairs have scores.
        """
        if scored:
            return {"loss": {"sentence_embedding": CosineScore()}}
        return {
            "loss": {"sentence_embedding": MultipleNegativesRanking()},
            "metrics": {"sentence_embedding": [InBatchRecall()]},
        }

    def get_config(self):
        settings = {name: getattr(self, name) for name in SETTINGS}
        return {**parts_config(self, PARTS), **settings}

    @classmethod
    def from_config(cls, config):
        return from_base_config(cls, with_parts(config, PARTS))


def _unit_length(x: Any) -> Any:
    dtype = score_dtype(x)
    wide = ops.cast(x, dtype)
    squares = ops.sum(ops.square(wide), axis=-1, keepdims=True)
    return ops.cast(wide / ops.maximum(ops.sqrt(squares), 1e-12), x.dtype)
