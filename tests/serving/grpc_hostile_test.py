"""Hostile gRPC clients: requests that never end, answers that nobody reads."""

import contextlib
import socket
import sys
import time

import http2
import numpy as np
import pytest
from served import ask, small_artifact

from keras_attention.serving import connections
from keras_attention.serving.checks import Limits
from keras_attention.serving.server import DevelopmentServer

for _name in ("starlette", "uvicorn", "prometheus_client", "tensorflow_serving"):
    pytest.importorskip(_name)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "small"
    small_artifact(folder / "1")
    return folder


@contextlib.contextmanager
def serving(base, **limits):
    """A server, and the list of its events, to which it adds."""
    events = []
    with DevelopmentServer(
        base,
        limits=Limits(**limits),
        on_event=lambda word, **facts: events.append({"event": word, **facts}),
    ) as server:
        yield server, events


def counted(events, kind, words=""):
    return sum(
        one["count"]
        for one in events
        if one.get("kind") == kind and words in one["reason"]
    )


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def good_request():
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "small"
    ids, weights = np.array([[1, 2]], "int32"), np.array([[1, 2]], "float32")
    request.inputs["token_ids"].CopyFrom(tf.make_tensor_proto(ids))
    request.inputs["weights"].CopyFrom(tf.make_tensor_proto(weights))
    return request


def predict(server, seconds=20.0):
    """Ask over a connection of its own; return the seconds that it took."""
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc as stubs

    alone = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", alone) as channel:
        start = time.monotonic()
        stubs.PredictionServiceStub(channel).Predict(good_request(), timeout=seconds)
        return time.monotonic() - start


def test_200_requests_that_never_end_leave_room_for_others(base):
    with serving(base) as (server, events), http2.connected(server.grpc_port) as one:
        most = server.engine.limits.max_waiting_bytes // (16 << 20)
        for number in range(200):
            one.sendall(http2.half_request(2 * number + 1))
        assert predict(server) < 10
        until(lambda: counted(events, "grpc_request") == 200 - most, 10)
        assert predict(server) < 3
        assert {e["peer"] for e in events if e["event"] == "fault"} == {"127.0.0.1"}


def test_a_request_must_be_complete_in_time(base):
    with (
        serving(base, timeout_seconds=0.5) as (server, events),
        http2.connected(server.grpc_port) as one,
    ):
        start = time.monotonic()
        one.sendall(http2.half_request(1))
        ended = (kind for kind, stream, _ in http2.frames(one) if stream == 1)
        assert next(ended) in (http2.RESET, http2.HEADERS)
        assert 0.4 < time.monotonic() - start < 10
        until(lambda: counted(events, "grpc_request", "in 0.5 seconds") == 1)
        assert predict(server) < 3


def test_a_server_stops_while_a_request_is_not_complete(base):
    with contextlib.ExitStack() as stack:
        with serving(base) as (server, _):
            one = stack.enter_context(http2.connected(server.grpc_port))
            one.sendall(http2.half_request(1))
            predict(server)  # the half request has arrived
            start = time.monotonic()
        assert time.monotonic() - start < 15


def test_a_port_of_grpc_that_is_taken_is_an_error(base):
    with (
        serving(base) as (server, _),
        pytest.raises(OSError, match="--grpc-port"),
    ):
        DevelopmentServer(base, grpc_port=server.grpc_port)


def test_an_answer_that_is_not_read_ends_in_time(base):
    with (
        serving(base, timeout_seconds=1) as (server, events),
        http2.connected(server.grpc_port, s4=0) as one,  # room for 0 bytes
    ):
        data = good_request().SerializeToString()
        for stream in (1, 3, 5):
            end = http2.END_OF_STREAM
            one.sendall(http2.headers(stream) + http2.message(stream, data, flags=end))
        until(lambda: counted(events, "grpc_answer", "in 1 seconds") == 3)
        assert predict(server) < 3


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"\xff\xff\xff", "cannot be read"), (None, "needs a message")],
    ids=["damaged", "missing"],
)
def test_a_message_that_cannot_be_read_is_a_short_error(base, data, words, capfd):
    with serving(base) as (server, events), http2.connected(server.grpc_port) as one:
        if data is None:
            flags = http2.END_OF_HEADERS | http2.END_OF_STREAM
            one.sendall(http2.headers(1, flags))
        else:
            one.sendall(http2.headers(1))
            one.sendall(http2.message(1, data, flags=http2.END_OF_STREAM))
        answers = (text for kind, at, text in http2.frames(one) if (kind, at) == (1, 1))
        trailers = next(text for text in answers if b"grpc-status" in text)
        assert b"grpc-status\x013" in trailers  # INVALID_ARGUMENT
        assert words.encode() in trailers.replace(b"%20", b" ")
        assert len(trailers) < 2500
        assert not events[2:]  # loaded, started
    out, errors = capfd.readouterr()
    assert "Traceback" not in out + errors


def test_an_unexpected_error_is_one_line(base, monkeypatch, capfd):
    import grpc

    def broken(*_):
        raise RuntimeError("not\nexpected\x1b[2J" + "x" * 10**6)

    with serving(base) as (server, events):
        monkeypatch.setattr(server.engine, "submit", broken)
        with pytest.raises(grpc.RpcError) as caught:
            predict(server)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        details = caught.value.details() or ""
        assert details.startswith(r"RuntimeError: not\nexpected\x1b[2Jxxx")
        assert len(details) <= 2000
        assert counted(events, "internal") == 1
    assert "Traceback" not in "".join(capfd.readouterr())


def test_1000_idle_connections_leave_rest_and_grpc_answering(base):
    with (
        serving(base, header_timeout=2) as (server, events),
        contextlib.ExitStack() as stack,
    ):
        begin = time.monotonic()
        for _ in range(1000):
            address = ("127.0.0.1", server.grpc_port)
            stack.enter_context(socket.create_connection(address, timeout=20))
        assert ask(server.port, "GET", "/readyz")[0] == 200
        predict(server)
        assert ask(server.port, "GET", "/readyz")[0] == 200
        assert time.monotonic() - begin < 20
        assert len(events) < 10


def test_the_number_of_connections_is_limited(base):
    import grpc

    with serving(base, max_connections=2, header_timeout=1) as (server, _):
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                stack.enter_context(http2.connected(server.grpc_port))
            time.sleep(0.2)
            with pytest.raises(grpc.RpcError) as caught:
                predict(server)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        until(lambda: answers(server))


def answers(server):
    import grpc

    try:
        return predict(server) < 20
    except grpc.RpcError:
        return False


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of files")
def test_the_server_may_open_more_files():
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = min(1024, before[0])
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, before[1]))
        assert connections.most_grpc_connections(Limits()) == low // 4
        connections.raise_file_limit()
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised[1] == before[1]
        assert raised[0] == min(8192, before[1])
        connections.raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == raised
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
