"""Text generation with a causal decoder."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_attention.generation import scoring
from keras_attention.generation.generate import Generator
from keras_attention.generation.model import LanguageModel
from keras_attention.generation.settings import GenerationSettings
from keras_attention.generation.streaming import text_of
from keras_attention.models.common import base_config, from_base_config
from keras_attention.models.inputs import standardize_ids
from keras_attention.ops.backend.compiled import Compiled
from keras_attention.ops.backend.replicas import ReplicaTraining
from keras_attention.ops.caches.fixed import AmpleKVCache
from keras_attention.tasks import generation_defaults
from keras_attention.tasks.batches import IGNORED, PaddedBatches
from keras_attention.tasks.common import cross_entropy, padding_of, run_backbone
from keras_attention.tasks.generating import generated, rows_of_ids, streamed
from keras_attention.tasks.metrics import token_metrics
from keras_attention.tasks.packing import packed_rows


@keras.saving.register_keras_serializable("keras_attention")
class CausalLM(ReplicaTraining, keras.Model):
    """A causal decoder with a tokenizer: it generates, streams and scores text.

    Train it with `ka.fine_tune(model, model.batches(texts))`, or with `compile` and
    `fit` like any Keras model, on ids and the next ids. Its outputs are logits.

    Args:
        decoder: A `GPTDecoder`, or a model with its call and `empty_cache`.
        tokenizer: A tokenizer, or `None` for ids only. A call with texts returns
            `token_ids` and `padding_mask`. It has `detokenize` and, if calls truncate
            texts, `encode_whole`.
        draft: A smaller decoder with the same vocabulary that proposes tokens, or
            `None`. The answers stay the same, with fewer steps of `decoder` (see
            `Speculative`). The draft is not trained here.
        compiled: Whether generation is compiled.
        defaults: The settings of `generate` and `stream` for calls that pass none: a
            dict of arguments of `GenerationSettings`, and of `max_length` and
            `min_length`, which count the prompt too; greedy search when `None`. The
            `stop_token_ids` end rows for passed settings too that name none.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of all inputs with `[B, T]`.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at non-padding tokens.
        training: Whether dropout is active.
        document_ids: Int `[B, T]`, the document that a token is of; see `GPTDecoder`.

    Returns:
        Logits `[B, T, V]`.

    Example:
    >>> decoder = ka.GPTDecoder(
    ...     vocabulary_size=11,
    ...     num_layers=1,
    ...     num_heads=2,
    ...     hidden_dim=8,
    ...     intermediate_dim=16,
    ... )
    >>> model = ka.CausalLM(decoder, compiled=False)
    >>> [len(ids) for ids in model.generate([[1, 2, 3], [4]], max_new_tokens=3)]
    [3, 3]
    """

    def __init__(
        self,
        decoder: keras.Model,
        tokenizer: Any = None,
        *,
        draft: keras.Model | None = None,
        compiled: bool = True,
        defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.draft = draft
        if draft is not None:
            draft.trainable = False
        self.compiled = compiled
        self.defaults = generation_defaults.checked(defaults)
        self.built = True
        self._generator = None

    def call(self, token_ids, padding_mask=None, training=None, *, document_ids=None):
        others = {"padding_mask": padding_mask, "document_ids": document_ids}
        inputs = standardize_ids(token_ids, others)
        return run_backbone(self.decoder, inputs, training)["logits"]  # [B, T, V]

    @property
    def backbone(self) -> keras.Model:
        """The decoder, under the name that every task has for its model."""
        return self.decoder

    @property
    def generator(self) -> Generator:
        """The loop that generates; it keeps its compiled functions."""
        if self._generator is None:
            draft = None if self.draft is None else language_model(self.draft)
            model = language_model(self.decoder)
            self._generator = Generator(model, draft, compiled=self.compiled)
        return self._generator

    def generate(
        self,
        prompts: Any,
        settings: GenerationSettings | None = None,
        *,
        max_new_tokens: int | None = None,
        callback: Callable[[list[np.ndarray]], Any] | None = None,
        verbose: bool = False,
        return_details: bool = False,
    ) -> Any:
        """Generates the continuation of each prompt.

        Args:
            prompts: A list of texts, or of lists of token ids; or ids `[B, T]`, alone
                or in a dict with a `padding_mask`.
            settings: The settings of the generation; `defaults` when omitted.
            max_new_tokens: The limit that replaces the one of the settings.
            callback: A function that is called after each token with the new ids of
                each row.
            verbose: Whether to show a progress bar.
            return_details: Whether to return a `Generated` with ids,
                log-probabilities and beam scores instead.

        Returns:
            The new text of each row if the prompts are texts, else its new ids.
        """
        prompts, from_text = rows_of_ids(self, prompts, "prompts")
        settings = self._settings(settings, max_new_tokens, map(len, prompts))
        found = generated(self, prompts, settings, callback=callback, verbose=verbose)
        if return_details:
            return found
        if not from_text:
            return found.token_ids
        return [text_of(self.tokenizer, ids) for ids in found.token_ids]

    def stream(
        self,
        prompt: Any,
        settings: GenerationSettings | None = None,
        *,
        max_new_tokens: int | None = None,
    ) -> Iterator[Any]:
        """Yields the continuation of one prompt while it is generated.

        Args:
            prompt: A text, or a list of token ids.
            settings: The settings of the generation; `defaults` when omitted.
            max_new_tokens: The limit that replaces the one of the settings.

        Returns:
            An iterator over pieces of text, which have whole characters only, or over
            ids.
        """
        (ids,), from_text = rows_of_ids(self, [prompt], "prompts")
        settings = self._settings(settings, max_new_tokens, [len(ids)])
        yield from streamed(self, ids, settings, as_text=from_text)

    def score(
        self,
        texts: Any,
        *,
        window: int | None = None,
        stride: int | None = None,
        batch_size: int = 4,
        verbose: bool = False,
    ) -> dict[str, Any]:
        """Returns the log-probabilities of the tokens of texts, and the perplexity.

        A text that is longer than the window is read in windows that move by `stride`.
        Each token is counted once, with at least `window - stride` tokens before it,
        except at the beginning of the text.

        Args:
            texts: The texts, in any form that the prompts of `generate` have.
            window: The number of tokens that are read together; the number of the
                model's positions when omitted.
            stride: The number of tokens that a window moves by; half the window when
                omitted.
            batch_size: The number of windows that are computed together.
            verbose: Whether to show a progress bar.

        Returns:
            A dict: `log_probabilities`, a list with T - 1 numbers for each text of T
            tokens, and `perplexity`, which is over all texts.
        """
        rows, _ = rows_of_ids(self, texts, "texts")
        window = window or self.decoder.max_sequence_length
        stride = stride or max(window // 2, 1)
        if not 1 <= stride < window <= self.decoder.max_sequence_length:
            raise ValueError(
                "`window` must be at most the number of the model's positions, and "
                "`stride` at least 1 and less than `window`. "
                f"Received: window={window}, stride={stride}"
            )
        bar = keras.utils.Progbar(None, verbose=int(verbose), unit_name="window")

        def tell(done, total):
            bar.target = total
            bar.update(done)

        found = scoring.log_probabilities(
            self._scorer,
            [np.asarray(row) for row in rows],
            window=window,
            stride=stride,
            batch_size=batch_size,
            tell=tell,
        )
        scored = np.concatenate(found)
        if not scored.size:
            raise ValueError(
                "`score` needs a text of at least two tokens, because the first token "
                "has none before it. Received: texts of "
                f"{[len(row) for row in rows]} tokens"
            )
        perplexity = float(np.exp(-scored.mean(dtype="float64")))
        return {"log_probabilities": found, "perplexity": perplexity}

    @functools.cached_property
    def _scorer(self):
        def forward(token_ids, padding_mask, following):
            logits = self.decoder(token_ids, padding_mask=padding_mask)["logits"]
            return scoring.of_following(logits, following)

        return Compiled(forward, self.decoder.variables) if self.compiled else forward

    def batches(
        self,
        texts: Any,
        *,
        max_length: int | None = None,
        packing: bool = False,
        batch_size: int = 8,
        shuffle: bool = True,
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
    ) -> PaddedBatches:
        """Returns texts as batches for `fit`; each token's label is the next token.

        A longer text becomes several rows, each of which begins with the last token of
        the row before it, so that every token except a text's first is learned once.

        Args:
            texts: The texts, in any form that the prompts of `generate` have.
            max_length: The largest number of tokens per row; the number of the model's
                positions when omitted.
            packing: Whether short texts share a row, so that less is computed for
                padding. A text does not see the others, and its positions begin at 0,
                so the loss is that of the texts alone. The decoder takes
                `document_ids`, as `GPTDecoder` does.
            batch_size: The number of rows per batch.
            shuffle: Whether the order of the rows changes each epoch.
            seed: The seed of the order.
            pad_to_multiple_of: The number whose multiples the lengths of batches are.
                When `None`, they are a few lengths, 4 between two powers of 2, so that
                XLA compiles few shapes; 1 pads to the longest row only.
        """
        positions = self.decoder.max_sequence_length
        length = positions if max_length is None else max_length
        if not 1 <= length <= positions:
            raise ValueError(
                "`max_length` must be at least 1 and at most the number of the model's "
                f"positions, {positions}. Received: max_length={max_length}"
            )
        given, _ = rows_of_ids(self, texts, "texts")
        rows = [
            np.array(ids[start : start + length + 1], "int32")
            for ids in given
            for start in range(0, len(ids) - 1, length)
        ]
        if not rows:
            raise ValueError(
                "A text must have at least two tokens, because each token's label is "
                f"the next one. Received: texts of {[len(x) for x in given[:8]]} tokens"
            )
        inputs = [{"token_ids": row[:-1]} for row in rows]
        targets = [row[1:] for row in rows]
        if packing:
            inputs, targets = packed_rows(inputs, targets, length)
        return PaddedBatches(
            inputs,
            targets,
            per_token=True,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            multiple=length if packing else pad_to_multiple_of,
            padding=padding_of(self.tokenizer),
        )

    def compile_arguments(self) -> dict[str, Any]:
        """Returns the loss and the metrics for `compile`; padding does not count."""
        return {"loss": cross_entropy(IGNORED), "metrics": token_metrics()}

    def _settings(self, settings, max_new_tokens, lengths=()):
        end = getattr(self.tokenizer, "eos_token_id", None)
        return generation_defaults.of_call(
            self, settings, max_new_tokens, lengths=lengths, end_token_id=end
        )

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **base_config(self),
            "decoder": serialize(self.decoder),
            "draft": serialize(self.draft),
            "tokenizer": serialize(self.tokenizer),
            "compiled": self.compiled,
            "defaults": dict(self.defaults),
        }

    @classmethod
    def from_config(cls, config):
        rebuild = keras.saving.deserialize_keras_object
        names = ("decoder", "tokenizer", "draft")  # older files have no draft
        parts = {name: rebuild(config[name]) for name in names if name in config}
        return from_base_config(cls, {**config, **parts})


def language_model(decoder: Any, kind: Any = AmpleKVCache) -> LanguageModel:
    """Returns a decoder in the form that the loops of generation take.

    Args:
        decoder: A `GPTDecoder`, or a model with its call and `empty_cache`.
        kind: The class of the caches.
    """

    def forward(token_ids, padding_mask, cache):
        return decoder(token_ids, padding_mask=padding_mask, cache=cache)

    def empty_cache(batch_size, capacity):
        return decoder.empty_cache(batch_size, kind, capacity=capacity)

    return LanguageModel(
        forward,
        empty_cache,
        decoder.variables,
        decoder.vocabulary_size,
        decoder.max_sequence_length,
    )
