"""The tensors, buffers and loops of a LiteRT file; see `litert.py`."""

import struct
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from keras_attention.export.scanning import limits
from keras_attention.export.scanning.flatbuffer import FlatBuffer

# Field numbers of the schema.
_SUBGRAPHS, _BUFFERS, _SIGNATURES = 2, 4, 7
_TENSORS, _INPUTS, _OUTPUTS, _OPERATORS = 0, 1, 2, 3
_SHAPE, _TYPE, _BUFFER, _NAME, _VARIABLE, _SPARSITY, _EXTERNAL = 0, 1, 2, 3, 5, 6, 10
_DATA, _OFFSET, _SIZE = 0, 1, 2
_CODE, _OPTIONS_TYPE, _OPTIONS = 0, 3, 4
_IF, _WHILE = 92, 93  # types of options: two numbers of subgraphs
_STRING, _NO_DATA = 5, (13, 14)
_BYTES = {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 6: 1, 7: 2, 8: 8, 9: 1, 10: 8, 11: 16, 12: 8}
_BYTES |= {15: 4, 16: 2, 18: 2}
_HALF, _QUARTER = (17, 20), (19,)  # types of 4 and of 2 bits
_FORMATS = {2: "i", 4: "q", 15: "I", 0: "f"}
# Operators that fill a shape, by number: which input is the shape.
_MAKES = {94: 0, 130: 1, 69: 1, 23: 1, 97: 1}
_RANGE, _PADS, _MOST = 96, (34, 60, 100), 64


@dataclass
class _Tensor:
    shape: tuple[int, ...]
    kind: int
    buffer: int
    name: str


@dataclass
class _Operator:
    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    graphs: tuple[int, ...]


@dataclass
class _Subgraph:
    tensors: list[_Tensor]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: list[_Operator]


class LiteRtGraph:
    """Reads what the operators of a LiteRT file work on.

    Args:
        data: The file.
        model: The place of its root table.
        codes: The number of each operator's kind.
        most: See `limits.MAX_BYTES`.
    """

    def __init__(self, data: FlatBuffer, model: int, codes: list[int], most: int):
        self._data, self._model, self._codes = data, model, codes
        self._budget = limits.Budget(most)
        self._problems: list[str] = []
        self._buffers = list(data.tables(model, _BUFFERS))

    def problems(self) -> list[str]:
        """Returns what is wrong with tensors, buffers, operators and loops."""
        self._graphs = [self._subgraph(x) for x in self._tables(_SUBGRAPHS)]
        for buffer in self._buffers:
            self._check_buffer(buffer)
        self._check_calls()
        for graph in self._graphs:
            for tensor in graph.tensors:
                self._check_tensor(tensor)
            for one in graph.operators:
                self._check_operator(one, graph)
        return self._problems

    def _tables(self, number: int) -> list[int]:
        return list(self._data.tables(self._model, number))

    def _subgraph(self, table: int) -> _Subgraph:
        data = self._data
        tensors = [self._tensor(one) for one in data.tables(table, _TENSORS)]
        operators = []
        for one in data.tables(table, _OPERATORS):
            index = data.value(one, _CODE, "<I")
            if index >= len(self._codes):
                raise ValueError(f"operator {index} is not in its list")
            graphs: tuple[int, ...] = ()
            if data.value(one, _OPTIONS_TYPE, "<B") in (_IF, _WHILE):
                at = data.field(one, _OPTIONS)
                options = None if at is None else data.offset(at)
                if options is not None:
                    graphs = tuple(data.value(options, n, "<i") for n in (0, 1))
            inputs, outputs = data.numbers(one, 1), data.numbers(one, 2)
            operators.append(_Operator(self._codes[index], inputs, outputs, graphs))
        inputs, outputs = data.numbers(table, _INPUTS), data.numbers(table, _OUTPUTS)
        for index in (inputs, outputs, *((*o.inputs, *o.outputs) for o in operators)):
            if any(not -1 <= one < len(tensors) for one in index):
                raise ValueError("an operator uses a tensor that is not there")
        return _Subgraph(tensors, inputs, outputs, operators)

    def _tensor(self, table: int) -> _Tensor:
        data = self._data
        name = data.field(table, _NAME)
        shown = "" if name is None else data.text(name)
        if data.value(table, _VARIABLE, "<B"):
            self._problems.append(f"tensor {shown!r} keeps a state between calls")
        if data.value(table, _EXTERNAL, "<I"):
            self._problems.append(f"tensor {shown!r} is in another file")
        buffer = data.value(table, _BUFFER, "<I")
        if buffer >= len(self._buffers):
            raise ValueError(
                f"tensor {shown!r} has buffer {buffer}, which is not there"
            )
        sparse = data.field(table, _SPARSITY) is not None
        kind = _STRING if sparse else data.value(table, _TYPE, "<b")
        return _Tensor(data.numbers(table, _SHAPE), kind, buffer, shown)

    def _check_buffer(self, buffer: int) -> None:
        start = self._data.value(buffer, _OFFSET, "<Q")
        size = self._data.value(buffer, _SIZE, "<Q")
        if start > 1 and start + size > self._data.size:
            self._problems.append("a buffer that ends after the file")
        first, count = self._data.list_at(buffer, _DATA)
        if first + count > self._data.size:
            self._problems.append("a buffer that ends after the file")

    def _stored(self, tensor: _Tensor) -> tuple[int, int]:
        """Returns where the data of a tensor begin, and their bytes."""
        buffer = self._buffers[tensor.buffer]
        start = self._data.value(buffer, _OFFSET, "<Q")
        if start > 1:
            return start, self._data.value(buffer, _SIZE, "<Q")
        return self._data.list_at(buffer, _DATA)

    def _check_tensor(self, tensor: _Tensor) -> None:
        about = f"tensor {tensor.name!r}"
        count = limits.product(tensor.shape)
        if count is None:
            if self._stored(tensor)[1]:
                self._problems.append(f"{about} has a negative size")
            return
        size = _BYTES.get(tensor.kind, 1)
        self._problems += self._budget.problems(about, count, size)
        _, stored = self._stored(tensor)
        if not stored or tensor.kind == _STRING or tensor.kind in _NO_DATA:
            return
        needed = int(count) * size
        if tensor.kind in _HALF or tensor.kind in _QUARTER:
            needed = -(-int(count) // (2 if tensor.kind in _HALF else 4))
        if stored != needed:
            self._problems.append(f"{about} needs {needed:,} bytes and has {stored:,}")

    def _check_operator(self, one: _Operator, graph: _Subgraph) -> None:
        def values(index: int) -> list[float] | None:
            inside = index < len(one.inputs) and one.inputs[index] >= 0
            return self._numbers(graph.tensors[one.inputs[index]]) if inside else None

        elements = None
        if one.code in _MAKES:
            elements = limits.product(values(_MAKES[one.code]))
        elif one.code == _RANGE:
            elements = limits.range_of(values)
        elif one.code in _PADS:
            elements = limits.pad_in_pairs(values)
        self._problems += self._budget.problems("an operator", elements, 4)
        if len(one.graphs) == 2 and len(one.inputs) and one.code == 119:
            condition, body = (self._graphs[x] for x in one.graphs)
            if _is_endless(condition, body):
                self._problems.append("a loop whose condition never changes")

    def _numbers(self, tensor: _Tensor) -> list[float] | None:
        start, stored = self._stored(tensor)
        kind = _FORMATS.get(tensor.kind)
        if kind is None or not 0 < stored <= 8 * _MOST:
            return None
        count = stored // struct.calcsize(kind)
        content = self._data.bytes_at(start, count * struct.calcsize(kind))
        return list(struct.unpack(f"<{count}{kind}", content))

    def _check_calls(self) -> None:
        """Refuses graphs that are not there or that contain themselves."""
        calls: dict[int, set[int]] = {}
        for index, graph in enumerate(self._graphs):
            calls[index] = {x for one in graph.operators for x in one.graphs}
            if any(not 0 <= x < len(self._graphs) for x in calls[index]):
                raise ValueError("a loop or branch of a graph that is not there")
        for one in self._tables(_SIGNATURES):
            if self._data.value(one, 4, "<I") >= len(self._graphs):
                raise ValueError("a signature of a graph that is not there")
        try:
            TopologicalSorter(calls).prepare()
        except CycleError as error:
            self._problems.append(f"graph {error.args[1][0]} contains itself")


def _is_endless(condition: _Subgraph, body: _Subgraph) -> bool:
    """Whether a loop leaves everything as it is that its condition depends on."""
    made = {x: one for one in condition.operators for x in one.outputs}
    waiting, seen = list(condition.outputs[:1]), set()
    while waiting:
        tensor = waiting.pop()
        if tensor in seen or tensor < 0:
            continue
        seen.add(tensor)
        if tensor in made:
            if made[tensor].graphs:
                return False
            waiting += made[tensor].inputs
    needed = [i for i, tensor in enumerate(condition.inputs) if tensor in seen]
    pairs = dict(enumerate(zip(body.inputs, body.outputs, strict=False)))
    return all(i in pairs and pairs[i][0] == pairs[i][1] for i in needed)
