"""Processors of logits: functions of the tokens so far and the logits `[B, V]`.

Each is a small object called with `(history, logits)`. They compose by being called
one after the other, `process`; a function of yours with the same two arguments is a
processor too. All but `AllowedTokens` run inside compiled code. Names, meaning and
order are those of Hugging Face, but for padding, which no processor here sees.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_attention.generation.filters import MinP, Temperature, TopK, TopP, TypicalP
from keras_attention.generation.history import History, history_of
from keras_attention.ops.attend import BLOCKED
from keras_attention.ops.positions import first_positions

__all__ = [
    "AllowedSequences",
    "AllowedTokens",
    "BadWords",
    "ForcedFirstToken",
    "ForcedLastToken",
    "FrequencyPenalty",
    "History",
    "LogitBias",
    "MinNewTokens",
    "MinP",
    "NoRepeatNGram",
    "PresencePenalty",
    "RepetitionPenalty",
    "SuppressTokens",
    "Temperature",
    "TopK",
    "TopP",
    "TypicalP",
    "history_of",
    "process",
]


def process(
    processors: Iterable[Callable[[History, Any], Any]], history: History, logits: Any
) -> Any:
    """Logits through processors, one after the other.

    Example:
    >>> processors = ka.processors
    >>> history = processors.history_of(np.array([[1, 2, 1]]))
    >>> logits = np.array([[0.5, 2.0, 1.0]], "float32")
    >>> chain = [processors.RepetitionPenalty(2.0), processors.TopK(1)]
    >>> int(ops.argmax(processors.process(chain, history, logits)))
    1
    """
    logits = ops.convert_to_tensor(logits)
    for processor in processors:
        logits = processor(history, logits)
    return logits


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divides positive logits of tokens that came already, multiplies negative ones.

    Reference: Keskar et al., 2019 (arXiv:1909.05858).

    Args:
        penalty: Above 0; over 1 against repetition.
    """

    penalty: float

    def __call__(self, history: History, logits: Any) -> Any:
        changed = ops.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return ops.where(_counts(history, logits) > 0, changed, logits)


@dataclass(frozen=True)
class FrequencyPenalty:
    """Takes `penalty` from a logit for each time its token was generated.

    As in OpenAI's interface, the prompt does not count.
    """

    penalty: float

    def __call__(self, history: History, logits: Any) -> Any:
        counts = _counts(history, logits, new=True)
        return logits - self.penalty * ops.cast(counts, logits.dtype)


@dataclass(frozen=True)
class PresencePenalty:
    """Takes `penalty` from the logits of tokens that were generated already.

    As in OpenAI's interface, the prompt does not count.
    """

    penalty: float

    def __call__(self, history: History, logits: Any) -> Any:
        there = _counts(history, logits, new=True) > 0
        return ops.where(there, logits - self.penalty, logits)


@dataclass(frozen=True)
class NoRepeatNGram:
    """Forbids tokens that would make `size` tokens in a row come a second time."""

    size: int

    def __call__(self, history: History, logits: Any) -> Any:
        before = self.size - 1
        token_ids, keep = history.token_ids, history.padding_mask
        length = ops.shape(token_ids)[1] - before
        if isinstance(length, int) and length < 1:
            return logits
        length = length if isinstance(length, int) else ops.maximum(length, 0)
        same = keep[:, before:]  # [B, L - size + 1]
        for index in range(before):
            last = history.before_end(before - index)[:, None]
            same = same & (token_ids[:, index : index + length] == last)
        banned = _counted(token_ids[:, before:], same, logits) > 0
        return ops.where(banned, BLOCKED, logits)


@dataclass(frozen=True)
class BadWords:
    """Forbids sequences of tokens: the last one, where those before it stand.

    Args:
        sequences: Token ids, each a list.
    """

    sequences: Any

    def __call__(self, history: History, logits: Any) -> Any:
        bias = {tuple(sequence): BLOCKED for sequence in self.sequences}
        there = _sequence_bias(bias, history, logits) != 0
        return ops.where(there, BLOCKED, logits)


@dataclass(frozen=True)
class LogitBias:
    """Adds to the logits of tokens, or of tokens that complete a sequence.

    Args:
        bias: Token id, or tuple of them, to a number.
    """

    bias: Mapping[Any, float]

    def __call__(self, history: History, logits: Any) -> Any:
        bias = {
            key if isinstance(key, tuple) else (key,): value
            for key, value in self.bias.items()
        }
        return logits + _sequence_bias(bias, history, logits)


@dataclass(frozen=True)
class SuppressTokens:
    """Forbids tokens; with `first_only`, as the first new token alone."""

    token_ids: Any
    first_only: bool = False

    def __call__(self, history: History, logits: Any) -> Any:
        forbidden = _one_of(self.token_ids, logits)
        if self.first_only:
            forbidden = forbidden & (history.num_new_tokens == 0)[:, None]
        return ops.where(forbidden, BLOCKED, logits)


@dataclass(frozen=True)
class MinNewTokens:
    """Forbids the end before there are `count` new tokens.

    Args:
        count: Number of tokens.
        stop_token_ids: Those that end a row.
    """

    count: int
    stop_token_ids: Any

    def __call__(self, history: History, logits: Any) -> Any:
        early = (history.num_new_tokens < self.count)[:, None]
        forbidden = early & _one_of(self.stop_token_ids, logits)
        return ops.where(forbidden, BLOCKED, logits)


@dataclass(frozen=True)
class ForcedFirstToken:
    """Makes `token_id` the first new token."""

    token_id: int

    def __call__(self, history: History, logits: Any) -> Any:
        return _forced(self.token_id, history.num_new_tokens == 0, logits)


@dataclass(frozen=True)
class ForcedLastToken:
    """Makes `token_id` the last one where a row reaches `max_new_tokens`."""

    token_id: int

    def __call__(self, history: History, logits: Any) -> Any:
        last = history.num_new_tokens == history.max_new_tokens - 1
        return _forced(self.token_id, last, logits)


@dataclass(frozen=True)
class AllowedSequences:
    """Only these sequences may follow the prompt; a trie of tokens.

    Args:
        sequences: Lists of token ids.
        stop_token_id: What follows a whole sequence.
    """

    sequences: Any
    stop_token_id: int

    def __call__(self, history: History, logits: Any) -> Any:
        size = 1 + max(len(sequence) for sequence in self.sequences)
        ends = [[*s, *[self.stop_token_id] * (size - len(s))] for s in self.sequences]
        table = ops.convert_to_tensor(np.array(ends, "int32"))  # [S, M]
        count, same = history.num_new_tokens, None  # [B]
        for index in range(size):
            new = history.new_token(index)[:, None]  # [B, 1]
            fits = (new == table[None, :, index]) | (index >= count)[:, None]
            same = fits if same is None else same & fits  # [B, S]
        at = ops.minimum(count, size - 1)
        following = ops.transpose(ops.take(table, at, axis=1))  # [B, S]
        allowed = _counted(following, same, logits) > 0
        return _only(allowed, logits)


@dataclass(frozen=True)
class AllowedTokens:
    """Only the tokens may follow that a Python function names: a grammar.

    It runs between the steps of the model, not inside compiled code.

    Args:
        function: Called with the row and its tokens so far, a list; returns ids.
    """

    function: Callable[[int, list[int]], Iterable[int]]
    on_host: ClassVar[bool] = field(default=True)

    def __call__(self, history: History, logits: Any) -> Any:
        token_ids = ops.convert_to_numpy(history.token_ids)
        lengths = ops.convert_to_numpy(history.lengths)
        allowed = np.zeros(tuple(logits.shape), bool)
        for row, (ids, length) in enumerate(zip(token_ids, lengths, strict=True)):
            names = list(self.function(row, ids[:length].tolist()))
            if not names:
                raise ValueError(
                    "The function of `AllowedTokens` must allow at least one token, "
                    f"the end for example. Received: none for row {row}"
                )
            allowed[row, names] = True
        return _only(ops.convert_to_tensor(allowed), logits)


def _only(allowed: Any, logits: Any) -> Any:
    """Other tokens forbidden; where all allowed ones are, these alone are forced."""
    kept = ops.where(allowed, logits, BLOCKED)
    none = ops.max(kept, axis=-1, keepdims=True) <= BLOCKED / 2
    return ops.where(none & allowed, 0.0, kept)


def _forced(token_id: int, rows: Any, logits: Any) -> Any:
    chosen = ops.where(_one_of([token_id], logits), 0.0, BLOCKED)
    return ops.where(rows[:, None], chosen, logits)


def _one_of(token_ids: Iterable[int], logits: Any) -> Any:
    """Bool `[1, V]`, `True` at these tokens."""
    table = np.zeros((1, logits.shape[-1]), bool)
    table[:, _in_vocabulary(token_ids, logits)] = True
    return ops.convert_to_tensor(table)


def _in_vocabulary(token_ids: Iterable[int], logits: Any) -> list[int]:
    found, size = list(token_ids), logits.shape[-1]
    wrong = [token for token in found if not 0 <= token < size]
    if wrong:
        raise ValueError(
            f"Token ids must be from 0 to {size - 1}, the vocabulary of the model. "
            f"Received: {wrong[0]}"
        )
    return found


def _counts(history: History, logits: Any, *, new: bool = False) -> Any:
    """How often each token came, int32 `[B, V]`."""
    keep = history.padding_mask
    if new:
        columns = first_positions(ops.shape(history.token_ids)[1])
        keep = keep & (columns[None] >= history.prompt_lengths[:, None])
    return _counted(history.token_ids, keep, logits)


def _counted(token_ids: Any, keep: Any, logits: Any) -> Any:
    """How often each token is among `token_ids` `[B, L]` where `keep`; `[B, V]`."""
    batch, size = ops.shape(logits)[0], logits.shape[-1]
    rows = first_positions(batch)[:, None] * size
    # Behind the end of a row there may be anything.
    flat = ops.reshape(rows + ops.clip(token_ids, 0, size - 1), (-1, 1))
    values = ops.reshape(ops.cast(keep, "int32"), (-1,))
    return ops.reshape(ops.scatter(flat, values, (batch * size,)), (batch, size))


def _sequence_bias(bias: Mapping[tuple, float], history: History, logits: Any) -> Any:
    total = np.zeros((1, logits.shape[-1]), "float32")
    for sequence, value in bias.items():
        _in_vocabulary(sequence, logits)
        if len(sequence) == 1:
            total[0, sequence[0]] += value
    total = ops.convert_to_tensor(total)
    for sequence, value in bias.items():
        if len(sequence) > 1:
            here = history.lengths >= len(sequence) - 1
            for back, token in enumerate(reversed(sequence[:-1]), 1):
                here = here & (history.before_end(back) == token)
            added = ops.where(_one_of(sequence[-1:], logits), value, 0.0)
            total = total + ops.where(here[:, None], added, 0.0)
    return ops.cast(total, logits.dtype)
