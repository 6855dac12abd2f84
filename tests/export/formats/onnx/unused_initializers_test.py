"""A file has no initializer that nothing reads: ONNX Runtime warns at each load."""

import keras
import onnx
import pytest

pytest.importorskip("tf2onnx")

import keras_attention as ka
from keras_attention.export.formats.onnx.graph import subgraphs
from keras_attention.export.formats.onnx.weights import remove_unused

SIZES = {"num_layers": 1, "num_heads": 4, "hidden_dim": 64, "intermediate_dim": 128}
MODELS = {
    "bert": lambda: ka.BertEncoder(100, **SIZES),
    "convolution": lambda: keras.Sequential(
        [
            keras.Input((None, 16), name="x"),
            keras.layers.Conv1D(300, 3, padding="same"),
            keras.layers.EinsumDense("abc,cde->abde", (None, 4, 16), bias_axes="de"),
            keras.layers.Reshape((-1, 64)),
        ]
    ),
}


def unused(file):
    """Initializers of a file that no node of any graph in it reads."""
    graphs = list(subgraphs(onnx.load(file).graph))
    read = {name for graph in graphs for node in graph.node for name in node.input}
    read |= {output.name for graph in graphs for output in graph.output}
    return [x.name for g in graphs for x in g.initializer if x.name not in read]


@pytest.mark.parametrize(
    ("name", "opset"),
    [
        ("bert", 23),
        pytest.param("bert", 18, marks=pytest.mark.slow),
        ("convolution", 23),
    ],
)
def test_onnx_runtime_has_nothing_to_warn_of(name, opset, tmp_path, capfd):
    runtime = pytest.importorskip("onnxruntime")
    folder = ka.export_model(MODELS[name](), tmp_path / "onnx", "onnx", opset=opset)
    file = folder / "serving_default.onnx"
    assert unused(file) == []
    capfd.readouterr()
    runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert "not used by any node" not in capfd.readouterr().err


def test_what_a_loop_reads_from_outside_stays():
    from onnx import helper, numpy_helper

    def table(name):
        return numpy_helper.from_array(__import__("numpy").ones(2, "float32"), name)

    body = helper.make_graph(
        [helper.make_node("Add", ["outer", "inner"], ["sum"])],
        "body",
        [],
        [helper.make_tensor_value_info("sum", 1, [2])],
        [table("inner"), table("nobody")],
    )
    node = helper.make_node("If", ["cond"], ["y"], then_branch=body, else_branch=body)
    graph = helper.make_graph([node], "g", [], [], [table("outer"), table("other")])
    model = helper.make_model(graph)
    remove_unused(model)
    assert [x.name for x in model.graph.initializer] == ["outer"]
    inner = [*subgraphs(model.graph)][1:]
    assert [[x.name for x in each.initializer] for each in inner] == [["inner"]] * 2
