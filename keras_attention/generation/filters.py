"""Processors that change the distribution: temperature, and filters of tokens.

Each setting is one number for all rows or one per row, `[B]`. A removed token has
`BLOCKED` as its logit, so its probability is 0.
"""

from dataclasses import dataclass
from typing import Any

from keras import ops

from keras_attention.generation.history import History
from keras_attention.ops.attend import BLOCKED, attention_weights


@dataclass(frozen=True)
class Temperature:
    """Divides logits: below 1 the likely tokens become more likely.

    Args:
        temperature: The divisor, above 0, a number or `[B]`.
    """

    temperature: Any

    def __call__(self, history: History, logits: Any) -> Any:
        return logits / _of_rows(self.temperature)


@dataclass(frozen=True)
class TopK:
    """Keeps the `k` most likely tokens, and all as likely as the last of these.

    Reference: Fan et al., 2018 (arXiv:1805.04833).

    Args:
        k: The number of tokens, 1 or more, a number or `[B]`.
        min_tokens_to_keep: The smallest number of tokens that are kept.
    """

    k: Any
    min_tokens_to_keep: int = 1

    def __call__(self, history: History, logits: Any) -> Any:
        size = logits.shape[-1]
        if isinstance(self.k, int):
            least = least_of_best(logits, max(self.k, self.min_tokens_to_keep))
        else:
            k = ops.clip(ops.cast(self.k, "int32"), self.min_tokens_to_keep, size)
            least = ops.take_along_axis(
                ops.sort(logits, axis=-1), (size - k)[:, None], axis=-1
            )
        return ops.where(logits < least, BLOCKED, logits)


@dataclass(frozen=True)
class TopP:
    """Keeps the most likely tokens that together have at least the probability `p`.

    Reference: Holtzman et al., 2019 (arXiv:1904.09751).

    Args:
        p: The total probability, from 0 to 1, a number or `[B]`.
        min_tokens_to_keep: The smallest number of tokens that are kept.
    """

    p: Any
    min_tokens_to_keep: int = 1

    def __call__(self, history: History, logits: Any) -> Any:
        size = logits.shape[-1]
        rising = ops.sort(logits, axis=-1)
        sums = ops.cumsum(attention_weights(scores=rising), axis=-1)
        num_removed = ops.sum(ops.cast(sums <= 1 - _of_rows(self.p), "int32"), axis=-1)
        num_removed = ops.minimum(
            num_removed, size - min(self.min_tokens_to_keep, size)
        )
        least = ops.take_along_axis(rising, num_removed[:, None], axis=-1)
        return ops.where(logits < least, BLOCKED, logits)


@dataclass(frozen=True)
class MinP:
    """Keeps tokens that are at least `p` times as likely as the most likely one.

    Reference: Nguyen et al., 2024 (arXiv:2407.01082).

    Args:
        p: The share of the largest probability, from 0 to 1, a number or `[B]`.
        min_tokens_to_keep: The smallest number of tokens that are kept.
    """

    p: Any
    min_tokens_to_keep: int = 1

    def __call__(self, history: History, logits: Any) -> Any:
        weights = attention_weights(scores=logits)
        best = ops.max(weights, axis=-1, keepdims=True)
        cut = weights < _of_rows(self.p) * best
        least = least_of_best(logits, self.min_tokens_to_keep)
        return ops.where(cut & (logits < least), BLOCKED, logits)


@dataclass(frozen=True)
class TypicalP:
    """Keeps the tokens whose surprise is nearest to the expected one (entropy).

    Reference: Meister et al., 2022 (arXiv:2202.00666).

    Args:
        mass: The total probability of the tokens kept, from 0 to 1.
        min_tokens_to_keep: The smallest number of tokens that are kept.
    """

    mass: float
    min_tokens_to_keep: int = 1

    def __call__(self, history: History, logits: Any) -> Any:
        log_weights = ops.log_softmax(logits, axis=-1)
        entropy = -ops.sum(ops.exp(log_weights) * log_weights, axis=-1, keepdims=True)
        distance = ops.abs(-log_weights - entropy)
        order = ops.argsort(distance, axis=-1)
        weights = attention_weights(scores=ops.take_along_axis(logits, order, axis=-1))
        sums = ops.cumsum(weights, axis=-1)
        last = ops.sum(ops.cast(sums < self.mass, "int32"), axis=-1, keepdims=True)
        last = ops.clip(last, self.min_tokens_to_keep - 1, logits.shape[-1] - 1)
        distances = ops.take_along_axis(distance, order, axis=-1)
        farthest = ops.take_along_axis(distances, last, axis=-1)
        return ops.where(distance > farthest, BLOCKED, logits)


def least_of_best(logits: Any, count: int) -> Any:
    """Returns the logit of the last of the `count` most likely tokens, `[B, 1]`."""
    values, _ = ops.top_k(logits, min(count, logits.shape[-1]))
    return values[:, -1:]


def _of_rows(number: Any) -> Any:
    """Returns a number for all rows as it is, or `[B]` as `[B, 1]`."""
    if isinstance(number, int | float):
        return number
    return ops.reshape(ops.convert_to_tensor(number), (-1, 1))
