"""What an ONNX file could allocate, hide or never end is refused by name."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import keras_attention as ka
from keras_attention.export.scanning.onnx import inspect_onnx

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
X, Y = (helper.make_tensor_value_info(name, FLOAT, [None]) for name in "xy")
DOUBLE = helper.make_node("Add", ["x", "x"], ["y"])
HUGE = 10**11


def model(*nodes, functions=(), **more):
    graph = helper.make_graph(nodes, "g", [X], [Y], **more)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=opsets)


@pytest.fixture
def problems(tmp_path):
    def found(made, most=None):
        file = tmp_path / "s.onnx"
        file.write_bytes(made.SerializeToString())
        return "; ".join(inspect_onnx(file, most=most)[1])

    return found


def ints(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


BOMBS = {
    "ConstantOfShape": (["shape"], [ints("shape", HUGE)]),
    "Expand": (["x", "shape"], [ints("shape", 1 << 20, 1 << 20)]),
    "Tile": (["x", "times"], [ints("times", HUGE)]),
    "Pad": (["x", "pads"], [ints("pads", 0, HUGE)]),
    "OneHot": (["x", "depth", "x"], [ints("depth", HUGE)]),
    "Resize": (["x", "", "", "sizes"], [ints("sizes", HUGE)]),
}


def scalar(name, value):
    return numpy_helper.from_array(np.array(value, np.int64), name)


BOMBS["Range"] = (
    ["a", "b", "c"],
    [scalar("a", 0), scalar("b", HUGE), scalar("c", 1)],
)


@pytest.mark.parametrize("op", sorted(BOMBS))
def test_a_size_that_constants_fix_is_limited_and_the_limit_can_be_raised(op, problems):
    inputs, weights = BOMBS[op]
    made = model(helper.make_node(op, inputs, ["y"]), initializer=weights)
    assert f"{op}, which alone needs" in problems(made)
    assert problems(made, most=10**13) == ""


def test_a_size_is_found_through_arithmetic_and_functions(problems):
    product = helper.make_node("Mul", ["a", "a"], ["shape"])
    fill = helper.make_node("ConstantOfShape", ["s"], ["t"])
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("own", "F", ["s"], ["t"], [fill], opsets)
    call = helper.make_node("F", ["shape"], ["y"], domain="own")
    made = model(
        product, call, functions=[function], initializer=[ints("a", 1 << 10, 1 << 10)]
    )
    assert "ConstantOfShape, which alone needs" in problems(made)
    small = model(
        product, call, functions=[function], initializer=[ints("a", 1 << 5, 1 << 5)]
    )
    assert problems(small) == ""


def test_random_numbers_of_a_huge_shape_are_refused(problems):
    node = helper.make_node("RandomNormal", [], ["y"], shape=[1 << 20, 1 << 20])
    assert "RandomNormal, which alone needs" in problems(model(node))


def test_a_sparse_weight_that_is_huge_when_written_out_is_refused(problems):
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    sparse = helper.make_sparse_tensor(values, ints("i", 0), [1 << 20, 1 << 20])
    made = model(DOUBLE, sparse_initializer=[sparse])
    assert "sparse weight 'w'" in problems(made)


def test_a_weight_without_its_data_is_refused(problems):
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[10**9], float_data=[1.0])
    assert "'w' of 1,000,000,000 elements, without" in problems(
        model(DOUBLE, initializer=[tensor])
    )
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    assert "without its data" in problems(model(constant, DOUBLE))


def loop(trips, condition, *body, keep="kept", more=()):
    inputs = [
        helper.make_tensor_value_info("i", INT64, []),
        helper.make_tensor_value_info("go", BOOL, []),
        helper.make_tensor_value_info("v", FLOAT, None),
    ]
    outputs = [
        helper.make_tensor_value_info(keep, BOOL, []),
        helper.make_tensor_value_info("w", FLOAT, None),
    ]
    nodes = [*body, helper.make_node("Add", ["v", "v"], ["w"])]
    graph = helper.make_graph(nodes, "body", inputs, outputs)
    made = helper.make_node("Loop", [trips, condition, "x"], ["y"], body=graph)
    yes = numpy_helper.from_array(np.array(True), "yes")
    weights = [yes, scalar("many", 2**63 - 1), scalar("few", 3), *more]
    return model(made, initializer=weights)


KEEP = helper.make_node("Identity", ["go"], ["kept"])
SUM = helper.make_node("ReduceSum", ["v"], ["s"], keepdims=0)
LESS = helper.make_node("Less", ["s", "limit"], ["kept"])
LIMIT = numpy_helper.from_array(np.array(9, np.float32), "limit")


@pytest.mark.parametrize("trips", ["", "many"])
def test_a_loop_whose_condition_never_changes_is_refused(trips, problems):
    assert "loop whose condition never changes" in problems(loop(trips, "yes", KEEP))
    constant = helper.make_node("Identity", ["yes"], ["kept"])
    assert "never changes" in problems(loop(trips, "yes", constant))
    assert "never changes" in problems(loop(trips, "", KEEP))


def test_loops_that_end_are_in_order(problems):
    assert problems(loop("few", "yes", KEEP)) == ""
    assert problems(loop("many", "yes", SUM, LESS, more=[LIMIT])) == ""
    assert problems(loop("", "yes", SUM, LESS, more=[LIMIT])) == ""


def test_functions_that_double_each_other_are_refused(problems):
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = []
    for number in range(40):
        name = f"F{number}"
        below = f"F{number - 1}" if number else "Neg"
        domain = "own" if number else ""
        nodes = [
            helper.make_node(below, ["a"], ["b"], domain=domain),
            helper.make_node(below, ["b"], ["c"], domain=domain),
        ]
        functions.append(helper.make_function("own", name, ["a"], ["c"], nodes, opsets))
    call = helper.make_node("F39", ["x"], ["y"], domain="own")
    assert "become 2,199,0" in problems(model(call, functions=functions))
    call = helper.make_node("F9", ["x"], ["y"], domain="own")
    assert problems(model(call, functions=functions[:10])) == ""


@pytest.mark.parametrize("domain", ["", "com.microsoft", "ai.onnx.ml"])
def test_a_function_in_the_place_of_a_runtimes_operator_is_refused(domain, problems):
    opsets = [helper.make_opsetid("", 18)]
    body = [helper.make_node("Neg", ["a"], ["b"])]
    function = helper.make_function(domain, "EPContext", ["a"], ["b"], body, opsets)
    call = helper.make_node("EPContext", ["x"], ["y"], domain=domain)
    assert "which is a runtime's own" in problems(model(call, functions=[function]))


def test_information_for_training_and_operators_of_another_domain_are_refused(problems):
    made = model(DOUBLE)
    made.training_info.add()
    assert "information for training" in problems(made)
    for domain in ("", "ai.onnx"):
        node = helper.make_node("TreeEnsemble", ["x"], ["y"], domain=domain)
        assert "operator ai.onnx.TreeEnsemble" in problems(model(node))


def test_the_limit_is_an_argument_and_an_environment_variable(tmp_path, monkeypatch):
    inputs, weights = BOMBS["ConstantOfShape"]
    made = model(
        helper.make_node("ConstantOfShape", inputs, ["y"]), initializer=weights
    )
    onnx.save(made, tmp_path / "s.onnx")
    with pytest.raises(ValueError, match="which alone needs 400,000,000,000 bytes"):
        ka.scan_artifact(tmp_path / "s.onnx")
    ka.scan_artifact(tmp_path / "s.onnx", max_tensor_bytes=10**12)
    monkeypatch.setenv("KERAS_ATTENTION_MAX_TENSOR_BYTES", str(10**12))
    ka.scan_artifact(tmp_path / "s.onnx")
    monkeypatch.setenv("KERAS_ATTENTION_MAX_TENSOR_BYTES", "many")
    with pytest.raises(ValueError, match=r"more than 0.*Received: 'many'"):
        ka.scan_artifact(tmp_path / "s.onnx")
