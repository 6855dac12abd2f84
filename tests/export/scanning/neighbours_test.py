"""What is like the attacks that were found: each is refused by its name.

The graphs are written by hand, so that nothing has to be traced and saved.
"""

import pytest
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.core.protobuf import saved_model_pb2

import keras_attention as ka
from keras_attention.export.runtimes.tensorflow_session import SessionRunner
from keras_attention.export.scanning.saved_model import inspect_saved_model

pytestmark = pytest.mark.tensorflow
FLOAT, INT = tf.float32.as_datatype_enum, tf.int32.as_datatype_enum
LONG = tf.int64.as_datatype_enum
HUGE = 10**11


def attr(**fields):
    return attr_value_pb2.AttrValue(**fields)


class Written:
    """A SavedModel that is written by hand, with one signature `s` from `x` to `y`."""

    def __init__(self):
        self.saved = saved_model_pb2.SavedModel(saved_model_schema_version=1)
        self.meta = self.saved.meta_graphs.add()
        self.meta.meta_info_def.tags.append("serve")
        self.graph = self.meta.graph_def
        self.graph.versions.producer = 1994
        self.add("Placeholder", "x", dtype=attr(type=FLOAT))
        self.signature = self.meta.signature_def["s"]
        self.signature.inputs["x"].name = "x:0"
        self.signature.inputs["x"].dtype = FLOAT
        self.signature.inputs["x"].tensor_shape.unknown_rank = True
        self.result("x:0")

    def add(self, op, name, *inputs, nodes=None, **attrs):
        node = (self.graph.node if nodes is None else nodes).add(op=op, name=name)
        node.input.extend(inputs)
        for key, value in attrs.items():
            node.attr[key].CopyFrom(value)
        return node

    def const(self, name, value, dtype=tf.int32, nodes=None):
        tensor = tf.make_tensor_proto(value, dtype)
        attrs = {"dtype": attr(type=tensor.dtype), "value": attr(tensor=tensor)}
        return self.add("Const", name, nodes=nodes, **attrs)

    def function(self, name, *inputs, dtype=FLOAT):
        made = self.graph.library.function.add()
        made.signature.name = name
        for one in inputs:
            made.signature.input_arg.add(name=one, type=dtype)
        return made

    def result(self, tensor, dtype=FLOAT):
        self.signature.outputs["y"].name = tensor
        self.signature.outputs["y"].dtype = dtype
        self.signature.outputs["y"].tensor_shape.unknown_rank = True

    def problems(self, tmp_path, most=None):
        self.write(tmp_path)
        return "; ".join(inspect_saved_model(tmp_path / "saved_model.pb", most)[1])

    def write(self, folder):
        folder.mkdir(exist_ok=True)
        (folder / "saved_model.pb").write_bytes(self.saved.SerializeToString())
        return folder


@pytest.fixture
def written():
    return Written()


def test_what_is_written_by_hand_is_in_order_and_runs(written, tmp_path):
    written.add("Neg", "n", "x", T=attr(type=FLOAT))
    written.result("n:0")
    assert written.problems(tmp_path) == ""
    with ka.open_artifact(tmp_path, allow_unverified=True) as runner:
        assert runner.run("s", x=[2.0])["y"].tolist() == [-2.0]


# Operators that read or write files, keep a state, run other code or talk to machines.
REFUSED = """
    ReadFile WriteFile MatchingFiles WholeFileReaderV2 TextLineReaderV2 TFRecordReaderV2
    FixedLengthRecordReaderV2 LMDBReader IdentityReaderV2 ReaderReadV2 ImmutableConst
    Save SaveSlices Restore RestoreSlice PrintV2 Print DebugIdentity DebugIdentityV2
    InitializeTableFromTextFileV2 InitializeTableFromTextFile GenerateVocabRemapping
    LoadAndRemapMatrix DecodeProtoV2 EncodeProto WriteSummary WriteScalarSummary
    CreateSummaryFileWriter SummaryWriter ImportEvent FlushSummaryWriter
    TextLineDataset TFRecordDataset FixedLengthRecordDataset CSVDataset SqlDataset
    TensorSliceDataset MapDataset IteratorV2 OneShotIterator AnonymousIteratorV3
    IteratorGetNext CacheDatasetV2 SaveDatasetV2 LoadDataset SnapshotDatasetV2
    PyFunc PyFuncStateless EagerPyFunc XlaCallModule XlaLaunch XlaCustomCallV2
    XlaHostCompute
    TPUReplicate TPUExecute ConfigureDistributedTPU InfeedEnqueue OutfeedDequeue
    CollectiveReduceV2 CollectiveGatherV2 CollectiveBcastSendV2 NcclAllReduce
    RemoteCall RpcCall RpcClient RegisterDataset DataServiceDatasetV2 _Send _Recv
    StackV2 StackPushV2 StackPopV2 TensorArrayV3 TensorArrayWriteV3 QueueEnqueueV2
    FIFOQueueV2 QueueDequeueV2 Barrier BarrierInsertMany Stage Unstage MapStage
    MapUnstage MutexV2 MutexLock ConditionalAccumulator ResourceConditionalAccumulator
    SparseAccumulatorTakeGradient AccumulatorApplyGradient RecordInput
    LookupTableInsertV2 LookupTableRemoveV2 MutableHashTableOfTensorsV2 Variable
    VariableV2 TemporaryVariable DestroyTemporaryVariable Assign AssignAdd
    AssignVariableXlaConcatND ScatterUpdate ScatterAdd ScatterNdUpdate ScatterNdAdd
    ResourceScatterAdd ResourceScatterNdUpdate ResourceScatterNdAdd
    ResourceStridedSliceAssign ResourceApplyGradientDescent ResourceSparseApplyAdagrad
    StatefulStandardNormalV2 StatefulUniform StatefulUniformInt RngReadAndSkip RngSkip
    StatefulTruncatedNormal SetSize SymbolicGradient Batch BatchFunction Unbatch
    SessionHandle GetSessionHandleV2 GetSessionTensor DeleteSessionTensor FakeParam
    BoostedTreesCreateEnsemble TensorForestTreeResourceHandleOp SdcaOptimizer
    Timestamp HostConst ParseExample ShardDataset FileSystemSetConfiguration
    InplaceUpdate InplaceAdd EmptyTensorMap DestroyResourceOp ConsumeMutexLock
    OptionalFromValue DatasetToGraphV2 ExperimentalDatasetCardinality Where3
""".split()  # noqa: SIM905


def test_operators_that_do_more_than_compute_are_refused_by_name(written, tmp_path):
    for number, op in enumerate(REFUSED):
        written.add(op, f"n{number}")
    found = written.problems(tmp_path).split("; ")
    assert [op for op in REFUSED if f"operator {op}" not in found] == []


def test_memory_that_is_not_cleared_is_refused(written, tmp_path):
    written.const("shape", [7])
    node = written.add("Empty", "e", "shape", dtype=attr(type=FLOAT))
    written.result("e:0")
    assert "operator Empty e, of memory that is not cleared" in written.problems(
        tmp_path
    )
    node.attr["init"].b = True
    assert written.problems(tmp_path) == ""


def bombs():
    floats = {"T": attr(type=FLOAT)}
    return {
        "Fill": lambda w: (
            w.const("shape", [1 << 20, 1 << 20]),
            w.const("v", 1.0, tf.float32),
            w.add("Fill", "b", "shape", "v", **floats),
        ),
        "BroadcastTo": lambda w: (
            w.const("shape", [HUGE], tf.int64),
            w.add("BroadcastTo", "b", "x", "shape", **floats, Tidx=attr(type=LONG)),
        ),
        "Tile": lambda w: (
            w.const("times", [HUGE], tf.int64),
            w.add("Tile", "b", "x", "times", **floats),
        ),
        "Range": lambda w: (
            w.const("start", 0, tf.int64),
            w.const("limit", HUGE, tf.int64),
            w.const("step", 1, tf.int64),
            w.add("Range", "b", "start", "limit", "step", Tidx=attr(type=LONG)),
        ),
        "PadV2": lambda w: (
            w.const("pads", [[0, 0], [5, HUGE]], tf.int64),
            w.const("v", 1.0, tf.float32),
            w.add("PadV2", "b", "x", "pads", "v", **floats),
        ),
        "RandomUniform": lambda w: (
            w.const("shape", [1 << 20, 1 << 20]),
            w.add("RandomUniform", "b", "shape", dtype=attr(type=FLOAT)),
        ),
        "StatelessRandomNormalV2": lambda w: (
            w.const("shape", [1 << 20, 1 << 20]),
            w.add("StatelessRandomNormalV2", "b", "shape", dtype=attr(type=FLOAT)),
        ),
        "OneHot": lambda w: (
            w.const("depth", 2**31 - 1),
            w.add("OneHot", "b", "x", "depth", "x", "x", **floats),
        ),
        "TensorListReserve": lambda w: (
            w.const("shape", [3]),
            w.const("count", 2**31 - 1),
            w.add("TensorListReserve", "b", "shape", "count"),
        ),
        "ResizeBilinear": lambda w: (
            w.const("size", [1 << 17, 1 << 17]),
            w.add("ResizeBilinear", "b", "x", "size", **floats),
        ),
        "UnsortedSegmentSum": lambda w: (
            w.const("count", 2**31 - 1),
            w.add("UnsortedSegmentSum", "b", "x", "x", "count", **floats),
        ),
        "MatrixDiagV3": lambda w: (
            w.const("rows", 1 << 17),
            w.add("MatrixDiagV3", "b", "x", "x", "rows", "rows", "x", **floats),
        ),
        "constant": lambda w: (
            w.const("b", 1.0, tf.float32)
            .attr["value"]
            .tensor.tensor_shape.dim.add(size=HUGE),
        ),
        "table": lambda w: (
            w.add("MutableDenseHashTableV2", "b", initial_num_buckets=attr(i=1 << 40)),
        ),
    }


@pytest.mark.parametrize("kind", sorted(bombs()))
def test_a_size_that_constants_fix_is_limited_and_the_limit_can_be_raised(
    kind, written, tmp_path
):
    bombs()[kind](written)
    assert f"{kind} b, which alone needs" in written.problems(tmp_path)
    assert written.problems(tmp_path, most=10**14) == ""


def test_many_tensors_below_the_limit_are_too_large_together(written, tmp_path):
    written.const("v", 1.0, tf.float32)
    for number in range(20):
        written.const(f"shape{number}", [1 << 28])
        written.add("Fill", f"f{number}", f"shape{number}", "v", T=attr(type=FLOAT))
    assert "constants that together need 17,179,869,252 b" in written.problems(tmp_path)


def fill(written, shape):
    """A function that fills a shape, and a call of it."""
    made = written.function("fills", "shape", dtype=INT)
    made.signature.output_arg.add(name="y", type=FLOAT)
    written.const("v", 1.0, tf.float32, nodes=made.node_def)
    written.add("Fill", "f", "shape", "v:output:0", nodes=made.node_def)
    made.ret["y"] = "f:output:0"
    kinds = {
        "Tin": attr(list=attr().list.__class__(type=[INT])),
        "Tout": attr(list=attr().list.__class__(type=[FLOAT])),
    }
    target = attr(func=attr().func.__class__(name="fills"))
    written.add("PartitionedCall", "call", shape, f=target, **kinds)


def test_a_size_is_found_through_arithmetic_and_functions(written, tmp_path):
    written.const("a", [1 << 10])
    written.add("Mul", "b", "a", "a", T=attr(type=INT))
    written.add("Mul", "c", "b", "b", T=attr(type=INT))
    fill(written, "c")
    assert "Fill f, which alone needs 4,398,046,511,104 bytes" in written.problems(
        tmp_path
    )


def test_a_function_that_fills_a_small_shape_is_in_order(written, tmp_path):
    written.const("a", [1 << 10])
    fill(written, "a")
    assert written.problems(tmp_path) == ""


def test_a_count_of_inputs_that_no_graph_has_is_refused(written, tmp_path):
    pack = written.add("Pack", "p", "x", T=attr(type=FLOAT), N=attr(i=1))
    assert written.problems(tmp_path) == ""
    for count in (1 << 31, -1):  # TensorFlow makes room for them when it reads it
        pack.attr["N"].i = count
        assert f"Pack p with N={count:,} inputs" in written.problems(tmp_path)
    unpack = written.add("Unpack", "u", "x", T=attr(type=FLOAT), num=attr(i=1 << 40))
    pack.attr["N"].i = 1
    assert f"num={1 << 40:,} inputs or outputs" in written.problems(tmp_path)
    assert unpack.attr["num"].i == 1 << 40


def call_of(written, name, nodes, called):
    target = attr(func=attr().func.__class__(name=called))
    written.add("PartitionedCall", name, "a", nodes=nodes, f=target)


def test_functions_that_double_each_other_are_refused(written, tmp_path):
    for number in range(40):
        made = written.function(f"f{number}", "a")
        for name in "bc":
            if number:
                call_of(written, name, made.node_def, f"f{number - 1}")
            else:
                written.add("Neg", name, "a", nodes=made.node_def)
    call_of(written, "top", None, "f39")
    assert (
        "functions that call each other become 2,199,023,255,552 o"
        in written.problems(tmp_path)
    )


def test_a_function_that_is_not_there_is_refused(written, tmp_path):
    call_of(written, "top", None, "nowhere")
    assert "function nowhere is not there" in written.problems(tmp_path)


@pytest.mark.parametrize("device", ["/job:worker/task:1", "/job:ps/replica:0/task:0"])
def test_another_machine_is_refused(device, written, tmp_path):
    node = written.add("Neg", "n", "x", T=attr(type=FLOAT))
    node.device = device
    assert f"operator n on another machine: {device}" in written.problems(tmp_path)
    node.device = "/job:localhost/replica:0/task:0/device:CPU:0"
    assert written.problems(tmp_path) == ""


def test_assets_in_a_collection_are_refused(written, tmp_path):
    written.meta.collection_def["saved_model_assets"].any_list.value.add()
    assert "assets in a collection" in written.problems(tmp_path)


def loop(written, *, step=1, compared="i"):
    """A loop `while compared < 5: i = i + step`, with a limit that stays."""
    cond, body = (written.function(name, "i", "n", dtype=INT) for name in ("c", "b"))
    cond.signature.output_arg.add(name="go", type=tf.bool.as_datatype_enum)
    less = {"nodes": cond.node_def, "T": attr(type=INT)}
    written.add("Less", "less", compared, "n", **less)
    cond.ret["go"] = "less:z:0"
    for name in ("i", "n"):
        body.signature.output_arg.add(name=f"{name}_out", type=INT)
    written.const("step", step, nodes=body.node_def)
    plus = {"nodes": body.node_def, "T": attr(type=INT)}
    written.add("AddV2", "plus", "i", "step:output:0", **plus)
    body.ret["i_out"], body.ret["n_out"] = "plus:z:0", "n"
    written.const("zero", 0)
    written.const("five", 5)
    functions = {
        name: attr(func=attr().func.__class__(name=called))
        for name, called in (("cond", "c"), ("body", "b"))
    }
    kinds = attr(list=attr().list.__class__(type=[INT, INT]))
    functions["_lower_using_switch_merge"] = attr(b=True)  # as TensorFlow writes it
    written.add("StatelessWhile", "w", "zero", "five", T=kinds, **functions)
    written.result("w:0", INT)


def test_a_loop_that_ends_is_in_order_and_runs(written, tmp_path):
    loop(written, step=2)
    assert written.problems(tmp_path) == ""
    with SessionRunner(tmp_path) as runner:
        assert runner.run("s", x=[1.0])["y"] == 6


@pytest.mark.parametrize("change", [{"step": 0}, {"compared": "n"}])
def test_a_loop_whose_condition_never_changes_is_refused(change, written, tmp_path):
    loop(written, **change)
    assert "loop w, whose condition never changes" in written.problems(tmp_path)


def test_a_loop_in_an_initialiser_is_refused(written, tmp_path):
    loop(written)
    main = written.meta.collection_def["saved_model_main_op"].node_list
    main.value.append("w")
    assert "operator StatelessWhile in initialising" in written.problems(tmp_path)


@pytest.mark.timeout(60)
def test_a_loop_that_takes_too_long_is_stopped(written, tmp_path):
    loop(written, step=-1)  # 2 ** 31 steps
    assert written.problems(tmp_path) == ""
    with ka.open_artifact(tmp_path, allow_unverified=True, time_limit=0.5) as runner:
        for _ in range(2):
            with pytest.raises(
                TimeoutError, match=r"'s' was stopped.*Received: time_limit=0.5"
            ):
                runner.run("s", x=[1.0])
