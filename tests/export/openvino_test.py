"""The same ONNX files say the same in OpenVINO."""

import numpy as np
import pytest

import keras_attention as ka
from keras_attention.export.runners import open_artifact

pytest.importorskip("openvino", reason='pip install "keras-attention[openvino]"')

SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 24}
LLAMA = {
    "position": "rotary",
    "normalization": "rms",
    "activation": "silu",
    "gated": True,
    "use_bias": False,
    "num_key_value_heads": 1,
}
MODELS = {
    "bert": lambda: ka.BertEncoder(61, **SIZES),
    "gpt2": lambda: ka.GPTDecoder(61, **SIZES),
    "llama": lambda: ka.GPTDecoder(61, **SIZES, **LLAMA),
    "vit": lambda: ka.VisionTransformer((8, 8), 4, **SIZES),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("name", MODELS)
def test_the_grid_of_verification_passes(name, opset, tmp_path, record_property):
    model = MODELS[name]()
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(rng.normal(scale=0.4, size=weight.shape))
    folder = ka.export_model(model, tmp_path / "onnx", format="onnx", opset=opset)
    report = ka.verify_artifact(folder, runtime="openvino")
    assert report.passed, str(report)
    assert {result.runtime for result in report.results} == {"OpenVINO"}
    worst = max(result.max_abs_error for result in report.results)
    record_property("summary", f"OpenVINO, {name}, opset {opset}: worst {worst:.1e}")


def test_a_runtime_that_does_not_open_it_is_refused(tmp_path):
    folder = ka.export_model(MODELS["bert"](), tmp_path / "onnx", format="onnx")
    with pytest.raises(ValueError, match="onnxruntime or openvino"):
        open_artifact(folder, runtime="tensorflow")
    with open_artifact(folder, runtime="openvino") as runner:
        (name,) = runner.signatures
        assert set(runner.signatures[name].inputs) >= {"token_ids", "padding_mask"}
        with pytest.raises(ValueError, match="is missing"):
            runner.run(name, token_ids=[[1, 2]])
