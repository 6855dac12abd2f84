"""Translates TensorFlow operators that tf2onnx translates wrongly or not at all."""

import numpy as np
from onnx import TensorProto, helper


def _erfc(ctx, node, name, args):
    """`1 - Erf(x)`: ONNX has no Erfc, which TensorFlow's exact GELU uses."""
    x = node.input[0]
    erf = ctx.make_node(
        "Erf", [x], dtypes=node.output_dtypes, shapes=node.output_shapes
    )
    _replace(ctx, node, "Sub", [_like(ctx, 1, x), erf.output[0]])


def _log1p(ctx, node, name, args):
    """`log(w) x / (w - 1)` with the rounded w = 1 + x; as exact as `Log`."""
    x = node.input[0]
    types = {"dtypes": node.output_dtypes, "shapes": node.output_shapes}
    one = _like(ctx, 1, x)
    raised = ctx.make_node("Add", [x, one], **types).output[0]
    rounded = ctx.make_node("Sub", [raised, one], **types).output[0]
    log = ctx.make_node("Log", [raised], **types).output[0]
    ratio = ctx.make_node("Div", [x, rounded], **types).output[0]
    found = ctx.make_node("Mul", [log, ratio], **types).output[0]
    none = ctx.make_node("Equal", [rounded, _like(ctx, 0, x)]).output[0]
    _replace(ctx, node, "Where", [none, x, found])


def _select(ctx, node, name, args):
    """`Where`: tf2onnx prefers `x * m + y * !m`, which lets NaN and inf through."""
    from tf2onnx.onnx_opset.controlflow import Select

    if ctx.get_dtype(node.output[0]) == TensorProto.BOOL:
        Select.version_7(ctx, node)  # no NaN; some runtimes have no Where of bool
        return
    node.set_attr("handles_nan", 1)
    Select.version_9(ctx, node)
    del node.attr["handles_nan"]


def _floor_div(ctx, node, name, args):
    """Integer division that rounds down: tf2onnx rounds towards zero."""
    from tf2onnx.onnx_opset.math import FloorDiv

    if ctx.get_dtype(node.input[0]) not in INTEGERS:
        FloorDiv.version_6(ctx, node)
        return
    x, y = node.input
    types = {"dtypes": node.output_dtypes, "shapes": node.output_shapes}
    rest = ctx.make_node("Mod", [x, y], **types)
    multiple = ctx.make_node("Sub", [x, rest.output[0]], **types)
    _replace(ctx, node, "Div", [multiple.output[0], y])


def _floor_mod(ctx, node, name, args):
    """`Mod`, which has the sign of the divisor, as in Python."""
    from tf2onnx.onnx_opset.math import FloorMod

    if ctx.get_dtype(node.input[0]) not in INTEGERS:
        FloorMod.version_7(ctx, node)
        return
    _replace(ctx, node, "Mod", list(node.input))


def _bitcast(ctx, node, name, args):
    """Only the sign bit of a float32, which `keras.ops.argmax` reads."""
    users = ctx.find_output_consumers(node.output[0])
    masks = [i for user in users for i in user.inputs if user.type == "BitwiseAnd"]
    masks = [mask for mask in masks if mask.is_const()]
    wanted = all(mask.get_tensor_value() == SIGN_BIT for mask in masks)
    if ctx.get_dtype(node.input[0]) != TensorProto.FLOAT or not wanted or not masks:
        raise ValueError("ONNX has Bitcast from opset 26 on; tf2onnx does not write it")
    x = node.input[0]
    zero = _like(ctx, 0, x)
    reciprocal = ctx.make_node("Reciprocal", [x]).output[0]  # -inf for -0.0
    signs = [ctx.make_node("Less", [each, zero]).output[0] for each in (x, reciprocal)]
    sign = ctx.make_node("Or", signs).output[0]
    values = [_like(ctx, value, node.output[0]) for value in (SIGN_BIT, 0)]
    _replace(ctx, node, "Where", [sign, *values])


INTEGERS = {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64}
SIGN_BIT = np.iinfo(np.int32).min


def _like(ctx, value, tensor):
    """A scalar constant in the dtype of a tensor."""
    from tf2onnx import utils

    dtype = helper.tensor_dtype_to_np_dtype(ctx.get_dtype(tensor))
    return ctx.make_const(utils.make_name("Const"), np.array(value, dtype)).output[0]


def _replace(ctx, node, operator, inputs):
    """Replace a TensorFlow node by an ONNX node."""
    outputs, shapes, dtypes = list(node.output), node.output_shapes, node.output_dtypes
    name = node.name
    ctx.remove_node(name)
    types = {"shapes": shapes, "dtypes": dtypes}
    ctx.make_node(operator, inputs, name=name, outputs=outputs, **types)


TENSORFLOW_OPERATORS = {
    "Bitcast": _bitcast,
    "Erfc": _erfc,
    "FloorDiv": _floor_div,
    "FloorMod": _floor_mod,
    "Log1p": _log1p,
    "Select": _select,
    "SelectV2": _select,
}
"""TensorFlow operators outside regions that are translated here, not by tf2onnx."""
