"""Quantises the weights of ONNX graphs, with ONNX Runtime's own tools.

Only matrix products with a weight are changed. Embedding tables, normalisations, biases
and attention itself stay in float32: they are small, or rounding them costs too much
accuracy.
"""

import contextlib
import logging
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_attention.export.formats.onnx.graph import (
    EXTERNAL_WEIGHTS_BYTES,
    subgraphs,
    weights_bytes,
)

BLOCK_SIZE = 32  # the number of values of a weight that share a scale


def products(model: Any) -> dict[str, str]:
    """Returns the products with a weight: name of the node -> path of the weight.

    Args:
        model: An `onnx.ModelProto`.
    """
    tables = {one.name: one for graph in _graphs(model) for one in graph.initializer}
    transposed = {
        node.output[0]: node.input[0]
        for graph in _graphs(model)
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in tables
    }
    found = {}
    for graph in _graphs(model):
        for node in graph.node:
            if node.op_type == "MatMul":
                name = transposed.get(node.input[1], node.input[1])
                if name in tables and len(tables[name].dims) == 2:
                    found[node.name] = _path(name)
    return found


def quantized(model: Any, kind: str, nodes: Collection[str]) -> Any:
    """Returns the graph with some of its products in fewer bits.

    Args:
        model: An `onnx.ModelProto`; it is changed.
        kind: `"int8"` or `"int4"`: weights in blocks of 32, with one scale and one
            offset per block; `"dynamic_int8"`: weights by column, and inputs quantised
            at run time.
        nodes: The names of the products.
    """
    try:
        from onnxruntime import quantization  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Quantising needs onnxruntime. Expected: pip install "
            f'"keras-attention-layers[onnx]". Received: {error}'
        ) from error
    if not nodes:
        return model
    _store_transposed(model, nodes)
    with _quiet():
        if kind == "dynamic_int8":
            return _dynamic(model, nodes)
        return _weights_only(model, 8 if kind == "int8" else 4, nodes)


def _weights_only(model, bits, nodes):
    from onnxruntime.quantization import matmul_nbits_quantizer as blocks

    quantizer = blocks.MatMulNBitsQuantizer(
        model,
        bits=bits,
        block_size=BLOCK_SIZE,
        is_symmetric=False,
        accuracy_level=4,  # products of int8
        # `nodes_to_include` adds nodes to all products instead of choosing some.
        nodes_to_exclude=sorted(
            node.name
            for graph in _graphs(model)
            for node in graph.node
            if node.name not in nodes
        ),
    )
    quantizer.process()
    return quantizer.model.model


def _dynamic(model, nodes):
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        quantize_dynamic(
            model,
            file,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=sorted(nodes),
            use_external_data_format=weights_bytes(model) > EXTERNAL_WEIGHTS_BYTES,
        )
        return onnx.load(file)


def _store_transposed(model, nodes):
    """Gives products with a transposed table a table of their own, to quantise."""
    from onnx import numpy_helper

    for graph in _graphs(model):
        tables = {one.name: one for one in graph.initializer}
        transposes = {
            node.output[0]: node
            for node in graph.node
            if node.op_type == "Transpose" and node.input[0] in tables
        }
        for node in graph.node:
            if node.name in nodes and node.op_type == "MatMul":
                transpose = transposes.pop(node.input[1], None)
                if transpose is not None:
                    values = numpy_helper.to_array(tables[transpose.input[0]])
                    order = list(transpose.attribute[0].ints)
                    values = np.ascontiguousarray(values.transpose(order))
                    table = numpy_helper.from_array(values, transpose.output[0])
                    graph.initializer.append(table)
                    graph.node.remove(transpose)


def _graphs(model):
    return list(subgraphs(model.graph))


def _path(name):
    """Removes the number from `weight_7/bert/block_0/…/kernel`."""
    return name.partition("/")[2] if name.startswith("weight_") else name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the progress that ONNX Runtime's tools log on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
