"""Speculative decoding: a small model proposes tokens, the large one confirms them."""

from typing import Any

import numpy as np
from keras import ops

from keras_attention.generation.loop import bucket
from keras_attention.generation.model import LanguageModel
from keras_attention.generation.processors import History, process
from keras_attention.ops.attend import attention_weights
from keras_attention.ops.backend.compiled import Compiled


class Speculative:
    """Generates one row; a draft model proposes tokens and the model confirms them.

    Greedy tokens are equal to those of the model alone, and drawn ones have the model's
    probabilities: a proposal x is accepted with the probability min(1, p(x) / q(x));
    otherwise a token is drawn from the positive part of p - q.

    Reference: Leviathan et al., "Fast Inference from Transformers via Speculative
    Decoding", 2022 (arXiv:2211.17192).

    Args:
        model: The language model.
        draft: A faster language model with the same vocabulary.
        processors: Functions applied to the logits of both.
        stop_token_ids: The tokens that end a row.
        do_sample: Whether to draw tokens.
        num_proposed: The number of tokens that the draft proposes in each step.
        compiled: Whether to compile.
    """

    def __init__(
        self,
        model: LanguageModel,
        draft: LanguageModel,
        processors: Any = (),
        *,
        stop_token_ids: Any = (),
        do_sample: bool = False,
        num_proposed: int = 4,
        compiled: bool = True,
    ):
        if model.vocabulary_size != draft.vocabulary_size:
            raise ValueError(
                "Both models must have the same vocabulary. Received: vocabularies of "
                f"{model.vocabulary_size} and {draft.vocabulary_size} tokens"
            )
        self.model, self.draft = model, draft
        self.processors = tuple(processors)
        self.stop_token_ids = tuple(stop_token_ids)
        self.do_sample = do_sample
        self.num_proposed = num_proposed
        self._model_step = _step(model, compiled)
        self._draft_step = _step(draft, compiled)
        self.num_steps = 0

    @property
    def num_traces(self) -> int:
        """The number of compilations so far."""
        parts = self._model_step, self._draft_step
        return sum(getattr(part, "num_traces", 0) for part in parts)

    def generate(self, prompt: list[int], max_new_tokens: int, seed: Any = 0) -> list:
        """Generates the new tokens of one prompt.

        Args:
            prompt: The prompt's token ids.
            max_new_tokens: The largest number of new tokens.
            seed: The random seed, an int or several.
        """
        generator = np.random.default_rng(seed)
        ids, start = list(prompt), len(prompt)
        limits = start, max_new_tokens
        size = bucket(start + max_new_tokens + self.num_proposed + 1, least=32)
        caches = self.model.empty_cache(1, size), self.draft.empty_cache(1, size)
        model_cache, draft_cache = caches
        self.num_steps = 0
        while len(ids) - start < max_new_tokens:
            count = min(self.num_proposed, max_new_tokens - (len(ids) - start) - 1)
            guesses, proposed, draft_cache = self._propose(
                ids, limits, count, draft_cache, generator
            )
            logits, model_cache = self._read(
                self._model_step, [*ids, *proposed], model_cache, count + 1
            )
            self.num_steps += 1
            wanted = [
                self._weights([*ids, *proposed[:index]], limits, row)
                for index, row in enumerate(logits)
            ]
            for token in self._accepted(wanted, guesses, proposed, generator):
                ids.append(token)
                if token in self.stop_token_ids:
                    return ids[start:]
            # The last token is read in the next step.
            model_cache = [layer.crop(len(ids) - 1) for layer in model_cache]
            draft_cache = [layer.crop(len(ids) - 1) for layer in draft_cache]
        return ids[start:]

    def _propose(self, ids, limits, count, cache, generator):
        guesses, proposed = [], []
        for _ in range(count):
            so_far = [*ids, *proposed]
            logits, cache = self._read(self._draft_step, so_far, cache, 1)
            guesses.append(self._weights(so_far, limits, logits[0]))
            proposed.append(self._chosen(guesses[-1], generator))
        return guesses, proposed, cache

    def _accepted(self, wanted, guesses, proposed, generator):
        """Returns the accepted tokens, and after them one of the model."""
        tokens = []
        for p, q, token in zip(wanted, guesses, proposed, strict=False):
            if self.do_sample:
                is_accepted = generator.random() * q[token] < p[token]
                instead = np.maximum(p - q, 0)
            else:
                is_accepted, instead = token == p.argmax(), p
            if not is_accepted:
                return [*tokens, self._chosen(instead, generator)]
            tokens.append(token)
        return [*tokens, self._chosen(wanted[-1], generator)]

    def _chosen(self, weights, generator):
        if not self.do_sample:
            return int(weights.argmax())
        return int(generator.choice(len(weights), p=weights / weights.sum()))

    def _weights(self, ids, limits, logits):
        """Returns float64 probabilities `[V]`; for greedy search, the logits."""
        size = bucket(len(ids), least=32)
        row = np.zeros((1, size), "int32")
        row[0, : len(ids)] = ids
        history = History(
            ops.convert_to_tensor(row),
            ops.convert_to_tensor([len(ids)], dtype="int32"),
            ops.convert_to_tensor([limits[0]], dtype="int32"),
            ops.convert_to_tensor(limits[1], dtype="int32"),
        )
        logits = process(self.processors, history, logits[None])
        if not self.do_sample:
            return ops.convert_to_numpy(logits)[0]
        weights = attention_weights(scores=logits)
        return ops.convert_to_numpy(weights)[0].astype("float64")

    def _read(self, step, ids, cache, count):
        """Reads the ids that the cache lacks; returns the last logits `[count, V]`."""
        new = ids[int(cache[0].lengths[0]) :]
        width = bucket(len(new), least=1)
        row = np.zeros((1, width), "int32")
        row[0, : len(new)] = new
        padding_mask = np.arange(width)[None] < len(new)
        outputs = step(*map(ops.convert_to_tensor, (row, padding_mask)), cache)
        logits = ops.convert_to_numpy(outputs["logits"])[0, : len(new)]
        return logits[-count:].astype("float32"), outputs["cache"]


def _step(model, compiled):
    def forward(token_ids, padding_mask, cache):
        outputs = model.forward(token_ids, padding_mask, cache)
        return {name: outputs[name] for name in ("logits", "cache")}

    return Compiled(forward, model.variables) if compiled else forward
