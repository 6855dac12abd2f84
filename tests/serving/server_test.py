"""The development server has TF Serving's protocols, also for the official stubs."""

import base64
import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from served import LENGTH, VOCABULARY, ask, small_artifact

from keras_attention.serving.checks import Limits
from keras_attention.serving.server import DevelopmentServer

for _name in ("starlette", "uvicorn", "prometheus_client", "tensorflow_serving"):
    pytest.importorskip(_name)

PREDICT = "/v1/models/small:predict"
IDS, WEIGHTS = [[1, 2, 3], [4, 5, 10]], [[0.5, 0.25, 1.0], [2.0, 0.0, -1.0]]
ROWS = [{"token_ids": i, "weights": w} for i, w in zip(IDS, WEIGHTS, strict=True)]
COLUMNS = {"token_ids": IDS, "weights": WEIGHTS}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "small"
    return folder, small_artifact(folder / "1")


@pytest.fixture(scope="module")
def server(base):
    limits = Limits(max_body_bytes=20_000, max_batch=5, timeout_seconds=20)
    with DevelopmentServer(base[0], limits=limits) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server):
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened


def predicting(server, body, path=PREDICT):
    return ask(server.port, "POST", path, body)


@pytest.mark.tensorflow
def test_rows_and_columns_give_the_numbers_of_the_model(server, base):
    expected = base[1](token_ids=tf.constant(IDS), weights=tf.constant(WEIGHTS))
    status, answer = predicting(server, {"instances": ROWS})
    assert status == 200
    np.testing.assert_array_equal(np.float32(answer["predictions"]), expected)
    status, answer = predicting(
        server, {"inputs": COLUMNS}, PREDICT[:-8] + "/versions/1:predict"
    )
    assert status == 200
    np.testing.assert_array_equal(np.float32(answer["outputs"]), expected)


def test_texts_come_plain_or_as_base64_and_outputs_by_name(server):
    encoded = {"b64": base64.b64encode("été".encode()).decode()}
    body = {"signature_name": "spell", "instances": [encoded, "日本語 \x00"]}
    rows = [{"again": "été!", "lengths": 3}, {"again": "日本語 \x00!", "lengths": 5}]
    assert predicting(server, body) == (200, {"predictions": rows})
    body = {"signature_name": "spell", "inputs": {"text": ["a"]}}
    columns = {"again": ["a!"], "lengths": [1]}
    assert predicting(server, body) == (200, {"outputs": columns})


def test_status_and_metadata_have_the_form_of_tf_serving(server):
    status = {"error_code": "OK", "error_message": ""}
    version = {"version": "1", "state": "AVAILABLE", "status": status}
    for path in ("/v1/models/small", "/v1/models/small/versions/1"):
        answer = ask(server.port, "GET", path)
        assert answer == (200, {"model_version_status": [version]})
    code, told = ask(server.port, "GET", "/v1/models/small/metadata")
    assert code == 200
    assert told["model_spec"] == {"name": "small", "signature_name": "", "version": "1"}
    definition = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert definition["method_name"] == "tensorflow/serving/predict"
    assert definition["inputs"]["token_ids"]["dtype"] == "DT_INT32"
    dims = definition["outputs"]["vectors"]["tensor_shape"]["dim"]
    assert [dim["size"] for dim in dims] == ["-1", "3"]


def replaced(**inputs):
    return {"inputs": {**COLUMNS, **inputs}}


# body, status, words of the error: an input that is wrong is named
BAD_BODIES = {
    "no JSON": ("{", 400, "JSON Parse error"),
    "no UTF-8": (b"\xff\xfe\x00", 400, "JSON Parse error"),
    "endless lists": ("[" * 9000, 400, "JSON Parse error"),
    "no object": ("[]", 400, "must be a JSON object"),
    "neither key": ({}, 400, "'instances' (rows) and 'inputs'"),
    "both keys": ({"instances": ROWS, "inputs": COLUMNS}, 400, "one of the keys"),
    "no rows": ({"instances": []}, 400, "token_ids"),
    "rows without names": ({"instances": IDS}, 400, "token_ids"),
    "a row without an input": (
        {"instances": [ROWS[0], {"token_ids": [1]}]},
        400,
        "weights",
    ),
    "a row of another kind": ({"instances": [ROWS[0], 3]}, 400, "Row 1"),
    "an input too few": (
        {"inputs": {"weights": WEIGHTS}},
        400,
        "'token_ids' is missing",
    ),
    "an input too many": (replaced(ids=IDS), 400, "'ids' is unknown"),
    "no such signature": ({"signature_name": "x", "inputs": 1}, 400, '"x" not found'),
    "a signature that is no name": ({"signature_name": [1], "inputs": 1}, 400, "[1]"),
    "ragged": (replaced(token_ids=[[1, 2, 3], [4]]), 400, "'token_ids'"),
    "a float for an id": (
        replaced(token_ids=[[1, 2, 3], [4, 5, 6.0]]),
        400,
        "'token_ids'",
    ),
    "true for an id": (
        replaced(token_ids=[[1, 2, True], [4, 5, 6]]),
        400,
        "'token_ids'",
    ),
    "text for a number": (replaced(weights=[["a"] * 3] * 2), 400, "'weights'"),
    "null for a number": (replaced(weights=[[None] * 3] * 2), 400, "'weights'"),
    "an id too high": (
        replaced(token_ids=[[1, 2, 3], [4, 5, 11]]),
        400,
        "token_ids must be in [0, 11)",
    ),
    "an id below zero": (
        replaced(token_ids=[[1, 2, 3], [4, 5, -1]]),
        400,
        "ids from -1 to 5",
    ),
    "an id of 40 digits": (
        replaced(token_ids=[[1, 2, 10**40], [4, 5, 6]]),
        400,
        "'token_ids'",
    ),
    "a weight too large": (replaced(weights=[[1e300] * 3] * 2), 400, "'weights'"),
    "a weight of 400 digits": (replaced(weights=[[10**400] * 3] * 2), 400, "'weights'"),
    "another rank": (replaced(token_ids=[1, 2, 3]), 400, "'token_ids'"),
    "another length": (
        replaced(weights=[[1.0], [1.0]]),
        400,
        "token_ids and weights must have the same sequence size",
    ),
    "too long": (
        {"instances": [{"token_ids": [1] * 8, "weights": [1] * 8}]},
        400,
        "over the 7 positions",
    ),
    "too many rows": ({"instances": [ROWS[0]] * 6}, 400, "1 to 5 rows"),
    "nothing": (replaced(token_ids=[[], []], weights=[[], []]), 400, "'token_ids'"),
    "too large": (" " * 20_001, 413, "20000 bytes"),
    "no base64": (
        {"signature_name": "spell", "inputs": {"text": [{"b64": "?"}]}},
        400,
        "'text'",
    ),
    "base64 of no text": (
        {"signature_name": "spell", "inputs": {"text": [{"b64": "//8="}]}},
        400,
        "'text'",
    ),
    "half a character": (
        {"signature_name": "spell", "instances": ["\ud800"]},
        400,
        "'text'",
    ),
    "a number for a text": ({"signature_name": "spell", "inputs": [1]}, 400, "'text'"),
}


@pytest.mark.parametrize(
    ("body", "status", "words"), BAD_BODIES.values(), ids=[*BAD_BODIES]
)
def test_a_bad_body_is_one_clear_error(server, body, status, words):
    got, answer = predicting(server, body)
    assert got == status, answer
    assert words in answer["error"]
    assert predicting(server, {"instances": ROWS})[0] == 200


BAD_PATHS = {
    "another model": ("POST", "/v1/models/big:predict", 404, "Latest(big)"),
    "another version": (
        "POST",
        "/v1/models/small/versions/9:predict",
        404,
        "Specific(small, 9)",
    ),
    "the status of another": ("GET", "/v1/models/big", 404, "big"),
    "a version that is no number": (
        "GET",
        "/v1/models/small/versions/a",
        400,
        "Malformed",
    ),
    "another method": (
        "GET",
        "/v1/models/small:predict",
        400,
        "Malformed request: GET",
    ),
    "classify": ("POST", "/v1/models/small:classify", 501, "only :predict"),
    "another place": ("GET", "/v2/models", 404, "Malformed request: GET /v2/models"),
}


@pytest.mark.parametrize(
    ("method", "path", "status", "words"), BAD_PATHS.values(), ids=[*BAD_PATHS]
)
def test_a_bad_path_is_an_error_in_json(server, method, path, status, words):
    body = "{}" if method == "POST" else None
    got, answer = ask(server.port, method, path, body)
    assert got == status
    assert words in answer["error"]


def grpc_request(signature="", name="small", **arrays):
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for key, array in arrays.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
    return request


@pytest.mark.tensorflow
def test_the_official_stubs_get_the_numbers_of_the_model(channel, base):
    from tensorflow_serving.apis import prediction_service_pb2_grpc as stubs

    predict = stubs.PredictionServiceStub(channel).Predict
    inputs = {"token_ids": np.int32(IDS), "weights": np.float32(WEIGHTS)}
    answer = predict(grpc_request(**inputs), timeout=20)
    got = tf.make_ndarray(answer.outputs["vectors"])
    expected = base[1](**{k: tf.constant(v) for k, v in inputs.items()})
    np.testing.assert_array_equal(got, expected)
    assert answer.model_spec.version.value == 1
    assert answer.model_spec.signature_name == "serving_default"
    request = grpc_request("spell", text=["été"])
    request.output_filter.append("again")
    outputs = predict(request, timeout=20).outputs
    assert {k: tf.make_ndarray(v).tolist() for k, v in outputs.items()} == {
        "again": ["été!".encode()]
    }


@pytest.mark.tensorflow
def test_the_official_stubs_get_status_and_signatures(channel):
    from tensorflow_serving.apis import (
        get_model_metadata_pb2 as metadata,
    )
    from tensorflow_serving.apis import (
        get_model_status_pb2,
        model_service_pb2_grpc,
        prediction_service_pb2_grpc,
    )

    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "small"
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    (one,) = models.GetModelStatus(request, timeout=20).model_version_status
    assert (one.version, one.state, one.status.error_code) == (1, 30, 0)  # AVAILABLE
    asked = metadata.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = "small"
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    told = metadata.SignatureDefMap()
    stub.GetModelMetadata(asked, timeout=20).metadata["signature_def"].Unpack(told)
    assert set(told.signature_def) == {"serving_default", "spell"}
    inputs = told.signature_def["serving_default"].inputs
    assert inputs["token_ids"].dtype == tf.int32.as_datatype_enum


def lying_about_its_size():
    request = grpc_request(token_ids=np.int32(IDS), weights=np.float32(WEIGHTS))
    request.inputs["weights"].tensor_shape.dim[0].size = 10**12
    return request


def with_a_number_out_of_range():
    request = grpc_request(token_ids=np.uint16(IDS), weights=np.float32(WEIGHTS))
    request.inputs["token_ids"].ClearField("tensor_content")
    request.inputs["token_ids"].int_val.append(-1)  # TensorFlow: an OverflowError
    return request


def with_contents_missing():
    request = grpc_request(token_ids=np.int32(IDS), weights=np.float32(WEIGHTS))
    request.inputs["weights"].tensor_content = b"\0" * 5
    return request


IDS_32, WEIGHTS_32 = np.int32(IDS), np.float32(WEIGHTS)
BAD_MESSAGES = {
    "another dtype": (
        lambda: grpc_request(token_ids=np.int64(IDS), weights=WEIGHTS_32),
        "INVALID_ARGUMENT",
        "'token_ids'",
    ),
    "another rank": (
        lambda: grpc_request(token_ids=np.int32([1]), weights=WEIGHTS_32),
        "INVALID_ARGUMENT",
        "'token_ids'",
    ),
    "a missing input": (
        lambda: grpc_request(weights=WEIGHTS_32),
        "INVALID_ARGUMENT",
        "'token_ids' is missing",
    ),
    "an id too high": (
        lambda: grpc_request(token_ids=IDS_32 + VOCABULARY - 10, weights=WEIGHTS_32),
        "INVALID_ARGUMENT",
        "token_ids must be in [0, 11)",
    ),
    "too long": (
        lambda: grpc_request(token_ids=np.int32([[1] * 8]), weights=WEIGHTS_32),
        "INVALID_ARGUMENT",
        f"over the {LENGTH} positions",
    ),
    "a shape that lies": (lying_about_its_size, "INVALID_ARGUMENT", "'weights'"),
    "a number out of range": (
        with_a_number_out_of_range,
        "INVALID_ARGUMENT",
        "'token_ids'",
    ),
    "half a tensor": (with_contents_missing, "INVALID_ARGUMENT", "'weights'"),
    "bytes that are no text": (
        lambda: grpc_request("spell", text=[b"\xff"]),
        "INVALID_ARGUMENT",
        "'text'",
    ),
    "another signature": (
        lambda: grpc_request("x"),
        "INVALID_ARGUMENT",
        '"x" not found',
    ),
    "another model": (lambda: grpc_request(name="big"), "NOT_FOUND", "Latest(big)"),
    "too large": (
        lambda: grpc_request("spell", text=["x" * 20_001]),
        "RESOURCE_EXHAUSTED",
        "larger than max",
    ),
}


@pytest.mark.parametrize(
    ("make", "code", "words"), BAD_MESSAGES.values(), ids=[*BAD_MESSAGES]
)
def test_a_bad_message_has_the_code_of_grpc(channel, make, code, words):
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc as stubs

    with pytest.raises(grpc.RpcError) as caught:
        stubs.PredictionServiceStub(channel).Predict(make(), timeout=20)
    assert caught.value.code().name == code
    assert words in caught.value.details()


def test_health_and_metrics(server):
    assert ask(server.port, "GET", "/healthz") == (200, "ok\n")
    assert ask(server.port, "GET", "/readyz") == (200, "ready\n")
    predicting(server, {"instances": ROWS})
    predicting(server, "{")
    status, page = ask(server.port, "GET", "/metrics")
    assert status == 200
    figures = dict(line.rsplit(" ", 1) for line in page.splitlines() if line[0] != "#")
    for code in ("OK", "INVALID_ARGUMENT"):
        name = f'keras_attention_requests_total{{code="{code}",protocol="rest"}}'
        assert float(figures[name]) >= 1
    assert float(figures["keras_attention_model_version"]) == 1
    assert float(figures["keras_attention_pending_requests"]) == 0


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_versions_are_replaced_and_a_damaged_one_changes_nothing(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    events = []
    tell = lambda word, **facts: events.append((word, facts.get("version")))  # noqa: E731
    options = {"grpc_port": None, "poll_seconds": 0.05, "on_event": tell}
    body = {"instances": ROWS}
    path = "/v1/models/model:predict"
    with DevelopmentServer(folder, **options) as server:
        assert ask(server.port, "GET", "/readyz")[0] == 503
        assert predicting(server, body, path)[0] == 503
        small_artifact(folder / "1", seed=1)
        until(lambda: ask(server.port, "GET", "/readyz")[0] == 200)
        first = predicting(server, body, path)
        assert first[0] == 200
        shutil.copytree(folder / "1", tmp_path / "damaged")
        (tmp_path / "damaged" / "saved_model.pb").write_bytes(b"\x08\x01")
        (tmp_path / "damaged").rename(folder / "2")
        until(lambda: ("failed", 2) in events)
        assert predicting(server, body, path) == first
        told = ask(server.port, "GET", "/v1/models/model")[1]["model_version_status"]
        assert [(one["version"], one["state"]) for one in told] == [
            ("2", "END"),
            ("1", "AVAILABLE"),
        ]
        assert "saved_model.pb is changed" in told[0]["status"]["error_message"]
        small_artifact(folder / "3", seed=2)
        until(lambda: ("unloaded", 1) in events)
        third = predicting(server, body, path)
        assert third[0] == 200
        assert third != first
        (folder / "3").rename(tmp_path / "taken away")
        (folder / "2").rename(tmp_path / "taken away too")
        until(lambda: ("unloaded", 3) in events)
        assert predicting(server, body, path) == first
    assert events[-1] == ("stopped", None)


def test_two_versions_are_served_at_once(tmp_path):
    for number in (1, 2, 3):
        small_artifact(tmp_path / "model" / str(number), seed=number)
    with DevelopmentServer(tmp_path / "model", keep=2, grpc_port=None) as server:
        second, third, latest, first = (
            predicting(server, {"instances": ROWS}, f"/v1/models/model{path}:predict")
            for path in ("/versions/2", "/versions/3", "", "/versions/1")
        )
    assert second[0] == 200
    assert second != third == latest
    assert first[0] == 404


@pytest.mark.parametrize("format", ["onnx", "litert"])
def test_an_artifact_of_another_format_gives_the_same_answer(tmp_path, server, format):
    if format == "onnx":
        pytest.importorskip("tf2onnx")
    folder = tmp_path / format
    small_artifact(folder, format=format)
    with DevelopmentServer(folder, name="small", grpc_port=None) as other:
        got = predicting(other, {"instances": ROWS})[1]["predictions"]
        wrong = predicting(other, replaced(token_ids=[[1, 2, 3], [4, 5, -1]]))
    expected = predicting(server, {"instances": ROWS})[1]["predictions"]
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert wrong == predicting(server, replaced(token_ids=[[1, 2, 3], [4, 5, -1]]))


def test_a_slow_request_times_out_and_a_full_server_refuses(base, monkeypatch):
    from keras_attention.serving.models import LoadedVersion

    go_on, original = threading.Event(), LoadedVersion.predict

    def slow(self, *arguments):
        go_on.wait(30)
        return original(self, *arguments)

    limits = Limits(timeout_seconds=0.3, max_pending=1)
    with DevelopmentServer(base[0], grpc_port=None, limits=limits) as server:
        monkeypatch.setattr(LoadedVersion, "predict", slow)
        status, answer = predicting(server, {"instances": ROWS})
        assert (status, "0.3 seconds" in answer["error"]) == (504, True)
        status, answer = predicting(server, {"instances": ROWS})
        assert (status, "busy" in answer["error"]) == (503, True)
        go_on.set()
        monkeypatch.undo()
        until(lambda: predicting(server, {"instances": ROWS})[0] == 200)


@pytest.mark.tensorflow
def test_running_requests_are_answered_before_the_server_stops(base, monkeypatch):
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc as stubs

    from keras_attention.serving.models import LoadedVersion

    running, go_on = threading.Semaphore(0), threading.Event()
    original = LoadedVersion.predict

    def slow(self, *arguments):
        running.release()
        assert go_on.wait(30)
        return original(self, *arguments)

    monkeypatch.setattr(LoadedVersion, "predict", slow)
    with (
        DevelopmentServer(base[0]) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        concurrent.futures.ThreadPoolExecutor(3) as pool,
    ):
        predict = stubs.PredictionServiceStub(channel).Predict
        rest = pool.submit(predicting, server, {"instances": ROWS})
        message = pool.submit(predict, grpc_request("spell", text=["a"]), timeout=20)
        assert running.acquire(timeout=20)
        assert running.acquire(timeout=20)
        stopping = pool.submit(server.stop)
        until(lambda: not server.engine.ready)
        assert not stopping.done()
        go_on.set()
        assert rest.result(20)[0] == 200
        assert tf.make_ndarray(message.result(20).outputs["lengths"]).tolist() == [1]
        stopping.result(20)
        with pytest.raises(OSError, match="refused"):
            predicting(server, {"instances": ROWS})


def test_the_error_names_what_cannot_be_served(tmp_path, base):
    with pytest.raises(FileNotFoundError, match="nothing to serve"):
        DevelopmentServer(tmp_path / "nowhere")
    shutil.copytree(base[0] / "1", tmp_path / "model" / "1")
    (tmp_path / "model" / "1" / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"No version can be served.*manifest_version"):
        DevelopmentServer(tmp_path / "model", grpc_port=None).start()
    with (
        DevelopmentServer(base[0], grpc_port=None) as server,
        pytest.raises(OSError, match="choose another with --port"),
    ):
        DevelopmentServer(base[0], port=server.port, grpc_port=None)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_the_command_serves_and_stops_gracefully(base, number):
    command = [sys.executable, "-m", "keras_attention.cli.main", "serve", base[0]]
    process = subprocess.Popen(
        [*map(str, command), "--port", "0", "--grpc-port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    try:
        events = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [event["event"] for event in events] == ["loaded", "started"]
        assert "development server" in events[1]["notice"]
        assert "Production is TF Serving" in events[1]["notice"]
        status, _ = ask(events[1]["rest"], "POST", PREDICT, {"instances": ROWS})
        assert status == 200
        process.send_signal(number)
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert [json.loads(line)["event"] for line in out.splitlines()] == [
        "unloaded",
        "stopped",
    ]
    assert "Traceback" not in errors
