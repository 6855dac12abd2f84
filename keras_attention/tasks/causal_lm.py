"""Text from a causal decoder."""

import dataclasses
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
from keras_attention.models.inputs import standardize_ids
from keras_attention.ops.backend.compiled import Compiled
from keras_attention.ops.caches.fixed import AmpleKVCache
from keras_attention.tasks.generating import generated, rows_of_ids, streamed


@keras.saving.register_keras_serializable("keras_attention")
class CausalLM(keras.Model):
    """A decoder with a tokenizer before it: generates, streams and scores text.

    Trained with `compile` and `fit` on ids and the next ids, as any Keras model: the
    output are logits.

    Args:
        decoder: A `GPTDecoder`, or a model with its call and `empty_cache`.
        tokenizer: Called with texts, gives `token_ids` and `padding_mask`; has
            `detokenize` and, where calls cut texts, `encode_whole`. `None` for ids
            only.
        draft: A smaller decoder with the same vocabulary, that proposes tokens: the
            answers are as without, in fewer steps of `decoder` (see `Speculative`). It
            is not trained here.
        compiled: Whether generation is compiled.
        **kwargs: Those of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of `token_ids` and `padding_mask`.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at real tokens.
        training: Whether dropout is active.

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
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.draft = draft
        if draft is not None:
            draft.trainable = False
        self.compiled = compiled
        self.built = True
        self._generator = None

    def call(self, token_ids, padding_mask=None, training=None):
        inputs = standardize_ids(token_ids, {"padding_mask": padding_mask})
        return self.decoder(inputs, training=training)["logits"]  # [B, T, V]

    @property
    def backbone(self) -> keras.Model:
        """The decoder, by the name that every task has for it."""
        return self.decoder

    @property
    def generator(self) -> Generator:
        """What generates; it keeps what was compiled."""
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
        """Continues prompts.

        Args:
            prompts: A list of texts, or of lists of token ids; or ids `[B, T]`, alone
                or in a dict beside a `padding_mask`.
            settings: How; greedy search when not given.
            max_new_tokens: In place of the one of the settings.
            callback: Called after each token with the new ids of each row.
            verbose: Whether to show a progress bar.
            return_details: Whether to return a `Generated` with ids,
                log-probabilities and beam scores instead.

        Returns:
            For prompts of text, the new text of each row; else its new ids.
        """
        prompts, from_text = rows_of_ids(self, prompts, "prompts")
        settings = self._settings(settings, max_new_tokens)
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
        """Yields the continuation of one prompt as it comes.

        Args:
            prompt: A text, or a list of token ids.
            settings: How; greedy search when not given.
            max_new_tokens: In place of the one of the settings.

        Returns:
            An iterator over pieces of text, whole characters only, or over ids.
        """
        settings = self._settings(settings, max_new_tokens)
        (ids,), from_text = rows_of_ids(self, [prompt], "prompts")
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
        """Log-probabilities of the tokens of texts, and the perplexity.

        A text longer than the window is read in windows that move by `stride`; each
        token is counted once, with at least `window - stride` tokens before it but at
        the beginning of the text.

        Args:
            texts: As the prompts of `generate`.
            window: Tokens read at once; as many as the model has positions.
            stride: Half the window when not given.
            batch_size: Windows at a time.
            verbose: Whether to show a progress bar.

        Returns:
            A dict: `log_probabilities`, a list with T - 1 numbers for each text of T
            tokens, and `perplexity`, over all of them.
        """
        rows, _ = rows_of_ids(self, texts, "texts")
        window = window or self.decoder.max_sequence_length
        stride = stride or max(window // 2, 1)
        if not 1 <= stride < window <= self.decoder.max_sequence_length:
            raise ValueError(
                "`window` must be at most the positions of the model, and `stride` "
                f"from 1 to less than it. Received: window={window}, stride={stride}"
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
        every = np.concatenate(found)
        if not every.size:
            raise ValueError(
                "`score` needs a text of at least two tokens: the first has nothing "
                f"before it. Received: texts of {[len(row) for row in rows]} tokens"
            )
        perplexity = float(np.exp(-every.mean(dtype="float64")))
        return {"log_probabilities": found, "perplexity": perplexity}

    @functools.cached_property
    def _scorer(self):
        def forward(token_ids, padding_mask, following):
            logits = self.decoder(token_ids, padding_mask=padding_mask)["logits"]
            return scoring.of_following(logits, following)

        return Compiled(forward, self.decoder.variables) if self.compiled else forward

    def _settings(self, settings, max_new_tokens):
        settings = settings or GenerationSettings()
        changes = {}
        if max_new_tokens is not None:
            changes["max_new_tokens"] = max_new_tokens
        if settings.stop_token_ids is None:
            end = getattr(self.tokenizer, "eos_token_id", None)
            changes["stop_token_ids"] = () if end is None else (int(end),)
        return dataclasses.replace(settings, **changes)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **keras.layers.Layer.get_config(self),
            "decoder": serialize(self.decoder),
            "draft": serialize(self.draft),
            "tokenizer": serialize(self.tokenizer),
            "compiled": self.compiled,
        }

    @classmethod
    def from_config(cls, config):
        rebuild = keras.saving.deserialize_keras_object
        names = ("decoder", "tokenizer", "draft")  # the last is not in older files
        parts = {name: rebuild(config[name]) for name in names if name in config}
        return cls(**{**config, **parts})


def language_model(decoder: Any, kind: Any = AmpleKVCache) -> LanguageModel:
    """A decoder as the loops of generation see it.

    Args:
        decoder: A `GPTDecoder`, or a model with its call and `empty_cache`.
        kind: Of the caches.
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
