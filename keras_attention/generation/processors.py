"""Processors of logits: functions of the tokens so far and the logits `[B, V]`.

Each is a small object called with `(history, logits)`. `process` calls several, one
after the other. A function of yours with the same two arguments is a processor too. All
except `AllowedTokens` run inside compiled code. Names, meaning and order are those of
Hugging Face, except that padding is never part of the history.
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
    "LogSoftmax",
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
    """Applies processors to logits, one after the other.

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
    """Divides positive logits of tokens in the history, and multiplies negative ones.

    Reference: Keskar et al., 2019 (arXiv:1909.05858).

    Args:
        penalty: The factor, above 0; a factor above 1 reduces repetition.
    """

    penalty: float

    def __call__(self, history: History, logits: Any) -> Any:
        changed = ops.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return ops.where(_counts(history, logits) > 0, changed, logits)


@dataclass(frozen=True)
class FrequencyPenalty:
    """Subtracts `penalty` from a logit for each time its token was generated.

    As in OpenAI's API, tokens of the prompt do not count.
    """

    penalty: float

    def __call__(self, history: History, logits: Any) -> Any:
        counts = _counts(history, logits, new=True)
        return logits - self.penalty * ops.cast(counts, logits.dtype)


@dataclass(frozen=True)
class PresencePenalty:
    """Subtracts `penalty` from the logits of tokens that were generated already.

    As in OpenAI's API, tokens of the prompt do not count.
    """

    penalty: float

    def __call__(self, history: History, logits: Any) -> Any:
        is_present = _counts(history, logits, new=True) > 0
        return ops.where(is_present, logits - self.penalty, logits)


@dataclass(frozen=True)
class NoRepeatNGram:
    """Forbids tokens that would repeat a sequence of `size` tokens."""

    size: int

    def __call__(self, history: History, logits: Any) -> Any:
        before = self.size - 1
        token_ids, padding_mask = history.token_ids, history.padding_mask
        length = ops.shape(token_ids)[1] - before
        if isinstance(length, int) and length < 1:
            return logits
        length = length if isinstance(length, int) else ops.maximum(length, 0)
        same = padding_mask[:, before:]  # [B, L - size + 1]
        for index in range(before):
            last = history.before_end(before - index)[:, None]
            same = same & (token_ids[:, index : index + length] == last)
        banned = _counted(token_ids[:, before:], same, logits) > 0
        return ops.where(banned, BLOCKED, logits)


@dataclass(frozen=True)
class BadWords:
    """Forbids sequences of tokens: the last one, where the others precede it.

    Args:
        sequences: The sequences, each a list of token ids.
    """

    sequences: Any

    def __call__(self, history: History, logits: Any) -> Any:
        bias = {tuple(sequence): BLOCKED for sequence in self.sequences}
        forbidden = _sequence_bias(bias, history, logits) != 0
        return ops.where(forbidden, BLOCKED, logits)


@dataclass(frozen=True)
class LogitBias:
    """Adds numbers to the logits of tokens, or of tokens that complete a sequence.

    Args:
        bias: A dict of a token id, or a tuple of them, to a number.
    """

    bias: Mapping[Any, float]

    def __call__(self, history: History, logits: Any) -> Any:
        bias = {
            key if isinstance(key, tuple) else (key,): value
            for key, value in self.bias.items()
        }
        return logits + _sequence_bias(bias, history, logits)


@dataclass(frozen=True)
class LogSoftmax:
    """Makes log-probabilities of logits, whose probabilities have the sum 1."""

    def __call__(self, history: History, logits: Any) -> Any:
        return ops.log_softmax(logits, axis=-1)


@dataclass(frozen=True)
class SuppressTokens:
    """Forbids tokens; with `first_only`, only as the first new token."""

    token_ids: Any
    first_only: bool = False

    def __call__(self, history: History, logits: Any) -> Any:
        forbidden = _one_of(self.token_ids, logits)
        if self.first_only:
            forbidden = forbidden & (history.num_new_tokens == 0)[:, None]
        return ops.where(forbidden, BLOCKED, logits)


@dataclass(frozen=True)
class MinNewTokens:
    """Forbids the tokens that end a row before there are `count` new tokens.

    Args:
        count: The smallest number of new tokens.
        stop_token_ids: The tokens that end a row.
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
    """Makes `token_id` the last token of a row that reaches `max_new_tokens`."""

    token_id: int

    def __call__(self, history: History, logits: Any) -> Any:
        last = history.num_new_tokens == history.max_new_tokens - 1
        return _forced(self.token_id, last, logits)


@dataclass(frozen=True)
class AllowedSequences:
    """Allows only these sequences after the prompt, as a trie of tokens does.

    Args:
        sequences: The sequences, each a list of token ids.
        stop_token_id: The token that follows a complete sequence.
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
        column = ops.minimum(count, size - 1)
        following = ops.transpose(ops.take(table, column, axis=1))  # [B, S]
        allowed = _counted(following, same, logits) > 0
        return _only(allowed, logits)


@dataclass(frozen=True)
class AllowedTokens:
    """Allows only the tokens that a Python function returns, such as a grammar.

    The function runs between the steps of the model, not inside compiled code.

    Args:
        function: A function of the row's index and the list of its tokens so far; it
            returns the ids of the allowed tokens.
    """

    function: Callable[[int, list[int]], Iterable[int]]
    on_host: ClassVar[bool] = field(default=True)

    def __call__(self, history: History, logits: Any) -> Any:
        token_ids = ops.convert_to_numpy(history.token_ids)
        lengths = ops.convert_to_numpy(history.lengths)
        allowed = np.zeros(tuple(logits.shape), bool)
        for row, (ids, length) in enumerate(zip(token_ids, lengths, strict=True)):
            chosen = list(self.function(row, ids[:length].tolist()))
            if not chosen:
                raise ValueError(
                    "The function of `AllowedTokens` must allow at least one token, "
                    f"such as the end token. Received: none for row {row}"
                )
            allowed[row, chosen] = True
        return _only(ops.convert_to_tensor(allowed), logits)


def _only(allowed: Any, logits: Any) -> Any:
    """Forbids the other tokens; if all allowed ones were forbidden, allows these."""
    restricted = ops.where(allowed, logits, BLOCKED)
    none_left = ops.max(restricted, axis=-1, keepdims=True) <= BLOCKED / 2
    return ops.where(none_left & allowed, 0.0, restricted)


def _forced(token_id: int, rows: Any, logits: Any) -> Any:
    chosen = ops.where(_one_of([token_id], logits), 0.0, BLOCKED)
    return ops.where(rows[:, None], chosen, logits)


def _one_of(token_ids: Iterable[int], logits: Any) -> Any:
    """Returns bool `[1, V]`, `True` at these tokens."""
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
    """Returns the number of times each token is in the history, int32 `[B, V]`."""
    is_counted = history.padding_mask
    if new:
        columns = first_positions(ops.shape(history.token_ids)[1])
        is_counted = is_counted & (columns[None] >= history.prompt_lengths[:, None])
    return _counted(history.token_ids, is_counted, logits)


def _counted(token_ids: Any, is_counted: Any, logits: Any) -> Any:
    """Counts each token in `token_ids` `[B, L]` where `is_counted`; int32 `[B, V]`."""
    batch, size = ops.shape(logits)[0], logits.shape[-1]
    rows = first_positions(batch)[:, None] * size
    # Ids after the end of a row may have any value.
    flat = ops.reshape(rows + ops.clip(token_ids, 0, size - 1), (-1, 1))
    values = ops.reshape(ops.cast(is_counted, "int32"), (-1,))
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
