"""What a SavedModel's graph allocates by itself, and loops that never end."""

import functools
import struct
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

from keras_attention.export.scanning import limits
from keras_attention.export.scanning.graph_roles import Graph, operator_of
from keras_attention.export.scanning.limits import count_in, shape_in

LOOPS = frozenset({"While", "StatelessWhile"})
_DRAWS = ("Random", "StatefulRandom")
_MOST_ARGUMENTS = 1 << 20
_LIST_ENTRY = 32  # bytes of an empty tensor in a list
_TEXT, _LARGEST = 24, 16  # bytes of an empty string, and of a complex number
_SIZES = {1: 4, 2: 8, 3: 4, 4: 1, 5: 2, 6: 1, 7: _TEXT, 8: 8, 9: 8, 10: 1, 14: 2}
_SIZES |= {17: 2, 18: 16, 19: 2, 22: 4, 23: 8}
_NUMBERS = {1: "f", 2: "d", 3: "i", 4: "B", 5: "h", 6: "b", 9: "q", 22: "I", 23: "Q"}
_MAKES = {
    **dict.fromkeys(("Fill", "Empty", "RandomUniform", "RandomUniformInt"), 0),
    **dict.fromkeys(("RandomStandardNormal", "RaggedTensorToTensor"), 0),
    **dict.fromkeys(("Conv2DBackpropInput", "Conv2DBackpropInputV2"), 0),
    "DepthwiseConv2dNativeBackpropInput": 0,
    **dict.fromkeys(("Conv3DBackpropInputV2", "StatelessTruncatedNormalV2"), 0),
    **dict.fromkeys(("BroadcastTo", "Tile", "SparseToDense", "ResizeArea"), 1),
    **dict.fromkeys(("ResizeBicubic", "ResizeBilinear", "ScaleAndTranslate"), 1),
    **dict.fromkeys(("ResizeNearestNeighbor", "RFFT", "RFFT2D", "RFFT3D"), 1),
    **dict.fromkeys(("IRFFT", "IRFFT2D", "IRFFT3D", "FFTND", "IFFTND"), 1),
    **dict.fromkeys(("RFFTND", "IRFFTND", "ImageProjectiveTransformV2"), 1),
    "ImageProjectiveTransformV3": 1,
    **dict.fromkeys(("ScatterNd",), 2),
    "CropAndResize": 3,
}
ALLOCATES = {
    **{name: shape_in(index) for name, index in _MAKES.items()},
    **dict.fromkeys(("OneHot", "Bincount", "DenseBincount"), count_in(1)),
    **dict.fromkeys(("TensorListReserve", "TensorListResize"), count_in(1)),
    **dict.fromkeys(("LinSpace", "HistogramFixedWidth"), count_in(2)),
    **dict.fromkeys(("NonMaxSuppressionV4",), count_in(2)),
    **dict.fromkeys(("RaggedBincount", "SparseBincount"), count_in(2)),
    **{f"UnsortedSegment{x}": count_in(2) for x in ("Max", "Min", "Prod", "Sum")},
    **{f"Segment{x}V2": count_in(2) for x in ("Max", "Min", "Prod", "Sum")},
    **dict.fromkeys(("MatrixDiagV2", "MatrixDiagV3"), count_in(2, 3)),
    "Range": limits.range_of,
    **dict.fromkeys(("Pad", "PadV2", "MirrorPad"), limits.pad_in_pairs),
}
_FIXED = {*ALLOCATES, "Const", "MutableDenseHashTableV2"}
_LISTS = ("TensorListReserve", "TensorListResize")


def size_problems(graph: Graph, most: int) -> list[str]:
    """Returns what needs more memory than there should be.

    Args:
        graph: The graph. None of its functions calls itself.
        most: See `limits.MAX_BYTES`.
    """
    order = _order(graph)
    count = _expanded(graph, order)
    if count > limits.MAX_OPERATORS:
        return [f"functions that call each other become {count:,} operators"]
    budget, problems = limits.Budget(most), []
    arguments: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for scope in _callers_first(graph, order, arguments):
        for node in scope.body:
            problems += _too_many(node)
            if node.op in _FIXED or node.op.startswith("Stateless"):
                problems += _of_node(node, scope, budget)
            for name in graph.called(node):
                _hand_over(node, scope, graph.functions[name], arguments[name])
    return problems


def loop_problems(graph: Graph) -> list[str]:
    """Returns the loops whose condition cannot change: they run never or for ever."""
    return [
        f"loop {node.name}, whose condition never changes"
        for body in graph.bodies.values()
        for node in body
        if node.op in LOOPS and _is_endless(node, graph)
    ]


class _Scope:
    """The main graph or a function, and the constants that are known in it."""

    def __init__(self, body: Any, known: dict[str, list[float]]) -> None:
        self.body, self._known = body, known
        self._nodes = {node.name: node for node in body}

    def find(self, name: str) -> Any:
        """See `limits.Find`."""
        name = operator_of(name)
        node = self._nodes.get(name)
        if node is None:
            return self._known.get(name)
        if node.op == "Const":
            return _numbers(node.attr["value"].tensor)
        return node.op, [one for one in node.input if not one.startswith("^")]

    def value(self, name: str) -> list[float] | None:
        """Returns the numbers of a tensor, if constants determine them."""
        return limits.evaluate(name, self.find)


def _too_many(node: Any) -> list[str]:
    """Returns the counts of inputs and outputs that no graph has.

    TensorFlow makes room for them when it reads the graph.
    """
    return [
        f"{node.op} {node.name} with {key}={node.attr[key].i:,} inputs or outputs"
        for key in _counts(node.op)
        if key in node.attr and not 0 <= node.attr[key].i <= _MOST_ARGUMENTS
    ]


@functools.cache
def _counts(operator: str) -> tuple[str, ...]:
    """Returns the attributes that are a number of inputs or outputs."""
    from tensorflow.python.framework import op_def_registry  # pyright: ignore

    definition = op_def_registry.get(operator)
    if definition is None:
        return ()
    arguments = [*definition.input_arg, *definition.output_arg]
    return tuple({one.number_attr for one in arguments if one.number_attr})


def _of_node(node: Any, scope: _Scope, budget: limits.Budget) -> list[str]:
    if node.op == "Const":
        tensor = node.attr["value"].tensor
        shape = [one.size for one in tensor.tensor_shape.dim]
        size = _SIZES.get(tensor.dtype, _LARGEST)
        return budget.problems(f"constant {node.name}", limits.product(shape), size)
    if node.op == "MutableDenseHashTableV2":
        buckets = node.attr["initial_num_buckets"].i
        return budget.problems(f"table {node.name}", buckets, _LARGEST)
    elements = ALLOCATES.get(node.op)
    if elements is None and node.op.startswith(("StatelessRandom", "StatelessMult")):
        elements = shape_in(0)
    if elements is None:
        return []
    inputs = [one for one in node.input if not one.startswith("^")]

    def values(index: int) -> list[float] | None:
        return scope.value(inputs[index]) if index < len(inputs) else None

    size = _LIST_ENTRY if node.op in _LISTS else _size_of(node)
    return budget.problems(f"{node.op} {node.name}", elements(values), size)


def _size_of(node: Any) -> int:
    for key in ("dtype", "T", "Tout", "type", "TI", "out_type"):
        if key in node.attr and node.attr[key].type:
            return _SIZES.get(node.attr[key].type, _LARGEST)
    return 4


def _numbers(tensor: Any) -> list[float] | None:
    """Returns the numbers of a small constant."""
    count = limits.product([one.size for one in tensor.tensor_shape.dim])
    kind = _NUMBERS.get(tensor.dtype)
    if kind is None or count is None or not 0 < count <= 64:
        return None
    count = int(count)
    content = tensor.tensor_content
    if content:
        if len(content) != count * struct.calcsize(kind):
            return None
        return list(struct.unpack(f"<{count}{kind}", content))
    for field in ("int_val", "int64_val", "float_val", "double_val", "uint64_val"):
        stored = list(getattr(tensor, field))[:count]
        if stored:  # the last number is repeated
            return stored + stored[-1:] * (count - len(stored))
    return [0.0] * count


def _order(graph: Graph) -> list[str]:
    """Returns the functions, each after those that it calls; empty if in a circle."""
    try:
        return list(TopologicalSorter(graph.calls).static_order())
    except CycleError:
        return []


def _callers_first(graph: Graph, order: list[str], arguments: Any) -> Iterator[_Scope]:
    for name in reversed(order):
        yield _Scope(graph.bodies[name], arguments[name])


def _hand_over(node: Any, scope: _Scope, function: Any, known: Any) -> None:
    """Keeps the constants of a call, of several calls the largest."""
    inputs = [one for one in node.input if not one.startswith("^")]
    names = [one.name for one in function.signature.input_arg]
    if node.op in ("If", "StatelessIf"):
        inputs = inputs[1:]
    for name, tensor in zip(names, inputs, strict=False):
        value = scope.value(tensor)
        if value is not None:
            before = limits.product(known.get(name, [0])) or 0
            if (limits.product(value) or 0) >= before:
                known[name] = value


def _expanded(graph: Graph, order: list[str]) -> int:
    """Returns the operators after every function was put where it is called."""
    counts: dict[str, int] = {}
    for name in order:
        called = (one for node in graph.bodies[name] for one in graph.called(node))
        counts[name] = len(graph.bodies[name]) + sum(counts[one] for one in called)
    return counts.get("", 0)


def _is_endless(node: Any, graph: Graph) -> bool:
    functions = [graph.functions.get(node.attr[x].func.name) for x in ("cond", "body")]
    condition, body = functions
    if condition is None or body is None or not condition.ret:
        return False
    names = [one.name for one in body.signature.input_arg]
    results = [body.ret.get(one.name, "") for one in body.signature.output_arg]
    steps = graph.bodies[body.signature.name]
    scope = _Scope(steps, {})
    nodes = {one.name: one for one in steps}
    constant = {
        index
        for index, pair in enumerate(zip(names, results, strict=False))
        if _is_unchanged(*pair, scope, nodes)
    }
    arguments = [one.name for one in condition.signature.input_arg]
    needed = _needed(next(iter(condition.ret.values())), condition, graph)
    return needed is not None and needed <= {
        name for index, name in enumerate(arguments) if index in constant
    }


def _is_unchanged(argument: str, result: str, scope: _Scope, nodes: Any) -> bool:
    """Whether a step of a loop leaves a value as it is: `x`, `x + 0` or `x - 0`."""
    for _ in range(len(nodes) + 1):
        name = operator_of(result)
        if name == argument:
            return True
        node = nodes.get(name)
        if node is None or not node.input:
            return False
        if node.op in ("Add", "AddV2", "Sub") and len(node.input) > 1:
            added = scope.value(node.input[1])
            if added is None or any(added):
                return False
        elif node.op != "Identity":
            return False
        result = node.input[0]
    return False


def _needed(result: str, function: Any, graph: Graph) -> set[str] | None:
    """Returns the arguments that a result depends on; None if also on chance.

    What a function depends on, that is called, is all that it is given.
    """
    nodes = {one.name: one for one in graph.bodies[function.signature.name]}
    waiting, seen, found = [result], set(), set()
    while waiting:
        name = operator_of(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        node = nodes.get(name)
        if node is None:
            found.add(name)
            continue
        if node.op.startswith(_DRAWS) or graph.called(node):
            return None
        waiting += [one for one in node.input if not one.startswith("^")]
    return found
