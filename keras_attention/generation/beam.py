"""Beam search with the steps of Hugging Face's, in shapes that do not change."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras import ops

from keras_attention.generation.history import History
from keras_attention.generation.loop import State
from keras_attention.generation.model import LanguageModel
from keras_attention.generation.processors import process
from keras_attention.ops.attend import BLOCKED
from keras_attention.ops.backend.compiled import Compiled
from keras_attention.ops.positions import first_positions


class Beams(NamedTuple):
    """K running and K ended sequences for each of B prompts, or groups of a prompt.

    Attributes:
        cache: The model's cache of the running sequences, `B * K` rows.
        history: The running sequences, `B * K` rows.
        running_scores: `[B, K]`, the running sequences' sums of log-probabilities.
        token_ids: `[B, K, L]`, the ended sequences, the best first.
        lengths: `[B, K]`, the ended sequences' lengths.
        scores: `[B, K]`, the ended sequences' sums, divided by the length penalty.
        ended: Bool `[B, K]`, whether a slot holds an ended sequence.
        improvable: Bool `[B, 1]`, whether a running sequence may still become one of
            the best ended ones.
        continues: Bool scalar, whether the search continues.
        broken: Bool scalar, whether logits were NaN.
    """

    cache: Any
    history: History
    running_scores: Any
    token_ids: Any
    lengths: Any
    scores: Any
    ended: Any
    improvable: Any
    continues: Any
    broken: Any


class BeamSearch:
    """Continues the K best sequences of each prompt instead of one.

    Args:
        model: The language model.
        processors: Functions applied to log-probabilities, in this order.
        stop_token_ids: The tokens that end a row.
        num_beams: The number of beams K, over all groups.
        groups: The number of groups of beams, which are searched one after the other,
            and the penalty of a token for each beam of the earlier groups that chose it
            in the same step (Vijayakumar et al., 2016, arXiv:1610.02424).
        length_penalty: The exponent of the length by which scores are divided.
        early_stopping: `True` stops at K ended sequences. `False` stops when the best
            running sequence, at its present length, is not better than the worst ended
            one; `"never"`, when it could not be at any length.
        compiled: Whether to compile.
    """

    def __init__(
        self,
        model: LanguageModel,
        processors: Sequence[Callable] = (),
        *,
        stop_token_ids: Sequence[int] = (),
        num_beams: int = 4,
        groups: tuple[int, float] = (1, 0.0),
        length_penalty: float = 1.0,
        early_stopping: bool | str = False,
        compiled: bool = True,
    ):
        self.model = model
        self.processors = tuple(processors)
        self.stop_token_ids = tuple(stop_token_ids)
        self.num_groups, self.diversity_penalty = groups
        self.num_beams = num_beams // self.num_groups  # per group
        self.length_penalty = length_penalty
        self.early_stopping = early_stopping
        self._forward_once: Callable = self._forward
        self.compiled_steps: Callable = self._steps
        if compiled:
            self._forward_once = Compiled(self._forward, model.variables)
            self.compiled_steps = Compiled(self._steps, model.variables)
        on_host = any(getattr(p, "on_host", False) for p in self.processors)
        self.steps = self.steps_on_host if on_host else self.compiled_steps

    @property
    def num_traces(self) -> int:
        """The number of compilations so far."""
        parts = self.compiled_steps, self._forward_once
        return sum(getattr(part, "num_traces", 0) for part in parts)

    def start(self, state: State) -> Beams:
        """Returns the beams of a state that has each row K times in succession."""
        size = self.num_beams
        batch = ops.shape(state.finished)[0] // size
        first = first_positions(size)[None] == 0
        # All beams begin equal, so only the first one gets a score.
        scores = ops.where(first, 0.0, BLOCKED) * ops.ones((batch, 1))
        return Beams(
            cache=state.cache,
            history=state.history,
            running_scores=scores,
            token_ids=ops.reshape(state.history.token_ids, (batch, size, -1)),
            lengths=ops.reshape(state.history.lengths, (batch, size)),
            scores=ops.full((batch, size), BLOCKED),
            ended=ops.zeros((batch, size), dtype="bool"),
            improvable=ops.ones((batch, 1), dtype="bool"),
            continues=ops.convert_to_tensor(True),
            broken=ops.convert_to_tensor(False),
        )

    def _steps(self, beams: Beams, count: Any) -> Beams:
        def is_unfinished(done, beams):
            return (done < count) & beams.continues

        def step(done, beams):
            return done + 1, self.choose(beams, *self._forward(beams))

        start = ops.zeros_like(count), beams
        return ops.while_loop(is_unfinished, step, start)[1]

    def steps_on_host(
        self, beams: Beams, count: Any, ends: Callable[[History], Any] | None = None
    ) -> Beams:
        """Runs the same steps as `steps`, one call of the model at a time.

        Args:
            beams: The beams of `start`.
            count: The largest number of steps.
            ends: A function of the candidates that returns which of them end there,
                one bool per row.
        """
        for _ in range(int(count)):
            if not bool(beams.continues):
                break
            beams = self.choose(beams, *self._forward_once(beams), ends)
        return beams

    def _forward(self, beams: Beams) -> tuple[Any, Any]:
        token_ids = beams.history.before_end(1)[:, None]  # [B * K, 1]
        padding_mask = ops.ones_like(token_ids, dtype="bool")
        outputs = self.model.forward(token_ids, padding_mask, beams.cache)
        return ops.cast(outputs["logits"][:, -1], "float32"), outputs["cache"]

    def choose(self, beams: Beams, logits: Any, cache: Any, ends: Any = None) -> Beams:
        """Returns the beams with one more token on every running one."""
        log_p = ops.log_softmax(logits, axis=-1)
        select = self._select if self.num_groups == 1 else self._select_groups
        beams = beams._replace(cache=None)
        chosen, rows = select(beams, log_p, ends)
        return chosen._replace(
            cache=[layer.reorder(rows) for layer in cache],
            broken=beams.broken | ops.any(ops.isnan(logits)),
        )

    def _select_groups(self, beams, log_p, ends):
        """Selects group after group; tokens of the earlier groups are penalised."""
        count, size = self.num_groups, self.num_beams
        batch = ops.shape(beams.scores)[0] // count
        counts, parts, all_rows = 0.0, [], []
        for group in range(count):

            def of_group(x, group=group):
                x = ops.reshape(x, (batch, count, -1, *ops.shape(x)[1:]))[:, group]
                return ops.reshape(x, (-1, *ops.shape(x)[2:]))

            scalars = beams._replace(history=None, continues=None, broken=None)
            tensors: list[Any] = [x if x is None else of_group(x) for x in scalars]
            part = Beams(*tensors)._replace(
                history=beams.history.rows(
                    of_group(first_positions(ops.shape(log_p)[0]))
                ),
                continues=beams.continues,
                broken=beams.broken,
            )
            repeated = ops.repeat(ops.zeros((batch, 1)) + counts, size, axis=0)
            penalty = self.diversity_penalty * repeated  # [B * K, V] or [B * K, 1]
            done = self._is_closed(part)
            part, rows = self._select(part, of_group(log_p) - penalty, ends)
            chosen = ops.reshape(part.history.before_end(1), (batch, size))
            chosen = ops.one_hot(chosen, log_p.shape[-1], dtype="float32")
            chosen = ops.sum(ops.where(done[..., None], 0.0, chosen), axis=1)
            counts = counts + chosen  # [B, V]
            parts.append(part)
            rows = rows // size * (size * count) + group * size + rows % size
            all_rows.append(rows)

        def joined(values, each=1):
            values = [ops.reshape(x, (batch, each, *ops.shape(x)[1:])) for x in values]
            both = ops.stack(values, axis=1)
            return ops.reshape(both, (-1, *ops.shape(both)[3:]))

        histories = [part.history for part in parts]
        history = beams.history._replace(
            token_ids=joined([x.token_ids for x in histories], size),
            lengths=joined([x.lengths for x in histories], size),
            prompt_lengths=joined([x.prompt_lengths for x in histories], size),
        )
        names = ("running_scores", "token_ids", "lengths", "scores", "ended")
        merged = {
            name: joined([getattr(part, name) for part in parts])
            for name in (*names, "improvable")
        }
        continues = ops.any(ops.stack([part.continues for part in parts]))
        beams = beams._replace(history=history, continues=continues, **merged)
        return beams, joined(all_rows, size)

    def _select(self, beams, log_p, ends):
        """Returns the beams with one more token, and their former rows, `[B * K]`."""
        size, history = self.num_beams, beams.history
        batch = ops.shape(beams.scores)[0]
        log_p = process(self.processors, history, log_p)
        vocabulary = log_p.shape[-1]
        sums = ops.reshape(log_p, (batch, size, vocabulary))
        sums = ops.reshape(
            sums + beams.running_scores[..., None], (batch, -1)
        )  # [B, K * V]
        count = max(2, 1 + len(self.stop_token_ids)) * size
        count = min(count, size * vocabulary)
        found, index = ops.top_k(sums, count)  # [B, M]
        index = ops.cast(index, "int32")
        rows = index // vocabulary + first_positions(batch)[:, None] * size
        tokens = index % vocabulary
        candidates = self._candidates(history, rows, tokens)
        over = ops.zeros((batch, count), dtype="bool")
        for token in self.stop_token_ids:
            over = over | (tokens == token)
        if ends is not None:
            over = over | ops.reshape(ends(candidates), over.shape)
        hits = candidates.num_new_tokens >= history.max_new_tokens
        hits = over | ops.reshape(hits, (batch, count))
        ended = self._with_ended(beams, candidates, found, hits)
        running = found + ops.where(over, BLOCKED, 0.0)
        running, best = ops.top_k(running, size)
        best = ops.cast(best, "int32")
        flat = ops.reshape(
            best + first_positions(batch)[:, None] * count, (-1,)
        )  # [B * K]
        rows = ops.take(ops.reshape(rows, (-1,)), flat, axis=0)
        ended = ended._replace(history=candidates.rows(flat), running_scores=running)
        return self._with_continues(ended, hits), rows

    def _is_closed(self, beams):
        """Whether a prompt takes no further ended sequence, bool `[B, 1]`."""
        is_closed = ~beams.improvable
        if self.early_stopping is True:
            all_ended = ops.all(beams.ended, axis=-1, keepdims=True)
            is_closed = is_closed | all_ended
        return is_closed

    def _candidates(self, history, rows, tokens):
        """Returns the candidates as a history of `B * M` rows."""
        history = history.rows(ops.reshape(rows, (-1,)))
        columns = first_positions(ops.shape(history.token_ids)[1])
        here = columns[None] == history.lengths[:, None]
        token_ids = ops.where(
            here, ops.reshape(tokens, (-1, 1)), history.token_ids
        )  # [B * M, L]
        return history._replace(token_ids=token_ids, lengths=history.lengths + 1)

    def _with_ended(self, beams, candidates, found, hits):
        """Returns the best K of the sequences that had ended and those that end now."""
        size = self.num_beams
        batch, count = ops.shape(found)
        among_best = hits & (first_positions(count)[None] < size)
        new = candidates.num_new_tokens[:1]  # the same in all rows
        scores = found / ops.cast(new, "float32") ** self.length_penalty
        scores = scores + ops.where(self._is_closed(beams), BLOCKED, 0.0)
        scores = scores + ops.where(among_best, 0.0, BLOCKED)
        scores = ops.concatenate([beams.scores, scores], axis=1)
        best, index = ops.top_k(scores, size)
        index = ops.cast(index, "int32")
        token_ids = ops.reshape(candidates.token_ids, (batch, count, -1))
        lengths = ops.reshape(candidates.lengths, (batch, count))

        def merged(old, new):
            both = ops.concatenate([old, new], axis=1)
            at = index if len(both.shape) == 2 else index[..., None]
            return ops.take_along_axis(both, at, axis=1)

        return beams._replace(
            token_ids=merged(beams.token_ids, token_ids),
            lengths=merged(beams.lengths, lengths),
            scores=best,
            ended=merged(beams.ended, among_best),
        )

    def _with_continues(self, beams, hits):
        """Sets whether the search continues, by `early_stopping`."""
        history = beams.history
        length = history.num_new_tokens[0]
        if self.early_stopping == "never" and self.length_penalty > 0:
            length = history.max_new_tokens
        length = ops.cast(length, "float32") ** self.length_penalty
        possible = beams.running_scores[:, :1] / length
        worst = ops.min(beams.scores, axis=1, keepdims=True)
        worst = ops.where(beams.ended, worst, BLOCKED)
        better = ops.any(possible > worst, axis=-1, keepdims=True)
        improvable = beams.improvable & better
        continues = ops.any(improvable) & ~ops.all(hits)
        if self.early_stopping is True:
            continues = continues & ~ops.all(beams.ended)
        return beams._replace(improvable=improvable, continues=continues)
