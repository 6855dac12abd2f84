"""Runs requests in a pool of threads, with a limit on their number and time."""

import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import Any

from keras_attention.serving.checks import Limits
from keras_attention.serving.errors import ServingError, as_serving_error
from keras_attention.serving.faults import FaultLog
from keras_attention.serving.models import VersionedModel


class WaitingBytes:
    """The memory of the HTTP bodies that wait or run.

    The first 64 KiB of a body do not count, so that small requests are answered while
    large bodies fill the memory.

    Args:
        most: The largest number of bytes of all bodies.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self._lock = threading.Lock()

    def take(self, size: int, more: int) -> None:
        """Count bytes of a body, or raise a `ServingError` if there is no room.

        Args:
            size: The size of the body until now.
            more: The number of further bytes.
        """
        counted = _counted(size + more) - _counted(size)
        with self._lock:
            if self.used + counted > self.most:
                raise ServingError(
                    "UNAVAILABLE",
                    f"The bodies of all requests are over the {self.most} bytes this "
                    "server holds. Expected: send the request again later. Received: "
                    f"{counted} bytes more than {self.used}",
                )
            self.used += counted

    def release(self, size: int) -> None:
        """Count a body of this size no more."""
        with self._lock:
            self.used -= _counted(size)


def _counted(size: int) -> int:
    return max(0, size - 64 * 1024)


class Engine:
    """One model, one pool of threads and one set of metrics, for REST and gRPC.

    Args:
        model: The model whose versions answer.
        limits: The limits of one request.
        threads: The number of requests that run at the same time.
        faults: The log of faults; by default none is logged.
    """

    def __init__(
        self,
        model: VersionedModel,
        limits: Limits,
        threads: int,
        faults: FaultLog | None = None,
    ) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError as error:
            raise needs_serve(error) from error
        self.model = model
        self.limits = limits
        self.faults = faults or FaultLog()
        self.waiting = WaitingBytes(limits.max_waiting_bytes)
        self.stopping = False
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, "answer")
        self._places = threading.BoundedSemaphore(limits.max_pending)
        self.registry = CollectorRegistry()
        labels = ("protocol", "code")
        self._requests: Any = Counter(
            "keras_attention_requests",
            "Predict requests by how they ended.",
            labels,
            registry=self.registry,
        )
        self._seconds: Any = Histogram(
            "keras_attention_request_seconds",
            "From the whole request to its answer.",
            labels[:1],
            registry=self.registry,
        )
        pending: Any = Gauge(
            "keras_attention_pending_requests",
            "Requests that wait or run.",
            registry=self.registry,
        )
        self._pending = pending
        newest: Any = Gauge(
            "keras_attention_model_version",
            "The highest version that is served; -1 for none.",
            registry=self.registry,
        )
        newest.set_function(lambda: max(model.versions, default=-1))

    @property
    def ready(self) -> bool:
        """Whether a version is served."""
        return bool(self.model.versions) and not self.stopping

    def submit(
        self, protocol: str, work: Callable[[], Any]
    ) -> concurrent.futures.Future:
        """Start one answer. The future returns it, or raises a `ServingError`."""
        if self.stopping or not self._places.acquire(blocking=False):
            reason = "stopping" if self.stopping else "busy"
            self._requests.labels(protocol, "UNAVAILABLE").inc()
            raise ServingError(
                "UNAVAILABLE",
                f"The server is {reason}. Expected: send the request again later. "
                f"Received: {self.limits.max_pending} requests are the most at once",
            )
        self._pending.inc()
        start = time.monotonic()

        def answer() -> Any:
            if time.monotonic() - start > self.limits.timeout_seconds:
                raise self.late(self.limits.timeout_seconds)  # no client waits for it
            try:
                return work()
            except Exception as error:
                raise as_serving_error(error) from error

        def count(done: concurrent.futures.Future) -> None:
            self._places.release()
            self._pending.dec()
            self._seconds.labels(protocol).observe(time.monotonic() - start)
            error = None if done.cancelled() else done.exception()
            code = "DEADLINE_EXCEEDED" if done.cancelled() else "OK"
            self._requests.labels(protocol, getattr(error, "code", code)).inc()

        future = self._pool.submit(answer)
        future.add_done_callback(count)
        return future

    def late(self, seconds: float) -> ServingError:
        """The error of an answer that came too late."""
        return ServingError(
            "DEADLINE_EXCEEDED",
            f"The answer took more than {seconds:g} seconds. Expected: fewer rows or "
            "shorter texts, or a server with a longer timeout",
        )

    def close(self) -> None:
        """Wait for the requests that run, then close the model."""
        self.stopping = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.model.close()


def needs_serve(error: ImportError) -> ImportError:
    """The error raised if the server's libraries are not installed."""
    return ImportError(
        "The development server needs an HTTP and a gRPC library. Expected: pip "
        f'install "keras-attention-layers[serve]". Received: {error}'
    )
