"""Runs a verification in a process of its own, which ends in time and with its parent.

A graph may never end or fill the memory, and a runtime cannot be interrupted. So the
process is ended: by its parent after a limit for everything, and by a thread of its own
if one case takes too long, it needs too much memory, or the parent is no longer there.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

TIME_LIMIT = 1800.0
"""The seconds that one artifact may take."""
CASE_TIME_LIMIT = 600.0
"""The seconds that opening the artifact, or one case of it, may take."""
_EXIT_STATUS = 124  # that of the command `timeout`
_PR_SET_PDEATHSIG = 1


def run_child(command: Sequence[str], time_limit: float) -> tuple[str, int, str]:
    """Runs a command and waits until it ends.

    Args:
        command: The program and its arguments.
        time_limit: The seconds after which it is ended.

    Returns:
        What it printed, its exit status, and the last line of its errors.
    """
    # Its temporary files are removed here: it may be ended before it removes them.
    with tempfile.TemporaryDirectory(prefix="keras-attention-") as temporary:
        return _run(command, time_limit, temporary)


def _run(
    command: Sequence[str], time_limit: float, temporary: str
) -> tuple[str, int, str]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TMPDIR": temporary},
    )
    try:
        printed, errors = process.communicate(timeout=time_limit)
    except subprocess.TimeoutExpired:
        process.kill()
        printed, _ = process.communicate()
        reason = f"TimeoutError: it took more than {time_limit:g} seconds"
        return printed, process.returncode, reason
    except BaseException:  # Ctrl-C: the child must not stay
        process.kill()
        process.wait()
        raise
    last = errors.strip().splitlines()[-1:] or ["it printed nothing"]
    return printed, process.returncode, last[0]


def most_memory() -> int:
    """Returns the bytes that a verification may use: four fifths of the memory.

    Without a limit the system would end processes, and maybe others than this one.
    """
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 5 * 4
    except (AttributeError, OSError, ValueError):  # Windows
        return 1 << 62


@contextlib.contextmanager
def ending_in_time(limit: float, what: str) -> Iterator[None]:
    """Ends this process if the block takes too long. Only for a command line.

    Args:
        limit: The seconds that it may take.
        what: What takes so long, for the error.
    """

    def end() -> None:
        sys.stderr.write(
            f"\nError: {what} took more than {limit:g} seconds and was ended. Raise "
            f"--time-limit, if this is not too much work. Received: {limit:g}\n"
        )
        sys.stderr.flush()
        os._exit(_EXIT_STATUS)

    timer = threading.Timer(limit, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Watchdog:
    """Ends this process if a step takes too long or too much, or if its parent ends.

    Args:
        limit: The seconds that one step may take.
        parent: The process id of the parent.
        memory: The bytes that this process may use, where the system tells it.
    """

    def __init__(self, limit: float, parent: int, memory: int | None = None) -> None:
        self._limit, self._parent = limit, parent
        self._memory = memory or most_memory()
        self.step("starting")
        _die_with_parent()
        threading.Thread(target=self._watch, daemon=True).start()

    def step(self, name: str) -> None:
        """Begins a step; the one before is over."""
        self._step = (name, time.monotonic() + self._limit)

    def _watch(self) -> None:
        while True:
            name, until = self._step
            if os.getppid() != self._parent:
                os._exit(_EXIT_STATUS)
            if time.monotonic() > until:
                _end(f"TimeoutError: {name} took more than {self._limit:g} seconds")
            if _resident() > self._memory:
                _end(f"MemoryError: {name} needed more than {self._memory:,} bytes")
            time.sleep(min(0.1, max(0.01, until - time.monotonic())))


def _end(message: str) -> None:
    sys.stderr.write(f"\n{message}\n")
    sys.stderr.flush()
    os._exit(_EXIT_STATUS)


def _resident() -> int:
    """The bytes of memory in use; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _die_with_parent() -> None:
    """Asks Linux to end this process with its parent, even if no thread can run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
