"""ONNX files compute in OpenVINO what they compute in ONNX Runtime."""

import keras
import numpy as np
import pytest
from small_models import MODELS, with_random_weights

import keras_attention as ka
from keras_attention.export.runtimes.opening import open_artifact
from keras_attention.export.verification.verify import verify_folders

pytest.importorskip("openvino", reason='pip install "keras-attention-layers[openvino]"')


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """One export per model and opset, all verified in one process."""
    base, folders = tmp_path_factory.mktemp("onnx"), {}
    for name, make in MODELS.items():
        model = with_random_weights(make())
        for opset in (18, 23):
            folder = base / f"{name}-{opset}"
            ka.export_model(model, folder, format="onnx", opset=opset)
            folders[name, opset] = folder
    found = verify_folders(list(folders.values()), runtime="openvino")
    return dict(zip(folders, found, strict=True))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("name", MODELS)
def test_the_grid_of_verification_passes(name, opset, reports, record_property):
    report = reports[name, opset]
    assert report.passed, str(report)
    assert {result.runtime for result in report.results} == {"OpenVINO"}
    worst = max(result.max_abs_error for result in report.results)
    record_property("summary", f"OpenVINO, {name}, opset {opset}: worst {worst:.1e}")


def test_attention_without_masks_is_right_after_a_sequence_of_one_token(tmp_path):
    query = keras.Input((None, 16), name="query")
    layer = keras.layers.MultiHeadAttention(2, 8, name="attention")
    model = with_random_weights(keras.Model(query, layer(query, query)))
    folder = ka.export_model(model, tmp_path / "onnx", format="onnx")
    random = np.random.default_rng(1)
    with open_artifact(folder, runtime="openvino") as runner:
        for length in (1, 15, 16, 1, 17, 40):
            x = random.standard_normal((2, length, 16)).astype("float32")
            output = runner.run("serving_default", query=x)["attention"]
            np.testing.assert_allclose(output, model(x), atol=1e-5)


def test_a_runtime_that_does_not_open_it_is_refused(tmp_path):
    folder = ka.export_model(MODELS["bert"](), tmp_path / "onnx", format="onnx")
    with pytest.raises(ValueError, match="onnxruntime or openvino"):
        open_artifact(folder, runtime="tensorflow")
    with open_artifact(folder, runtime="openvino") as runner:
        (name,) = runner.signatures
        assert set(runner.signatures[name].inputs) >= {"token_ids", "padding_mask"}
        with pytest.raises(ValueError, match="is missing"):
            runner.run(name, token_ids=[[1, 2]])
