"""Walks over ONNX graphs. Needs neither TensorFlow nor Keras."""

from collections.abc import Iterator
from typing import Any


def subgraphs(graph: Any) -> Iterator[Any]:
    """The ONNX graph and, at any depth, the bodies of its loops and branches."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from subgraphs(attribute.g)
