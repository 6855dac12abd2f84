"""`keras-attention serve`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_attention.cli.console import failing_clearly, start_tensorflow


def serve(
    path: Annotated[
        Path,
        typer.Argument(help="Base folder of versions (watched), or an artifact."),
    ],
    name: Annotated[
        str | None, typer.Option(help="The model's name; default: that of the folder.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of REST; 0: any free one.")] = 8501,
    grpc_port: Annotated[int, typer.Option(help="Port of gRPC; -1: none.")] = 8500,
    keep: Annotated[
        int, typer.Option(min=1, help="How many versions are served: the highest.")
    ] = 1,
    max_batch: Annotated[int, typer.Option(min=1, help="Rows per request.")] = 1024,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Bytes per request.")] = 16
    * 1024
    * 1024,
    timeout: Annotated[float, typer.Option(help="Seconds per request.")] = 30.0,
    header_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for a request's header.")
    ] = 10.0,
    max_connections: Annotated[
        int, typer.Option(min=1, help="Open HTTP connections.")
    ] = 256,
    max_waiting_bytes: Annotated[
        int, typer.Option(min=1, help="Bytes of all requests that wait or run.")
    ] = 256 * 1024 * 1024,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Another name of this server, which the Host header may have, besides "
            "localhost and --host; *: any. Can be given several times."
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Requests answered at the same time.")
    ] = 8,
    as_json: Annotated[
        bool, typer.Option("--json", help="Log one JSON object per line.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log nothing.")] = False,
) -> None:
    """Serve an artifact for development: TF Serving's REST and gRPC protocols.

    DEVELOPMENT SERVER: no TLS, no authentication, one process. Use TF Serving, Triton
    or KServe in production. SIGTERM and Ctrl-C stop it after the running requests are
    answered.
    """
    from keras_attention.serving.checks import Limits
    from keras_attention.serving.connections import raise_file_limit
    from keras_attention.serving.server import DevelopmentServer, print_event

    with failing_clearly():
        limits = Limits(
            max_body_bytes=max_body_bytes,
            max_batch=max_batch,
            timeout_seconds=timeout,
            header_timeout=header_timeout,
            max_connections=max_connections,
            max_waiting_bytes=max_waiting_bytes,
        )
        raise_file_limit()
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
            allowed_hosts=allowed_host or [],
            on_event=(lambda *_, **__: None) if quiet else print_event(as_json),
        )
        with server.stop_on_signals():
            server.wait()
