"""Every client in export/ gets the numbers of the model, and clear errors."""

import json
import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from language_models import language_model
from samples import VOCABULARY, small_bert, small_sentence_encoder
from served import ask, small_artifact

EXPORT = Path(__file__).parents[2] / "export"
IDS, WEIGHTS = [[1, 2, 3], [4, 5, 10]], [[0.5, 0.25, 1.0], [2.0, 0.0, -1.0]]
INPUTS = json.dumps({"token_ids": IDS, "weights": WEIGHTS})
TOO_HIGH = json.dumps({"token_ids": [[11]], "weights": [[1.0]]})


def read_text_proto(file, message):
    from google.protobuf import text_format

    return text_format.Parse((EXPORT / "tf_serving" / file).read_text(), message)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script as a command: (exit status, output, errors)."""

    def call(script, *arguments):
        path = EXPORT / script
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        monkeypatch.syspath_prepend(str(path.parent))
        status = 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stop:
            status = stop.code
        out, errors = capsys.readouterr()
        return status, out, errors

    return call


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    for name in ("starlette", "uvicorn", "prometheus_client", "tensorflow_serving"):
        pytest.importorskip(name)
    from keras_attention.serving.server import DevelopmentServer

    base = tmp_path_factory.mktemp("served") / "small"
    model = small_artifact(base / "1")
    expected = model(token_ids=tf.constant(IDS), weights=tf.constant(WEIGHTS))
    with DevelopmentServer(base) as server:
        yield server, expected


def address(server, script):
    if script == "rest_client.py":
        return f"http://127.0.0.1:{server.port}"
    return f"127.0.0.1:{server.grpc_port}"


@pytest.mark.parametrize("script", ["rest_client.py", "grpc_client.py"])
def test_the_clients_of_tf_serving_get_the_numbers_of_the_model(served, run, script):
    server, expected = served
    where = address(server, script)
    script = f"tf_serving/{script}"
    status, out, errors = run(script, where, "small", INPUTS, "--version", "1")
    assert status == 0, errors
    answer = json.loads(out)
    got = answer.get("outputs", answer)
    got = got["vectors"] if isinstance(got, dict) else got
    np.testing.assert_array_equal(np.float32(got), expected)
    texts = '{"text": ["été", ""]}'
    status, out, _ = run(script, where, "small", texts, "--signature", "spell")
    answer = json.loads(out)
    assert answer.get("outputs", answer) == {"again": ["été!", "!"], "lengths": [3, 0]}
    status, _, errors = run(script, where, "small", TOO_HIGH)
    assert status == 1
    assert "token_ids must be in [0, 11)" in errors


def test_the_configuration_of_models_is_read_by_the_official_message():
    pytest.importorskip("tensorflow_serving")
    from tensorflow_serving.config import model_server_config_pb2

    message = model_server_config_pb2.ModelServerConfig()
    read = read_text_proto("models.config", message)
    (config,) = read.model_config_list.config
    assert config.base_path == f"/models/{config.name}"
    assert config.model_version_policy.latest.num_versions == 2


def batching_parameters():
    """TF Serving's message, which is not in its Python package."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.wrappers_pb2 import DESCRIPTOR as WRAPPERS

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(WRAPPERS.serialized_pb)
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto", syntax="proto3", dependency=[WRAPPERS.name]
    )
    message = file.message_type.add(name="BatchingParameters")
    numbers = {
        "max_batch_size": 1,
        "batch_timeout_micros": 2,
        "max_enqueued_batches": 3,
        "num_batch_threads": 4,
    }
    for name, number in numbers.items():
        message.field.add(
            name=name,
            number=number,
            label=field.LABEL_OPTIONAL,
            type=field.TYPE_MESSAGE,
            type_name=".google.protobuf.Int64Value",
        )
    message.field.add(
        name="pad_variable_length_inputs",
        number=7,
        label=field.LABEL_OPTIONAL,
        type=field.TYPE_BOOL,
    )
    pool.Add(file)
    found = pool.FindMessageTypeByName("BatchingParameters")
    return message_factory.GetMessageClass(found)()


def test_the_batching_configuration_pads_nothing():
    read = read_text_proto("batching.config", batching_parameters())
    assert read.max_batch_size.value == 32
    assert not read.pad_variable_length_inputs


def test_the_compose_file_mounts_files_that_are_there(served):
    yaml = pytest.importorskip("yaml")
    folder = EXPORT / "tf_serving"
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    (tf_serving,) = service.values()
    mounts = dict(mount.split(":")[:2] for mount in tf_serving["volumes"])
    files = {inside: folder / outside for outside, inside in mounts.items()}
    named = [part.split("=")[1] for part in tf_serving["command"] if "file=" in part]
    assert len(named) == 3
    for inside in named:
        assert files[inside].is_file()
    # This server has the path that the monitoring file names.
    path = (folder / "monitoring.config").read_text().split('path: "')[1].split('"')[0]
    assert ask(served[0].port, "GET", path)[0] == 200


@pytest.mark.tensorflow
def test_the_onnx_client_needs_no_tensorflow_and_keeps_the_limits(tmp_path, run):
    pytest.importorskip("tf2onnx")
    model = small_artifact(tmp_path / "onnx", format="onnx")
    expected = model(token_ids=tf.constant(IDS), weights=tf.constant(WEIGHTS))
    script = "clients/onnx_client.py"
    status, out, errors = run(script, tmp_path / "onnx", INPUTS)
    assert status == 0, errors
    np.testing.assert_allclose(json.loads(out)["vectors"], expected, atol=1e-6)
    assert run(script, tmp_path / "onnx", TOO_HIGH)[0].startswith("Expected token_ids")
    long = json.dumps({"token_ids": [[1] * 8], "weights": [[1.0] * 8]})
    assert "up to 7" in run(script, tmp_path / "onnx", long)[0]
    assert "Expected inputs" in run(script, tmp_path / "onnx", "{}")[0]
    source = (EXPORT / script).read_text()
    assert "tensorflow" not in source
    assert "keras" not in source


@pytest.mark.slow
def test_sentences_need_only_numpy_onnxruntime_and_tokenizers(tmp_path, run):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("tokenizers")
    from keras_attention.export.artifact.manifest import write_manifest
    from keras_attention.export.formats.onnx.writer import write_onnx
    from keras_attention.export.signatures.catalogue import signatures_of

    keras.utils.set_random_seed(7)
    model = small_sentence_encoder()
    (embed,) = (one for one in signatures_of(model) if one.name == "embed_ids")
    (tmp_path / "onnx").mkdir()
    write_onnx(embed, tmp_path / "onnx" / "embed_ids.onnx", opset=23)
    write_manifest(
        tmp_path / "onnx", format="onnx", signatures=[embed], weights_bytes=1
    )
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    texts = ["The tired animal!", "tired", "animal the animal the"]
    arguments = (tmp_path / "onnx", tmp_path / "vocab.txt", *texts)
    status, out, errors = run("clients/sentence_embedding.py", *arguments)
    assert status == 0, errors
    got = [json.loads(line) for line in out.splitlines()]
    np.testing.assert_allclose(got, model.encode(texts), atol=1e-5)
    out = run("clients/sentence_embedding.py", *arguments, "--similar")[1]
    assert out.startswith("1.0000  The tired animal!")


def test_text_is_generated_with_only_numpy_onnxruntime_and_tokenizers(tmp_path, run):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("tokenizers")
    import keras_attention as ka
    from keras_attention.export.artifact.manifest import write_manifest
    from keras_attention.export.formats.genai_config import write_genai
    from keras_attention.export.formats.onnx.writer import write_onnx
    from keras_attention.export.signatures.cached_decoding import decoder_signature

    model = language_model("gpt2")
    step = decoder_signature(model.decoder)
    write_onnx(step, tmp_path / "decoder.onnx")
    write_genai(model, tmp_path)
    write_manifest(tmp_path, format="onnx", signatures=[step], weights_bytes=1)
    script = "clients/text_generation.py"
    texts = ["the cat", "Über \U0001f600", "t"]
    status, out, errors = run(script, tmp_path, *texts, "--max-new-tokens", 8)
    assert status == 0, errors
    answers = [json.loads(line) for line in out.splitlines()]
    assert answers == model.generate(texts, max_new_tokens=8)
    choices = {"temperature": 0.75, "top_p": 0.875, "min_p": 0.01, "seed": 7}
    choices |= {"top_k": 50, "repetition_penalty": 1.25, "max_new_tokens": 8}
    flags = [f"--{name.replace('_', '-')}={x}" for name, x in choices.items()]
    settings = ka.GenerationSettings(do_sample=True, **choices)
    out = run(script, tmp_path, "the", *flags)[1]
    assert out == model.generate(["the"], settings)[0] + "\n"
    stop = answers[0][2]
    out = run(script, tmp_path, texts[0], f"--stop={stop}", "--max-new-tokens=8")[1]
    settings = ka.GenerationSettings(stop_strings=(stop,), max_new_tokens=8)
    assert out == model.generate(texts[:1], settings)[0] + "\n"
    assert len(out) < len(answers[0])
    assert "53 positions" in run(script, tmp_path, "the", "--max-new-tokens=53")[0]
    assert "1 token" in run(script, tmp_path, "")[0]
    source = (EXPORT / script).read_text()
    assert "tensorflow" not in source
    assert "keras" not in source


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_recipe_of_a_checkpoint_compares_both_artifacts(tmp_path, run):
    import keras_attention as ka

    pytest.importorskip("tf2onnx")
    ka.save_pretrained(small_bert(), tmp_path / "bert")
    arguments = (tmp_path / "bert", tmp_path / "out")
    status, out, errors = run("recipes/checkpoint.py", *arguments)
    assert status == 0, errors
    lines = [line for line in out.splitlines() if "differs by" in line]
    assert len(lines) == 2  # the sequence and the pooled output
    assert all(float(line.split()[-1]) < 1e-5 for line in lines)
    assert (tmp_path / "out" / "served" / "1" / "manifest.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_recipe_of_a_keras_model_learns_and_exports(tmp_path, run):
    onnx = pytest.importorskip("onnx")
    status, out, errors = run("recipes/keras_model.py", tmp_path / "onnx")
    assert status == 0, errors
    assert float(out.split()[-2].rstrip("%")) >= 95
    graph = onnx.load(tmp_path / "onnx" / "serving_default.onnx").graph
    assert [node.op_type for node in graph.node].count("Attention") == 1
