"""Prefill, and steps of one token per row, in shapes that do not change."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras import ops

from keras_attention.generation.history import History
from keras_attention.generation.model import LanguageModel
from keras_attention.generation.noise import sample
from keras_attention.generation.processors import process
from keras_attention.ops.backend.compiled import Compiled
from keras_attention.ops.positions import first_positions


class State(NamedTuple):
    """The state of a generation; the last token of a row is not in the cache yet.

    Attributes:
        cache: The model's cache.
        history: The tokens so far.
        log_probabilities: `[B, L]`, the model's log-probabilities of the tokens of
            `history`; 0 for those of the prompt.
        finished: Bool `[B]`, the rows that have ended.
        broken: Bool `[B]`, the rows whose logits were NaN.
        seeds: Int32 `[B]`, the seed of each row.
    """

    cache: Any
    history: History
    log_probabilities: Any
    finished: Any
    broken: Any
    seeds: Any


class Loop:
    """Greedy search or sampling, many tokens in one call of compiled code.

    Args:
        model: The language model.
        processors: Functions applied to its logits, in this order.
        stop_token_ids: The tokens that end a row.
        do_sample: Whether to draw tokens; otherwise the most likely one is chosen.
        compiled: Whether to compile.
    """

    def __init__(
        self,
        model: LanguageModel,
        processors: Sequence[Callable] = (),
        *,
        stop_token_ids: Sequence[int] = (),
        do_sample: bool = False,
        compiled: bool = True,
    ):
        self.model = model
        self.processors = tuple(processors)
        self.stop_token_ids = tuple(stop_token_ids)
        self.do_sample = do_sample
        on_host = any(getattr(p, "on_host", False) for p in self.processors)
        make = Compiled if compiled else lambda function, variables: function
        self.prefill = make(self._prefill, model.variables)
        self.compiled_steps = make(self._steps, model.variables)
        self._forward_once = make(self._forward, model.variables)
        self.steps = self._steps_on_host if on_host else self.compiled_steps

    @property
    def num_traces(self) -> int:
        """The number of compilations so far."""
        parts = self.prefill, self.compiled_steps, self._forward_once
        return sum(getattr(part, "num_traces", 0) for part in parts)

    def _prefill(self, history: History, width: Any, source: Any = None) -> Any:
        """Returns the cache with all tokens of the prompts except the last ones.

        Args:
            history: The prompts.
            width: An array `[W]` of any values; the first W tokens are read.
            source: `(ids, mask)` for an encoder, each `[B, S]`; else `None`.
        """
        cache = empty_cache(self.model, history, source)
        if width.shape[0] == 0:
            return cache  # prompts of one token
        return read_prompts(self.model, history, width, cache)["cache"]

    def _steps(self, state: State, count: Any) -> State:
        """Runs at most `count` steps; fewer if all rows have ended."""

        def is_unfinished(done, state):
            return (done < count) & ~ops.all(state.finished)

        def step(done, state):
            return done + 1, self.choose(state, *self._forward(state))

        start = ops.zeros_like(count), state
        return ops.while_loop(is_unfinished, step, start)[1]

    def _steps_on_host(self, state: State, count: Any) -> State:
        for _ in range(int(count)):
            if bool(ops.all(state.finished)):
                break
            state = self.choose(state, *self._forward_once(state))
        return state

    def _forward(self, state: State) -> tuple[Any, Any]:
        """Returns float32 logits `[B, V]` after the last tokens, and the new cache."""
        token_ids = state.history.before_end(1)[:, None]  # [B, 1]
        padding_mask = ~state.finished[:, None]
        outputs = self.model.forward(token_ids, padding_mask, state.cache)
        return ops.cast(outputs["logits"][:, -1], "float32"), outputs["cache"]

    def choose(self, state: State, logits: Any, cache: Any) -> State:
        """Chooses a token and appends it to the rows that have not ended."""
        history = state.history
        processed = process(self.processors, history, logits)
        if self.do_sample:
            chosen = sample(processed, state.seeds, history.num_new_tokens)
        else:
            chosen = ops.cast(ops.argmax(processed, axis=-1), "int32")
        return append_token(state, chosen, logits, cache, self.stop_token_ids)


def empty_cache(model: LanguageModel, history: History, source: Any) -> Any:
    """Returns the model's caches before the prompts are read.

    Args:
        model: The language model.
        history: The prompts.
        source: `(ids, mask)` for an encoder, each `[B, S]`; else `None`.
    """
    batch, capacity = ops.shape(history.token_ids)
    if source is None:
        return model.empty_cache(batch, capacity)
    assert model.cache_of_source is not None
    token_ids, padding_mask = source
    return model.cache_of_source(token_ids, padding_mask, capacity)


def read_prompts(
    model: LanguageModel, history: History, width: Any, cache: Any
) -> dict[str, Any]:
    """Returns the model's outputs for all tokens of the prompts except the last ones.

    Args:
        model: The language model, which is called once.
        history: The prompts.
        width: An array `[W]` of any values; the first W tokens are read.
        cache: The caches of `empty_cache`.
    """
    size = ops.shape(width)[0]
    padding_mask = first_positions(size)[None] < (history.lengths - 1)[:, None]
    token_ids = ops.where(padding_mask, history.token_ids[:, :size], 0)
    return model.forward(token_ids, padding_mask, cache)


def append_token(
    state: State, chosen: Any, logits: Any, cache: Any, stop_token_ids: Sequence[int]
) -> State:
    """Returns the state with one more token in the rows that have not ended.

    Args:
        state: The state before.
        chosen: Int32 `[B]`, the tokens to append.
        logits: Float32 `[B, V]`, the model's logits.
        cache: The new state's cache.
        stop_token_ids: The tokens that end a row.
    """
    history = state.history
    broken = ops.any(ops.isnan(logits), axis=-1) & ~state.finished
    log_p = ops.log_softmax(logits, axis=-1)
    log_p = ops.take_along_axis(log_p, chosen[:, None], axis=-1)
    columns = first_positions(ops.shape(history.token_ids)[1])
    here = columns[None] == history.lengths[:, None]
    here = here & ~state.finished[:, None]  # [B, L]
    history = history._replace(
        token_ids=ops.where(here, chosen[:, None], history.token_ids),
        lengths=history.lengths + ops.cast(~state.finished, "int32"),
    )
    ended = history.num_new_tokens >= history.max_new_tokens
    for token in stop_token_ids:
        ended = ended | (chosen == token)
    return State(
        cache,
        history,
        ops.where(here, log_p, state.log_probabilities),
        state.finished | ended | broken,
        state.broken | broken,
        state.seeds,
    )


def repeated(state: State, count: int) -> State:
    """Returns the state with each row repeated `count` times in succession."""
    if count == 1:
        return state
    rows = first_positions(ops.shape(state.finished)[0] * count) // count
    return State(
        [layer.reorder(rows) for layer in state.cache],
        state.history.rows(rows),
        *(ops.take(x, rows, axis=0) for x in state[2:]),
    )


def bucket(length: int, *, least: int = 16) -> int:
    """Returns the next power of 2, so that few shapes are compiled."""
    return max(least, 1 << max(length - 1, 0).bit_length())
