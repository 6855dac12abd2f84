"""Starts the workers of one training on this machine. Only the standard library."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_SECONDS_TO_END = 10.0  # between SIGTERM and SIGKILL


def launch(
    script: str | Path,
    arguments: Sequence[str] = (),
    *,
    num_workers: int = 2,
    write: Callable[[str], object] = print,
) -> int:
    """Runs a script in several processes that train together, and waits for them.

    Each process finds its place in `TF_CONFIG`, which
    `tf.distribute.MultiWorkerMirroredStrategy()` reads. When one of them fails, the
    others are ended.

    Args:
        script: The path of a Python script.
        arguments: The arguments of the script.
        num_workers: The number of processes.
        write: A function that is called with each line of their output, which begins
            with the number of the worker.

    Returns:
        0, or the exit status of the process that failed first; 128 and the number of
        the signal for one that was killed.

    Raises:
        ValueError: If there is no such script or fewer than one worker.
    """
    if num_workers < 1 or not Path(script).is_file():
        raise ValueError(
            "`launch` needs the path of a Python script, and at least one worker. "
            f"Received: script={str(script)!r}, num_workers={num_workers}"
        )
    addresses = [f"localhost:{port}" for port in free_ports(num_workers)]
    processes, readers = [], []
    try:
        for index in range(num_workers):
            config = {
                "cluster": {"worker": addresses},
                "task": {"type": "worker", "index": index},
            }
            process = subprocess.Popen(
                [sys.executable, "-u", str(script), *arguments],
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # what it started ends with it
            )
            processes.append(process)
            reader = threading.Thread(
                target=_copy, args=(process.stdout, f"[{index}] ", write), daemon=True
            )
            reader.start()
            readers.append(reader)
        return _wait(processes)
    finally:
        _end(processes)
        for reader in readers:
            reader.join(_SECONDS_TO_END)


def free_ports(count: int) -> list[int]:
    """Returns ports of this machine that no process listens on.

    Args:
        count: The number of ports.
    """
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _copy(stream, prefix: str, write: Callable[[str], object]) -> None:
    with stream:
        for line in stream:
            write(prefix + line.decode("utf-8", "replace").rstrip("\r\n"))


def _wait(processes: list[subprocess.Popen]) -> int:
    """Waits until all have ended well or one has failed; returns the exit status."""
    while True:
        statuses = [process.poll() for process in processes]
        failed = [status for status in statuses if status]
        if failed:
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        if None not in statuses:
            return 0
        time.sleep(0.05)


def _end(processes: list[subprocess.Popen]) -> None:
    """Ends the processes that still run, and what they have started."""
    running = [process for process in processes if process.poll() is None]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in running:
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + _SECONDS_TO_END
        while running and time.monotonic() < deadline:
            running = [process for process in running if process.poll() is None]
            time.sleep(0.05)
