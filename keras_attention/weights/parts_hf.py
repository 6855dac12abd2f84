"""Rules of the parts that many of Hugging Face's models share."""

from collections.abc import Iterator
from typing import Any

from keras_attention.weights.rules import FLAT, LINEAR, LINEAR_OF_HEADS, SAME, Rule


def linear(name: str, projection: Any, layout: Any = LINEAR) -> Iterator[Rule]:
    """A linear map, its bias where it has one.

    Args:
        name: In the checkpoint, without `.weight`.
        projection: The `Projection`.
        layout: Of the kernel.
    """
    yield Rule(f"{name}.weight", projection.kernel, layout)
    if projection.bias is not None:
        yield Rule(f"{name}.bias", projection.bias, FLAT)


def norm(name: str, layer: Any) -> Iterator[Rule]:
    """A layer normalisation.

    Args:
        name: In the checkpoint, without `.weight`.
        layer: The `LayerNormalization`.
    """
    yield Rule(f"{name}.weight", layer.gamma, SAME)
    yield Rule(f"{name}.bias", layer.beta, SAME)


def attention(layer: Any, **names: str) -> Iterator[Rule]:
    """The four maps of a `MultiHeadAttention`.

    Args:
        layer: The attention.
        **names: Of `query`, `key`, `value` and `output` in the checkpoint.
    """
    for part in ("query", "key", "value"):
        yield from linear(names[part], getattr(layer, f"{part}_projection"))
    yield from linear(names["output"], layer.output_projection, LINEAR_OF_HEADS)
