"""Text from text, such as translations and summaries."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_attention.generation.generate import Generator
from keras_attention.generation.model import LanguageModel
from keras_attention.generation.settings import GenerationSettings
from keras_attention.generation.streaming import text_of
from keras_attention.models.common import from_base_config
from keras_attention.models.encoder_decoder import inputs_of_both
from keras_attention.models.recurrent_seq2seq import RecurrentSeq2Seq
from keras_attention.ops.backend.replicas import ReplicaTraining
from keras_attention.ops.caches.fixed import AmpleKVCache
from keras_attention.tasks import generation_defaults
from keras_attention.tasks.batches import IGNORED, PairBatches
from keras_attention.tasks.common import (
    batches_by_length,
    check_lengths,
    check_same_number,
    cross_entropy,
    padding_of,
    parts_config,
    with_parts,
)
from keras_attention.tasks.generating import (
    alignment_of,
    generated,
    rows_of_ids,
    streamed,
)
from keras_attention.tasks.metrics import token_metrics

PARTS = ("backbone", "tokenizer")


@keras.saving.register_keras_serializable("keras_attention")
class Seq2SeqLM(ReplicaTraining, keras.Model):
    """An encoder and a decoder with a tokenizer: it generates, scores and aligns text.

    Train it with `fit` on the result of `batches`. The decoder reads `start_token_id`,
    then the tokens that it wrote.

    Args:
        backbone: A `Seq2SeqTransformer`, `T5EncoderDecoder` or `RecurrentSeq2Seq`.
        tokenizer: The tokenizer of both sides, or `None` for ids only. A call with
            texts returns `token_ids` and `padding_mask`. It has `detokenize`.
        start_token_id: The first token that the decoder reads. When `None`, it is the
            tokenizer's token for the beginning of a text, else its padding token.
        end_token_id: The token that ends a target; the tokenizer's when `None`.
        forced_first_token: The first token of every answer, or `None`.
        forced_last_token: The last token of answers that reach `max_new_tokens`, or
            `None`.
        suppress_tokens: The tokens that no answer has, unless the settings name
            others.
        compiled: Whether generation is compiled.
        defaults: As in `ka.CausalLM`; the start token counts as the prompt.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        encoder_token_ids: Int `[B, S]`, or a dict of the four inputs.
        encoder_padding_mask: Bool or 0 / 1 `[B, S]`, `True` at non-padding tokens.
        decoder_token_ids: Int `[B, T]`, the start token first.
        decoder_padding_mask: Bool or 0 / 1 `[B, T]`.
        training: Whether dropout is active.

    Returns:
        Logits `[B, T, V]`.

    Example:
    >>> backbone = ka.RecurrentSeq2Seq(11, embedding_dim=4, hidden_dim=8)
    >>> model = ka.Seq2SeqLM(backbone, start_token_id=1, compiled=False)
    >>> answers = model.generate([[5, 6, 7], [4, 2]], max_new_tokens=3)
    >>> [len(ids) for ids in answers]
    [3, 3]
    """

    def __init__(
        self,
        backbone: keras.Model,
        tokenizer: Any = None,
        *,
        start_token_id: int | None = None,
        end_token_id: int | None = None,
        forced_first_token: int | None = None,
        forced_last_token: int | None = None,
        suppress_tokens: Sequence[int] = (),
        compiled: bool = True,
        defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.backbone, self.tokenizer = backbone, tokenizer
        roles = ("bos_token_id", "cls_token_id", "pad_token_id")
        start = _first(start_token_id, tokenizer, roles)
        if start is None:
            raise ValueError(
                "The decoder needs a first token, and the tokenizer names none: "
                "pass `start_token_id=`. Received: start_token_id=None"
            )
        self.start_token_id = start
        roles = ("eos_token_id", "sep_token_id")
        self.end_token_id = _first(end_token_id, tokenizer, roles)
        self.forced_first_token = forced_first_token
        self.forced_last_token = forced_last_token
        self.suppress_tokens = tuple(suppress_tokens)
        self.compiled = compiled
        self.defaults = generation_defaults.checked(defaults)
        self.built = True
        self._generator = None

    def call(
        self,
        encoder_token_ids=None,
        encoder_padding_mask=None,
        decoder_token_ids=None,
        decoder_padding_mask=None,
        training=None,
    ):
        inputs = inputs_of_both(
            encoder_token_ids,
            encoder_padding_mask,
            decoder_token_ids,
            decoder_padding_mask,
        )
        training = training if self.backbone.trainable else False
        return self.backbone(*inputs, training=training)["logits"]  # [B, T, V]

    @property
    def generator(self) -> Generator:
        """The loop that generates; it keeps its compiled functions."""
        if self._generator is None:
            model = language_model_of_pair(self.backbone)
            self._generator = Generator(model, compiled=self.compiled)
        return self._generator

    def generate(
        self,
        sources: Any,
        settings: GenerationSettings | None = None,
        *,
        max_new_tokens: int | None = None,
        prefixes: Sequence[Sequence[int]] | None = None,
        callback: Callable[[list[np.ndarray]], Any] | None = None,
        verbose: bool = False,
        return_details: bool = False,
    ) -> Any:
        """Generates a target for each source.

        Args:
            sources: A list of texts, or of lists of token ids; or ids `[B, S]`, alone
                or in a dict with a `padding_mask`.
            settings: The settings of the generation; `defaults` when omitted.
            max_new_tokens: The limit that replaces the one of the settings.
            prefixes: The token ids that each target begins with; they are not
                returned.
            callback: A function that is called after each token with the new ids of
                each row.
            verbose: Whether to show a progress bar.
            return_details: Whether to return a `Generated` with ids,
                log-probabilities and beam scores instead.

        Returns:
            The text of each target if the sources are texts, else its ids.
        """
        rows, from_text = rows_of_ids(self, sources, "sources")
        prefixes = [()] * len(rows) if prefixes is None else prefixes
        prompts = [[self.start_token_id, *prefix] for prefix in prefixes]
        settings = self._settings(settings, max_new_tokens, map(len, prompts))
        found = generated(
            self, prompts, settings, callback=callback, verbose=verbose, sources=rows
        )
        if return_details:
            return found
        if not from_text:
            return found.token_ids
        return [text_of(self.tokenizer, ids) for ids in found.token_ids]

    def stream(
        self,
        source: Any,
        settings: GenerationSettings | None = None,
        *,
        max_new_tokens: int | None = None,
    ) -> Iterator[Any]:
        """Yields the target of one source while it is generated.

        Args:
            source: A text, or a list of token ids.
            settings: The settings of the generation; `defaults` when omitted.
            max_new_tokens: The limit that replaces the one of the settings.

        Returns:
            An iterator over pieces of text, which have whole characters only, or over
            ids.
        """
        settings = self._settings(settings, max_new_tokens, [1])
        (row,), from_text = rows_of_ids(self, [source], "source")
        prompt = [self.start_token_id]
        yield from streamed(self, prompt, settings, as_text=from_text, source=row)

    def score(
        self, sources: Any, targets: Any, *, batch_size: int = 32, verbose: Any = "auto"
    ) -> dict[str, Any]:
        """Returns the log-probabilities of the tokens of targets, and the perplexity.

        Args:
            sources: The sources, in any form that those of `generate` have.
            targets: One target per source: texts, or token ids without the start
                token.
            batch_size: The number of pairs that are computed together.
            verbose: Whether to show a progress bar; `"auto"` shows it from 10 batches
                on.

        Returns:
            A dict: `log_probabilities`, a list with T numbers for each target of T
            tokens (its end included), and `perplexity`, which is over all targets.
        """
        pairs = self.batches(sources, targets, batch_size=batch_size, shuffle=False)
        found: list[Any] = [None] * len(pairs.rows)
        lengths = [len(target) for target in pairs.targets]
        for chosen in batches_by_length(lengths, batch_size, verbose):
            inputs, labels = pairs.batch_of(chosen)
            logits = ops.cast(self.predict_on_batch(inputs), "float32")
            log_p = ops.convert_to_numpy(ops.log_softmax(logits, axis=-1))
            at = np.maximum(labels, 0)[..., None]
            log_p = np.take_along_axis(log_p, at, axis=-1)[..., 0]  # [B, T]
            for row, index in enumerate(chosen):
                found[index] = log_p[row, : lengths[index]]
        mean = np.concatenate(found).mean(dtype="float64")
        return {"log_probabilities": found, "perplexity": float(np.exp(-mean))}

    def align(self, sources: Any, targets: Any) -> list[np.ndarray]:
        """Returns the attention of each target token to the tokens of its source.

        Args:
            sources: The sources, in any form that those of `generate` have.
            targets: One target per source: texts, or token ids without the start
                token, such as those that `generate` returned.

        Returns:
            Weights `[T, S]` per pair, whose rows have the sum 1. They are means over
            the heads and layers; `ka.attention_maps` returns each of them.
        """
        pairs = self.batches(sources, targets, shuffle=False, pad_to_multiple_of=1)
        found = []
        for index, row in enumerate(pairs.rows):
            inputs, _ = pairs.batch_of([index])
            mean = ops.convert_to_numpy(alignment_of(self, inputs))  # [1, T, S]
            assert mean.shape[2] == len(row["token_ids"])
            found.append(mean[0])
        return found

    def batches(
        self,
        sources: Any,
        targets: Any,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
    ) -> PairBatches:
        """Returns pairs as batches for `fit`, with targets shifted for the decoder.

        Args:
            sources: The sources, in any form that those of `generate` have.
            targets: One target per source: texts, or token ids without the start
                token. An end token is appended to texts if the tokenizer adds none.
            batch_size: The number of pairs per batch.
            shuffle: Whether the order of the pairs changes each epoch.
            seed: The seed of the order.
            pad_to_multiple_of: The number whose multiples the lengths of batches are;
                a few lengths, 4 between two powers of 2, when `None`.
        """
        rows, _ = rows_of_ids(self, sources, "sources")
        labels, from_text = rows_of_ids(self, targets, "targets")
        check_same_number(sources=rows, targets=labels)
        if from_text:
            labels = [self._framed(label) for label in labels]
        check_lengths([*rows, *labels], self.backbone)
        return PairBatches(
            [{"token_ids": np.array(row, "int32")} for row in rows],
            [np.array(label, "int32") for label in labels],
            start_token_id=self.start_token_id,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            multiple=pad_to_multiple_of,
            padding=padding_of(self.tokenizer),
        )

    def compile_arguments(self) -> dict[str, Any]:
        """Returns the loss and the metrics for `compile`; padding does not count."""
        return {"loss": cross_entropy(IGNORED), "metrics": token_metrics()}

    def _framed(self, label):
        """Returns the ids of a target text without the start, with the end token."""
        if label and label[0] == self.start_token_id != self.end_token_id:
            label = label[1:]
        if self.end_token_id is not None and label[-1:] != [self.end_token_id]:
            label = [*label, self.end_token_id]
        return label

    def _settings(self, settings, max_new_tokens, lengths=(1,)):
        ends = {"lengths": lengths, "end_token_id": self.end_token_id}
        settings = generation_defaults.of_call(self, settings, max_new_tokens, **ends)
        forced = ("forced_first_token", "forced_last_token")
        names = [name for name in forced if getattr(settings, name) is None]
        if not len(settings.suppress_tokens):
            names.append("suppress_tokens")
        return dataclasses.replace(settings, **{n: getattr(self, n) for n in names})

    def get_config(self):
        names = (
            "start_token_id",
            "end_token_id",
            "forced_first_token",
            "forced_last_token",
            "suppress_tokens",
            "compiled",
            "defaults",
        )
        settings = {name: getattr(self, name) for name in names}
        return {**parts_config(self, PARTS), **settings}

    @classmethod
    def from_config(cls, config):
        return from_base_config(cls, with_parts(config, PARTS))


class RecurrentCache(NamedTuple):
    """The states of a recurrent decoder in the form of a cache; they hold the source.

    Attributes:
        states: The states that `RecurrentSeq2Seq.empty_cache` or a step returned.
    """

    states: Any

    def reorder(self, rows: Any) -> "RecurrentCache":
        """Returns the states of other rows.

        Args:
            rows: Int `[B']`, the row that each new row continues.
        """
        take = keras.tree.map_structure
        return RecurrentCache(take(lambda x: ops.take(x, rows, axis=0), self.states))


def language_model_of_pair(backbone: Any, kind: Any = AmpleKVCache) -> LanguageModel:
    """Returns an encoder and a decoder in the form that the loops of generation take.

    Args:
        backbone: A `Seq2SeqTransformer`, `T5EncoderDecoder` or `RecurrentSeq2Seq`.
        kind: The class of the caches.
    """
    recurrent = isinstance(backbone, RecurrentSeq2Seq)

    def forward(token_ids, padding_mask, cache):
        past = cache[0].states if recurrent else cache
        outputs = backbone.decode(token_ids, padding_mask, cache=past)
        if recurrent:
            outputs["cache"] = [RecurrentCache(outputs["cache"])]
        return outputs

    def cache_of_source(token_ids, padding_mask, capacity):
        encoded = backbone.encode(token_ids, padding_mask)
        if recurrent:
            return [RecurrentCache(backbone.empty_cache(encoded))]
        return backbone.empty_cache(encoded, kind, capacity=capacity)

    def empty_cache(batch_size, capacity):
        raise ValueError(
            "A model with an encoder needs a source for its cache: use "
            f"`cache_of_source`. Received: batch_size={batch_size}"
        )

    # Only learned positions are a limit: sinusoids and distances have none.
    bounded = getattr(backbone, "positions", None) == "learned"
    return LanguageModel(
        forward,
        empty_cache,
        backbone.variables,
        backbone.vocabulary_size,
        backbone.max_sequence_length if bounded else None,
        cache_of_source,
    )


def _first(given, tokenizer, roles):
    """Returns `given`, or the first token id of these roles that the tokenizer has."""
    found = [given, *(getattr(tokenizer, role, None) for role in roles)]
    found = [one for one in found if one is not None]
    return int(found[0]) if found else None
