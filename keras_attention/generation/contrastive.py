"""Contrastive search: likely tokens whose vectors differ from those before."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras import ops

from keras_attention.generation.history import History
from keras_attention.generation.loop import (
    State,
    append_token,
    empty_cache,
    read_prompts,
)
from keras_attention.generation.model import LanguageModel
from keras_attention.generation.processors import process
from keras_attention.ops.attend import BLOCKED, attention_weights
from keras_attention.ops.backend.compiled import Compiled
from keras_attention.ops.positions import first_positions


class ContrastiveCache(NamedTuple):
    """The cache of contrastive search; it holds all tokens, the last one too.

    Attributes:
        layers: The model's caches.
        vectors: `[B, L, E]`, the tokens' vectors scaled to length 1; 0 elsewhere.
        logits: `[B, V]` float32, after the last token.
    """

    layers: Any
    vectors: Any
    logits: Any


class ContrastiveSearch:
    """Chooses the best of the `top_k` likeliest tokens by `(1 - alpha) p - alpha s`.

    p is the token's probability, and s the largest cosine between its vector, which the
    model returns when it has read the token, and those of the tokens before.

    Reference: Su et al., "A Contrastive Framework for Neural Text Generation", 2022
    (arXiv:2202.06417).

    Args:
        model: The language model; `forward` must return `sequence_output`.
        processors: Functions applied to logits, in this order.
        stop_token_ids: The tokens that end a row.
        penalty_alpha: The weight alpha of the cosine.
        top_k: The number of candidates in each step.
        compiled: Whether to compile.
    """

    def __init__(
        self,
        model: LanguageModel,
        processors: Sequence[Callable] = (),
        *,
        stop_token_ids: Sequence[int] = (),
        penalty_alpha: float,
        top_k: int,
        compiled: bool = True,
    ):
        self.model = model
        self.processors = tuple(processors)
        self.stop_token_ids = tuple(stop_token_ids)
        self.penalty_alpha = penalty_alpha
        self.top_k = min(top_k, model.vocabulary_size)
        on_host = any(getattr(p, "on_host", False) for p in self.processors)
        make = Compiled if compiled else lambda function, variables: function
        self.prefill = make(self._prefill, model.variables)
        self._forward_once = make(self._forward, model.variables)
        self.compiled_steps = make(self._steps, model.variables)
        self.steps = self._steps_on_host if on_host else self.compiled_steps

    @property
    def num_traces(self) -> int:
        """The number of compilations so far."""
        parts = self.prefill, self.compiled_steps, self._forward_once
        return sum(getattr(part, "num_traces", 0) for part in parts)

    def _prefill(
        self, history: History, width: Any, source: Any = None
    ) -> ContrastiveCache:
        layers = empty_cache(self.model, history, source)
        columns = first_positions(history.token_ids.shape[1])
        vectors, padding_mask = None, columns[None] < (history.lengths - 1)[:, None]
        if width.shape[0]:
            outputs = read_prompts(self.model, history, width, layers)
            layers = outputs["cache"]
            vectors = _unit(outputs["sequence_output"])  # [B, W, E]
            more = history.token_ids.shape[1] - width.shape[0]
            vectors = ops.pad(vectors, [[0, 0], [0, more], [0, 0]])
            vectors = ops.where(padding_mask[..., None], vectors, 0.0)
        last = history.before_end(1)[:, None]
        everywhere = ops.ones_like(last, dtype="bool")
        outputs = self.model.forward(last, everywhere, layers)
        here = columns[None] == (history.lengths - 1)[:, None]  # [B, L]
        here = ops.cast(here, "float32")[..., None]
        last = here * _unit(outputs["sequence_output"])
        vectors = last if vectors is None else vectors + last
        logits = ops.cast(outputs["logits"][:, -1], "float32")
        return ContrastiveCache(outputs["cache"], vectors, logits)

    def _steps(self, state: State, count: Any) -> State:
        def is_unfinished(done, state):
            return (done < count) & ~ops.all(state.finished)

        def step(done, state):
            chances, tokens = self._candidates(state)
            return done + 1, self._choose(state, chances, self._forward(state, tokens))

        start = ops.zeros_like(count), state
        return ops.while_loop(is_unfinished, step, start)[1]

    def _steps_on_host(self, state: State, count: Any) -> State:
        for _ in range(int(count)):
            if bool(ops.all(state.finished)):
                break
            chances, tokens = self._candidates(state)
            state = self._choose(state, chances, self._forward_once(state, tokens))
        return state

    def _candidates(self, state):
        """Returns probabilities and ids of the likeliest tokens, each `[B, k]`."""
        logits = process(self.processors, state.history, state.cache.logits)
        chances, tokens = ops.top_k(attention_weights(scores=logits), self.top_k)
        return chances, ops.cast(tokens, "int32")

    def _forward(self, state, tokens):
        """Returns ids, vectors `[B, k, E]`, logits and caches of the candidates."""
        batch, count = tokens.shape
        rows = first_positions(batch * count) // count
        padding_mask = ops.take(~state.finished, rows)[:, None]
        layers = [layer.reorder(rows) for layer in state.cache.layers]
        ids = ops.reshape(tokens, (-1, 1))
        outputs = self.model.forward(ids, padding_mask, layers)
        vectors = _unit(outputs["sequence_output"][:, 0])
        vectors = ops.reshape(vectors, (batch, count, -1))
        logits = ops.cast(outputs["logits"][:, -1], "float32")
        return tokens, vectors, logits, outputs["cache"]

    def _choose(self, state, chances, outputs):
        tokens, vectors, logits, layers = outputs
        batch, count = tokens.shape
        cache, history = state.cache, state.history
        cosines = ops.matmul(vectors, ops.swapaxes(cache.vectors, 1, 2))  # [B, k, L]
        cosines = ops.where(history.padding_mask[:, None], cosines, BLOCKED)
        alpha = self.penalty_alpha
        scores = (1 - alpha) * chances - alpha * ops.max(cosines, axis=-1)
        best = ops.cast(ops.argmax(scores, axis=-1), "int32")  # [B]
        rows = first_positions(batch) * count + best
        chosen = ops.take_along_axis(tokens, best[:, None], axis=1)[:, 0]
        new = ops.take(ops.reshape(vectors, (batch * count, -1)), rows, axis=0)
        columns = first_positions(history.token_ids.shape[1])
        here = (columns[None] == history.lengths[:, None])[..., None]
        next_cache = ContrastiveCache(
            [layer.reorder(rows) for layer in layers],
            ops.where(here, new[:, None], cache.vectors),
            ops.take(logits, rows, axis=0),
        )
        ends = self.stop_token_ids
        return append_token(state, chosen, cache.logits, next_cache, ends)


def _unit(vectors: Any) -> Any:
    """Returns the vectors scaled to length 1, float32."""
    vectors = ops.cast(vectors, "float32")
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(squares, 1e-24))
