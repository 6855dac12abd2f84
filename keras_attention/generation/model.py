"""What a loop needs to know of a model: a few functions and numbers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class LanguageModel(NamedTuple):
    """A model as the loops see it.

    Attributes:
        forward: Called with ids `[B, T]`, a bool mask `[B, T]` and a cache; returns a
            dict of `logits` `[B, T, V]` and the new `cache`, for contrastive search
            `sequence_output` `[B, T, E]` too.
        empty_cache: Called with a batch size and a capacity; a list of caches.
        variables: The Keras variables that `forward` reads.
        vocabulary_size: V.
        max_sequence_length: The most tokens of a row, or `None`.
        cache_of_source: Of a model with an encoder, in place of `empty_cache`: called
            with source ids `[B, S]`, a bool mask `[B, S]` and a capacity; caches that
            hold all that the decoder needs of the source, so that nothing of it is
            computed again.
    """

    forward: Callable[[Any, Any, Any], dict[str, Any]]
    empty_cache: Callable[[int, int], Any]
    variables: Sequence[Any]
    vocabulary_size: int
    max_sequence_length: int | None = None
    cache_of_source: Callable[[Any, Any, int], Any] | None = None
