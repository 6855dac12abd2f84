"""Reads ONNX graphs. Needs neither TensorFlow nor Keras."""

from collections.abc import Iterator
from typing import Any

EXTERNAL_WEIGHTS_BYTES = 1_500_000_000
"""Larger weights are in a file of their own: a protobuf message has at most 2 GB."""


def weights_bytes(model: Any) -> int:
    """The size of the weights in an `onnx.ModelProto`."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def subgraphs(graph: Any) -> Iterator[Any]:
    """The ONNX graph and, at any depth, the bodies of its loops and branches."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from subgraphs(attribute.g)
