"""Decides which requests of browsers are answered, and reports what fails.

The server has no authentication. A web page of another site can send requests to it
through the browser of a developer, by its own name (DNS rebinding) or across origins.
Such a request has another name in its Host or Origin header, and is refused.
"""

import asyncio
import json
import re
from collections.abc import Iterable
from typing import Any

from keras_attention.serving.engine import Engine
from keras_attention.serving.errors import ServingError, as_serving_error

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]]+)(:\d{1,5})?")
# What a page can send across origins without asking, and no client of this server does.
_NOT_JSON = {"text/plain", "multipart/form-data"}


def allowed_names(host: str, more: Iterable[str] = ()) -> frozenset[str] | None:
    """Return the names that a Host header may have; `None` stands for all.

    Args:
        host: The address that the server listens at.
        more: Further names, next to those of this machine; `*` allows all.
    """
    more = list(more)
    if "*" in more:
        return None
    names = set()
    for entry in [host, *LOCAL_HOSTS, *more]:
        text = f"[{entry}]" if entry.count(":") > 1 and entry[0] != "[" else entry
        name = _name(text)
        if name is None and entry != host:
            raise ValueError(
                "An allowed host must be a name or an address, or `*` for all. "
                f"Received: {entry!r}"
            )
        names.add(name)
    return frozenset(name for name in names if name)


class GuardedApplication:
    """An ASGI application that refuses foreign hosts, and reports faults as one line.

    Args:
        application: The application that answers.
        engine: The engine, for its log of faults.
        hosts: The allowed names; `None` allows all.
    """

    def __init__(
        self, application: Any, engine: Engine, hosts: frozenset[str] | None
    ) -> None:
        self._application = application
        self._faults = engine.faults
        self._hosts = hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # the start of the server
            asyncio.get_running_loop().set_exception_handler(self._report_loop)
            await self._application(scope, receive, send)
            return
        started = False

        async def sending(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        kind = "refused"
        try:
            check_headers(scope["method"], scope["headers"], self._hosts)
            kind = "internal"
            await self._application(scope, receive, sending)
        except Exception as error:
            fault = as_serving_error(error)
            self._faults.report(kind, peer_of(scope), fault.message)
            if not started:
                await send_error(fault, send)

    def _report_loop(self, _: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        reason = f"{context.get('message')}: {type(error).__name__}: {error}"
        self._faults.report("connection", "server", reason)


def check_headers(
    method: str, headers: Iterable[tuple[bytes, bytes]], hosts: frozenset[str] | None
) -> None:
    """Raise a `ServingError` if a request may come from a web page of another site."""
    found = {key: value.decode("latin-1") for key, value in headers}
    if hosts is not None:
        allowed = ", ".join(sorted(hosts))
        host = found.get(b"host", "")
        if _name(host) not in hosts:
            raise ServingError(
                "INVALID_ARGUMENT",
                f"The Host header names another host. Expected one of: {allowed}; "
                f"allow more with --allowed-host. Received: {host!r:.300}",
                status=421,
            )
        origin = found.get(b"origin")
        if origin is not None and _name(origin.partition("://")[2]) not in hosts:
            raise ServingError(
                "INVALID_ARGUMENT",
                "The request comes from a web page of another host. Expected an Origin "
                f"header with one of: {allowed}; allow more with --allowed-host. "
                f"Received: {origin!r:.300}",
                status=403,
            )
    media = found.get(b"content-type", "").partition(";")[0].strip().lower()
    if method == "POST" and media in _NOT_JSON:
        raise ServingError(
            "INVALID_ARGUMENT",
            "The body must be JSON. Expected: Content-Type application/json. "
            f"Received: {media}",
            status=415,
        )


def peer_of(scope: Any) -> str:
    """The address of the client, without the port."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


async def send_error(error: ServingError, send: Any) -> None:
    """Send an error as the whole response."""
    body = json.dumps({"error": error.message}).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **error.headers,
    }
    await send(
        {
            "type": "http.response.start",
            "status": error.http_status,
            "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})


def _name(host: str) -> str | None:
    """The name in `name:port`, in lower case; `None` if it is not one."""
    found = _HOST.fullmatch(host.strip().lower())
    return found[1].rstrip(".") if found else None
