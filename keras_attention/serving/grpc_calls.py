"""Limits the gRPC calls that hold memory and a thread: those that wait for a client.

gRPC for Python waits for a request without a limit of time, and each wait takes a
thread of the pool: as many requests as threads that are never complete would stop the
server. So each method is run as one that reads a stream of one message, and calls that
wait too long are cancelled.
"""

import contextlib
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from keras_attention.serving.checks import Limits
from keras_attention.serving.errors import as_serving_error, invalid
from keras_attention.serving.faults import FaultLog

# Calls that wait for the rest of a request: each may hold the largest message.
MOST_READING = 64
# Calls whose answer the client has not read yet.
MOST_SENDING = 256
# A call that began later is not cancelled to make room: small requests need less.
GRACE_SECONDS = 0.5
_TURN_SECONDS = 0.05


@dataclass(eq=False)
class _Call:
    context: Any
    peer: str
    phase: str
    since: float


class Calls:
    """The calls of a gRPC server that wait for their client.

    If there are too many, the oldest ones are cancelled. So an honest client is
    answered while others send requests that never end, or do not read their answers.

    Args:
        limits: The server's limits.
        faults: The log of faults.
    """

    def __init__(self, limits: Limits, faults: FaultLog) -> None:
        room = limits.max_waiting_bytes // limits.max_body_bytes
        self.most = {
            "request": max(1, min(MOST_READING, room)),
            "answer": MOST_SENDING,
        }
        self._seconds = limits.timeout_seconds
        self._faults = faults
        self._lock = threading.Lock()
        self._waiting: set[_Call] = set()
        self._arrived = 0  # calls that have not ended; they may wait for a thread
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="grpc-calls", daemon=True).start()

    def interceptor(self) -> Any:
        """Return the interceptor that puts every method under these limits."""
        import grpc

        calls = self

        class Limited(grpc.ServerInterceptor):
            def intercept_service(self, continuation: Any, details: Any) -> Any:
                handler = continuation(details)
                if handler is None:  # a method that does not exist
                    return None
                calls._count(1)
                return grpc.stream_unary_rpc_method_handler(
                    calls.limited(handler.unary_unary, handler.request_deserializer),
                    None,  # bytes, so that an error in them is ours
                    handler.response_serializer,
                )

        return Limited()

    def limited(
        self, answer: Callable[[Any, Any], Any], parse: Callable[[bytes], Any]
    ) -> Callable[[Iterator[bytes], Any], Any]:
        """Return a method of a stream of one message.

        Args:
            answer: The method, from a request and a context to an answer.
            parse: From bytes to a request.
        """

        def run(messages: Iterator[bytes], context: Any) -> Any:
            import grpc

            call = _Call(context, _address(context.peer()), "request", 0.0)
            try:
                with self._waits(call):
                    data = next(messages, None)
                found = answer(_parsed(data, parse), context)
                self._sends(call)
                return found
            except grpc.RpcError:  # cancelled, by the client or by `_watch`
                raise
            except Exception as error:
                self._fail(call, error)
                raise
            finally:
                self._count(-1)

        return run

    @property
    def idle(self) -> bool:
        """Whether every call has its answer."""
        with self._lock:
            return self._arrived <= 0 and not self._waiting

    def hurry(self) -> None:
        """Give requests that are not complete one more second: the server stops."""
        self._seconds = min(self._seconds, 1.0)

    def close(self) -> None:
        """Stop to watch."""
        self._stopped.set()

    def _count(self, change: int) -> None:
        with self._lock:
            self._arrived += change

    @contextlib.contextmanager
    def _waits(self, call: _Call) -> Iterator[None]:
        call.since = time.monotonic()
        with self._lock:
            self._waiting.add(call)
        try:
            yield
        finally:
            with self._lock:
                self._waiting.discard(call)

    def _sends(self, call: _Call) -> None:
        """Count a call until its client has read the answer."""
        call.phase, call.since = "answer", time.monotonic()
        with self._lock:
            self._waiting.add(call)

        def over() -> None:
            with self._lock:
                self._waiting.discard(call)

        if not call.context.add_callback(over):  # the client is gone
            over()

    def _fail(self, call: _Call, error: Exception) -> None:
        """End a call with an error; raises."""
        import grpc

        fault = as_serving_error(error)
        if fault.code == "INTERNAL":
            self._faults.report("internal", call.peer, fault.message)
        # A status is sent in a header: gRPC closes the connection if it is too long,
        # so `ServingError` limits the message.
        call.context.abort(getattr(grpc.StatusCode, fault.code), fault.message)

    def _watch(self) -> None:
        while not self._stopped.wait(_TURN_SECONDS):
            for call in self._too_many(time.monotonic()):
                call.context.cancel()

    def _too_many(self, now: float) -> list[_Call]:
        """Take out and report the calls that are to be cancelled."""
        found: list[tuple[_Call, str]] = []
        with self._lock:
            for phase, most in self.most.items():
                calls = [one for one in self._waiting if one.phase == phase]
                calls.sort(key=lambda one: one.since)
                excess = len(calls) - most
                for place, one in enumerate(calls):
                    age = now - one.since
                    if age > self._seconds:
                        reason = f"no complete {phase} in {self._seconds:g} seconds"
                    elif place < excess and age > GRACE_SECONDS:
                        reason = f"more than {most} calls wait for a {phase}"
                    else:
                        break
                    found.append((one, reason))
                    self._waiting.discard(one)
        for one, reason in found:
            self._faults.report(f"grpc_{one.phase}", one.peer, f"cancelled: {reason}")
        return [one for one, _ in found]


def _parsed(data: bytes | None, parse: Callable[[bytes], Any]) -> Any:
    if data is None:
        raise invalid("The call needs a message. Received: the end of the request")
    try:
        return parse(data)
    except Exception as error:  # protobuf's DecodeError
        raise invalid(
            "The message cannot be read. Expected: a message of this method. "
            f"Received: {len(data)} bytes ({error})"
        ) from error


def _address(peer: str) -> str:
    """The address in `ipv4:127.0.0.1:5`, without the port, which is new each time."""
    address = urllib.parse.unquote(peer.partition(":")[2].rpartition(":")[0])
    return address.strip("[]") or "unknown"
