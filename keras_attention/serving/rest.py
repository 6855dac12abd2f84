"""The ASGI application with TF Serving's REST interface, health and metrics."""

import asyncio
import contextlib
import json
import re
from typing import Any

from keras_attention.export.artifact.description import TensorInfo
from keras_attention.serving.access import peer_of
from keras_attention.serving.engine import Engine, needs_serve
from keras_attention.serving.errors import ServingError, as_serving_error, invalid
from keras_attention.serving.json_format import read_call, write_answer
from keras_attention.serving.models import LoadedVersion

_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>\d{1,18}))?"
    r"(?P<verb>/metadata|:[a-z]+)?"
)
_DTYPES = {"bool": "DT_BOOL", "string": "DT_STRING", "float32": "DT_FLOAT"}
_DTYPES |= {"float64": "DT_DOUBLE", "float16": "DT_HALF", "bfloat16": "DT_BFLOAT16"}


def rest_application(engine: Engine) -> Any:
    """Return the application, for any ASGI server.

    Args:
        engine: The engine that answers requests.
    """
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise needs_serve(error) from error

    async def models(request: Any) -> Response:
        try:
            body = await _answer(engine, request)
            return Response(body, media_type="application/json")
        except ServingError as error:
            return failed(error)

    def failed(error: ServingError) -> Response:
        return Response(
            _json({"error": error.message}),
            error.http_status,
            error.headers,
            media_type="application/json",
        )

    async def healthy(_: Any) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_: Any) -> Response:
        if engine.ready:
            return PlainTextResponse("ready\n")
        return PlainTextResponse("no version is served\n", 503)

    async def metrics(_: Any) -> Response:
        page = generate_latest(engine.registry)
        return Response(page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def nothing(request: Any, _: Exception) -> Response:
        wrong = f"Malformed request: {request.method} {request.url.path}"
        return failed(ServingError("NOT_FOUND", wrong))

    async def broken(_: Any, error: Exception) -> Response:
        return failed(as_serving_error(error))

    verbs = ["GET", "POST"]
    return Starlette(
        routes=[
            Route("/healthz", healthy),
            Route("/readyz", ready),
            Route("/metrics", metrics),
            Route("/monitoring/prometheus/metrics", metrics),  # TF Serving's
            Route("/v1/models/{rest:path}", models, methods=verbs),
        ],
        exception_handlers={404: nothing, 405: nothing, Exception: broken},
    )


async def _answer(engine: Engine, request: Any) -> bytes:
    path, model = request.url.path, engine.model
    found = _PATH.fullmatch(path)
    verb = found["verb"] if found else None
    method = "POST" if verb and verb[0] == ":" else "GET"
    if found is None or request.method != method:
        raise invalid(f"Malformed request: {request.method} {path}")
    name, version = found["name"], found["version"]
    version = None if version is None else int(version)
    if verb is None:
        return _json(_status(engine, name, version))
    if verb == "/metadata":
        with model.lease(name, version) as loaded:
            return _json(_metadata(name, loaded))
    if verb != ":predict":
        raise ServingError(
            "UNIMPLEMENTED",
            f"This server answers only :predict, on tensors. Received: {verb}",
        )
    limits = engine.limits
    body = await _body(engine, request)

    def work() -> bytes:
        with model.lease(name, version) as loaded:
            known = loaded.manifest.signatures
            call = read_call(body, known, loaded.default_signature)
            outputs = loaded.predict(call.signature, call.inputs, limits)
            return write_answer(outputs, by_rows=call.by_rows)

    try:
        running = engine.submit("rest", work)
    except ServingError:
        engine.waiting.release(len(body))
        raise
    # Not earlier: a request that is late is still held by the thread that runs it.
    size = len(body)
    running.add_done_callback(lambda _: engine.waiting.release(size))
    future = asyncio.wrap_future(running)
    try:
        return await asyncio.wait_for(future, limits.timeout_seconds)
    except TimeoutError as error:
        raise engine.late(limits.timeout_seconds) from error


async def _body(engine: Engine, request: Any) -> bytearray:
    """Read the body in time. Its bytes count as waiting until they are released."""
    from starlette.requests import ClientDisconnect

    body, seconds = bytearray(), engine.limits.timeout_seconds
    peer = peer_of(request.scope)
    try:
        async with asyncio.timeout(seconds):
            await _fill(body, engine, request)
        return body
    except BaseException as error:
        engine.waiting.release(len(body))
        if isinstance(error, TimeoutError):
            reason = f"no complete body in {seconds:g} seconds"
            engine.faults.report("body_timeout", peer, reason)
            raise engine.late(seconds) from error
        if isinstance(error, ClientDisconnect):
            reason = f"the connection ended after {len(body)} bytes of the body"
            engine.faults.report("body_cut", peer, reason)
            raise invalid(f"The body is not complete. Received: {reason}") from error
        if isinstance(error, ServingError):
            if error.http_status == 503:
                engine.faults.report("waiting_bytes", peer, error.message)
            if "close" in request.headers.get("connection", "").lower():
                await _drain(request, min(seconds, 5))
        raise


async def _drain(request: Any, seconds: float) -> None:
    """Read the rest of a body that is refused, if the connection closes after it.

    A client that still sends when the connection is closed cannot read the answer.
    """
    from starlette.requests import ClientDisconnect

    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(seconds):
            async for _ in request.stream():
                pass


async def _fill(body: bytearray, engine: Engine, request: Any) -> None:
    """Append the body; raise as soon as it is too large, without reading the rest."""
    limit, size = engine.limits.max_body_bytes, 0
    declared = request.headers.get("content-length", "0")
    too_large = declared.isdecimal() and int(declared[:18]) > limit
    async for part in request.stream():
        size += len(part)
        if too_large or size > limit:
            raise ServingError(
                "RESOURCE_EXHAUSTED",
                f"The body is over the {limit} bytes this server takes: send fewer "
                f"rows. Received: {max(size, int(declared[:18] or 0))} bytes or more",
                status=413,
            )
        engine.waiting.take(len(body), len(part))
        body += part


def _status(engine: Engine, name: str, version: int | None) -> dict[str, Any]:
    states = engine.model.status(name, version)
    answer: dict[str, Any] = {
        "model_version_status": [
            {
                "version": str(number),
                "state": state.state,
                "status": {"error_code": state.code, "error_message": state.message},
            }
            for number, state in states.items()
        ]
    }
    if version is None and (left_out := engine.model.left_out):
        answer["left_out"] = left_out  # TF Serving has no such entry
    return answer


def _metadata(name: str, loaded: LoadedVersion) -> dict[str, Any]:
    signatures = {
        key: {
            "inputs": {k: _tensor(k, info) for k, info in entry.inputs.items()},
            "outputs": {k: _tensor(k, info) for k, info in entry.outputs.items()},
            "method_name": "tensorflow/serving/predict",
            "defaults": {},
        }
        for key, entry in loaded.manifest.signatures.items()
    }
    spec = {"name": name, "signature_name": "", "version": str(loaded.number)}
    return {
        "model_spec": spec,
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _tensor(name: str, info: TensorInfo) -> dict[str, Any]:
    dims = [
        {"size": str(-1 if size is None else size), "name": ""}
        for size in info.spec_shape
    ]
    return {
        "dtype": _DTYPES.get(info.dtype, f"DT_{info.dtype.upper()}"),
        "tensor_shape": {"dim": dims, "unknown_rank": False},
        "name": name,
    }


def _json(value: Any) -> bytes:
    # An error may quote "\ud800" from the request, which can only be sent escaped.
    return json.dumps(value).encode()
