"""A signature as an ONNX file: one operator a named region, checked before it is kept.

While the signature's function is traced, each named region (see `ops/regions.py`)
becomes a call of a TensorFlow function that is marked with the region's name and stays
in one piece. tf2onnx then translates the graph, and `onnx_operators.py` says what a
marked call becomes.
"""

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_attention.export.signatures import Signature, TensorInfo
from keras_attention.export.stock import stock_layers_as_regions
from keras_attention.ops import regions

PREFIX = "keras_attention:"
LOWEST_OPSET = 18
# The opsets after the last that tf2onnx 1.17 knows, with the file format that carries
# each. Its translations stay valid: no operator it emits changed incompatibly.
NEWER_OPSETS = {19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13}
EXTERNAL_WEIGHTS_BYTES = 1_500_000_000
EXTERNAL_WEIGHTS_FILE = "weights.bin"


class ExportError(ValueError):
    """What was asked for cannot be exported."""


def write_onnx(signature: Signature, file: str | Path, *, opset: int = 23) -> None:
    """Writes one signature as an ONNX model.

    Inputs and outputs have the names, order, dtypes and named axes of the signature.
    The file appears only if the whole model passed the ONNX checker. Weights beyond
    1.5 GB go to `weights.bin` next to it, or to `<name>.weights.bin` if another
    signature has that.

    Args:
        signature: What to export. Strings have no place in ONNX.
        file: Path of the `.onnx` file; its folder exists.
        opset: Version of the ONNX operators, 18 to 26. From 23 on, attention is one
            `Attention` operator; below, it is spelled out in older ones.

    Raises:
        ExportError: If an operator has no ONNX form, or the signature does not
            describe its function.
    """
    _require_packages()
    _check_request(signature, opset)
    function, input_names = _trace(signature, _RegionMarker(opset))
    graph_def, output_names = _freeze(signature, function, input_names)
    with _translating_errors(signature), _newer_opsets():
        model = _convert(signature, graph_def, input_names, output_names, opset)
        _describe(signature, model)
        _refuse_foreign_operators(signature, model, opset)
        _save_checked(model, Path(file))


def _require_packages():
    try:
        import onnx  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Writing ONNX files needs the packages tf2onnx and onnx. Install them "
            f'with: pip install "keras-attention[onnx]". Received: {error}'
        ) from error


def _check_request(signature, opset):
    if not LOWEST_OPSET <= opset <= max(NEWER_OPSETS):
        raise ExportError(
            f"`opset` must be from {LOWEST_OPSET} to {max(NEWER_OPSETS)}; 23 is the "
            f"first with attention as one operator. Received: opset={opset}"
        )
    if signature.takes_text:
        texts = [n for n, info in signature.inputs.items() if info.dtype == "string"]
        raise ExportError(
            f"Signature '{signature.name}' takes text, which ONNX operators cannot "
            "tokenize. Export the signature that takes token ids, and tokenize before "
            "the runtime; or export a SavedModel, which does both. "
            f"Received: string inputs {texts}"
        )
    if both := sorted(set(signature.inputs) & set(signature.outputs)):
        raise ExportError(
            "In an ONNX file all tensors share one set of names, so an output cannot "
            f"be called like an input. Rename one of them. Received: {both} among both "
            f"inputs and outputs of signature '{signature.name}'"
        )


class _RegionMarker:
    """The interceptor: calls each region as a marked TensorFlow function.

    Args:
        opset: Regions whose operator is newer than this are left as they are.
    """

    def __init__(self, opset):
        self.opset = opset
        self._functions = {}

    def __call__(self, name, function, tensors, settings):
        from keras_attention.export.onnx_operators import OPERATORS

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
        # results in use, which changes their signature. Through an identity it sees
        # neither.
        return tf.nest.map_structure(tf.identity, marked(*map(tf.identity, given)))


def _marked_function(label, function, settings, present):
    def body(*given):
        remaining = iter(given)
        tensors = [next(remaining) if there else None for there in present]
        with regions.intercepting(_call):  # regions inside: part of this one
            return function(*tensors, **settings)

    return tf.function(
        body,
        autograph=False,
        experimental_implements=PREFIX + label,
        experimental_attributes={"_noinline": True},
    )


def _call(name, function, tensors, settings):
    return function(*tensors, **settings)


def _trace(signature, marker):
    """The concrete function, from inputs to a list of outputs, in their orders."""

    def traced(*tensors):
        inputs = dict(zip(signature.inputs, tensors, strict=True))
        with regions.intercepting(marker), stock_layers_as_regions():
            outputs = signature.function(**inputs)
        _check_names(signature, outputs)
        return [tf.identity(outputs[name]) for name in signature.outputs]

    specs = [
        tf.TensorSpec(spec.shape, spec.dtype, name=f"input_{index}")
        for index, spec in enumerate(signature.tensor_specs().values())
    ]
    function = tf.function(traced, autograph=False, input_signature=specs)
    concrete = function.get_concrete_function()
    for info, name, tensor in zip(
        signature.outputs.values(), signature.outputs, concrete.outputs, strict=True
    ):
        _check_output(signature, name, info, tensor)
    return concrete, [tensor.name for tensor in concrete.inputs[: len(specs)]]


def _check_names(signature, outputs):
    if not isinstance(outputs, dict) or set(outputs) != set(signature.outputs):
        got = sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__
        raise ExportError(
            f"The function of signature '{signature.name}' must return a dict with "
            f"exactly the declared outputs {sorted(signature.outputs)}. Change the "
            f"function or the declaration. Received: {got}"
        )


def _check_output(signature, name, info: TensorInfo, tensor):
    declared = tf.TensorShape(info.spec_shape)
    if tensor.dtype.name != info.dtype or not declared.is_compatible_with(tensor.shape):
        raise ExportError(
            f"Output '{name}' of signature '{signature.name}' is declared as "
            f"{info.dtype} of shape {info.shape}, but the function returns another "
            f"kind of tensor. Correct the declaration. Received: {tensor.dtype.name} "
            f"of shape {tuple(tensor.shape)}"
        )


def _freeze(signature, function, input_names):
    """The graph with weights as constants and marked calls left in one piece."""
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
    """TensorFlow's own constant folding; "function" would take marked calls apart."""
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
    from tensorflow.python.grappler import tf_optimizer

    config = config_pb2.ConfigProto()
    config.graph_options.infer_shapes = True
    config.graph_options.rewrite_options.optimizers[:] = ["constfold", "dependency"]
    meta_graph = meta_graph_pb2.MetaGraphDef(graph_def=graph_def)
    kept = meta_graph.collection_def["train_op"].node_list.value
    kept.extend([*input_names, *output_names])
    return tf_optimizer.OptimizeGraph(config, meta_graph)


def _convert(signature, graph_def, input_names, output_names, opset):
    """The ONNX model, not yet described."""
    from tf2onnx import optimizer
    from tf2onnx.tfonnx import process_tf_graph

    from keras_attention.export.onnx_operators import handlers

    nodes = {node.name for node in graph_def.node}
    names = dict(zip(input_names, signature.inputs, strict=True))
    names |= dict(zip(output_names, signature.outputs, strict=True))
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        converted = process_tf_graph(
            graph,
            opset=opset,
            input_names=[name for name in input_names if name[:-2] in nodes],
            output_names=output_names,
            custom_op_handlers=handlers(_labels(graph_def)),
            continue_on_error=False,
            tensors_to_rename=names,
        )
    converted = optimizer.optimize_graph(converted, catch_errors=False)
    return converted.make_model(
        f"Signature '{signature.name}'",
        graph_name=signature.name,
        producer_name="keras_attention",
        producer_version=_version(),
    )


def _labels(graph_def):
    """Names of the marked functions and what they are marked with."""
    implements = {
        function.signature.name: function.attr["_implements"].s.decode()
        for function in graph_def.library.function
    }
    return {
        name: json.loads(label.removeprefix(PREFIX))
        for name, label in implements.items()
        if label.startswith(PREFIX)
    }


class _Listener(logging.Handler):
    """Takes what tf2onnx would print and remembers which nodes failed."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.failed = []

    def emit(self, record):
        if str(record.msg).startswith("Failed to convert node") and record.args:
            self.failed.append(next(iter(record.args)))


@contextlib.contextmanager
def _translating_errors(signature) -> Iterator[None]:
    """Silences tf2onnx and turns its exceptions into an `ExportError`."""
    logger, listener = logging.getLogger("tf2onnx"), _Listener()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(listener)
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"Signature '{signature.name}' could not be translated to ONNX. Write the "
            "named steps differently, try another `opset`, or export a SavedModel, "
            "which needs no translation. Received: "
            f"{type(error).__name__}: {error}; failed at {listener.failed or 'no node'}"
        ) from error
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate


@contextlib.contextmanager
def _newer_opsets() -> Iterator[None]:
    """Lets tf2onnx write opsets it does not know yet."""
    from tf2onnx import constants

    table = constants.OPSET_TO_IR_VERSION
    added = {opset: ir for opset, ir in NEWER_OPSETS.items() if opset not in table}
    table.update(added)
    try:
        yield
    finally:
        for opset in added:
            del table[opset]


def _version():
    try:
        return metadata.version("keras-attention")
    except metadata.PackageNotFoundError:
        return "unknown"


def _describe(signature, model):
    """Inputs, outputs and axes as the signature declares them."""
    from keras_attention.export.onnx_operators import UNUSED, subgraphs

    graph = model.graph
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.extend(_declared(signature.inputs))
    graph.output.extend(_declared(signature.outputs))
    for inner in subgraphs(graph):
        for node in inner.node:
            node.output[:] = ["" if UNUSED in name else name for name in node.output]
        # tf2onnx numbers unknown axes, also in the bodies of loops: unk__1, unk__2, …
        for info in (*inner.input, *inner.output, *inner.value_info):
            for axis in info.type.tensor_type.shape.dim:
                if axis.dim_param.startswith("unk__"):
                    axis.ClearField("dim_param")


def _declared(tensors):
    from onnx import helper

    infos = []
    for name, info in tensors.items():
        dtype = np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype)
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        infos.append(helper.make_tensor_value_info(name, kind, info.shape))
    return infos


def _refuse_foreign_operators(signature, model, opset):
    from keras_attention.export.onnx_operators import foreign_operators

    if foreign := foreign_operators(model):
        found = ", ".join(f"{kind} (e.g. '{node}')" for kind, node in foreign.items())
        raise ExportError(
            f"Signature '{signature.name}' uses TensorFlow operators that have no form "
            f"in ONNX opset {opset}. Write those steps with other operators of "
            "keras.ops, leave them to the caller, or export a SavedModel, which holds "
            f"every operator. Received: {found}"
        )


def _save_checked(model, file):
    """Writes into a folder of its own, checks there, then moves into place."""
    import onnx

    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    external = size > EXTERNAL_WEIGHTS_BYTES
    weights = file.parent / EXTERNAL_WEIGHTS_FILE
    if weights.exists() and not file.exists():  # those of another signature
        weights = file.with_suffix("." + EXTERNAL_WEIGHTS_FILE)
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=file.parent) as folder:
        staged = Path(folder) / file.name
        onnx.save(model, staged, save_as_external_data=external, location=weights.name)
        onnx.checker.check_model(staged, full_check=True)
        if external:  # first: no model is ever seen without its weights
            os.replace(staged.with_name(weights.name), weights)
        os.replace(staged, file)
