"""Runs SavedModels in a process whose files are logged; see `graph_worker.py`."""

import json
import os
import queue
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# What TensorFlow and Python read themselves: about the machine, and Python's modules.
SYSTEM = ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/etc/localtime", "/mark/")
_THREAD_NAME = re.compile("W /proc/self/task/[0-9]+/comm")
needs_compiler = pytest.mark.skipif(
    not (shutil.which("cc") and sys.platform == "linux"),
    reason="cc is missing (Debian: apt install build-essential), or this is not Linux",
)


def compile_tracer(folder):
    """Compiles the program that logs the files of another; returns its path."""
    program, source = folder / "traced_files", HERE / "traced_files.c"
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-o", program, source]
    subprocess.run(["cc", *flags], check=True, timeout=60)
    done = subprocess.run([program, folder / "log", "true"], check=False, timeout=60)
    if done.returncode == 77:
        pytest.skip("this machine does not let a program trace its child (ptrace)")
    return program


class TracedWorker:
    """A process that loads and runs one SavedModel after the other.

    Args:
        tracer: What `compile_tracer` returned.
        folder: A folder for the log.
        first: A SavedModel that each process loads first: TensorFlow reads files of its
            own when it starts.
        limit: The seconds that one SavedModel may take before the process is ended.
    """

    def __init__(self, tracer, folder, first, limit=60.0):
        self._tracer, self._first, self._limit = tracer, first, limit
        self._log, self._read = folder / "touched.log", 0
        self._python = {sys.prefix, sys.base_prefix, *site.getsitepackages()}
        self._python |= {*sysconfig.get_paths().values(), str(HERE.parents[2])}
        self._python = tuple({os.path.realpath(one) for one in self._python})
        self._process = None
        self.starts = 0

    def run(self, folder):
        """Loads and runs one SavedModel.

        Returns:
            What the worker printed, with `touched`: the files outside of the folder,
            and what was written. `ended` says that the process crashed or hung.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
            self._ask(self._first)
        self._read = self._log.stat().st_size if self._log.exists() else 0
        found = self._ask(folder)
        if found["ended"]:
            self.close()
        found["touched"] = self._touched(folder)
        return found

    def _ask(self, folder):
        found = {"ended": ""}
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=self._limit)
        except queue.Empty:
            return {"ended": "hung"}
        return found | (json.loads(line) if line else {"ended": "crashed"})

    def _start(self):
        self.starts += 1
        self._process = subprocess.Popen(
            [self._tracer, self._log, sys.executable, HERE / "graph_worker.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "PYTHONPATH": str(HERE.parents[2]),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )
        self._lines = lines = queue.Queue()
        output = self._process.stdout

        def read():
            for line in output:
                if line.startswith("{"):
                    lines.put(line)
            lines.put("")

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()

    def _touched(self, folder):
        """Returns the lines of the log that are not what every load does."""
        with self._log.open(errors="replace") as opened:
            opened.seek(self._read)
            lines = opened.read().splitlines()
        begin = f"R /mark/begin/{folder.name}"
        lines = lines[lines.index(begin) + 1 :] if begin in lines else lines
        return [one for one in lines if not self._is_harmless(one, folder)]

    def _is_harmless(self, line, folder):
        kind, _, path = line.partition(" ")
        if _THREAD_NAME.fullmatch(line):
            return True
        if kind != "R" or not path.startswith("/"):
            return False
        real = os.path.realpath(path)
        path = os.path.normpath(path)
        inside = (os.path.realpath(folder), *self._python)
        return path.startswith(SYSTEM) or any(
            real == one or real.startswith(one + "/") for one in inside
        )

    def close(self):
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._reader.join(5)
            self._process.stdout.close()
            self._process = None
