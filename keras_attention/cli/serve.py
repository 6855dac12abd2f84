"""`keras-attention serve`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_attention.cli.console import failing_clearly, start_tensorflow


def serve(
    path: Annotated[
        Path,
        typer.Argument(help="Base folder with version folders (watched), or artifact."),
    ],
    name: Annotated[
        str | None, typer.Option(help="Of the model; default: the folder's name.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of REST; 0 takes a free one.")] = 8501,
    grpc_port: Annotated[int, typer.Option(help="Of gRPC; -1 for none.")] = 8500,
    keep: Annotated[
        int, typer.Option(min=1, help="Versions served at once, the highest.")
    ] = 1,
    max_batch: Annotated[int, typer.Option(min=1, help="Rows of one request.")] = 1024,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Of one request.")] = 16
    * 1024
    * 1024,
    timeout: Annotated[float, typer.Option(help="Seconds of one request.")] = 30.0,
    threads: Annotated[
        int, typer.Option(min=1, help="Requests answered at the same time.")
    ] = 8,
    as_json: Annotated[
        bool, typer.Option("--json", help="Log one JSON object a line.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log nothing.")] = False,
) -> None:
    """Serve an artifact for development: TF Serving's REST and gRPC protocols.

    DEVELOPMENT SERVER: no TLS, no authentication, one process. Production is TF
    Serving, Triton or KServe. SIGTERM and Ctrl-C end it when the running requests are
    answered.
    """
    from keras_attention.serving.checks import Limits
    from keras_attention.serving.server import DevelopmentServer, print_event

    with failing_clearly():
        limits = Limits(
            max_body_bytes=max_body_bytes, max_batch=max_batch, timeout_seconds=timeout
        )
        start_tensorflow()
        server = DevelopmentServer(
            path,
            name=name,
            host=host,
            port=port,
            grpc_port=None if grpc_port < 0 else grpc_port,
            keep=keep,
            threads=threads,
            limits=limits,
            on_event=(lambda *_, **__: None) if quiet else print_event(as_json),
        )
        with server.stop_on_signals():
            server.wait()
