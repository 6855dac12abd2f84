import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from samples import small_bert, small_sentence_encoder

import keras_attention as ka
from keras_attention.export import api
from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.runtimes.onnxruntime import OnnxRunner
from keras_attention.export.runtimes.opening import open_artifact
from keras_attention.export.signatures.signature import Signature

pytest.importorskip("onnxruntime")
pytest.importorskip("tensorflow_text")
# Each export is verified in a process of its own, which loads TensorFlow.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(7)
    return small_sentence_encoder()


@pytest.fixture(scope="module")
def saved_model(model, tmp_path_factory):
    return ka.export_model(model, tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="module")
def onnx_folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "model"
    return ka.export_model(model, folder, format="onnx")


def assert_verified(folder, at_least=3):
    """Every case passed when the export verified itself."""
    results = json.loads((folder / "manifest.json").read_text())["verification"]
    assert len(results) >= at_least
    assert all(result["passed"] for result in results)


def everything_below(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


def test_a_saved_model_is_a_version_folder_that_takes_raw_strings(model, saved_model):
    assert saved_model.name == "1"
    texts = ["The animal!", "", "tired"]
    with open_artifact(saved_model) as runner:
        served = runner.run("serving_default", text=texts)["sentence_embedding"]
    np.testing.assert_allclose(served, model.encode(texts), atol=1e-6)


def test_a_saved_model_has_every_signature_from_text_and_from_ids(saved_model):
    with open_artifact(saved_model) as runner:
        assert set(runner.signatures) == {
            "serving_default",
            "embed_ids",
            "encode_text",
            "encode_ids",
            "attention_text",
            "attention_ids",
        }
        maps = runner.run("attention_text", text=["the tired animal"])
        tokens = runner.run("encode_text", text=["the tired animal"])
    length = tokens["token_ids"].shape[1]
    assert maps["block_1_attention"].shape == (1, 3, length, length)
    assert tokens["sequence_output"].shape == (1, length, 33)


def test_the_manifest_holds_the_error_of_every_case(saved_model, onnx_folder):
    for folder, count in ((saved_model, 3 * 4 + 3 * 20), (onnx_folder, 20)):
        results = json.loads((folder / "manifest.json").read_text())["verification"]
        assert len(results) == count
        assert all(result["passed"] for result in results)
        assert max(result["max_abs_error"] for result in results) < 1e-5
        names = " ".join(result["case"] for result in results)
        for what in ("batch 3, length 1,", "left padding", "all padding"):
            assert what in names


def test_onnx_has_one_attention_node_per_layer_and_names_its_axes(onnx_folder):
    import onnx

    proto = onnx.load(onnx_folder / "embed_ids.onnx")
    operators = [node.op_type for node in proto.graph.node]
    assert operators.count("Attention") == 2
    assert operators.count("Gelu") == 2
    assert operators.count("LayerNormalization") == 5
    axes = {
        value.name: [
            d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim
        ]
        for value in [*proto.graph.input, *proto.graph.output]
    }
    assert axes == {
        "token_ids": ["batch", "sequence"],
        "padding_mask": ["batch", "sequence"],
        "sentence_embedding": ["batch", 33],
    }


def test_verifying_again_passes_and_names_a_file_that_changed(onnx_folder, tmp_path):
    import shutil

    copy = shutil.copytree(onnx_folder, tmp_path / "copy")
    assert ka.verify_artifact(copy).passed
    file = copy / "embed_ids.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"embed_ids\.onnx"):
        ka.verify_artifact(copy)


def test_an_export_that_differs_is_removed_and_the_error_names_the_case(
    model, tmp_path, monkeypatch
):
    # The model changes after it was written: the artifact is then wrong.
    kernel = model.encoder.blocks[0].feed_forward.intermediate.kernel
    before = np.asarray(kernel)
    write = api.write_files

    def write_and_disturb(*arguments):
        libraries = write(*arguments)
        kernel.assign(before * 1.01)
        return libraries

    monkeypatch.setattr(api, "write_files", write_and_disturb)
    try:
        with pytest.raises(api.VerificationError, match="sentence_embedding is off"):
            ka.export_model(model, tmp_path / "out", format="onnx")
    finally:
        kernel.assign(before)
    assert everything_below(tmp_path) == {}


def test_an_existing_artifact_is_never_touched(model, onnx_folder, saved_model):
    before = everything_below(onnx_folder)
    with pytest.raises(FileExistsError):
        ka.export_model(model, onnx_folder, format="onnx")
    assert everything_below(onnx_folder) == before
    with pytest.raises(FileExistsError):
        ka.export_model(model, saved_model.parent, version=1)


@pytest.mark.slow
def test_the_next_version_is_put_next_to_the_one_before(model, tmp_path):
    (tmp_path / "7").mkdir()
    folder = ka.export_model(model, tmp_path, signatures=["embed_ids"])
    assert folder == tmp_path / "8"
    assert ka.verify_artifact(tmp_path).path == folder


@pytest.mark.slow
def test_progress_is_reported_in_words(model, tmp_path):
    told = []
    ka.export_model(
        model,
        tmp_path / "out",
        signatures=["embed_ids"],
        on_progress=told.append,
    )
    assert "embed_ids" in told[0]
    assert sum("warm" in stage for stage in told) == 1
    assert len(told) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"format": "tflite"}, "saved_model, onnx"),
        ({"format": "onnx", "version": 2}, "version"),
        ({"format": "onnx", "signatures": ["serving_default"]}, "takes text"),
        ({"signatures": ["nonsense"]}, "embed_ids"),
        ({"version": -1}, "0 or more"),
    ],
)
def test_a_wrong_argument_is_refused(model, tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        ka.export_model(model, tmp_path / "out", **arguments)
    assert everything_below(tmp_path) == {}


def test_a_model_whose_inputs_are_unknown_is_refused(tmp_path):
    layer = keras.Sequential([keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"has no inputs yet.*Received: model="):
        ka.export_model(layer, tmp_path / "out")


@pytest.mark.parametrize("folder", ["saved_model", "onnx_folder"])
def test_wrong_ids_and_lengths_get_one_clear_error_in_every_format(folder, request):
    ids, keep = np.zeros((1, 5), "int32"), np.ones((1, 5), bool)
    long = {
        "token_ids": np.zeros((1, 62), "int32"),
        "padding_mask": np.ones((1, 62), bool),
    }
    with open_artifact(request.getfixturevalue(folder)) as runner:
        for wrong in (66, -1):
            message = rf"token_ids must be in \[0, 66\).*ids from {wrong} to {wrong}$"
            with pytest.raises(ValueError, match=message):
                runner.run("embed_ids", token_ids=ids + wrong, padding_mask=keep)
        with pytest.raises(ValueError, match=r"over the 61 positions.*Received: 62$"):
            runner.run("embed_ids", **long)
        runner.run("embed_ids", token_ids=ids + 65, padding_mask=keep)


def test_onnx_runtime_refuses_wrong_ids_and_lengths_without_a_manifest(onnx_folder):
    ids, keep = np.zeros((1, 5), "int32"), np.ones((1, 5), bool)
    with OnnxRunner(onnx_folder / "embed_ids.onnx") as runner:
        for wrong in (66, -1):
            with pytest.raises(Exception, match=r"token_embedding.*out of data bounds"):
                runner.run("embed_ids", token_ids=ids + wrong, padding_mask=keep)
        with pytest.raises(Exception, match=r"position_embedding.*out of data bounds"):
            runner.run(
                "embed_ids",
                token_ids=np.zeros((1, 62), "int32"),
                padding_mask=np.ones((1, 62), bool),
            )


def every_kind():
    """One functional model with every kind of attention and its weights."""
    query = keras.Input((None, 12), name="query")
    value = keras.Input((None, 12), name="value")
    keep = keras.Input((None,), dtype="bool", name="padding_mask")
    layers = {
        "additive": ka.AdditiveAttention(7),
        "scaled_dot": ka.DotProductAttention(dropout=0.3),
        "cosine": ka.DotProductAttention("cosine"),
        "global_general": ka.GlobalAttention(attentional_vector=False),
        "global_concat": ka.GlobalAttention("concat", attentional_vector=False),
        "global_location": ka.GlobalAttention(
            "location", attentional_vector=False, max_length=140
        ),
        "local_m": ka.LocalAttention(window=3, attentional_vector=False),
        "local_p": ka.LocalAttention("predictive", window=3, attentional_vector=False),
        "multi_head": ka.MultiHeadAttention(
            4, 5, num_key_value_heads=2, use_bias=False, dropout=0.3
        ),
    }
    outputs = {}
    for name, layer in layers.items():
        output, weights = layer(
            query, value, value_mask=keep, return_attention_scores=True
        )
        outputs[name] = output
        outputs[f"{name}_weights"] = weights
        outputs[f"{name}_alone"] = layer(query, value, value_mask=keep)
    return keras.Model([query, value, keep], outputs)


@pytest.fixture(scope="module")
def kinds_model():
    keras.utils.set_random_seed(11)
    return every_kind()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["saved_model", "onnx"])
def test_masked_rows_are_exactly_0_for_every_kind(kinds_model, tmp_path, format):
    folder = ka.export_model(kinds_model, tmp_path / format, format=format)
    random = np.random.default_rng(3)
    inputs = {
        "query": random.standard_normal((3, 5, 12)).astype("float32"),
        "value": random.standard_normal((3, 5, 12)).astype("float32"),
        "padding_mask": np.array([[1, 1, 1, 0, 0], [0] * 5, [0, 1, 1, 1, 1]], bool),
    }
    expected = kinds_model(list(inputs.values()), training=False)
    # Values at padding positions have no effect, not even NaN.
    inputs["value"][0, 3:] = np.nan
    inputs["value"][1] = np.inf
    with open_artifact(folder) as runner:
        name = next(iter(runner.signatures))
        got = runner.run(name, **inputs)
    for name, array in got.items():
        np.testing.assert_allclose(array, expected[name], atol=2e-6, err_msg=name)
        assert not array[1].any(), name
        if name.endswith("_weights"):
            assert not array[0, ..., 3:].any(), name
            assert not array[2, ..., 0].any(), name


@pytest.mark.slow
def test_each_product_of_queries_and_keys_is_one_attention_node(kinds_model, tmp_path):
    import onnx

    folder = ka.export_model(kinds_model, tmp_path / "out", format="onnx")
    proto = onnx.load(folder / "serving_default.onnx")
    operators = [node.op_type for node in proto.graph.node]
    # scaled_dot, cosine, general, local-m and multi-head; each is called twice.
    assert operators.count("Attention") == 2 * 5


@pytest.mark.usefixtures("verified_here")
@pytest.mark.parametrize(
    ("kind", "format"),
    [
        ("bert", "saved_model"),
        ("gpt", "onnx"),
        *(
            pytest.param(*both, marks=pytest.mark.slow)
            for both in (
                ("bert", "onnx"),
                ("gpt", "saved_model"),
                ("llama", "saved_model"),
                ("llama", "onnx"),
            )
        ),
    ],
)
def test_bare_models_export_too(tmp_path, kind, format):
    model = small_bert()
    if kind != "bert":
        llama = {"position": "rotary", "normalization": "rms", "gated": True}
        model = ka.GPTDecoder(
            vocabulary_size=41,
            num_layers=2,
            num_heads=4,
            num_key_value_heads=2,
            hidden_dim=24,
            intermediate_dim=37,
            max_sequence_length=53,
            **(llama if kind == "llama" else {}),
        )
    folder = ka.export_model(model, tmp_path / "out", format=format)
    assert_verified(folder)


def small_pair(kind):
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 12, "intermediate_dim": 19}
    if kind == "vit":
        return ka.VisionTransformer(10, 5, **sizes)
    if kind == "t5":
        return ka.T5EncoderDecoder(17, head_dim=5, gated=True, **sizes)
    learned = {"positions": "learned", "max_sequence_length": 23}
    settings = {"original": {}, "bart": {**learned, "normalize_embedding": True}}
    return ka.Seq2SeqTransformer(17, **sizes, **settings[kind])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("format", ["saved_model", "onnx"])
@pytest.mark.parametrize("kind", ["vit", "bart", "t5", "original"])
def test_image_encoders_and_encoder_decoders_export_too(tmp_path, kind, format):
    folder = ka.export_model(small_pair(kind), tmp_path / "out", format=format)
    # Images have one size: only the batches differ.
    assert_verified(folder, at_least=2 if kind == "vit" else 3)


def test_onnx_returns_the_attention_maps(model, tmp_path):
    folder = ka.export_model(
        model, tmp_path / "out", format="onnx", signatures=["attention_ids"]
    )
    ids = model.tokenizer(["the tired animal"])
    ids = {k: np.asarray(ids[k]) for k in ("token_ids", "padding_mask")}
    maps = ka.attention_maps(model.encoder, ids)
    with open_artifact(folder) as runner:
        got = runner.run("attention_ids", **ids)
    np.testing.assert_allclose(
        got["block_0_attention"], maps["block_0/attention"], atol=1e-6
    )


@pytest.mark.usefixtures("verified_here")
def test_your_own_signature_is_exported_as_it_is(model, tmp_path):
    def lengths(token_ids):
        return {"length": keras.ops.sum(keras.ops.cast(token_ids > 0, "int32"), axis=1)}

    signature = Signature(
        "lengths",
        lengths,
        {"token_ids": TensorInfo("int32", ("batch", "sequence"))},
        {"length": TensorInfo("int32", ("batch",))},
    )
    folder = ka.export_model(model, tmp_path / "out", signatures=[signature])
    with open_artifact(folder) as runner:
        got = runner.run("lengths", token_ids=np.array([[5, 6, 0]]))
    np.testing.assert_array_equal(got["length"], [2])


@pytest.mark.slow
@pytest.mark.parametrize("format", ["saved_model", "onnx"])
def test_a_sliding_window_by_blocks_is_exported_at_any_length(tmp_path, format):
    layer = ka.MultiHeadAttention(2, 3, sliding_window=(4, 2))
    inputs = keras.Input((None, 6), name="sequence")
    keep = keras.Input((None,), dtype="bool", name="padding_mask")
    outputs = layer(inputs, inputs, query_mask=keep, value_mask=keep)
    model = keras.Model([inputs, keep], {"output": outputs})
    folder = ka.export_model(model, tmp_path / "out", format=format)
    x = np.random.default_rng(1).standard_normal((2, 203, 6)).astype("float32")
    real = np.arange(203) < np.array([[203], [77]])
    dense, _ = layer(
        x, x, query_mask=real, value_mask=real, return_attention_scores=True
    )
    with open_artifact(folder) as runner:
        got = runner.run("serving_default", sequence=x, padding_mask=real)
    np.testing.assert_allclose(got["output"], dense, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["saved_model", "onnx"])
def test_ids_whose_padding_is_0_are_verified_with_rows_of_padding(tmp_path, format):
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(23, 12, mask_zero=True)(ids)
    x = ka.MultiHeadAttention(2, 6)(x, x)
    # The mean of no token is 0 / 0: the artifact must return NaN where the model does.
    x = keras.layers.GlobalAveragePooling1D(name="mean")(x)
    folder = ka.export_model(keras.Model(ids, x), tmp_path / "out", format=format)
    report = ka.verify_artifact(folder)
    assert report.passed
    assert any("all padding" in result.case for result in report.results)
    with ka.open_artifact(folder) as runner:
        name = next(iter(runner.signatures))
        got = runner.run(name, token_ids=np.array([[3, 4], [0, 0]]))["mean"]
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1]).all()


def test_nan_where_the_model_has_none_is_a_failure():
    from keras_attention.export.verification.verify import compare

    good = np.array([1.0, np.nan, 2.0], "float32")
    assert not compare("x", good, good.copy(), False, 1e-5)[2]
    for wrong in ([np.nan, np.nan, 2.0], [1.0, 0.0, 2.0], [1.0, np.nan, 2.1]):
        assert compare("x", good, np.array(wrong, "float32"), False, 1e-5)[2]


def test_a_saved_model_has_warm_up_requests_by_default(saved_model):
    pytest.importorskip("tensorflow_serving")
    files = json.loads((saved_model / "manifest.json").read_text())["files"]
    assert files["assets.extra/tf_serving_warmup_requests"]["bytes"] > 1000


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_good_export_writes_no_warning_of_tensorflow(tmp_path):
    """With the log level that users have: nobody sets TF_CPP_MIN_LOG_LEVEL."""
    code = """
import sys
import keras
import keras_attention as ka
tokens = keras.Input((None,), dtype="int32", name="ids")
x = keras.layers.Embedding(50, 8, mask_zero=True)(tokens)
x = ka.EncoderBlock(ka.MultiHeadAttention(2, 4), ka.FeedForward(16))(x)
model = keras.Model(tokens, keras.layers.Dense(2, name="o")(x))
print("imported", file=sys.stderr, flush=True)
ka.export_model(model, "saved", warmup=False)
ka.export_model(model, "onnx", "onnx")
"""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stderr.split("imported\n")[1].splitlines()
    assert [line for line in lines if not line.startswith("I0000 ")] == []
