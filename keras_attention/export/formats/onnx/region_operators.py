"""Translates named regions to ONNX: a table, and one function per operator.

Each function receives a `RegionCall`: a call of a region in the TensorFlow graph, which
was removed from tf2onnx's graph already. The function adds ONNX nodes that compute the
same, with the same output names.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, defs, helper

from keras_attention.export.formats.onnx.graph import subgraphs
from keras_attention.export.formats.onnx.tensorflow_operators import (
    TENSORFLOW_OPERATORS,
)
from keras_attention.ops.attend import BLOCKED

APPENDED = "cache_appended"
"""Part of the name of the last node that `emit_cache_append` writes."""
UNUSED = "unused_output"
"""Part of the name of unused outputs: ONNX has no name for them, tf2onnx needs one."""


@dataclass(frozen=True)
class RegionCall:
    """One call of a region, in tf2onnx's terms.

    Attributes:
        graph: The `tf2onnx.graph.Graph`.
        scope: The prefix of the names of new nodes.
        tensors: The names of the region's tensor arguments; `None` for an absent one.
        settings: The region's settings.
        outputs: The names that the results must have.
        shapes: The static shapes of the results, -1 for a free axis.
        dtypes: The ONNX dtypes of the results.
    """

    graph: Any
    scope: str
    tensors: list[Any]
    settings: dict[str, Any]
    outputs: list[str]
    shapes: list[list[int] | None]
    dtypes: list[int]

    def add(self, operator: str, inputs: list[str], **node: Any) -> str:
        """Adds a node and returns the name of its first output."""
        name = self._new_name(operator)
        return self.graph.make_node(operator, inputs, name=name, **node).output[0]

    def finish(self, operator: str, inputs: Sequence[str | None], **attr: Any) -> None:
        """Adds the node whose only output is the region's."""
        self.add(
            operator,
            [name or "" for name in inputs],
            attr=attr,
            outputs=self.outputs,
            shapes=self.shapes,
            dtypes=self.dtypes,
        )

    def constant(self, values: Any) -> str:
        """Adds a constant and returns its name."""
        return self.graph.make_const(self._new_name("Const"), values).output[0]

    def cast(self, tensor: str, dtype: int) -> str:
        """The tensor in another dtype; itself if it has that one already."""
        if self.graph.get_dtype(tensor) == dtype:
            return tensor
        shapes = [self.graph.get_shape(tensor)]
        attr = {"to": dtype}
        return self.add("Cast", [tensor], attr=attr, shapes=shapes, dtypes=[dtype])

    def size(self, tensor: str, axis: int) -> str:
        """The size of one axis as an int64 tensor of shape `[1]`."""
        known = self.static_size(tensor, axis)
        if known is not None:
            return self.constant(np.array([known], np.int64))
        attr = {"start": axis, "end": axis + 1}
        dtypes = [TensorProto.INT64]
        return self.add("Shape", [tensor], attr=attr, shapes=[[1]], dtypes=dtypes)

    def static_size(self, tensor: str, axis: int) -> int | None:
        """The size of one axis if it is known, else `None`."""
        shape = self.graph.get_shape(tensor)
        return None if shape is None or shape[axis] < 0 else shape[axis]

    def _new_name(self, operator: str) -> str:
        from tf2onnx import utils

        return utils.make_name(f"{self.scope}/{operator}")


@dataclass(frozen=True)
class Operator:
    """The translation of a region.

    Attributes:
        since_opset: The lowest opset that has the ONNX operators used.
        emit: The function that adds the nodes.
    """

    since_opset: int
    emit: Callable[[RegionCall], None]


def emit_attention(call: RegionCall) -> None:
    """`Attention` in the form that takes all heads in one axis, `[B, T, N * H]`."""
    query, key, value, mask, bias = call.tensors
    settings, raised = call.settings, call.dtypes[0] != TensorProto.FLOAT
    past = None if raised or settings["return_weights"] else _pasts(call, key, value)
    if past is not None:
        key, value = (part.new for part in past)
    inputs = [call.cast(tensor, TensorProto.FLOAT) for tensor in (query, key, value)]
    blocked = _attention_mask(call, query, past[0] if past else key, mask, bias)
    if blocked is not None or past is not None:
        inputs.append(blocked or "")
    # is_causal is never written: runtimes disagree on what it means when queries and
    # keys differ in number. Causal masks arrive as masks.
    attr = {
        "q_num_heads": settings["num_heads"],
        "kv_num_heads": settings["num_key_value_heads"],
        "scale": settings["scale"],
    }
    if settings["soft_cap"] is not None:
        attr["softcap"] = settings["soft_cap"]  # applied before the mask, as in Keras
    result = call.outputs[0]
    # Inputs in half precision are computed in float32.
    outputs, shapes = [f"{result}/float32" if raised else result], [call.shapes[0]]
    if past is not None:
        inputs += [part.past for part in past]
        outputs += [f"{result}/present/{index}" for index in range(2)]
        shapes += [call.graph.get_shape(part.all) for part in past]
        for part, name in zip(past, outputs[1:], strict=True):
            call.graph.replace_all_inputs(part.all, name)
    if settings["return_weights"]:
        # The fourth output, after two for a cache, in the state "after the softmax".
        attr["qk_matmul_output_mode"] = 3
        outputs += [f"{result}/{UNUSED}/{index}" for index in range(2)]
        outputs += [call.outputs[1]]
        shapes += [None, None, call.shapes[1]]
        if call.static_size(key, 1) is None:
            inputs[0] = _with_hidden_sizes(call, inputs[0])
    dtypes = [TensorProto.FLOAT] * len(outputs)
    node = {"attr": attr, "outputs": outputs, "shapes": shapes, "dtypes": dtypes}
    call.add("Attention", inputs, **node)
    if raised:
        node = {"attr": {"to": call.dtypes[0]}, "outputs": [result]}
        node |= {"shapes": call.shapes[:1], "dtypes": call.dtypes[:1]}
        call.add("Cast", outputs[:1], **node)


@dataclass(frozen=True)
class _Past:
    """The names of past tokens, new tokens, and their concatenation."""

    past: str
    new: str
    all: str


def _pasts(call, *tensors):
    """The parts that `emit_cache_append` joined to key and value; else `None`."""
    found = []
    for tensor in tensors:
        merge = _producer(call, tensor)
        if merge is None or APPENDED not in merge.name:
            return None
        joined = _producer(call, tensor, back=2)
        heads = _producer(call, joined.input[1], back=1)
        found.append(_Past(joined.input[0], heads.input[0], joined.output[0]))
    return found


def _producer(call, tensor, back=0) -> Any:
    """The node that makes a tensor, or the node `back` first inputs before it."""
    node = call.graph.get_node_by_output(tensor)
    if node is not None and node.type == "Identity":
        return _producer(call, node.input[0], back)
    return _producer(call, node.input[0], back - 1) if back and node else node


def emit_cache_append(call: RegionCall) -> None:
    """Join past and new tokens. `emit_attention` takes the parts instead if it can."""
    past, new = call.tensors
    shape, dtypes = call.graph.get_shape(past), call.dtypes
    axes = {"attr": {"perm": [0, 2, 1, 3]}, "dtypes": dtypes[:1]}
    split = call.constant(np.array([0, 0, shape[1], shape[3]], np.int64))
    merge = call.constant(np.array([0, 0, shape[1] * shape[3]], np.int64))
    heads = call.add("Reshape", [new, split], dtypes=dtypes[:1], shapes=[None])
    heads = call.add("Transpose", [heads], shapes=[None], **axes)
    together = {"outputs": call.outputs[1:], "shapes": call.shapes[1:]}
    together |= {"attr": {"axis": 2}, "dtypes": dtypes[1:]}
    joined = call.add("Concat", [past, heads], **together)
    tokens = call.add("Transpose", [joined], shapes=[None], **axes)
    call.graph.make_node(
        "Reshape",
        [tokens, merge],
        name=call._new_name(APPENDED),
        outputs=call.outputs[:1],
        shapes=call.shapes[:1],
        dtypes=dtypes[:1],
    )


def _with_hidden_sizes(call, query):
    """The same tensor, with batch and length hidden from shape inference.

    For a dynamic number of keys, ONNX 1.23 infers weights of shape [B, N, T, 0], and
    ONNX Runtime relies on it. Its warning at each run is harmless. But two layers with
    different numbers of keys seem to have weights of one size, so one reuses the memory
    of the other, and the run fails. Axes of unknown size are never taken as equal.
    """
    sizes, zeros = call.add("Shape", [query]), call.constant(np.zeros(3, np.int64))
    sizes = call.add("Max", [sizes, zeros])  # shape inference stops at Max
    node = {"shapes": [call.graph.get_shape(query)], "dtypes": [TensorProto.FLOAT]}
    return call.add("Reshape", [query, sizes], **node)


def _attention_mask(call, query, key, mask, bias):
    """One mask for `Attention`: a bool mask, or a bias with -inf for masked keys.

    Attention over sequences of any length has a mask even if nothing is masked. Without
    one, OpenVINO (2026.4, CPU) returns wrong numbers for 16 queries or more after a
    call with a single query: it runs the code that it compiled for that.
    """
    if mask is None and bias is None:
        if call.static_size(query, 1) is not None:
            return None
        mask = call.constant(np.ones((1, 1), bool))
    if bias is None:
        return _to_scores_shape(call, mask, query, key)
    lowest = call.constant(np.array(BLOCKED / 10, np.float32))
    bias = call.add("Max", [call.cast(bias, TensorProto.FLOAT), lowest])
    if mask is not None:
        blocked = call.constant(np.array(-np.inf, np.float32))
        bias = call.add("Where", [mask, bias, blocked])
    return _to_scores_shape(call, bias, query, key)


def _to_scores_shape(call, mask, query, key):
    """`[B or 1, N or 1, T, S]`: runtimes do not broadcast the last two axes."""
    rank = len(call.graph.get_shape(mask))
    length = None if isinstance(key, _Past) else call.static_size(key, 1)
    wanted = [call.static_size(query, 1), length]
    known = [call.static_size(mask, -2), call.static_size(mask, -1)] if rank > 1 else []
    if rank == 4 and known == wanted and None not in known:
        return mask
    ones = call.constant(np.ones(2, np.int64))
    if isinstance(key, _Past):
        length = call.add("Add", [call.size(key.past, 2), call.size(key.new, 1)])
    else:
        length = call.size(key, 1)
    sizes = [ones, call.size(query, 1), length]
    shape = call.add("Concat", sizes, attr={"axis": 0})
    return call.add("Expand", [mask, shape])


def emit_layer_normalization(call: RegionCall) -> None:
    """`LayerNormalization` over the last axis."""
    x, gamma, beta = call.tensors
    dtype = call.dtypes[0]
    if gamma is None:  # the operator requires one
        size = call.static_size(x, -1)
        gamma = call.constant(np.ones(size or 1, np.float32))
    inputs = [call.cast(tensor, dtype) for tensor in (x, gamma, beta) if tensor]
    call.finish("LayerNormalization", inputs, axis=-1, epsilon=call.settings["epsilon"])


def emit_rms_normalization(call: RegionCall) -> None:
    """`RMSNormalization` over the last axis."""
    inputs = [call.cast(tensor, call.dtypes[0]) for tensor in call.tensors]
    call.finish("RMSNormalization", inputs, axis=-1, epsilon=call.settings["epsilon"])


def emit_gelu(call: RegionCall) -> None:
    """`Gelu`, exact or by tanh."""
    approximate = "tanh" if call.settings["approximate"] else "none"
    call.finish("Gelu", call.tensors, approximate=approximate)


def emit_linear(call: RegionCall) -> None:
    """`MatMul`, then `Add` for a bias."""
    x, kernel, bias = call.tensors
    dtype = call.dtypes[0]
    inputs = [call.cast(x, dtype), call.cast(kernel, dtype)]
    if bias is None:
        call.finish("MatMul", inputs)
        return
    y = call.add("MatMul", inputs, shapes=call.shapes, dtypes=[dtype])
    call.finish("Add", [y, call.cast(bias, dtype)])


def emit_lookup(call: RegionCall) -> None:
    """`Gather`, which refuses ids beyond the table; ids below 0 are moved there."""
    table, ids = call.tensors
    dtype = helper.tensor_dtype_to_np_dtype(call.graph.get_dtype(ids))
    size = call.constant(np.array(call.static_size(table, 0), dtype))
    negative = call.add("Less", [ids, call.constant(np.array(0, dtype))])
    guarded = call.add("Where", [negative, size, ids])
    call.finish("Gather", [call.cast(table, call.dtypes[0]), guarded], axis=0)


OPERATORS = {
    "lookup": Operator(13, emit_lookup),
    "attention": Operator(23, emit_attention),
    "cache_append": Operator(13, emit_cache_append),
    "layer_normalization": Operator(17, emit_layer_normalization),
    "rms_normalization": Operator(23, emit_rms_normalization),
    "gelu": Operator(20, emit_gelu),
    "linear": Operator(13, emit_linear),
}
"""Region name to operator. Any other region is exported as its body."""


def handlers(labels: dict[str, dict[str, Any]]) -> dict[str, tuple[Callable, list]]:
    """The functions that tf2onnx calls for operators it does not translate itself.

    Args:
        labels: The name of a marked TensorFlow function to its region's `name`,
            `settings` and `present` (which tensor arguments are not `None`).
    """

    def marked_call(ctx, node, name, args):
        label = labels[node.get_attr_value("f").decode()]
        if len(node.input) != sum(label["present"]):
            raise ValueError(f"TensorFlow changed the arguments of {label['name']}")
        given = iter(node.input)
        call = RegionCall(
            graph=ctx,
            scope=name.rpartition("/")[0] or label["name"],
            tensors=[next(given) if there else None for there in label["present"]],
            settings=label["settings"],
            outputs=list(node.output),
            shapes=node.output_shapes,
            dtypes=node.output_dtypes,
        )
        ctx.remove_node(node.name)
        OPERATORS[label["name"]].emit(call)

    calls = {"PartitionedCall": marked_call, "StatefulPartitionedCall": marked_call}
    return {name: (each, []) for name, each in (TENSORFLOW_OPERATORS | calls).items()}


def foreign_operators(model: Any) -> dict[str, str]:
    """Operators that are not ONNX: kind to the name of a node.

    tf2onnx only logs an operator that it cannot translate, and leaves it in the model.
    """
    versions = {used.domain: used.version for used in model.opset_import}
    return {
        node.op_type: node.name
        for graph in subgraphs(model.graph)
        for node in graph.node
        if not defs.has(node.op_type, versions.get(node.domain, 1), node.domain)
    }
