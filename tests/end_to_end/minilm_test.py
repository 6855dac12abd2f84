"""A real model from checkpoint to SavedModel, session, C program and ONNX."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from samples import minilm_folder

import keras_attention as ka
from keras_attention.export.runtimes.opening import open_artifact

pytest.importorskip("onnxruntime")
pytest.importorskip("tensorflow_text")
# The first test of a process waits for an export of 90 MB of weights.
pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

TEXTS = [
    "The weather is lovely today.",
    "",
    "ÀÉ ñandú — İstanbul ΣΊΣΥΦΟΣ 日本語 👩‍👩‍👧‍👦 [SEP]",
    "So tired. " * 300,
]


@pytest.fixture(scope="module")
def model():
    return ka.from_pretrained(minilm_folder())


@pytest.fixture(scope="module")
def saved_model(model, tmp_path_factory):
    return ka.export_model(model, tmp_path_factory.mktemp("minilm") / "minilm")


@pytest.fixture(scope="module")
def onnx_folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm") / "onnx"
    return ka.export_model(model, folder, format="onnx")


@pytest.mark.slow
def test_session_and_onnx_give_keras_vectors_for_raw_strings(
    model, saved_model, onnx_folder
):
    expected = model.encode(TEXTS)
    with open_artifact(saved_model) as runner:
        served = runner.run("serving_default", text=TEXTS)["sentence_embedding"]
    ids = model.tokenizer(TEXTS)
    ids = {k: np.asarray(ids[k]) for k in ("token_ids", "padding_mask")}
    with open_artifact(onnx_folder) as runner:
        onnx = runner.run("embed_ids", **ids)["sentence_embedding"]
    np.testing.assert_allclose(served, expected, atol=1e-6)
    np.testing.assert_allclose(onnx, expected, atol=1e-6)


def test_weights_are_stored_once(model, saved_model):
    stored = sum(p.stat().st_size for p in (saved_model / "variables").iterdir())
    weights = sum(np.asarray(weight).nbytes for weight in model.weights)
    assert stored <= 1.05 * weights


def test_onnx_has_one_attention_per_layer_and_common_operators(onnx_folder):
    import onnx

    proto = onnx.load(onnx_folder / "embed_ids.onnx")
    operators = Counter(node.op_type for node in proto.graph.node)
    assert operators["Attention"] == 6
    assert operators["Gelu"] == 6
    assert operators["LayerNormalization"] == 13
    assert operators["MatMul"] == 36
    assert "Softmax" not in operators


def test_the_worst_error_of_every_case_is_in_the_manifest(saved_model, onnx_folder):
    for folder in (saved_model, onnx_folder):
        results = json.loads((folder / "manifest.json").read_text())["verification"]
        assert max(result["max_abs_error"] for result in results) <= 1e-5
        assert any("all padding" in result["case"] for result in results)


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("make")), reason="gcc or make is missing"
)
def test_a_c_program_gives_keras_vectors_for_raw_strings(model, saved_model, tmp_path):
    import tensorflow_text

    native = Path(__file__).parents[2] / "export" / "native"
    make = ["make", "-C", native, f"BUILD={tmp_path}", f"PYTHON={sys.executable}"]
    subprocess.run(make, check=True, capture_output=True)
    libraries = json.loads((saved_model / "manifest.json").read_text())["op_libraries"]
    folder = Path(tensorflow_text.__file__).parent / "python" / "ops"
    options = [part for name in libraries for part in ("--library", folder / name)]
    asked = [saved_model, "serving_default", "sentence_embedding", *TEXTS]
    done = subprocess.run(
        [tmp_path / "client", *options, *asked],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = np.array([json.loads(line) for line in done.stdout.splitlines()])
    np.testing.assert_allclose(rows, model.encode(TEXTS), atol=1e-6)
