"""Damaged requests: each is answered, or refused with a short error of ours."""

import contextlib
import json
import socket

import numpy as np
import pytest
from fuzzing import NUMBERS, check_call, damaged_bytes, damaged_json
from hypothesis import strategies as st
from served import ask, small_artifact

from keras_attention.serving.checks import Limits
from keras_attention.serving.engine import Engine
from keras_attention.serving.errors import as_serving_error
from keras_attention.serving.json_format import read_call, write_answer
from keras_attention.serving.models import VersionedModel
from keras_attention.serving.server import DevelopmentServer

for _name in ("starlette", "uvicorn", "prometheus_client", "tensorflow_serving"):
    pytest.importorskip(_name)

INPUTS = {"token_ids": [[1, 2], [3, 4]], "weights": [[0.5, 1], [2, -1.5]]}
BODIES = [
    {"inputs": INPUTS, "signature_name": "serving_default"},
    {"instances": [{"token_ids": [1, 2], "weights": [0.5, 1]}]},
    {"signature_name": "spell", "inputs": {"text": ["a", {"b64": "YQ=="}]}},
    {"signature_name": "spell", "instances": ["a", "b"]},
]


def examples(many, few=30):
    """Few inputs in the quick tier, more in the slow one, many with `make fuzz`."""
    more = pytest.param(many // 20, marks=pytest.mark.slow)
    all_of_them = pytest.param(many, marks=[pytest.mark.fuzz, pytest.mark.timeout(0)])
    return pytest.mark.parametrize("examples", [few, more, all_of_them])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "small"
    small_artifact(folder / "1")
    return folder


@pytest.fixture(scope="module")
def engine(base):
    model = VersionedModel(base)
    model.poll()
    engine = Engine(model, Limits(), threads=2)
    yield engine
    engine.close()


def refused(error):
    """The text of an error; fails if it is a fault of the server."""
    fault = as_serving_error(error)
    assert fault.code in {"INVALID_ARGUMENT", "NOT_FOUND"}, fault.message
    return fault.message


@examples(20_000)
def test_bodies_of_rest(engine, examples):
    def answer(body):
        try:
            with engine.model.lease("small", None) as loaded:
                known = loaded.manifest.signatures
                call = read_call(body, known, loaded.default_signature)
                outputs = loaded.predict(call.signature, call.inputs, engine.limits)
                write_answer(outputs, by_rows=call.by_rows)
        except Exception as error:
            return refused(error)
        return None

    for body in BODIES:
        assert answer(json.dumps(body).encode()) is None
    inputs = st.one_of([damaged_json(body) for body in BODIES])
    check_call(inputs, answer, examples, part="")


class CallError(Exception):
    """A call that was ended with a status."""


class Context:
    """What a method of gRPC sees of a call."""

    def peer(self):
        return "ipv4:127.0.0.1:5"

    def time_remaining(self):
        return None

    def add_callback(self, _):
        return False

    def abort(self, code, details):
        assert code.name in {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}, details
        raise CallError(details)


@st.composite
def tensors(draw, array):
    """A TensorProto whose parts do not fit each other."""
    import tensorflow as tf

    proto = tf.make_tensor_proto(array)
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from(["dtype", "dims", "content", "values", "version"]))
        if kind == "dtype":
            proto.dtype = draw(st.integers(0, 33) | st.integers(100, 133))
        elif kind == "dims":
            sizes = st.sampled_from([n for n in NUMBERS if -(2**63) <= n < 2**63])
            proto.tensor_shape.unknown_rank = draw(
                st.sampled_from([False] * 5 + [True])
            )
            del proto.tensor_shape.dim[:]
            for size in draw(st.lists(sizes | st.integers(1, 3), max_size=3)):
                name = draw(st.sampled_from(["", "\x1b[2J", "x" * 9999]))
                proto.tensor_shape.dim.add(size=size, name=name)
        elif kind == "content":
            proto.tensor_content = draw(st.binary(max_size=33))
        elif kind == "values":
            proto.ClearField("tensor_content")
            proto.int_val.extend(draw(st.lists(st.integers(-3, 20), max_size=5)))
            proto.float_val.extend(draw(st.lists(st.floats(width=32), max_size=5)))
            proto.string_val.extend(draw(st.lists(st.binary(max_size=5), max_size=3)))
            proto.half_val.extend(draw(st.lists(st.integers(-9, 2**16), max_size=2)))
        else:
            proto.version_number = draw(st.sampled_from([-1, 2**31 - 1]))
            proto.resource_handle_val.add(name="x", container="y")
            proto.variant_val.add(type_name="x", metadata=b"y")
    return proto


@st.composite
def messages(draw):
    """The bytes of a PredictRequest."""
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    spec = request.model_spec
    spec.name = draw(st.sampled_from(["small"] * 9 + ["", "x" * 9999, "\x1b[2J\n"]))
    names = st.sampled_from([""] * 6 + ["serving_default", "spell", "x" * 9999, "\0"])
    spec.signature_name = draw(names)
    if draw(st.integers(0, 9)) == 0:
        spec.version.value = draw(st.sampled_from([1, 2, -1, 2**63 - 1]))
    if draw(st.integers(0, 19)) == 0:
        spec.version_label = draw(st.text(max_size=3))
    arrays = {
        "token_ids": np.array(INPUTS["token_ids"], "int32"),
        "weights": np.array(INPUTS["weights"], "float32"),
        "text": np.array(["a", "é"], object),
    }
    chosen = ["text"] if spec.signature_name == "spell" else ["token_ids", "weights"]
    if draw(st.integers(0, 9)) == 0:
        chosen = draw(st.lists(st.sampled_from(list(arrays)), max_size=4))
    for name in chosen:
        key = draw(st.sampled_from([name] * 20 + ["", "x" * 9999, name + "\n"]))
        request.inputs[key].CopyFrom(draw(tensors(arrays[name])))
    filters = st.sampled_from(["vectors", "vectors", "", "x" * 9999, "\x1b"])
    request.output_filter.extend(
        draw(st.lists(filters, max_size=3)) if draw(st.integers(0, 4)) == 0 else []
    )
    data = request.SerializeToString()
    return draw(damaged_bytes(data)) if draw(st.integers(0, 3)) == 0 else data


@examples(20_000)
def test_messages_of_grpc(engine, examples):
    from tensorflow_serving.apis import predict_pb2

    from keras_attention.serving.grpc_api import Prediction
    from keras_attention.serving.grpc_calls import Calls

    calls = Calls(engine.limits, engine.faults)
    parse = predict_pb2.PredictRequest.FromString
    predict = calls.limited(Prediction(engine).Predict, parse)

    def answer(data):
        try:
            predict(iter([data]), Context())
        except CallError as error:
            return str(error)
        return None

    try:
        check_call(messages(), answer, examples, part="")
    finally:
        calls.close()


REQUEST = (
    b"POST /v1/models/small:predict HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n"
    b"\r\n%s"
)


@st.composite
def http_requests(draw):
    """The bytes of a connection."""
    body = draw(st.sampled_from(BODIES).map(json.dumps)).encode()
    data = REQUEST % (len(body), body)
    old = [b"POST", b"/v1/models/small", b"HTTP/1.1", b"localhost", b"length", b"\r\n"]
    new = [
        b"",
        b"\0",
        b"\n",
        b"\x1b[2J",
        b"..",
        b"%00",
        b"\xff",
        b"9" * 400,
        b"x" * 9999,
    ]
    new += [b"GET", b"HEAD", b"/metrics", b"chunked", b"Transfer-Encoding: chunked\r\n"]
    for _ in range(draw(st.integers(1, 3))):
        before, after = draw(st.sampled_from(old)), draw(st.sampled_from(new))
        data = data.replace(before, after, draw(st.integers(1, 2)))
    return draw(damaged_bytes(data)) if draw(st.booleans()) else data


@examples(3_000, 20)
def test_bytes_of_http(base, examples, capfd):
    events = []
    with DevelopmentServer(
        base,
        grpc_port=None,
        limits=Limits(header_timeout=0.1, timeout_seconds=0.1),
        on_event=lambda word, **facts: events.append((word, facts)),
    ) as server:

        def answer(data):
            got = b""
            with (
                contextlib.suppress(ConnectionError),
                socket.create_connection(("127.0.0.1", server.port), 3) as one,
            ):
                try:
                    one.sendall(data)
                    while part := one.recv(1 << 16):
                        got += part
                except TimeoutError:  # waits for the next request
                    assert b"\r\n\r\n" in got, data
            assert b" 500 " not in got[:20], got
            assert got[:5] in (b"", b"HTTP/"), got

        check_call(http_requests(), answer, examples)
        assert ask(server.port, "GET", "/readyz")[0] == 200
    assert not [facts for word, facts in events if facts.get("kind") == "internal"]
    assert "Traceback" not in "".join(capfd.readouterr())
