"""The development server: REST and gRPC for one artifact."""

import json
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from keras_attention.serving.access import GuardedApplication, allowed_names
from keras_attention.serving.checks import Limits
from keras_attention.serving.connections import Connections, limited_protocol
from keras_attention.serving.engine import Engine, needs_serve
from keras_attention.serving.errors import printable
from keras_attention.serving.faults import FaultLog, FreedMemory
from keras_attention.serving.grpc_api import GrpcServer
from keras_attention.serving.models import VersionedModel, version_folders
from keras_attention.serving.rest import rest_application

NOTICE = (
    "development server: no TLS, no authentication, one process. Production is TF "
    "Serving, Triton or KServe."
)


# asyncio accepts as many connections at once before it counts them.
_BACKLOG = 128
# As many wait in the system. If there is no room, a client tries again a second later.
_MOST_WAITING = 1024


class DevelopmentServer:
    """A server with TF Serving's protocols for an artifact, not for production.

    Use it to try an artifact with clients of TF Serving, and to test those clients.

    Args:
        path: A base folder with version folders, which is watched; or one artifact.
        name: The model's name in requests; by default the folder's name.
        host: The address to listen at.
        port: The port of REST; 0 takes a free one.
        grpc_port: The port of gRPC; 0 takes a free one, `None` for no gRPC.
        keep: The number of versions that are served at once; the highest are.
        poll_seconds: The time between two readings of the folder.
        threads: The number of requests that run at the same time.
        limits: The limits of the server.
        allowed_hosts: Further names of this server, which the Host and Origin headers
            of a request may have; `*` allows all. `host`, localhost, 127.0.0.1 and
            [::1] are always allowed.
        on_event: Called with a word and facts: started, loaded, failed, ignored,
            unloaded, fault, stopped.

    Example:
    ```python
    with DevelopmentServer(Path("served/minilm")) as server:
        print(f"http://127.0.0.1:{server.port}/v1/models/minilm:predict")
        server.wait()
    ```
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        grpc_port: int | None = 0,
        keep: int = 1,
        poll_seconds: float = 1.0,
        threads: int = 8,
        limits: Limits | None = None,
        allowed_hosts: Sequence[str] = (),
        on_event: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        try:
            import uvicorn
        except ImportError as error:
            raise needs_serve(error) from error
        if not Path(path).is_dir():
            raise FileNotFoundError(
                "There is nothing to serve. Expected a folder with version folders, or "
                f"an artifact, as `export_model` writes it. Received: {path}"
            )
        names = allowed_names(host, allowed_hosts)
        self._on_event = on_event
        self._poll_seconds = poll_seconds
        self._stopped = threading.Event()
        self._signalled = threading.Event()
        model = VersionedModel(path, name=name, keep=keep, on_event=on_event)
        limits, self._faults = limits or Limits(), FaultLog(on_event)
        self.engine = Engine(model, limits, threads, self._faults)
        self._socket = _listening(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._grpc: GrpcServer | None = None
        self.grpc_port: int | None = None
        if grpc_port is not None:
            try:
                self._grpc = GrpcServer(self.engine, f"{host}:{grpc_port}")
            except BaseException:
                self._socket.close()
                raise
            self.grpc_port = self._grpc.port
        application = rest_application(self.engine)
        config = uvicorn.Config(
            GuardedApplication(application, self.engine, names),
            http=limited_protocol(Connections(limits, self._faults)),
            ws="none",
            log_config=None,  # `GuardedApplication` reports each fault as one line
            log_level="critical",
            access_log=False,
            proxy_headers=False,  # a client could choose the address in the log
            backlog=_BACKLOG,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=30,
        )
        self._rest = uvicorn.Server(config)
        self._threads = [
            threading.Thread(target=self._rest.run, args=([self._socket],)),
            threading.Thread(target=self._watch),
        ]

    def start(self) -> Self:
        """Load the versions and begin to serve."""
        model = self.engine.model
        model.poll()
        if not model.versions and version_folders(model.path):
            reasons = [state.message for state in model.states.values()]
            self.stop()
            raise ValueError(
                "No version can be served. Expected an artifact as `export_model` "
                f"writes it. Received: {printable('; '.join(reasons))}"
            )
        for thread in self._threads:
            thread.start()
        if self._grpc is not None:
            self._grpc.start()
        while not self._rest.started and self._threads[0].is_alive():
            self._stopped.wait(0.01)
        self._socket.listen(_MOST_WAITING)
        left_out = ", ".join(model.left_out)
        self._on_event(
            "started",
            model=model.name,
            versions=", ".join(map(str, model.versions)) or "none",
            **({"left_out": left_out} if left_out else {}),
            rest=self.port,
            grpc=self.grpc_port,
            notice=NOTICE,
        )
        return self

    def stop_on_signals(self) -> Self:
        """Let SIGTERM and SIGINT end `wait`. For the main thread, before `start`."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._signalled.set())
        return self

    def wait(self) -> None:
        """Serve until a signal, or until `stop` is called in another thread."""
        while not self._signalled.wait(0.2) and not self._stopped.is_set():
            pass

    def stop(self, grace_seconds: float = 30.0) -> None:
        """Refuse new requests, wait for running ones, and close everything."""
        if self._stopped.is_set():
            return
        self.engine.stopping = True  # from now on /readyz returns 503
        self._stopped.set()
        self._rest.should_exit = True
        if self._grpc is not None:
            self._grpc.stop(grace_seconds)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(grace_seconds)
        self.engine.close()
        self._socket.close()
        self._faults.flush()
        self._on_event("stopped")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def _watch(self) -> None:
        memory = FreedMemory(self._faults)
        while not self._stopped.wait(self._poll_seconds):
            self._faults.flush()
            memory.give_back()
            try:
                self.engine.model.poll()
            except Exception as error:  # the folder may be readable later
                reason = f"{type(error).__name__}: {error}"
                self._faults.report("folder", "server", reason)


def print_event(as_json: bool = False) -> Callable[..., None]:
    """Return a function that prints events, as words or as one JSON object per line."""

    def tell(word: str, **facts: Any) -> None:
        facts = {
            key: printable(value) if isinstance(value, str) else value
            for key, value in facts.items()
        }
        if as_json:
            line = json.dumps({"event": word, **facts}, ensure_ascii=False)
        else:
            line = " ".join([word, *(f"{key}={value}" for key, value in facts.items())])
        print(line, file=sys.stdout, flush=True)

    return tell


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=_BACKLOG)
    except OSError as error:
        raise OSError(
            "The port cannot be opened. Expected a free port of this machine: choose "
            f"another with --port. Received: {host}:{port}: {error}"
        ) from error
