"""Files that earlier versions wrote load, and answer what they answered then."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from earlier.write import answer

import keras_attention as ka

ROOT = Path(__file__).parents[2]
ARCHIVES = sorted(Path(__file__).parent.glob("files_*.zip"))
MODELS = ["layers", "recurrent", "image", "classifier", "tagger", "answerer"]
MODELS += ["masked_lm", "next_sentence", "sentence_encoder", "causal_lm", "seq2seq"]
MODELS += ["t5"]
ARTIFACTS = ["classifier_saved_model", "causal_lm_onnx", "encoder_onnx"]


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.stem)
def files(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    shutil.unpack_archive(request.param, folder)
    return folder


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", MODELS)
def test_a_keras_file_of_an_earlier_version_answers_as_then(files, name):
    then = np.load(files / "answers.npz")
    model = ka.load_model(files / f"{name}.keras")
    now = answer(name, model, then["x"], then["pixels"])
    np.testing.assert_allclose(now, then[name], rtol=0, atol=2e-6)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name",
    [ARTIFACTS[0], *(pytest.param(n, marks=pytest.mark.slow) for n in ARTIFACTS[1:])],
)
def test_an_artifact_of_an_earlier_version_is_verified(files, name):
    report = ka.verify_artifact(files / name)
    assert report.passed, str(report)


ORDERS = {
    "ours, then Keras": "import keras_attention; import keras",
    "Keras, then ours": "import keras; import keras_attention",
    "a layer, then Keras": "import keras_attention as ka; ka.KVCache; import keras",
    "TensorFlow, then ours": "import tensorflow, keras_attention, keras",
}


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "order",
    [
        pytest.param(code, id=name, marks=[pytest.mark.slow] if number else [])
        for number, (name, code) in enumerate(ORDERS.items())
    ],
)
def test_keras_finds_our_classes_whatever_is_imported_first(files, order):
    code = "\nprint(type(keras.saving.load_model('tagger.keras')).__name__)"
    loaded = subprocess.run(
        [sys.executable, "-c", order + code],
        cwd=files,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.split() == ["TokenClassifier"]
