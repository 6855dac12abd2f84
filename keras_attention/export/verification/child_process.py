"""Runs a verification in a process of its own, which ends in time and with its parent.

A graph may never end, and a runtime cannot be interrupted. So the process is ended: by
its parent after a limit for everything, and by a thread of its own if one case takes
too long or the parent is no longer there.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

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


class Watchdog:
    """Ends this process if a step takes too long, or if its parent ends.

    Args:
        limit: The seconds that one step may take.
        parent: The process id of the parent.
    """

    def __init__(self, limit: float, parent: int) -> None:
        self._limit, self._parent = limit, parent
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
                message = f"TimeoutError: {name} took more than {self._limit:g} seconds"
                sys.stderr.write(f"\n{message}\n")
                sys.stderr.flush()
                os._exit(_EXIT_STATUS)
            time.sleep(min(0.2, max(0.01, until - time.monotonic())))


def limit_memory(limit: int | None) -> None:
    """Limits the memory that this process may allocate, on Linux.

    A graph may ask for more memory than there is, and the kernel could then end
    another process instead of this one.

    Args:
        limit: Bytes; by default the memory of the machine.
    """
    if sys.platform == "linux":
        import resource

        most = limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _die_with_parent() -> None:
    """Asks Linux to end this process with its parent, even if no thread can run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
