"""Runs a candidate in a process of its own, with threads and memory of its own.

The parent writes one line of JSON per order, the worker one per answer. Idle workers
use no time, so that candidates can take turns.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Worker(contextlib.AbstractContextManager):
    """A process that computes one candidate; `wait` returns when it is ready.

    Args:
        candidate: A name in `benchmarks.cores.CANDIDATES`.
        cases: The cases that it is built for.
        threads: The number of threads of its runtime.
    """

    def __init__(self, candidate: str, cases: list, threads: int):
        self.candidate = candidate
        wanted = {"candidate": candidate, "cases": [vars(case) for case in cases]}
        wanted["threads"] = threads
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(wanted)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )

    def wait(self) -> None:
        self._answer()

    def call(self, number: int = 0) -> None:
        """Computes case `number` once."""
        self._order("call", number)

    def save(self, path: str, number: int = 0) -> None:
        """Writes the results of its last call to a file of NumPy arrays."""
        self._order("save", number, path)

    def peak(self) -> int:
        """Returns the peak memory so far, without imports and inputs, in bytes."""
        return self._order("peak")

    def _order(self, *order: Any) -> Any:
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(order), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        if status == -9:
            raise MemoryError(f"{self.candidate}: killed, most likely out of memory")
        self._errors.seek(0)
        messages = self._errors.read()[-2000:]
        raise RuntimeError(f"{self.candidate}: ended with status {status}.\n{messages}")

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                file.close()


def available_bytes() -> int:
    """Returns the memory that is available without swapping."""
    return _kilobytes("/proc/meminfo", "MemAvailable")


def _kilobytes(path, name):
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _serve(wanted):
    import numpy as np

    from benchmarks import cores

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries must not look like an answer
    # If memory runs out, the system kills this process first.
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    _start(wanted["candidate"], wanted["threads"])
    cases = [cores.Case(**case) for case in wanted["cases"]]
    built = [cores.build(wanted["candidate"], case) for case in cases]
    before = _kilobytes("/proc/self/status", "VmRSS")

    def answer(value=None):
        print(json.dumps(value), file=answers, flush=True)

    results = {}

    def call(number):
        results.pop(number, None)  # free it before the next one is computed
        results[number] = built[number].call()

    def save(number, path):
        np.savez(path, *built[number].arrays(results.pop(number)))

    def peak():
        return _kilobytes("/proc/self/status", "VmHWM") - before

    orders = {"call": call, "save": save, "peak": peak}
    answer()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        answer(orders[name](*arguments))


def _start(candidate, threads):
    """Imports the runtime of the candidate, and nothing else that is large."""
    from benchmarks.cores import PACKAGES

    if candidate in PACKAGES:
        import torch

        torch.set_num_threads(threads)
        return
    from keras_attention.cli.console import start_tensorflow

    # TensorFlow's own default, but only on processors with AVX-512. Without it, the
    # matrix products of ours and of Keras take three times as long as torch's.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    start_tensorflow()


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
