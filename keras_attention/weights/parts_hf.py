"""Rules for the parts that many of Hugging Face's models share."""

from collections.abc import Iterator
from typing import Any

from keras_attention.weights.rules import FLAT, LINEAR, LINEAR_OF_HEADS, SAME, Rule


def linear(name: str, projection: Any, layout: Any = LINEAR) -> Iterator[Rule]:
    """Yields the rules of a linear layer, with its bias if it has one.

    Args:
        name: The layer's name in the checkpoint, without `.weight`.
        projection: The `Projection`.
        layout: The kernel's layout.
    """
    yield Rule(f"{name}.weight", projection.kernel, layout)
    if projection.bias is not None:
        yield Rule(f"{name}.bias", projection.bias, FLAT)


def norm(name: str, layer: Any) -> Iterator[Rule]:
    """Yields the rules of a layer normalization.

    Args:
        name: The layer's name in the checkpoint, without `.weight`.
        layer: The `LayerNormalization`.
    """
    yield Rule(f"{name}.weight", layer.gamma, SAME)
    yield Rule(f"{name}.bias", layer.beta, SAME)


def attention(layer: Any, **names: str) -> Iterator[Rule]:
    """Yields the rules of the four projections of a `MultiHeadAttention`.

    Args:
        layer: The attention layer.
        **names: The names of `query`, `key`, `value` and `output` in the checkpoint.
    """
    for part in ("query", "key", "value"):
        yield from linear(names[part], getattr(layer, f"{part}_projection"))
    yield from linear(names["output"], layer.output_projection, LINEAR_OF_HEADS)
