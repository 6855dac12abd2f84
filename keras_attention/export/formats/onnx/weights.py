"""Adds the large weights to an ONNX model, after everything else is done."""

import math
from typing import Any

import keras
import numpy as np

from keras_attention.export.formats.onnx.graph import subgraphs

_LARGE = 4096  # values


def is_large(weight: keras.Variable) -> bool:
    """Whether a weight is left out of the translation and added afterwards."""
    return math.prod(weight.shape) >= _LARGE


def fill(model: Any, weights: dict[str, keras.Variable]) -> None:
    """Adds the values of the weights that a model names.

    A weight that is only used transposed or in another shape is stored that way. A
    weight with several uses (a tied table) keeps its node: the file has it once, and
    the runtime transposes it when it loads.

    Args:
        model: An `onnx.ModelProto`, changed in place.
        weights: The name of a tensor to its values.
    """
    from onnx import helper

    graph = model.graph
    uses = _uses(graph)
    known = {one.name: one for one in graph.initializer}
    for name, variable in weights.items():
        if name not in uses:
            continue
        values = keras.ops.convert_to_numpy(variable)
        while len(uses[name]) == 1:
            node = uses[name][0]
            changed = _computed(node, values, known)
            if changed is None or node not in graph.node:
                break
            values = changed
            graph.node.remove(node)
            uses[name] = uses.pop(node.output[0])
            for user in uses[name]:
                inputs = [name if x == node.output[0] else x for x in user.input]
                user.input[:] = inputs
        # Made in place: protobuf would copy an appended tensor, at most 2 GB of it.
        table = graph.initializer.add()
        table.name, table.raw_data = name, np.ascontiguousarray(values).tobytes()
        table.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        table.dims.extend(values.shape)


def remove_unused(model: Any) -> None:
    """Removes the initializers that nothing reads, such as shapes of removed nodes.

    ONNX Runtime warns about each of them whenever it loads the file.

    Args:
        model: An `onnx.ModelProto`, changed in place.
    """
    used = {*_uses(model.graph)}
    used |= {one.name for inner in subgraphs(model.graph) for one in inner.output}
    for inner in subgraphs(model.graph):
        for one in [one for one in inner.initializer if one.name not in used]:
            inner.initializer.remove(one)


def _uses(graph):
    """The name of a tensor to the nodes that use it, in loops and branches too."""
    found: dict[str, list] = {}
    for inner in subgraphs(graph):
        for node in inner.node:
            for name in node.input:
                found.setdefault(name, []).append(node)
    return found


def _computed(node, values, known):
    """The result of a node on a weight, if the node only moves values."""
    from onnx import numpy_helper

    if node.op_type == "Transpose":
        return values.transpose(list(node.attribute[0].ints))
    if node.op_type == "Reshape" and node.input[1] in known and not node.attribute:
        shape = numpy_helper.to_array(known[node.input[1]]).tolist()
        # A zero keeps the size of its axis.
        sizes = [size or values.shape[axis] for axis, size in enumerate(shape)]
        return values.reshape(sizes)
    return None
