"""Text from text: translation, summaries."""

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
from keras_attention.layers.base import observing
from keras_attention.models.encoder_decoder import inputs_of_both
from keras_attention.models.recurrent_seq2seq import RecurrentSeq2Seq
from keras_attention.ops.caches.fixed import AmpleKVCache
from keras_attention.tasks.batches import IGNORED, PairBatches
from keras_attention.tasks.generating import generated, rows_of_ids, streamed
from keras_attention.tasks.common import (
    batches_by_length,
    check_same_number,
    padding_of,
    parts_config,
    with_parts,
)

PARTS = ("backbone", "tokenizer")


@keras.saving.register_keras_serializable("keras_attention")
class Seq2SeqLM(keras.Model):
    """An encoder and a decoder with a tokenizer: translates, streams, scores, aligns.

    Trained with `fit` on what `batches` gives. The decoder reads `start_token_id`,
    then what it wrote.

    Args:
        backbone: A `Seq2SeqTransformer`, `T5EncoderDecoder` or `RecurrentSeq2Seq`.
        tokenizer: Of both sides: called with texts, gives `token_ids` and
            `padding_mask`; has `detokenize`. `None` for ids only.
        start_token_id: What the decoder reads first; the tokenizer's token for the
            beginning of a text, else its padding, when `None`.
        end_token_id: What ends a target; the tokenizer's when `None`.
        forced_first_token: The first token of all answers, if there is one.
        forced_last_token: That of answers that reach `max_new_tokens`, likewise.
        suppress_tokens: What no answer has, where settings do not say anything else.
        compiled: Whether generation is compiled.
        **kwargs: Those of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        encoder_token_ids: Int `[B, S]`, or a dict of the four inputs.
        encoder_padding_mask: Bool or 0 / 1 `[B, S]`, `True` at real tokens.
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
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.backbone, self.tokenizer = backbone, tokenizer
        roles = ("bos_token_id", "cls_token_id", "pad_token_id")
        start = _first(start_token_id, tokenizer, roles)
        if start is None:
            raise ValueError(
                "The decoder needs a token to begin with, and the tokenizer names "
                "none: pass `start_token_id=`. Received: start_token_id=None"
            )
        self.start_token_id = start
        roles = ("eos_token_id", "sep_token_id")
        self.end_token_id = _first(end_token_id, tokenizer, roles)
        self.forced_first_token = forced_first_token
        self.forced_last_token = forced_last_token
        self.suppress_tokens = tuple(suppress_tokens)
        self.compiled = compiled
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
        """What generates; it keeps what was compiled."""
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
        """Writes a target for each source.

        Args:
            sources: A list of texts, or of lists of token ids; or ids `[B, S]`, alone
                or in a dict beside a `padding_mask`.
            settings: How; greedy search when not given.
            max_new_tokens: In place of the one of the settings.
            prefixes: Token ids that each target begins with; they are not returned.
            callback: Called after each token with the new ids of each row.
            verbose: Whether to show a progress bar.
            return_details: Whether to return a `Generated` with ids,
                log-probabilities and beam scores instead.

        Returns:
            For sources of text, the text of each target; else its ids.
        """
        rows, from_text = rows_of_ids(self, sources, "sources")
        settings = self._settings(settings, max_new_tokens)
        prefixes = [()] * len(rows) if prefixes is None else prefixes
        prompts = [[self.start_token_id, *prefix] for prefix in prefixes]
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
        """Yields the target of one source as it comes.

        Args:
            source: A text, or a list of token ids.
            settings: How; greedy search when not given.
            max_new_tokens: In place of the one of the settings.

        Returns:
            An iterator over pieces of text, whole characters only, or over ids.
        """
        settings = self._settings(settings, max_new_tokens)
        (row,), from_text = rows_of_ids(self, [source], "source")
        prompt = [self.start_token_id]
        yield from streamed(self, prompt, settings, as_text=from_text, source=row)

    def score(
        self, sources: Any, targets: Any, *, batch_size: int = 32, verbose: Any = "auto"
    ) -> dict[str, Any]:
        """Log-probabilities of the tokens of targets, and the perplexity.

        Args:
            sources: As those of `generate`.
            targets: One a source: texts, or token ids without the start token.
            batch_size: Pairs computed at a time.
            verbose: Whether to show a progress bar; `"auto"` from 10 batches on.

        Returns:
            A dict: `log_probabilities`, a list with T numbers for each target of T
            tokens (its end included), and `perplexity`, over all of them.
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
            for row, place in enumerate(chosen):
                found[place] = log_p[row, : lengths[place]]
        mean = np.concatenate(found).mean(dtype="float64")
        return {"log_probabilities": found, "perplexity": float(np.exp(-mean))}

    def align(self, sources: Any, targets: Any) -> list[np.ndarray]:
        """Where in the source the decoder looked when it wrote each target token.

        Args:
            sources: As those of `generate`.
            targets: One a source: texts, or token ids without the start token, such as
                those that `generate` gave.

        Returns:
            For each pair weights `[T, S]`, whose rows have the sum 1: means over the
            heads and layers, see `ka.attention_maps` for each of them.
        """
        pairs = self.batches(sources, targets, shuffle=False)
        watched, found = _cross_attentions(self.backbone), []
        for place, row in enumerate(pairs.rows):
            seen: list[Any] = []
            inputs, _ = pairs.batch_of([place])
            with observing(lambda layer, weights: seen.append((layer, weights))):  # noqa: B023
                self(inputs, training=False)
            maps = [w for layer, w in seen if any(layer is one for one in watched)]
            maps = [ops.mean(w, axis=1) if len(w.shape) == 4 else w for w in maps]
            mean = ops.convert_to_numpy(sum(maps) / len(maps))  # [1, T, S]
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
        pad_to_multiple_of: int = 1,
    ) -> PairBatches:
        """Pairs as batches for `fit`: the decoder reads targets a token later.

        Args:
            sources: As those of `generate`.
            targets: One a source: texts, or token ids without the start token. An end
                token is put behind texts where the tokenizer puts none.
            batch_size: Pairs at a time.
            shuffle: Whether they come in another order each epoch.
            pad_to_multiple_of: Of lengths; more than 1 makes fewer shapes to compile.
        """
        rows, _ = rows_of_ids(self, sources, "sources")
        labels, from_text = rows_of_ids(self, targets, "targets")
        check_same_number(sources=rows, targets=labels)
        if from_text:
            labels = [self._framed(label) for label in labels]
        return PairBatches(
            [{"token_ids": np.array(row, "int32")} for row in rows],
            [np.array(label, "int32") for label in labels],
            start_token_id=self.start_token_id,
            batch_size=batch_size,
            shuffle=shuffle,
            multiple=pad_to_multiple_of,
            padding=padding_of(self.tokenizer),
        )

    def compile_arguments(self) -> dict[str, Any]:
        """Loss for `compile`; padding does not count."""
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=IGNORED
        )
        return {"loss": loss}

    def _framed(self, label):
        """A target of text: without the start token, with the one that ends it."""
        if label and label[0] == self.start_token_id != self.end_token_id:
            label = label[1:]
        if self.end_token_id is not None and label[-1:] != [self.end_token_id]:
            label = [*label, self.end_token_id]
        return label

    def _settings(self, settings, max_new_tokens):
        settings = settings or GenerationSettings()
        changes: dict[str, Any] = {}
        if max_new_tokens is not None:
            changes["max_new_tokens"] = max_new_tokens
        if settings.stop_token_ids is None:
            end = self.end_token_id
            changes["stop_token_ids"] = () if end is None else (int(end),)
        for name in ("forced_first_token", "forced_last_token"):
            if getattr(settings, name) is None:
                changes[name] = getattr(self, name)
        if not len(settings.suppress_tokens):
            changes["suppress_tokens"] = self.suppress_tokens
        return dataclasses.replace(settings, **changes)

    def get_config(self):
        names = (
            "start_token_id",
            "end_token_id",
            "forced_first_token",
            "forced_last_token",
            "suppress_tokens",
            "compiled",
        )
        own = {name: getattr(self, name) for name in names}
        return {**parts_config(self, PARTS), **own}

    @classmethod
    def from_config(cls, config):
        return cls(**with_parts(config, PARTS))


class RecurrentCache(NamedTuple):
    """A recurrent decoder's states as a cache: they hold the source too.

    Attributes:
        states: Of `RecurrentSeq2Seq.empty_cache`.
    """

    states: Any

    def reorder(self, rows: Any) -> "RecurrentCache":
        """The states of other rows.

        Args:
            rows: Int `[B']`: which row each new row continues.
        """
        take = keras.tree.map_structure
        return RecurrentCache(take(lambda x: ops.take(x, rows, axis=0), self.states))


def language_model_of_pair(backbone: Any, kind: Any = AmpleKVCache) -> LanguageModel:
    """An encoder and a decoder as the loops of generation see them.

    Args:
        backbone: A `Seq2SeqTransformer`, `T5EncoderDecoder` or `RecurrentSeq2Seq`.
        kind: Of the caches.
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
            "A model with an encoder has no cache without a source: use "
            f"`cache_of_source`. Received: batch_size={batch_size}"
        )

    # Sinusoids and distances have no end.
    bounded = getattr(backbone, "positions", None) == "learned"
    return LanguageModel(
        forward,
        empty_cache,
        backbone.variables,
        backbone.vocabulary_size,
        backbone.max_sequence_length if bounded else None,
        cache_of_source,
    )


def _cross_attentions(backbone):
    if isinstance(backbone, RecurrentSeq2Seq):
        return [backbone.decoder.cell.attention]
    return [block.cross_attention for block in backbone.decoder_blocks]


def _first(given, tokenizer, roles):
    """A token id that was given, or the first that the tokenizer has."""
    found = [given, *(getattr(tokenizer, role, None) for role in roles)]
    found = [one for one in found if one is not None]
    return int(found[0]) if found else None
