"""What an ONNX graph allocates by itself, and loops that never end."""

import struct
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from keras_attention.export.scanning import limits
from keras_attention.export.scanning.limits import count_in, shape_in

Key = tuple[str, str]
_ENDLESS = 1 << 31  # trips of a loop
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike")
_RANDOM += ("Bernoulli", "Multinomial", "Dropout")
ALLOCATES = {
    **dict.fromkeys(("ConstantOfShape", "HannWindow", "HammingWindow"), shape_in(0)),
    **dict.fromkeys(("BlackmanWindow",), shape_in(0)),
    **dict.fromkeys(("Expand", "Tile", "CenterCropPad", "AffineGrid"), shape_in(1)),
    **dict.fromkeys(("Col2Im", "Upsample"), shape_in(1)),
    **dict.fromkeys(("OneHot", "DFT"), count_in(1)),
    "MelWeightMatrix": count_in(0, 1),
    "Range": limits.range_of,
    "Pad": limits.pad_in_halves,
    "Resize": lambda values: limits.product(values(3) or values(2)),
}
_NUMBERS = {1: "f", 2: "B", 3: "b", 4: "H", 5: "h", 6: "i", 7: "q", 9: "B", 11: "d"}
_NUMBERS |= {12: "I", 13: "Q"}
_BYTES = 4


def size_problems(model: Any, order: list[Key], most: int) -> list[str]:
    """Returns what needs more memory than there should be, and endless loops.

    Args:
        model: A `ModelProto`.
        order: Its functions, each after those that it calls.
        most: See `limits.MAX_BYTES`.
    """
    functions = {(one.domain, one.name): one for one in model.functions}
    count = _expanded(model, functions, order)
    if count > limits.MAX_OPERATORS:
        return [f"functions that call each other become {count:,} operators"]
    budget = limits.Budget(most)
    arguments: dict[Key, dict[str, list[float]]] = defaultdict(dict)
    problems = []
    bodies = [(model.graph, {}), *((functions[k], arguments[k]) for k in order[::-1])]
    for body, known in bodies:
        for scope in _scopes(_Scope(body, known, None)):
            for tensor in scope.tensors:
                problems += _of_weight(tensor)
            for node in scope.nodes:
                problems += _of_node(node, scope, budget)
                called = functions.get((node.domain, node.op_type))
                if called is not None:
                    _hand_over(node, scope, called, arguments)
    return problems


class _Scope:
    """A graph or a function: its nodes, its constants, and the graph around it."""

    def __init__(self, body: Any, known: dict[str, list[float]], outer: Any) -> None:
        self.nodes = list(body.node)
        self.tensors = list(getattr(body, "initializer", ()))
        self._known, self._outer = known, outer
        self._weights = {one.name: one for one in self.tensors}
        self.made = {name: node for node in self.nodes for name in node.output[:1]}

    def find(self, name: str) -> Any:
        """See `limits.Find`."""
        if name in self._weights:
            return _numbers(self._weights[name])
        node = self.made.get(name)
        if node is None:
            inherited = None if self._outer is None else self._outer.find(name)
            return self._known.get(name, inherited)
        if node.op_type == "Constant":
            return _constant(node)
        return node.op_type, list(node.input)

    def value(self, name: str) -> list[float] | None:
        """Returns the numbers of a tensor, if constants determine them."""
        return limits.evaluate(name, self.find)


def _scopes(scope: _Scope) -> Iterator[_Scope]:
    """Yields a scope and those of the graphs inside it, without recursion."""
    waiting = [scope]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += [_Scope(g, {}, one) for node in one.nodes for g in _graphs(node)]


def _graphs(node: Any) -> list[Any]:
    found = [one.g for one in node.attribute if one.HasField("g")]
    return found + [graph for one in node.attribute for graph in one.graphs]


def _of_weight(tensor: Any) -> list[str]:
    """Returns whether a weight has more elements than its data can be."""
    count = limits.product(list(tensor.dims))
    if count is None:
        return [f"weight {tensor.name!r} of a negative size"]
    # The size of a message costs as much as writing it, so it is not asked for here.
    stored = len(tensor.raw_data) or (0 if tensor.data_location else tensor.ByteSize())
    if tensor.data_location == 0 and count > 2 * stored:  # 4 bits at least
        return [f"weight {tensor.name!r} of {int(count):,} elements, without its data"]
    return []


def _of_node(node: Any, scope: _Scope, budget: limits.Budget) -> list[str]:
    about = f"{node.op_type} {node.name}".strip()
    if node.op_type == "Loop" and _is_endless(node, scope):
        return [f"{about}, a loop whose condition never changes"]
    if node.op_type in _RANDOM:
        shape = [list(x.ints) for x in node.attribute if x.name == "shape"]
        return budget.problems(about, limits.product(shape[0] if shape else [1]), 4)
    problems = []
    for one in node.attribute:
        if one.HasField("t"):
            problems += _of_weight(one.t)
        if one.HasField("sparse_tensor"):
            count = limits.product(list(one.sparse_tensor.dims))
            problems += budget.problems(f"sparse tensor of {about}", count, _BYTES)
    elements = ALLOCATES.get(node.op_type)
    if elements is None or node.domain not in ("", "ai.onnx"):
        return problems

    def values(index: int) -> list[float] | None:
        return scope.value(node.input[index]) if index < len(node.input) else None

    return problems + budget.problems(about, elements(values), _BYTES)


def sparse_problems(model: Any, most: int) -> list[str]:
    """Returns sparse weights that are too large when they are written out."""
    budget = limits.Budget(most)
    return [
        problem
        for one in model.graph.sparse_initializer
        for problem in budget.problems(
            f"sparse weight {one.values.name!r}",
            limits.product(list(one.dims)),
            _BYTES,
        )
    ]


def _numbers(tensor: Any) -> list[float] | None:
    """Returns the numbers of a small constant."""
    count = limits.product(list(tensor.dims))
    kind = _NUMBERS.get(tensor.data_type)
    if kind is None or count is None or count > 64 or tensor.data_location:
        return None
    if tensor.raw_data:
        if len(tensor.raw_data) != int(count) * struct.calcsize(kind):
            return None
        return list(struct.unpack(f"<{int(count)}{kind}", tensor.raw_data))
    for field in ("int64_data", "int32_data", "float_data", "double_data"):
        stored = list(getattr(tensor, field))
        if stored:
            return stored
    return None


def _constant(node: Any) -> list[float] | None:
    for one in node.attribute:
        if one.name == "value":
            return _numbers(one.t)
        for field in ("ints", "floats"):
            if one.name == f"value_{field}":
                return list(getattr(one, field))
        if one.name in ("value_int", "value_float"):
            return [one.i if one.name == "value_int" else one.f]
    return None


def _hand_over(node: Any, scope: _Scope, function: Any, arguments: Any) -> None:
    """Keeps the constants of a call, of several calls the largest."""
    known = arguments[node.domain, node.op_type]
    for name, tensor in zip(function.input, node.input, strict=False):
        value = scope.value(tensor)
        if value is not None:
            before = limits.product(known.get(name, [0])) or 0
            if (limits.product(value) or 0) >= before:
                known[name] = value


def _expanded(model: Any, functions: dict[Key, Any], order: list[Key]) -> int:
    """Returns the operators after every function was put where it is called."""
    counts: dict[Key, int] = {}
    total = 0
    for key, body in [*((k, functions[k]) for k in order), (None, model.graph)]:
        nodes = [n for s in _scopes(_Scope(body, {}, None)) for n in s.nodes]
        total = sum(1 + counts.get((n.domain, n.op_type), 0) for n in nodes)
        if key is not None:
            counts[key] = total
    return total


def _is_endless(node: Any, scope: _Scope) -> bool:
    graphs = _graphs(node)
    if len(graphs) != 1 or len(graphs[0].output) < 1 or len(graphs[0].input) < 2:
        return False
    trips, condition = [*node.input, "", ""][:2]
    most = scope.value(trips) if trips else [_ENDLESS]
    if not most or most[0] < _ENDLESS:
        return False
    if not condition:  # there is only the number of trips
        return True
    body = _Scope(graphs[0], {}, scope)
    inputs = [one.name for one in graphs[0].input]
    outputs = [one.name for one in graphs[0].output]
    pairs = zip(inputs[2:], outputs[1:], strict=False)
    changing = {inputs[0]} | {a for a, b in pairs if _source(b, body) != a}
    needed = _needed(outputs[0], body)
    return needed is not None and changing.isdisjoint(needed)


def _source(name: str, body: _Scope) -> str:
    """Returns where a value comes from, through `Identity`."""
    for _ in body.nodes:
        node = body.made.get(name)
        if node is None or node.op_type != "Identity":
            break
        name = node.input[0]
    return name


def _needed(result: str, body: _Scope) -> set[str] | None:
    """Returns what a value depends on; None if also on chance or on a graph inside."""
    made = {name: node for node in body.nodes for name in node.output}
    waiting, seen = [result], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        node = made.get(name)
        if node is None:
            continue
        if (
            node.op_type in _RANDOM
            or _graphs(node)
            or node.domain not in ("", "ai.onnx")
        ):
            return None
        waiting += list(node.input)
    return seen
