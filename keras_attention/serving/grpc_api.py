"""TF Serving's gRPC services, on the official stubs."""

import concurrent.futures
import math
from typing import Any

import numpy as np

from keras_attention.export.artifact.description import TensorInfo
from keras_attention.serving.checks import Limits
from keras_attention.serving.connections import most_grpc_connections
from keras_attention.serving.engine import Engine, needs_serve
from keras_attention.serving.errors import ServingError, invalid
from keras_attention.serving.grpc_calls import Calls
from keras_attention.serving.json_format import no_signature
from keras_attention.serving.models import LoadedVersion

# Threads that wait for an answer of the engine, whose own threads compute it.
_THREADS = 64
# Calls on one connection; a client that begins more waits.
_MOST_STREAMS = 256
_IDLE_MS = 300_000


class GrpcServer:
    """The gRPC server of an engine. It begins to listen at once, and answers later.

    Args:
        engine: The engine that answers requests.
        address: The `host:port` to listen at. Port 0 takes a free port.

    Attributes:
        port: The port.
    """

    def __init__(self, engine: Engine, address: str) -> None:
        try:
            import grpc
            from tensorflow_serving.apis import (
                model_service_pb2_grpc,
                prediction_service_pb2_grpc,
            )
        except ImportError as error:
            raise needs_serve(error) from error

        limits = engine.limits
        self._calls = Calls(limits, engine.faults)
        threads = _THREADS + self._calls.most["request"]
        self._server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(threads, "grpc"),
            interceptors=[self._calls.interceptor()],
            options=_options(limits),
            maximum_concurrent_rpcs=limits.max_pending + threads,
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            Prediction(engine), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            Models(engine), self._server
        )
        try:
            self.port: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            self.stop(0)
            raise OSError(
                "The gRPC port cannot be opened. Expected a free port: choose another "
                f"with --grpc-port. Received: {address}"
            ) from error

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, wait for running ones, and close the port."""
        stopped = self._server.stop(grace_seconds)
        self._calls.hurry()
        # A connection whose client says nothing would be waited for until the end.
        while not stopped.wait(0.1) and not self._calls.idle:
            pass
        self._server.stop(0).wait()
        self._calls.close()


def _options(limits: Limits) -> list[tuple[str, int]]:
    header_ms = round(limits.header_timeout * 1000)
    return [
        ("grpc.max_receive_message_length", limits.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # a port that is taken is an error
        # A connection that sends nothing is closed.
        ("grpc.server_handshake_timeout_ms", header_ms),
        # A client opens its connection again when it needs it.
        ("grpc.max_connection_idle_ms", _IDLE_MS),
        ("grpc.max_allowed_incoming_connections", most_grpc_connections(limits)),
        ("grpc.max_concurrent_streams", _MOST_STREAMS),
    ]


class Prediction:
    """`tensorflow.serving.PredictionService`.

    Args:
        engine: The engine that answers requests.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer with the outputs of a signature."""
        engine = self._engine
        seconds = min(engine.limits.timeout_seconds, context.time_remaining() or 1e9)

        def work() -> Any:
            with engine.model.lease(*_wanted(request.model_spec)) as loaded:
                return _predict(engine, loaded, request)

        future = engine.submit("grpc", work)
        try:
            return future.result(seconds)
        except concurrent.futures.TimeoutError as error:
            future.cancel()
            raise engine.late(seconds) from error

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer with the signatures."""
        from tensorflow_serving.apis import get_model_metadata_pb2

        if list(request.metadata_field) != ["signature_def"]:
            raise invalid(
                "Metadata field must be 'signature_def'. "
                f"Received: {list(request.metadata_field)}"
            )
        with self._engine.model.lease(*_wanted(request.model_spec)) as loaded:
            answer = get_model_metadata_pb2.GetModelMetadataResponse()
            answer.model_spec.name = request.model_spec.name
            answer.model_spec.version.value = loaded.number
            answer.metadata["signature_def"].Pack(_signature_defs(loaded))
            return answer

    def Classify(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Refuse the call: this server answers only Predict."""
        raise ServingError("UNIMPLEMENTED", "This server answers only Predict")

    Regress = MultiInference = Classify


class Models:
    """`tensorflow.serving.ModelService`.

    Args:
        engine: The engine with the model.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer with the state of each version."""
        from tensorflow_serving.apis import get_model_status_pb2 as pb2

        answer = pb2.GetModelStatusResponse()
        states = self._engine.model.status(*_wanted(request.model_spec))
        for number, state in states.items():
            one = answer.model_version_status.add()
            one.version = number
            one.state = pb2.ModelVersionStatus.State.Value(state.state)
            one.status.error_code = {"OK": 0, "INTERNAL": 13}[state.code]
            one.status.error_message = state.message
        return answer

    def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Refuse the call: the folder is the configuration."""
        raise ServingError(
            "UNIMPLEMENTED",
            "This server finds versions in its folder and takes no configuration",
        )


def _wanted(spec: Any) -> tuple[str, int | None]:
    """The name and the version in a model spec."""
    which = spec.WhichOneof("version_choice")
    if which == "version_label":
        raise invalid(
            "This server has no version labels. Expected: a version number. Received: "
            f"version_label {spec.version_label!r}"
        )
    return spec.name, spec.version.value if which == "version" else None


def _predict(engine: Engine, loaded: LoadedVersion, request: Any) -> Any:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    name = request.model_spec.signature_name or loaded.default_signature
    entry = loaded.manifest.signatures.get(name)
    if entry is None:
        raise no_signature(name, loaded.manifest.signatures)
    unknown = sorted(set(request.output_filter) - set(entry.outputs))
    if unknown:
        raise invalid(
            f"output_filter names outputs that signature '{name}' does not have. "
            f"Expected: some of {sorted(entry.outputs)}. Received: {unknown}"
        )
    entry.check_names(name, request.inputs)
    inputs = {
        key: _array(key, entry.inputs[key], proto, engine.limits.max_body_bytes)
        for key, proto in request.inputs.items()
    }
    outputs = loaded.predict(name, inputs, engine.limits)
    answer = predict_pb2.PredictResponse()
    answer.model_spec.name = request.model_spec.name
    answer.model_spec.signature_name = name
    answer.model_spec.version.value = loaded.number
    for key, array in outputs.items():
        if request.output_filter and key not in request.output_filter:
            continue
        if array.dtype.kind == "O":
            texts = [text.encode("utf-8", "surrogateescape") for text in array.flat]
            proto = tf.make_tensor_proto(texts, tf.string, array.shape)
        else:
            proto = tf.make_tensor_proto(array)
        answer.outputs[key].CopyFrom(proto)
    return answer


def _array(key: str, info: TensorInfo, proto: Any, most: int) -> np.ndarray:
    """A TensorProto as an array. Its shape need not be that of its values."""
    import tensorflow as tf

    dims = [dim.size for dim in proto.tensor_shape.dim]
    # One value may represent a whole tensor of that shape, which would be made here.
    size = math.prod(dims)
    if proto.tensor_shape.unknown_rank or min(dims, default=0) < 0 or size > most:
        raise info.misfit(key, f"shape {dims}")
    try:
        if proto.dtype > 100:  # a reference to a variable, not a value
            raise TypeError(f"dtype {proto.dtype}")
        return np.asarray(tf.make_ndarray(proto))
    except Exception as error:  # TensorFlow's and NumPy's have many classes
        raise info.misfit(key, f"a tensor that cannot be read ({error})") from error


def _signature_defs(loaded: LoadedVersion) -> Any:
    import tensorflow as tf
    from tensorflow_serving.apis import get_model_metadata_pb2

    defs = get_model_metadata_pb2.SignatureDefMap()
    for name, entry in loaded.manifest.signatures.items():
        definition = defs.signature_def[name]
        definition.method_name = "tensorflow/serving/predict"
        for side in ("inputs", "outputs"):
            for key, info in getattr(entry, side).items():
                tensor = getattr(definition, side)[key]
                tensor.name = key
                tensor.dtype = tf.dtypes.as_dtype(info.dtype).as_datatype_enum
                for size in info.spec_shape:
                    tensor.tensor_shape.dim.add(size=-1 if size is None else size)
    return defs
