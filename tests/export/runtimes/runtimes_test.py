"""One interface for all runtimes, which refuses inputs that do not fit."""

import configparser
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper

from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.formats.saved_model import write_saved_model
from keras_attention.export.runtimes.onnxruntime import OnnxRunner
from keras_attention.export.runtimes.opening import (
    RUNTIMES,
    open_artifact,
    runtimes_of,
)
from keras_attention.export.runtimes.tensorflow_session import SessionRunner
from keras_attention.export.signatures.signature import Signature

VOCABULARY, UNITS = 13, 5
TABLE = np.arange(VOCABULARY * UNITS, dtype="float32").reshape(VOCABULARY, UNITS) / 7


def write_onnx(file):
    """Gather rows of TABLE by id, times a scale; also the texts as they are."""
    axes = ["batch", "sequence"]
    nodes = [
        helper.make_node("Gather", ["table", "token_ids"], ["rows"]),
        helper.make_node("Mul", ["rows", "scale"], ["vectors"]),
        helper.make_node("Identity", ["texts"], ["same_texts"]),
    ]
    graph = helper.make_graph(
        nodes,
        "lookup",
        [
            helper.make_tensor_value_info("token_ids", TensorProto.INT32, axes),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, [UNITS]),
            helper.make_tensor_value_info("texts", TensorProto.STRING, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("vectors", TensorProto.FLOAT, [*axes, UNITS]),
            helper.make_tensor_value_info("same_texts", TensorProto.STRING, ["batch"]),
        ],
        [onnx.numpy_helper.from_array(TABLE, "table")],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), file)


def write_session_model(folder):
    """The same function as a SavedModel."""
    embedding = keras.layers.Embedding(VOCABULARY, UNITS, weights=[TABLE])
    embedding.build()

    def function(token_ids, scale, texts):
        return {
            "vectors": embedding(token_ids) * scale,
            "same_texts": tf.identity(texts),
        }

    axes = ("batch", "sequence")
    signature = Signature(
        "lookup",
        function,
        inputs={
            "token_ids": TensorInfo("int32", axes),
            "scale": TensorInfo("float32", (UNITS,)),
            "texts": TensorInfo("string", ("batch",)),
        },
        outputs={
            "vectors": TensorInfo("float32", (*axes, UNITS)),
            "same_texts": TensorInfo("string", ("batch",)),
        },
        limits={"token_ids": VOCABULARY},
    )
    write_saved_model([signature], folder, variables=embedding.variables)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    write_onnx(str(folder / "lookup.onnx"))
    write_session_model(folder / "saved")
    return folder


@pytest.fixture(scope="module", params=["saved", "lookup.onnx"])
def runner(artifacts, request):
    with open_artifact(
        artifacts / request.param, intra_op_threads=1, allow_unverified=True
    ) as runner:
        yield runner


GOOD = {
    "token_ids": [[1, 2, 3], [4, 5, 12]],
    "scale": [1.0] * UNITS,
    "texts": ["a", ""],
}


def test_both_runtimes_return_the_same_numbers_and_texts(runner):
    result = runner.run("lookup", **GOOD)
    assert list(result) == list(runner.signatures["lookup"].outputs)
    np.testing.assert_array_equal(result["vectors"], TABLE[GOOD["token_ids"]])
    assert result["vectors"].dtype == np.float32
    assert result["same_texts"].tolist() == ["a", ""]


def test_the_signature_is_described(runner):
    info = runner.signatures["lookup"]
    onnx_runner = isinstance(runner, OnnxRunner)
    batch = "batch" if onnx_runner else "?"
    axes = "batch, sequence" if onnx_runner else "?, ?"
    assert {name: str(tensor) for name, tensor in info.inputs.items()} == {
        "token_ids": f"int32 [{axes}]",
        "scale": "float32 [5]",
        "texts": f"string [{batch}]",
    }
    assert str(info.outputs["vectors"]) == f"float32 [{axes}, 5]"


@pytest.mark.parametrize(
    "texts",
    [
        ["日本", "a\0b"],
        ["日本".encode(), b"a\0b"],
        np.array(["日本", "a\0b"]),
        np.array(["日本", "a\0b"], dtype=object),
    ],
    ids=["str", "bytes", "array of U", "array of objects"],
)
def test_texts_may_be_given_in_any_form(runner, texts):
    result = runner.run("lookup", **{**GOOD, "texts": texts})
    assert result["same_texts"].tolist() == ["日本", "a\0b"]


def test_a_single_text_is_a_batch_of_one(runner):
    result = runner.run("lookup", **{**GOOD, "token_ids": [[7]], "texts": "one"})
    assert result["same_texts"].tolist() == ["one"]


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "uint64"])
def test_integers_of_another_width_are_cast(runner, dtype):
    ids = np.array(GOOD["token_ids"], dtype)
    result = runner.run("lookup", **{**GOOD, "token_ids": ids})
    np.testing.assert_array_equal(result["vectors"], TABLE[ids])


def test_floats_of_another_width_are_cast(runner):
    scale = np.full(UNITS, 2, "float64")
    result = runner.run("lookup", **{**GOOD, "scale": scale})
    np.testing.assert_array_equal(result["vectors"], 2 * TABLE[GOOD["token_ids"]])


def test_an_empty_list_is_an_empty_batch(runner):
    nothing = {"token_ids": np.zeros((0, 3), "int32"), "texts": []}
    assert runner.run("lookup", **{**GOOD, **nothing})["vectors"].shape == (0, 3, 5)


def test_lists_with_nothing_in_them_have_the_dtype_of_the_input(runner):
    result = runner.run("lookup", **{**GOOD, "token_ids": [[], []]})
    assert result["vectors"].shape == (2, 0, UNITS)


BAD_CALLS = {
    "unknown": (
        {"token_idz": 1},
        "'token_idz' is unknown. Expected: .*token_ids: int32",
    ),
    "rank": ({"token_ids": [1, 2]}, r"'token_ids' .*Received: shape \(2,\)"),
    "size": ({"scale": [1.0]}, r"'scale' .*float32 \[5\]. Received: shape \(1,\)"),
    "floats": ({"token_ids": [[1.5]]}, "'token_ids' .*Received: dtype float64"),
    "bools": ({"token_ids": [[True]]}, "'token_ids' .*Received: dtype bool"),
    "ints": ({"scale": [1] * UNITS}, "'scale' .*Received: dtype int64"),
    "texts": ({"token_ids": [["a"]]}, "'token_ids' .*Received: dtype <U1"),
    "no texts": ({"texts": [1, 2]}, "'texts' .*1 is of type int"),
    "no utf-8": ({"texts": [b"\xff", b""]}, "'texts' .*can't decode byte 0xff"),
    "no batch": ({"texts": [["a"], ["b"]]}, r"'texts' .*Received: shape \(2, 1\)"),
    "too wide": ({"token_ids": [[2**31]]}, "'token_ids' .*values 2147483648 to"),
    "too low": ({"token_ids": [[-(2**31) - 1]]}, "'token_ids' .*values -2147483649 to"),
    "ragged": ({"token_ids": [[1, 2], [3]]}, r"'token_ids' .*\[\[1, 2\], \[3\]\]"),
    "batch sizes": (
        {"texts": ["a", "b", "c"]},
        "and texts .*batch.* 2 and 3",
    ),
}


@pytest.mark.parametrize(("changed", "message"), BAD_CALLS.values(), ids=[*BAD_CALLS])
def test_a_call_that_does_not_fit_names_the_input(runner, changed, message):
    with pytest.raises(ValueError, match=message):
        runner.run("lookup", **{**GOOD, **changed})


def test_a_missing_input_is_named(runner):
    with pytest.raises(ValueError, match="'texts' is missing"):
        runner.run("lookup", token_ids=[[1]], scale=[1.0] * UNITS)


def test_an_unknown_signature_is_named(runner):
    with pytest.raises(ValueError, match=r"no signature 'look'. .*\['lookup'\]"):
        runner.run("look", **GOOD)


def test_bad_calls_of_one_thread_leave_the_others_running(artifacts, record_property):
    """In `tf.saved_model.load(p).serve(...)` a bad call takes a lock for ever."""
    num_threads, num_calls = 8, 200
    failures, done = [], []

    def run_well(number):
        ids = np.full((2, 3), number, "int32")
        for _ in range(num_calls):
            result = runner.run("lookup", **{**GOOD, "token_ids": ids})["vectors"]
            if not np.array_equal(result, TABLE[ids]):
                failures.append(number)
        done.append(number)

    def run_badly():
        wrong = [bad for bad, _ in BAD_CALLS.values()] + [{"token_ids": [[VOCABULARY]]}]
        for changed in wrong * 3:
            with pytest.raises(ValueError):  # noqa: PT011
                runner.run("lookup", **{**GOOD, "texts": ["a"], **changed})
        done.append("bad")

    with SessionRunner(artifacts / "saved", intra_op_threads=1) as runner:
        first = threading.Thread(target=run_badly)
        first.start()
        first.join(20)
        threads = [threading.Thread(target=run_badly, daemon=True)]
        threads += [
            threading.Thread(target=run_well, args=(number,), daemon=True)
            for number in range(num_threads)
        ]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.1, start + 20 - time.monotonic()))
        seconds = time.monotonic() - start
    record_property(
        "summary", f"1,600 calls of 8 threads, bad ones between: {seconds:.1f} s"
    )
    assert sorted(done, key=str) == [*range(num_threads), "bad", "bad"]
    assert not failures


def test_an_artifact_is_opened_by_what_is_in_it(artifacts, tmp_path):
    unverified = {"allow_unverified": True}
    assert isinstance(
        open_artifact(artifacts / "lookup.onnx", **unverified), OnnxRunner
    )
    write_onnx(str(tmp_path / "encode.onnx"))
    assert list(open_artifact(tmp_path, **unverified).signatures) == ["encode"]
    write_onnx(str(tmp_path / "decode.onnx"))
    assert list(open_artifact(tmp_path, "decode", **unverified).signatures) == [
        "decode"
    ]
    with pytest.raises(ValueError, match=r"\['decode', 'encode'\]"):
        open_artifact(tmp_path)
    with pytest.raises(ValueError, match="no signature 'other'"):
        open_artifact(artifacts / "saved", "other", **unverified)


@pytest.mark.parametrize("opener", [open_artifact, SessionRunner])
def test_a_folder_without_an_artifact_is_refused(tmp_path, opener):
    with pytest.raises(FileNotFoundError, match="Expected a"):
        opener(tmp_path)


def test_a_session_survives_a_second_one_and_closes(artifacts):
    with SessionRunner(artifacts / "saved") as first:
        with SessionRunner(artifacts / "saved") as second:
            second.run("lookup", **GOOD)
        first.run("lookup", **GOOD)
    with pytest.raises(RuntimeError, match="closed"):
        first.run("lookup", **GOOD)


@pytest.mark.tensorflow
def test_a_text_that_was_cut_within_a_character_can_be_read(tmp_path):
    signature = Signature(
        "cut",
        lambda texts: {"cut": tf.strings.substr(texts, 0, 3)},
        {"texts": TensorInfo("string", ("batch",))},
        {"cut": TensorInfo("string", ("batch",))},
    )
    write_saved_model([signature], tmp_path / "1", variables=[])
    with SessionRunner(tmp_path / "1") as runner:
        cut = runner.run("cut", texts=["été"])["cut"][0]
    assert cut.encode("utf-8", "surrogateescape") == "été".encode()[:3]


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_onnx_runs_without_tensorflow_and_keras(artifacts):
    code = """
        import sys
        from keras_attention.export.runtimes.opening import open_artifact
        runner = open_artifact(sys.argv[1], allow_unverified=True)
        result = runner.run("lookup", token_ids=[[1]], scale=[1.0] * 5, texts="a")
        assert result["vectors"].shape == (1, 1, 5)
        print(sorted({"tensorflow", "keras", "onnx"} & sys.modules.keys()))
    """
    done = run_python(code, artifacts / "lookup.onnx")
    # onnx reads the graph when it is scanned.
    assert done.stdout.strip() == "['onnx']", done.stderr


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_missing_operation_says_what_to_install(tmp_path):
    text = pytest.importorskip("tensorflow_text")
    words = text.FastWordpieceTokenizer(
        ["a", "[UNK]"], token_out_type=tf.int32, support_detokenization=False
    )
    holder = tf.Module()
    holder.words = words
    signature = Signature(
        "tokenize",
        lambda texts: {"ids": words.tokenize(texts).to_tensor()},
        {"texts": TensorInfo("string", ("batch",))},
        {"ids": TensorInfo("int32", ("batch", "sequence"))},
    )
    write_saved_model(
        [signature], tmp_path / "1", variables=[], assets_and_resources=[holder]
    )
    code = """
        import sys
        sys.modules["tensorflow_text"] = None  # as if it were not installed
        from keras_attention.export.runtimes.tensorflow_session import SessionRunner
        try:
            SessionRunner(sys.argv[1])
        except ValueError as error:
            print(error)
    """
    done = run_python(code, tmp_path / "1")
    assert "operation FastWordpieceTokenizeWithOffsets" in done.stdout, done.stderr
    assert 'pip install "keras-attention-layers[text]"' in done.stdout


ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_is_documented_with_its_extra(name):
    extra = RUNTIMES[name].extra
    extras = configparser.ConfigParser()
    extras.read(ROOT / "setup.cfg")
    assert extra in extras["options.extras_require"]
    page = (ROOT / "docs" / "exporting.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith(f'| `"{name}"` |'))
    assert row.endswith(f"| `keras-attention-layers[{extra}]` |")
    assert f'`"{name}"`' in open_artifact.__doc__


def test_every_format_has_its_default_runtime():
    defaults = {"": "tensorflow", ".onnx": "onnxruntime", ".tflite": "litert"}
    assert {suffix: runtimes_of(suffix)[0] for suffix in defaults} == defaults


def test_another_runtime_is_refused_with_those_that_fit(artifacts):
    for path, known in (("saved", "tensorflow"), ("lookup.onnx", "onnxruntime or op")):
        with pytest.raises(ValueError, match=rf"opened by {known}.*runtime='litert'"):
            open_artifact(artifacts / path, runtime="litert")
