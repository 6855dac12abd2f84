"""Limits the connections of the HTTP server: their number, and the time of a request.

uvicorn has no time limit for a request's header, and answers connections above its own
limit only after their header is complete. So its protocol is extended here.
"""

import asyncio
import contextlib
import time
from typing import Any

from keras_attention.serving.checks import Limits
from keras_attention.serving.faults import FaultLog

_ENOUGH_FILES = 8192

# Phases of a connection that may be closed to make room for a new one.
_EVICTABLE = ("header", "idle", "body")
_YOUNG_SECONDS = 1.0


class Connections:
    """The open connections of a server.

    If there are too many, the oldest one without a complete request is closed. So an
    honest client is answered while others hold connections open and send nothing.

    Args:
        limits: The server's limits.
        faults: The log of faults.
    """

    def __init__(self, limits: Limits, faults: FaultLog) -> None:
        self.faults = faults
        self.seconds = {
            "header": limits.header_timeout,
            # The application answers 504 first; this closes what it does not read.
            "body": limits.timeout_seconds + 1,
            # A client that does not read its answers.
            "answer": 2 * limits.timeout_seconds + 1,
        }
        self._most = min(limits.max_connections, _most_files() // 2)
        self._open: set[Any] = set()

    def admit(self, connection: Any) -> bool:
        """Count a new connection; return `False` if there is no room for it."""
        if len(self._open) >= self._most:
            waiting = [one for one in self._open if one.phase in _EVICTABLE]
            now = time.monotonic()
            oldest = min(waiting, key=lambda one: _worth(one, now), default=connection)
            self.faults.report(
                "connections",
                oldest.peer,
                f"more than {self._most} connections: closed the oldest without a "
                "complete request",
            )
            self.close(oldest)
            if oldest is connection:
                return False
        self._open.add(connection)
        return True

    def close(self, connection: Any) -> None:
        """Close a connection at once, whatever waits to be sent."""
        self._open.discard(connection)
        connection.transport.abort()

    def late(self, connection: Any) -> None:
        """Close a connection whose phase took too long."""
        phase = connection.phase
        self.faults.report(
            f"{phase}_timeout",
            connection.peer,
            f"closed: no complete {phase} in {self.seconds[phase]:g} seconds",
        )
        self.close(connection)

    def closed(self, connection: Any) -> None:
        """Forget a connection."""
        self._open.discard(connection)


def _worth(connection: Any, now: float) -> tuple[bool, bool, float]:
    """What is compared to choose the connection to close: the smallest is closed.

    A header takes no time, so old ones are closed first. An idle client that works, or
    one that has just connected, is younger than a body that never ends.
    """
    young = now - connection.since < _YOUNG_SECONDS
    return young, connection.phase != "header", connection.since


def limited_protocol(connections: Connections) -> type:
    """Return uvicorn's HTTP protocol with the limits of `connections`."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    return type("LimitedProtocol", (_Limited, H11Protocol), {"_all": connections})


class _Limited:
    """Adds limits to `H11Protocol`: each phase of a request has its time."""

    # Of `H11Protocol`.
    loop: asyncio.AbstractEventLoop
    transport: Any
    conn: Any
    cycle: Any
    client: Any
    timeout_keep_alive_task: Any

    _all: Connections
    _timer: asyncio.TimerHandle | None = None
    _watched: tuple[str, Any] = ("", None)
    phase = ""
    since = 0.0

    @property
    def peer(self) -> str:
        """The client's address, without the port."""
        return str(self.client[0]) if self.client else "unknown"

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        if self._all.admit(self):
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.closed(self)
        self._stop_timer()
        super().connection_lost(exc)  # type: ignore[misc]

    def data_received(self, data: bytes) -> None:
        super().data_received(data)  # type: ignore[misc]
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # type: ignore[misc]
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # closing would wait for the client
            self._all.close(self)
        else:
            super().timeout_keep_alive_handler()  # type: ignore[misc]

    def _watch(self) -> None:
        """Start the timer of a phase when the phase begins."""
        state = self.conn.their_state.__name__
        if self.transport.is_closing():
            phase = ""
        elif state == "IDLE":
            between = self.timeout_keep_alive_task and not self.conn.trailing_data[0]
            phase = "idle" if between else "header"
        elif state == "SEND_BODY":
            phase = "body"
        else:
            phase = "answer"
        watched = (phase, self.cycle)
        if watched == self._watched and self.since:
            return
        self._stop_timer()
        self._watched, self.phase, self.since = watched, phase, time.monotonic()
        seconds = self._all.seconds.get(phase)
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, self._all.late, self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def most_grpc_connections(limits: Limits) -> int:
    """The number of gRPC connections: idle clients keep theirs, so it is larger."""
    return max(1, min(4 * limits.max_connections, _most_files() // 4))


def raise_file_limit() -> None:
    """Let this process open more files: each connection is one, too."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else hard
        if soft != resource.RLIM_INFINITY and soft < min(wanted, _ENOUGH_FILES):
            most = min(wanted, _ENOUGH_FILES)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _most_files() -> int:
    """The number of files and connections that the process may open."""
    with contextlib.suppress(ImportError):  # Windows
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            return soft
    return 1 << 20
