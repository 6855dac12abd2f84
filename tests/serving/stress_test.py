"""Malformed requests among good ones, many threads, versions swapped under load."""

import concurrent.futures
import contextlib
import http.client
import itertools
import json
import random
import shutil
import threading

import numpy as np
import pytest
import tensorflow as tf
from served import LENGTH, VOCABULARY, small_artifact

from keras_attention.serving.checks import Limits
from keras_attention.serving.server import DevelopmentServer

for _name in ("starlette", "uvicorn", "prometheus_client", "tensorflow_serving"):
    pytest.importorskip(_name)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PATH = "/v1/models/model:predict"


class Rest:
    """A connection that is kept open, one per thread."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def __call__(self, body):
        self.connection.request("POST", PATH, body)
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())

    def close(self):
        self.connection.close()


def questions(count, seed):
    """Requests of all lengths and batches 1 and 2."""
    numbers = np.random.default_rng(seed)
    for _ in range(count):
        shape = (int(numbers.integers(1, 3)), int(numbers.integers(1, LENGTH + 1)))
        yield {
            "token_ids": numbers.integers(0, VOCABULARY, shape).astype("int32"),
            "weights": numbers.normal(size=shape).astype("float32"),
        }


def as_json(question):
    return json.dumps({"inputs": {k: v.tolist() for k, v in question.items()}}).encode()


def as_message(question, name="model"):
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    for key, array in question.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
    return request


def grpc_channel(server):
    import grpc

    # A connection of its own: otherwise channels to one address share one.
    alone = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=alone)


def stub_of(channel):
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


WRONG_LEAVES = [
    None,
    True,
    "a",
    {},
    [],
    [[1]],
    1.5,
    -1,
    VOCABULARY,
    10**30,
    {"b64": "!"},
]


def malformed_json(seed):
    """A body with one thing wrong, and what the error must name."""
    chance = random.Random(seed)
    inputs = {key: array.tolist() for key, array in next(questions(1, seed)).items()}
    kind = chance.randrange(8)
    name = chance.choice(["token_ids", "weights"])
    if kind == 0:  # not JSON, or not whole
        text = as_json(next(questions(1, seed)))
        return text[: chance.randrange(len(text) - 1)], "JSON Parse error"
    if kind == 1:
        del inputs[name]
    elif kind == 2:
        inputs["x" + name] = inputs.pop(name)
    elif kind == 3:  # one value of another kind, at any place
        leaves = WRONG_LEAVES if name == "token_ids" else WRONG_LEAVES[:6]
        row = chance.choice(inputs[name])
        row[chance.randrange(len(row))] = chance.choice(leaves)
    elif kind == 4:
        inputs[name] = chance.choice(
            [None, 3, "a", [], [[]], {"a": 1}, inputs[name][0]]
        )
    elif kind == 5:
        inputs[name][0] = inputs[name][0] + [0]  # ragged, or of another length
    elif kind == 6:
        inputs = {key: [row * 8 for row in rows] for key, rows in inputs.items()}
        name = "token_ids"
    else:
        instances = [
            dict(zip(inputs, row, strict=True))
            for row in zip(*inputs.values(), strict=True)
        ]
        del instances[-1][name]
        return json.dumps({"instances": instances}).encode(), name
    return json.dumps({"inputs": inputs}).encode(), name


def malformed_message(seed):
    """The same for gRPC: a message, and what the error must name."""
    chance = random.Random(seed)
    question = next(questions(1, seed))
    name = chance.choice([*question])
    kind = chance.randrange(7)
    if kind == 0:
        del question[name]
    elif kind == 1:
        question["x" + name] = question.pop(name)
    elif kind == 2:
        question[name] = question[name].astype(
            chance.choice(["int64", "float64", "bool"])
        )
    elif kind == 3:
        question[name] = question[name].reshape(-1)
    elif kind == 4:
        name = "token_ids"
        question[name][0, 0] = chance.choice([-1, VOCABULARY, 2**31 - 1])
    request = as_message(question)
    if kind == 5:
        request.inputs[name].tensor_shape.dim[0].size = chance.choice([-1, 7, 10**15])
    elif kind == 6:
        request.inputs[name].dtype = chance.choice([0, 7, 99, 101])
    return request, name


@pytest.mark.parametrize("format", ["saved_model", "onnx"])
def test_6000_malformed_requests_among_good_ones_change_nothing(
    tmp_path, format, record_property
):
    import grpc

    model = small_artifact(tmp_path / "model" / "1", format=format)
    good = list(questions(60, seed=1))
    right = [model(**{k: tf.constant(v) for k, v in q.items()}) for q in good]
    per_thread, threads = 750, 4

    with DevelopmentServer(
        tmp_path / "model", limits=Limits(timeout_seconds=20)
    ) as server:

        def rest(thread):
            with contextlib.closing(Rest(server.port)) as ask:
                rest_with(ask, thread)

        def rest_with(ask, thread):
            for number in range(per_thread):
                body, word = malformed_json(thread * per_thread + number)
                status, answer = ask(body)
                assert status == 400, (body, answer)
                assert word in answer["error"], (body, answer)
                at = number % len(good)
                status, answer = ask(as_json(good[at]))
                assert status == 200, answer
                np.testing.assert_allclose(answer["outputs"], right[at], atol=1e-6)

        def message(thread):
            with grpc_channel(server) as channel:
                message_with(stub_of(channel).Predict, thread)

        def message_with(predict, thread):
            for number in range(per_thread):
                request, word = malformed_message(thread * per_thread + number)
                with pytest.raises(grpc.RpcError) as caught:
                    predict(request, timeout=30)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert word in caught.value.details(), request
                at = number % len(good)
                got = predict(as_message(good[at]), timeout=30).outputs["vectors"]
                np.testing.assert_allclose(tf.make_ndarray(got), right[at], atol=1e-6)

        with concurrent.futures.ThreadPoolExecutor(2 * threads) as pool:
            works = [pool.submit(rest, n) for n in range(threads)]
            works += [pool.submit(message, n) for n in range(threads)]
            for work in works:
                work.result()
    record_property(
        "summary", f"{2 * threads * per_thread} malformed requests, {format}"
    )


def test_5600_malformed_calls_of_the_loaded_signatures_stop_no_other_thread(
    tmp_path, record_property
):
    """A failing call inside `tf.function` may keep its lock for ever: these do not."""
    model = small_artifact(tmp_path / "1")
    signature = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    good = [{k: tf.constant(v) for k, v in q.items()} for q in questions(30, seed=1)]
    right = [model(**question) for question in good]
    ids, weights = good[0]["token_ids"], good[0]["weights"]
    wrong = [
        {"token_ids": tf.cast(ids, "int64"), "weights": weights},
        {"token_ids": ids[0], "weights": weights},
        {"token_ids": ids},
        {"token_ids": ids, "weights": weights, "more": weights},
        {"token_ids": "a", "weights": weights},
        {"token_ids": ids + VOCABULARY, "weights": weights},
        {"token_ids": ids - VOCABULARY, "weights": weights},
    ]

    def call(thread):
        for number in range(700):
            # TensorFlow's own errors: not all of them name the input.
            with pytest.raises((TypeError, ValueError, tf.errors.OpError)):
                signature(**wrong[(number + thread) % len(wrong)])
            at = number % len(good)
            got = signature(**good[at])["vectors"]
            np.testing.assert_allclose(got, right[at], atol=1e-6)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        works = [pool.submit(call, thread) for thread in range(8)]
        # No thread waits for a lock that is never released.
        for work in works:
            work.result(timeout=600)
    record_property("summary", "5600 malformed calls of the loaded signatures")


@pytest.mark.parametrize("threads", [8, 64])
def test_10000_requests_while_versions_are_swapped_have_their_serial_answers(
    tmp_path, threads, record_property
):
    base, aside = tmp_path / "model", tmp_path / "aside"
    small_artifact(base / "1", seed=1)
    small_artifact(aside, seed=2)
    asked = list(questions(97, seed=3))
    bodies, messages = [*map(as_json, asked)], [*map(as_message, asked)]
    requests, swaps, over = 10_000, 0, threading.Event()
    events = []
    options = {
        "poll_seconds": 0.05,
        "on_event": lambda word, **facts: events.append((word, facts.get("version"))),
    }

    # The outputs of each version, one request after the other.
    def serial(folder):
        with (
            DevelopmentServer(folder, name="model", grpc_port=None) as server,
            contextlib.closing(Rest(server.port)) as ask,
        ):
            answers = [ask(body) for body in bodies]
        assert all(status == 200 for status, _ in answers)
        return [answer["outputs"] for _, answer in answers]

    expected = {1: serial(base), 2: serial(aside)}
    assert expected[1] != expected[2]
    seen = {"either": 0, 1: 0, 2: 0}
    counter = itertools.count()

    with DevelopmentServer(base, **options) as server:

        def swap():
            """Add and remove version 2: the served model is 1, 2, 1, 2 …"""
            nonlocal swaps
            while not over.is_set():
                before = len(events)
                if (base / "2").exists():
                    (base / "2").rename(tmp_path / "gone")
                    shutil.rmtree(tmp_path / "gone")
                else:
                    shutil.copytree(aside, tmp_path / "coming")
                    (tmp_path / "coming").rename(base / "2")
                while not over.is_set() and len(events) < before + 2:
                    over.wait(0.01)  # the new one loaded, the old one unloaded
                swaps += 1

        def ask_many(thread):
            with (
                contextlib.closing(Rest(server.port)) as rest,
                grpc_channel(server) as channel,
            ):
                ask_with(rest, stub_of(channel).Predict, thread)

        def ask_with(rest, predict, thread):
            while (number := next(counter)) < requests:
                at = number % len(asked)
                if thread % 4:
                    status, answer = rest(bodies[at])
                    assert status == 200, answer
                    assert answer["outputs"] in (expected[1][at], expected[2][at])
                    seen["either"] += 1
                else:
                    answer = predict(messages[at], timeout=60)
                    version = answer.model_spec.version.value
                    got = tf.make_ndarray(answer.outputs["vectors"]).tolist()
                    assert got == expected[version][at]
                    seen[version] += 1

        swapper = threading.Thread(target=swap)
        swapper.start()
        try:
            with concurrent.futures.ThreadPoolExecutor(threads) as pool:
                for work in [pool.submit(ask_many, n) for n in range(threads)]:
                    work.result()
        finally:
            over.set()
            swapper.join()
    assert not [event for event in events if event[0] == "failed"]
    assert min(seen[1], seen[2]) > 0, seen
    assert swaps >= 4
    record_property(
        "summary", f"{threads} threads, {requests} requests, {swaps} swaps: {seen}"
    )
