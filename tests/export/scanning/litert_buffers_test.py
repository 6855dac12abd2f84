"""LiteRT files with bad buffers, states and endless loops are refused by name."""

import copy

import flatbuffers
import numpy as np
import pytest

import keras_attention as ka
from keras_attention.export.scanning.litert import inspect_litert

pytestmark = pytest.mark.tensorflow
ADD, WHILE, FILL, LESS, PAD, RANGE, CUSTOM = 0, 119, 94, 58, 34, 96, 32
FLOAT, INT, BOOL = 0, 2, 6


@pytest.fixture(scope="module")
def schema():
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


class Written:
    """A file that is written by hand: `y = x + w`, with the signature `s`."""

    def __init__(self, schema):
        self.schema = schema
        self.model = model = schema.ModelT()
        model.version, model.operatorCodes = 3, []
        model.buffers = [schema.BufferT()]
        self.graph = self.subgraph()
        self.x = self.tensor("x", [3])
        self.w = self.tensor("w", [3], np.float32([2, 3, 5]))
        self.y = self.tensor("y", [3])
        self.operator(ADD, [self.x, self.w], [self.y])
        self.graph.inputs, self.graph.outputs = [self.x], [self.y]
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = b"s", 0
        signature.inputs = [self.named(b"x", self.x)]
        signature.outputs = [self.named(b"y", self.y)]
        model.signatureDefs = [signature]

    def named(self, name, index):
        entry = self.schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        return entry

    def subgraph(self):
        graph = self.schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
        self.model.subgraphs = [*(self.model.subgraphs or []), graph]
        return graph

    def tensor(self, name, shape, data=None, kind=FLOAT, graph=None):
        graph = graph or self.graph
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, 0
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def operator(self, code, inputs, outputs, graph=None):
        known = self.schema.OperatorCodeT()
        known.builtinCode, known.deprecatedBuiltinCode = code, min(code, 127)
        self.model.operatorCodes.append(known)
        one = self.schema.OperatorT()
        one.opcodeIndex = len(self.model.operatorCodes) - 1
        one.inputs, one.outputs = inputs, outputs
        (graph or self.graph).operators.append(one)
        return one

    def loop(self, *, changes):
        """A loop `while i < 5` that adds to `i`, or leaves it as it is."""
        i = self.tensor("i", [1], np.int32([0]), INT)
        end = self.tensor("end", [1], kind=INT)
        one = self.operator(WHILE, [i], [end])
        options = self.schema.WhileOptionsT()
        options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
        one.builtinOptionsType = self.schema.BuiltinOptions.WhileOptions
        one.builtinOptions = options
        condition, body = self.subgraph(), self.subgraph()
        i, five = (
            self.tensor("i", [1], kind=INT, graph=condition),
            self.tensor("five", [1], np.int32([5]), INT, graph=condition),
        )
        go = self.tensor("go", [1], kind=BOOL, graph=condition)
        self.operator(LESS, [i, five], [go], condition)
        condition.inputs, condition.outputs = [i], [go]
        i = self.tensor("i", [1], kind=INT, graph=body)
        step = self.tensor("step", [1], np.int32([1]), INT, graph=body)
        more = self.tensor("more", [1], kind=INT, graph=body)
        self.operator(ADD, [i, step], [more], body)
        body.inputs, body.outputs = [i], [more if changes else i]
        return options

    def write(self, folder):
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        file = folder / "s.tflite"
        file.write_bytes(bytes(builder.Output()))
        return file

    def problems(self, folder, most=None):
        return "; ".join(inspect_litert(self.write(folder), most)[1])


@pytest.fixture
def written(schema):
    return Written(schema)


def test_what_is_written_by_hand_is_in_order_and_runs(written, tmp_path):
    assert written.problems(tmp_path) == ""
    pytest.importorskip("ai_edge_litert")
    with ka.open_artifact(tmp_path / "s.tflite", allow_unverified=True) as runner:
        answer = runner.run("s", x=np.float32([1, 1, 1]))
    assert answer["y"].tolist() == [3, 4, 6]


def outside(buffer):
    buffer.data, buffer.offset, buffer.size = None, 1 << 40, 12


CHANGES = {
    "keeps a state between calls": lambda w: setattr(
        w.graph.tensors[w.w], "isVariable", True
    ),
    "is in another file": lambda w: setattr(w.graph.tensors[w.w], "externalBuffer", 1),
    "needs 28 bytes and has 12": lambda w: setattr(w.graph.tensors[w.w], "shape", [7]),
    "buffer that ends after the file": lambda w: outside(w.model.buffers[1]),
    "buffer 77, which is not there": lambda w: setattr(
        w.graph.tensors[w.w], "buffer", 77
    ),
    "uses a tensor that is not there": lambda w: setattr(
        w.graph.operators[0], "inputs", [0, 9]
    ),
    "operator 9 is not in its list": lambda w: setattr(
        w.graph.operators[0], "opcodeIndex", 9
    ),
    "signature of a graph that is not there": lambda w: setattr(
        w.model.signatureDefs[0], "subgraphIndex", 3
    ),
    "which alone needs 40,000,000,000": lambda w: setattr(
        w.graph.tensors[w.y], "shape", [10**5, 10**5]
    ),
    "operator custom": lambda w: w.operator(CUSTOM, [w.x], [w.y]),
    "operator VAR_HANDLE": lambda w: w.operator(142, [], [w.y]),
    "operator CALL_ONCE": lambda w: w.operator(129, [], []),
    "operator HASHTABLE_IMPORT": lambda w: w.operator(138, [], []),
}


@pytest.mark.parametrize("reason", sorted(CHANGES))
def test_a_bad_file_is_refused_by_name(reason, written, tmp_path):
    CHANGES[reason](written)
    assert reason in written.problems(tmp_path)


@pytest.mark.parametrize("kind", ["fill", "range", "pad"])
def test_a_size_that_constants_fix_is_limited_and_the_limit_can_be_raised(
    kind, written, tmp_path
):
    def const(name, *numbers):
        data = np.array(numbers, np.int32)
        return written.tensor(name, [len(numbers)], data, INT)

    huge = 2**31 - 1
    made = {
        "fill": (FILL, lambda: [const("shape", 1 << 20, 1 << 20), written.w]),
        "range": (RANGE, lambda: [const("a", 0), const("b", huge), const("c", 1)]),
        "pad": (PAD, lambda: [written.x, const("pads", 0, huge)]),
    }
    code, inputs = made[kind]
    written.operator(code, inputs(), [written.y])
    assert "an operator, which alone needs" in written.problems(tmp_path)
    assert written.problems(tmp_path, most=10**14) == ""


@pytest.mark.parametrize("changes", [True, False])
def test_a_loop_whose_condition_never_changes_is_refused(changes, written, tmp_path):
    written.loop(changes=changes)
    found = written.problems(tmp_path)
    assert found == ("" if changes else "a loop whose condition never changes")


def test_a_graph_that_contains_itself_or_is_not_there_is_refused(written, tmp_path):
    options = written.loop(changes=True)
    options.bodySubgraphIndex = 0
    assert "graph 0 contains itself" in written.problems(tmp_path)
    options.bodySubgraphIndex = 5
    assert "a graph that is not there" in written.problems(tmp_path)


@pytest.mark.timeout(20)
def test_tables_that_are_contained_in_each_other_many_times_are_refused(
    written, tmp_path
):
    data = bytearray(written.write(tmp_path).read_bytes())
    # A list of a million entries that all point to the same table.
    graphs = copy.copy(data)
    root = int.from_bytes(graphs[:4], "little")
    vtable = root - int.from_bytes(graphs[root : root + 4], "little", signed=True)
    place = vtable + 4 + 2 * 2  # the list of subgraphs
    field = root + int.from_bytes(graphs[place : place + 2], "little")
    first = field + int.from_bytes(graphs[field : field + 4], "little")
    table = first + 4 + int.from_bytes(graphs[first + 4 : first + 8], "little")
    start = len(graphs) + -len(graphs) % 4
    graphs += bytes(start - len(graphs))
    graphs += (200_000).to_bytes(4, "little")
    for index in range(200_000):
        at = start + 4 + 4 * index
        graphs += ((table - at) % 2**32).to_bytes(4, "little")
    graphs[field : field + 4] = (start - field).to_bytes(4, "little")
    (tmp_path / "bomb.tflite").write_bytes(bytes(graphs))
    assert inspect_litert(tmp_path / "bomb.tflite")[1]
