"""The functions and numbers of a model that the generation loops need."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class LanguageModel(NamedTuple):
    """A model as the generation loops use it.

    Attributes:
        forward: A function of ids `[B, T]`, a bool mask `[B, T]` and a cache. It
            returns a dict of `logits` `[B, T, V]` and the new `cache`, and for
            contrastive search `sequence_output` `[B, T, E]`.
        empty_cache: A function of a batch size and a capacity that returns a list of
            caches.
        variables: The Keras variables that `forward` reads.
        vocabulary_size: The number of tokens V.
        max_sequence_length: The largest number of tokens of a row that the model reads,
            or `None`. The last new token is not read, except by contrastive search.
        cache_of_source: For a model with an encoder, used instead of `empty_cache`: a
            function of source ids `[B, S]`, a bool mask `[B, S]` and a capacity. It
            returns caches with all that the decoder needs of the source, so that the
            source is computed only once.
    """

    forward: Callable[[Any, Any, Any], dict[str, Any]]
    empty_cache: Callable[[int, int], Any]
    variables: Sequence[Any]
    vocabulary_size: int
    max_sequence_length: int | None = None
    cache_of_source: Callable[[Any, Any, int], Any] | None = None
