"""Generates new tokens for prompts, with few shapes and loops compiled once."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_attention.generation.beam import BeamSearch
from keras_attention.generation.contrastive import ContrastiveSearch
from keras_attention.generation.history import History
from keras_attention.generation.loop import Loop, State, bucket, repeated
from keras_attention.generation.model import LanguageModel
from keras_attention.generation.noise import seeds_of_rows
from keras_attention.generation.settings import GenerationSettings
from keras_attention.generation.speculative import Speculative


class Generated(NamedTuple):
    """The new tokens: `num_return_sequences` successive rows for each prompt.

    Attributes:
        token_ids: The new tokens of each row, with the one that ended it.
        log_probabilities: The model's log-probabilities of the new tokens of each row,
            before all processors; `None` for beams and with a draft model.
        scores: The beams' scores, one float per row; else `None`.
    """

    token_ids: list[np.ndarray]
    log_probabilities: list[np.ndarray] | None
    scores: np.ndarray | None

    @classmethod
    def of(cls, state: State) -> "Generated":
        """Returns the new tokens of the last state of a loop."""
        log_p = _after_prompts(state.history, state.log_probabilities)
        return cls(new_tokens(state.history), log_p, None)


class Generator:
    """Generates with one model, and keeps the loops that were compiled for it.

    Args:
        model: The language model.
        draft: A faster model. `generate` uses its proposals if `model` confirms them;
            `iterate` and beam search do not use it.
        compiled: Whether to compile. If not, each step takes several times as long, but
            the first one does not wait for compilation.
    """

    # Each set of settings is compiled separately; the oldest is dropped.
    _MAX_LOOPS = 32

    def __init__(
        self,
        model: LanguageModel,
        draft: LanguageModel | None = None,
        *,
        compiled: bool = True,
    ):
        self.model, self.draft = model, draft
        self.compiled = compiled
        self._loops: dict[Any, tuple] = {}

    @property
    def num_traces(self) -> int:
        """The number of compilations so far."""
        return sum(part.num_traces for loop in self._loops.values() for part in loop[1])

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: GenerationSettings,
        *,
        sources: Sequence[Sequence[int]] | None = None,
        ends: Callable[[list[np.ndarray]], np.ndarray] | None = None,
    ) -> Generated:
        """Generates new tokens for prompts.

        Args:
            prompts: Lists of token ids.
            settings: The settings of the generation.
            sources: The encoder's token ids, one list per prompt; `None` for a model
                without an encoder.
            ends: A function of the new tokens of rows that returns which rows end
                there, bool.
        """
        if settings.num_beams > 1:
            return self._beams(prompts, settings, sources, ends)
        if self.draft is not None and ends is None and settings.penalty_alpha is None:
            return self._speculative(prompts, settings)
        chunk = settings.max_new_tokens if ends is None else 1
        state, more = None, {"sources": sources, "chunk": chunk, "ends": ends}
        for state in self.iterate(prompts, settings, **more):  # noqa: B007
            pass
        assert state is not None
        return Generated.of(state)

    def iterate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: GenerationSettings,
        *,
        sources: Sequence[Sequence[int]] | None = None,
        chunk: int = 1,
        ends: Callable[[list[np.ndarray]], np.ndarray] | None = None,
    ) -> Iterator[State]:
        """Yields the state after each `chunk` of tokens, until all rows have ended.

        Args:
            prompts: Lists of token ids.
            settings: The settings of the generation; `num_beams` must be 1.
            sources: The encoder's token ids, one list per prompt; `None` for a model
                without an encoder.
            chunk: The number of tokens of each row between two states.
            ends: A function of the new tokens of rows that returns which rows end
                there, bool.
        """
        loop, *_ = self._parts(settings)
        state = self._start(prompts, settings, settings.num_return_sequences, sources)
        count = ops.convert_to_tensor(chunk, dtype="int32")
        for _ in range(0, settings.max_new_tokens, chunk):
            state = loop.steps(state, count)
            _check_numbers(state.broken)
            if ends is not None:
                finished = ops.convert_to_numpy(state.finished)
                finished = finished | ends(new_tokens(state.history))
                state = state._replace(finished=ops.convert_to_tensor(finished))
            yield state
            if ops.convert_to_numpy(state.finished).all():
                break

    def _beams(self, prompts, settings, sources, ends):
        _, search = self._parts(settings)
        state = self._start(prompts, settings, settings.num_beams, sources)
        beams = search.start(state)
        count = ops.convert_to_tensor(settings.max_new_tokens, dtype="int32")
        if ends is None:
            beams = search.steps(beams, count)
        else:
            beams = search.steps_on_host(
                beams, count, lambda history: ends(new_tokens(history))
            )
        _check_numbers(beams.broken)
        shape = len(prompts), settings.num_beams
        ids, lengths, scores = (
            ops.convert_to_numpy(x).reshape(*shape, *x.shape[2:])
            for x in (beams.token_ids, beams.lengths, beams.scores)
        )
        # The best of all groups: only within a group they are sorted.
        best = np.argsort(-scores, axis=1, kind="stable")
        best = best[:, : settings.num_return_sequences]
        lengths, scores = (np.take_along_axis(x, best, 1) for x in (lengths, scores))
        ids = np.take_along_axis(ids, best[..., None], 1)
        rows = [
            row[len(prompt) : length]
            for prompt, *found in zip(prompts, ids, lengths, strict=True)
            for row, length in zip(*found, strict=True)
        ]
        return Generated(rows, None, scores.reshape(-1))

    def _speculative(self, prompts, settings):
        self._check_prompts(prompts, settings, self.draft)
        parts = self._parts(settings)
        rows = []
        for index, prompt in enumerate(prompts):
            for copy in range(settings.num_return_sequences):
                seed = (settings.seed, index, copy)
                count = settings.max_new_tokens
                rows.append(parts[-1].generate(list(prompt), count, seed))
        return Generated([np.array(row, "int32") for row in rows], None, None)

    def _start(self, prompts, settings, count, sources):
        """Returns the state after the prompts, each of them repeated `count` times."""
        self._check_prompts(prompts, settings)
        self._check_sources(prompts, sources)
        lengths = np.array([len(prompt) for prompt in prompts], "int32")
        size = bucket(int(lengths.max()) + settings.max_new_tokens, least=32)
        ids, _ = _padded(prompts, size)
        limit = ops.convert_to_tensor(settings.max_new_tokens, dtype="int32")
        before = int(lengths.max()) - 1
        lengths = ops.convert_to_tensor(lengths)
        history = History(ids, lengths, lengths, limit)
        width = min(bucket(before), size) if before else 0
        loop, *_ = self._parts(settings)
        source = None
        if sources is not None:
            wide = bucket(max(map(len, sources)))
            # Learned positions end where the encoder's table does.
            longest = self.model.max_sequence_length or wide
            source = _padded(sources, min(wide, longest))
        cache = loop.prefill(history, ops.zeros((width,)), source)
        none = ops.zeros((len(prompts),), dtype="bool")
        start = State(
            cache,
            history,
            ops.zeros((len(prompts), size)),
            none,
            none,
            ops.zeros((len(prompts),), dtype="int32"),
        )
        start = repeated(start, count)
        rows = start.finished.shape[0]
        return start._replace(seeds=seeds_of_rows(settings.seed, rows))

    def _parts(self, settings):
        # The settings that need no new compilation; all others are part of the graph.
        free = {"max_new_tokens", "num_return_sequences", "seed", "stop_strings"}
        fields = dataclasses.fields(settings)
        key = tuple(
            _frozen(getattr(settings, f.name)) for f in fields if f.name not in free
        )
        if key not in self._loops:
            if len(self._loops) >= self._MAX_LOOPS:
                del self._loops[next(iter(self._loops))]
            # The settings are kept too: the key names functions by their id.
            self._loops[key] = settings, self._make(settings)
        return self._loops[key][1]

    def _make(self, settings):
        ends = settings.stop_token_ids
        ends = () if ends is None else tuple(int(token) for token in ends)
        common = {"stop_token_ids": ends, "compiled": self.compiled}
        chain = settings.make_processors(ends)
        if settings.penalty_alpha is not None:
            assert settings.top_k is not None
            more = {"penalty_alpha": settings.penalty_alpha, "top_k": settings.top_k}
            return (ContrastiveSearch(self.model, chain, **more, **common),)
        loop = Loop(self.model, chain, do_sample=settings.do_sample, **common)
        if settings.num_beams == 1:
            if self.draft is None:
                return (loop,)
            sampled = {"do_sample": settings.do_sample}
            return loop, Speculative(self.model, self.draft, chain, **sampled, **common)
        search = BeamSearch(
            self.model,
            chain,
            num_beams=settings.num_beams,
            groups=(settings.num_beam_groups, settings.diversity_penalty),
            length_penalty=settings.length_penalty,
            early_stopping=settings.early_stopping,
            **common,
        )
        return loop, search

    def _check_prompts(self, prompts, settings, draft=None):
        lengths = [len(prompt) for prompt in prompts]
        if not lengths or min(lengths) == 0:
            raise ValueError(
                "Each prompt must have at least one token; for an empty prompt pass "
                "the model's start token. Received: "
                + (f"prompt {lengths.index(0)} without any" if lengths else "no prompt")
            )
        count = settings.max_new_tokens
        # The last new token is read by contrastive search only.
        read = max(lengths) + count - (settings.penalty_alpha is None)
        for name, model in (("model", self.model), ("draft model", draft)):
            limit = None if model is None else model.max_sequence_length
            if limit is not None and read > limit:
                raise ValueError(
                    f"The {name} has {limit} positions, too few for a prompt and "
                    "`max_new_tokens`. Shorten the prompt or generate less. Received: "
                    f"a prompt of {max(lengths)} tokens, max_new_tokens={count}"
                )
        self._check_ids(prompts)

    def _check_sources(self, prompts, sources):
        if (sources is None) != (self.model.cache_of_source is None):
            raise ValueError(
                "A model with an encoder needs `sources`, others take none. "
                f"Received: sources={'None' if sources is None else 'some'}"
            )
        if sources is None:
            return
        lengths = [len(source) for source in sources]
        if len(lengths) != len(prompts) or min(lengths) == 0:
            raise ValueError(
                "There must be one source per prompt, of at least one token. Received: "
                f"{len(prompts)} prompts, sources of {lengths} tokens"
            )
        limit = self.model.max_sequence_length
        if limit is not None and max(lengths) > limit:
            raise ValueError(
                f"The model has {limit} positions, too few for a source. Shorten it. "
                f"Received: a source of {max(lengths)} tokens"
            )
        self._check_ids(sources)

    def _check_ids(self, rows):
        size = self.model.vocabulary_size
        wrong = [token for row in rows for token in row if not 0 <= token < size]
        if wrong:
            raise ValueError(
                f"Token ids must be from 0 to {size - 1}. Received: {wrong[0]}"
            )


def new_tokens(history: History) -> list[np.ndarray]:
    """Returns the new tokens of each row."""
    return _after_prompts(history, history.token_ids)


def _padded(rows, size):
    """Returns ids `[B, size]` and their padding mask."""
    ids = np.zeros((len(rows), size), "int32")
    padding_mask = np.zeros((len(rows), size), bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)], padding_mask[index, : len(row)] = row, True
    return ops.convert_to_tensor(ids), ops.convert_to_tensor(padding_mask)


def _after_prompts(history, values):
    parts = values, history.prompt_lengths, history.lengths
    rows = zip(*map(ops.convert_to_numpy, parts), strict=True)
    return [row[start:end] for row, start, end in rows]


def _frozen(value):
    """Returns a setting as a hashable part of a key."""
    if isinstance(value, Mapping):
        return tuple((name, _frozen(item)) for name, item in value.items())
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return id(value) if callable(value) else value


def _check_numbers(broken):
    broken = ops.convert_to_numpy(broken)
    if broken.any():
        raise ValueError(
            "The model's logits were NaN, so no token can be chosen: check its "
            "weights, and in float16 the range of its activations. Received: NaN in "
            f"row {int(broken.argmax())}"
        )
