"""Writes a signature as an ONNX file, with one operator per named region.

`tracing.py` makes a TensorFlow graph in which each named region is one marked call.
tf2onnx translates the graph, and `region_operators.py` translates the marked calls.
Large weights are inputs until the end, because each step of tf2onnx copies its weights.
The file is kept only if the ONNX checker accepts it.
"""

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_attention import __version__
from keras_attention.export.artifact.manifest import FORMATS
from keras_attention.export.formats.errors import (
    ExportError,
    check_bounds,
    refuse_text,
)
from keras_attention.export.formats.onnx.graph import (
    EXTERNAL_WEIGHTS_BYTES,
    subgraphs,
    weights_bytes,
)
from keras_attention.export.formats.onnx.tracing import (
    PREFIX,
    RegionMarker,
    freeze,
    large_weights,
    trace,
)
from keras_attention.export.formats.onnx.weights import fill, remove_unused
from keras_attention.export.signatures.signature import Signature

LOWEST_OPSET = 18
# The opsets after the last that tf2onnx 1.17 knows, with the file format that carries
# each. Its translations stay valid: no operator it emits changed incompatibly.
NEWER_OPSETS = {19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13}
EXTERNAL_WEIGHTS_FILE = "weights.bin"


def write_onnx(
    signature: Signature,
    file: str | Path,
    *,
    opset: int = 23,
    variables: Sequence[keras.Variable] = (),
) -> None:
    """Writes one signature as an ONNX model.

    Inputs and outputs have the names, order, dtypes and named axes of the signature.
    The file appears only if the whole model passed the ONNX checker. Weights beyond
    1.5 GB go to `weights.bin` next to it, or to `<name>.weights.bin` if another
    signature has that.

    Args:
        signature: The signature to export. It takes no strings.
        file: The path of the `.onnx` file; its folder exists.
        opset: The version of the ONNX operators, 18 to 26. From 23 on, attention is
            one `Attention` operator; before, it is composed of older ones.
        variables: The weights that it may read. Large weights among them keep their
            names, are in memory only once, and may exceed 2 GB together.

    Raises:
        ExportError: If an operator has no ONNX form, or the signature does not
            describe its function.
    """
    _require_packages()
    _check_request(signature, opset)
    weights = large_weights(variables)
    function, inputs = trace(signature, RegionMarker(opset), weights)
    graph_def, output_names = freeze(signature, function, list(inputs))
    with _translating_errors(signature), _newer_opsets():
        model, known = _convert(signature, graph_def, inputs, output_names, opset)
        _describe(signature, model)
        model.graph.value_info.extend(known)
        fill(model, weights)
        remove_unused(model)
        _refuse_foreign_operators(signature, model, opset)
        _save_checked(model, Path(file))


def _require_packages():
    try:
        import onnx  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Writing ONNX files needs the packages tf2onnx and onnx. Install them "
            f'with: pip install "keras-attention-layers[onnx]". Received: {error}'
        ) from error


def _check_request(signature, opset):
    if not LOWEST_OPSET <= opset <= max(NEWER_OPSETS):
        raise ExportError(
            f"`opset` must be from {LOWEST_OPSET} to {max(NEWER_OPSETS)}; 23 is the "
            f"first with attention as one operator. Received: opset={opset}"
        )
    refuse_text(signature, FORMATS["onnx"])
    check_bounds(signature)
    if both := sorted(set(signature.inputs) & set(signature.outputs)):
        raise ExportError(
            "In an ONNX file all tensors share one set of names, so an output cannot "
            "have the name of an input. Rename one of them. Received: "
            f"{both} in inputs and outputs of signature '{signature.name}'"
        )


def _convert(signature, graph_def, inputs, output_names, opset):
    """Translate the graph; `_describe` does inputs and outputs."""
    from tf2onnx import optimizer
    from tf2onnx.tfonnx import process_tf_graph

    from keras_attention.export.formats.onnx.region_operators import handlers

    nodes = {node.name for node in graph_def.node}
    names = inputs | dict(zip(output_names, signature.outputs, strict=True))
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        converted = process_tf_graph(
            graph,
            opset=opset,
            input_names=[name for name in inputs if name[:-2] in nodes],
            output_names=output_names,
            custom_op_handlers=handlers(_labels(graph_def)),
            continue_on_error=False,
            tensors_to_rename=names,
        )
    converted = optimizer.optimize_graph(converted, catch_errors=False)
    model = converted.make_model(
        f"Signature '{signature.name}'",
        graph_name=signature.name,
        producer_name="keras_attention",
        producer_version=__version__,
    )
    return model, _shapes_of_attended(converted)


def _shapes_of_attended(graph):
    """The shapes of what attention operators read, as far as TensorFlow knows them.

    For keys of unknown number onnx infers weights with 0 columns, which contradicts
    declared outputs with more. It is unknown behind a `Reshape`, for example.
    """
    from onnx import helper

    attended = {
        name: (graph.get_dtype(name), graph.get_shape(name))
        for node in graph.get_nodes()
        if node.type == "Attention"
        for name in node.input[:3]
    }
    return [
        helper.make_tensor_value_info(
            name, dtype, [d if d >= 0 else None for d in shape]
        )
        for name, (dtype, shape) in attended.items()
        if dtype is not None and shape is not None
    ]


def _labels(graph_def):
    """The name of each marked function, with its mark."""
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
    """Receives what tf2onnx would print, and keeps the names of failed nodes."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.failed = []

    def emit(self, record):
        if str(record.msg).startswith("Failed to convert node") and record.args:
            self.failed.append(next(iter(record.args)))


@contextlib.contextmanager
def _translating_errors(signature) -> Iterator[None]:
    """Silence tf2onnx and turn its exceptions into an `ExportError`."""
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
    """Let tf2onnx write opsets that it does not know yet."""
    from tf2onnx import constants

    table = constants.OPSET_TO_IR_VERSION
    added = {opset: ir for opset, ir in NEWER_OPSETS.items() if opset not in table}
    table.update(added)
    try:
        yield
    finally:
        for opset in added:
            del table[opset]


def _describe(signature, model):
    """Declare inputs, outputs and axes as the signature does."""
    from keras_attention.export.formats.onnx.region_operators import UNUSED

    graph = model.graph
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.extend(_declared(signature.inputs))
    graph.output.extend(_declared(signature.outputs))
    for inner in subgraphs(graph):
        for node in inner.node:
            node.output[:] = ["" if UNUSED in name else name for name in node.output]
        # tf2onnx names unknown axes unk__1, unk__2, …, in the bodies of loops too.
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
    from keras_attention.export.formats.onnx.region_operators import foreign_operators

    if foreign := foreign_operators(model):
        found = ", ".join(f"{kind} (e.g. '{node}')" for kind, node in foreign.items())
        raise ExportError(
            f"Signature '{signature.name}' uses TensorFlow operators that have no form "
            f"in ONNX opset {opset}. Write those steps with other operators of "
            "keras.ops, leave them to the caller, or export a SavedModel, which holds "
            f"every operator. Received: {found}"
        )


def _save_checked(model, file):
    """Write into a temporary folder, check the file there, then move it into place."""
    import onnx

    external = weights_bytes(model) > EXTERNAL_WEIGHTS_BYTES
    weights = file.parent / EXTERNAL_WEIGHTS_FILE
    if weights.exists() and not file.exists():  # another signature's weights
        weights = file.with_suffix("." + EXTERNAL_WEIGHTS_FILE)
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=file.parent) as folder:
        staged = Path(folder) / file.name
        onnx.save(model, staged, save_as_external_data=external, location=weights.name)
        onnx.checker.check_model(staged, full_check=True)
        if external:  # first, so that a model never appears without its weights
            os.replace(staged.with_name(weights.name), weights)
        os.replace(staged, file)
