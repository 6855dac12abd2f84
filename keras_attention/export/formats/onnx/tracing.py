"""Traces a signature for ONNX: named regions in one piece, large weights outside.

While the signature's function is traced, each named region
(see `ops/backend/regions.py`) becomes a call of a TensorFlow function that is marked
with the region's name.
"""

import json

import keras
import tensorflow as tf

from keras_attention.export.formats.errors import ExportError, check_outputs
from keras_attention.export.formats.onnx.keras_layers import keras_layers_as_regions
from keras_attention.export.formats.onnx.weights import is_large
from keras_attention.ops.backend import regions

PREFIX = "keras_attention:"


class RegionMarker:
    """The interceptor: calls each region as a marked TensorFlow function.

    Args:
        opset: The ONNX opset. Regions whose operator is newer are left unmarked.
    """

    def __init__(self, opset):
        self.opset = opset
        self._functions = {}

    def __call__(self, name, function, tensors, settings):
        from keras_attention.export.formats.onnx.region_operators import OPERATORS

        operator = OPERATORS.get(name)
        if operator is None or operator.since_opset > self.opset:
            return function(*tensors, **settings)
        present = [tensor is not None for tensor in tensors]
        # Also turns Keras variables into tensors, in the dtype of the current policy.
        given = [tf.convert_to_tensor(t) for t in tensors if t is not None]
        if any(tensor.dtype == tf.float64 for tensor in given):
            return function(*tensors, **settings)  # the operators stop at float32
        label = json.dumps(
            {"name": name, "settings": settings, "present": present}, sort_keys=True
        )
        marked = self._functions.get((label, function))
        if marked is None:
            marked = _marked_function(label, function, settings, present)
            self._functions[label, function] = marked
        # TensorFlow specialises functions, even these, to constant arguments and to
        # the results in use, which changes their signature. An identity hides both.
        return tf.nest.map_structure(tf.identity, marked(*map(tf.identity, given)))


def _marked_function(label, function, settings, present):
    def body(*given):
        remaining = iter(given)
        tensors = [next(remaining) if there else None for there in present]
        with regions.intercepting(_call):  # regions inside are part of this one
            return function(*tensors, **settings)

    return tf.function(
        body,
        autograph=False,
        experimental_implements=PREFIX + label,
        experimental_attributes={"_noinline": True},
    )


def _call(name, function, tensors, settings):
    return function(*tensors, **settings)


def large_weights(variables):
    """Name to Keras variable, for the large variables."""
    large = {id(v): v for v in variables if is_large(v)}
    return {f"weight_{index}/{v.path}": v for index, v in enumerate(large.values())}


def trace(signature, marker, weights):
    """Return the concrete function, and what the names of its inputs mean.

    It takes inputs and weights, and returns a list of outputs in the signature's order.
    """

    def traced(*tensors):
        given = iter(tensors)
        inputs = {name: next(given) for name in signature.inputs}
        state = list(zip(weights.values(), given, strict=True))
        with (
            keras.StatelessScope(state),
            regions.intercepting(marker),
            keras_layers_as_regions(),
        ):
            outputs = signature.function(**inputs)
        check_outputs(signature, outputs)
        return [tf.identity(outputs[name]) for name in signature.outputs]

    specs = [(spec.shape, spec.dtype) for spec in signature.tensor_specs().values()]
    specs += [(variable.shape, variable.dtype) for variable in weights.values()]
    specs = [
        tf.TensorSpec(*spec, name=f"input_{index}") for index, spec in enumerate(specs)
    ]
    function = tf.function(traced, autograph=False, input_signature=specs)
    concrete = function.get_concrete_function()
    names = [tensor.name for tensor in concrete.inputs[: len(specs)]]
    return concrete, dict(zip(names, [*signature.inputs, *weights], strict=True))


def freeze(signature, function, input_names):
    """Return the graph, with weights as constants and marked calls in one piece."""
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    try:
        frozen = convert_variables_to_constants_v2(
            function, lower_control_flow=False, aggressive_inlining=False
        )
        graph_def = frozen.graph.as_graph_def(add_shapes=True)
    except Exception as error:
        if "2GB" not in str(error) and "2147483647" not in str(error):
            raise
        raise ExportError(
            f"The weights of signature '{signature.name}' exceed 2 GB, the most that "
            "TensorFlow can put into one graph. Export a SavedModel, or a smaller "
            f"model. Received: {error}"
        ) from error
    output_names = [tensor.name for tensor in frozen.outputs]
    return _simplify(graph_def, input_names, output_names), output_names


def _simplify(graph_def, input_names, output_names):
    """Fold constants. The optimizer "function" would take marked calls apart."""
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
    from tensorflow.python.grappler import tf_optimizer

    config = config_pb2.ConfigProto()
    config.graph_options.infer_shapes = True
    config.graph_options.rewrite_options.optimizers[:] = ["constfold", "dependency"]
    meta_graph = meta_graph_pb2.MetaGraphDef(graph_def=graph_def)
    needed = meta_graph.collection_def["train_op"].node_list.value
    needed.extend([*input_names, *output_names])
    return tf_optimizer.OptimizeGraph(config, meta_graph)
