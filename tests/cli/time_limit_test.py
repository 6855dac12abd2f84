"""Graphs that never end: every command that runs one ends in time, with one line."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.artifact.manifest import write_manifest
from keras_attention.export.cases.grid import CASES_NAME, Case, save_cases
from keras_attention.export.formats.saved_model import write_saved_model
from keras_attention.export.signatures.signature import Signature

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LIMIT = 25  # the seconds to start TensorFlow are part of it
TEXT, NUMBERS = TensorInfo("string", ("batch",)), TensorInfo("float32", ("batch", 32))


def endless(text):
    """A loop whose end depends on its input, so that no scan sees that it has none."""
    zero = tf.abs(tf.cast(tf.strings.length(text), tf.float32))
    (found,) = tf.while_loop(
        lambda y: tf.reduce_all(y >= 0.0), lambda y: (tf.abs(y * 0.5),), (zero,)
    )
    return {"y": tf.tile(found[:, None], (1, 32))}


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("endless") / "1"
    folder.mkdir()
    signature = Signature("f", endless, {"text": TEXT}, {"y": NUMBERS})
    write_saved_model([signature], folder, variables=[])
    case = Case("f", "one", {"text": ["a"]}, {"y": np.ones((1, 32), "float32")})
    save_cases([case], folder / CASES_NAME)
    about = {"format": "saved_model", "signatures": [signature], "weights_bytes": 0}
    write_manifest(folder, **about)
    return folder


@pytest.fixture(scope="module")
def onnx_artifact(tmp_path_factory):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    folder = tmp_path_factory.mktemp("endless") / "onnx"
    folder.mkdir()
    number, true = TensorProto.FLOAT, helper.make_tensor("t", TensorProto.BOOL, [], [1])
    value = helper.make_tensor_value_info
    body = helper.make_graph(  # its end depends on its input, as that of `endless`
        [
            helper.make_node("Abs", ["v"], ["w"]),
            helper.make_node("ReduceMin", ["w"], ["least"], keepdims=0),
            helper.make_node("GreaterOrEqual", ["least", "zero"], ["again"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("v", number, ["batch", 32]),
        ],
        [value("again", TensorProto.BOOL, []), value("w", number, ["batch", 32])],
        [helper.make_tensor("zero", number, [], [0.0])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["true"], value=true),
            helper.make_node("MatMul", ["x", "kernel"], ["z"]),
            helper.make_node("Loop", ["", "true", "z"], ["y"], body=body),
        ],
        "f",
        [value("x", number, ["batch", 32])],
        [value("y", number, ["batch", 32])],
        [helper.make_tensor("kernel", number, [32, 32], np.ones(1024).tolist())],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, folder / "f.onnx")
    signature = Signature("f", lambda x: {"y": x}, {"x": NUMBERS}, {"y": NUMBERS})
    ones = np.ones((1, 32), "float32")
    save_cases([Case("f", "one", {"x": ones}, {"y": ones})], folder / CASES_NAME)
    about = {"format": "onnx", "signatures": [signature], "weights_bytes": 4096}
    write_manifest(folder, **about)
    return folder


def run(*arguments):
    """Run a command: its exit status, and what it printed."""
    command = [sys.executable, "-m", "keras_attention.cli.main"]
    command += [*map(str, arguments), "--time-limit", str(LIMIT)]
    begin = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert time.monotonic() - begin < 120
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def children():
    """The command lines of all verifications that run."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                line = file.read()
        except OSError:
            continue
        if "verification.verify" in line and "endless" in line:
            found.append(line)
    return found


def test_verify_ends(saved_model):
    status, printed = run("verify", saved_model)
    assert status == 1
    assert f"took more than {LIMIT} seconds" in printed
    assert not children()


def test_publish_ends_and_publishes_nothing(saved_model, tmp_path):
    status, printed = run("publish", saved_model, tmp_path / "served")
    assert status == 1
    assert f"took more than {LIMIT} seconds" in printed
    assert not (tmp_path / "served" / "1").exists()
    assert not children()


def test_compare_ends(saved_model, tmp_path):
    (tmp_path / "texts").write_text("one text\nanother\n")
    status, printed = run("compare", saved_model, "--texts", tmp_path / "texts")
    assert status == 124  # as the command `timeout`: the process was ended
    assert f"took more than {LIMIT} seconds" in printed
    assert "Received:" in printed


def test_quantize_ends_and_writes_nothing(onnx_artifact, tmp_path):
    status, printed = run("quantize", onnx_artifact, tmp_path / "small")
    assert status == 1
    assert f"took more than {LIMIT} seconds" in printed
    assert not (tmp_path / "small").exists()
    assert not children()


def test_the_search_for_weights_ends(onnx_artifact, tmp_path):
    from keras_attention.export.quantization.quantize import quantize_artifact

    feeds = [{"x": np.ones((1, 32), "float32")}]
    with pytest.raises(TimeoutError, match="took more than 2 seconds"):
        quantize_artifact(
            onnx_artifact, tmp_path / "small", feeds=feeds, min_cosine=0.9, time_limit=2
        )
    assert not (tmp_path / "small").exists()
