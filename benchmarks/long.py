"""Exact attention over long sequences: time and peak memory of chunks and of T × S.

Each candidate computes each case in a fresh process, one at a time. A peer that holds
all scores is omitted where it would need more memory than is free.
"""

import contextlib
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import cores
from benchmarks.cores import Case
from benchmarks.measure import Progress, Row, Settings, Skipped, compare, take_turns
from benchmarks.worker import Worker, available_bytes

LONGEST = 16384
OURS = "our chunks"
QUADRATIC = "Keras core"
PEERS = ("torch SDPA", QUADRATIC)
SLOWEST = 1.3  # the largest time allowed, relative to the peer's
TIME_TARGETS = {"Keras core": 1 / SLOWEST, "torch SDPA": 1 / SLOWEST}
MEMORY_TARGETS = {"Keras core": 10.0}
# The share of free memory that may be used: other programs need memory too.
SHARE = 0.8


def run(settings: Settings, progress: Progress) -> list[Row | Skipped]:
    names, missing = cores.installed(OURS, *PEERS)
    rows: list[Row | Skipped] = [Skipped(*item) for item in missing.items()]
    length = LONGEST // 8 if settings.quick else LONGEST
    # Causal cases run forward only: backward they take longer and add nothing new.
    for backward, causal in ((False, False), (False, True), (True, False)):
        case = Case(length, causal=causal, backward=backward)
        # The scores in float32, and in the backward pass their gradients too.
        scores = cores.HEADS * length**2 * 4 * (3 if backward else 1)
        found, _ = _measure(case, names, {QUADRATIC: scores}, settings, progress)
        rows += found
    return rows


def _measure(case, names, expected, settings, progress):
    """Returns rows of a case, and the peak memory of each candidate that was run."""
    skipped: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        workers = {}
        for name in names:
            worker = Worker(name, [case], settings.threads)
            workers[name] = stack.enter_context(worker)
        progress(f"{case}: starting")
        for worker in workers.values():
            worker.wait()
        peaks = _peaks(case, workers, expected, skipped, progress)
        calls = {name: workers[name].call for name in peaks}
        rounds = max(2, settings.rounds // 8)
        samples = take_turns(
            calls, settings, lambda stage: progress(f"{case}: {stage}"), rounds=rounds
        )
    rows: list[Row | Skipped] = [
        Skipped(f"{name}, {case}", why) for name, why in skipped.items()
    ]
    longest = case.length == LONGEST
    for peer in [name for name in names[1:] if name in samples]:
        target = TIME_TARGETS.get(peer) if longest else None
        row = compare("long", f"{case}, time", samples, OURS, peer, target=target)
        rows.append(row)
    for peer in names[1:]:
        row = _memory_row(case, peaks, peer, expected)
        if row is not None:
            row.target = MEMORY_TARGETS.get(peer) if longest else None
            rows.append(row)
    return rows, peaks


def _gb(size):
    return f"{size / 2**30:.1f} GB"


def _peaks(case, workers, expected, skipped, progress):
    """Returns the peak bytes of each candidate's first call; compares its results.

    TensorFlow does not return memory, so free memory is read before each first call.
    """
    peaks, truth = {}, None
    with tempfile.TemporaryDirectory() as folder:
        for name, worker in workers.items():
            need, free = expected.get(name, 0), available_bytes()
            if need > SHARE * free:
                sizes = f"would take {_gb(need)}, and {_gb(free)} are free"
                skipped[name] = f"{name}, {case}: {sizes}"
                continue
            progress(f"{case}: memory of {name}")
            try:
                worker.call()
            except (MemoryError, RuntimeError) as error:  # or it was killed
                if name == OURS:
                    raise
                skipped[name] = f"{case}, {error}"
                continue
            peaks[name] = worker.peak()
            path = Path(folder) / "results.npz"
            worker.save(str(path))
            with np.load(path) as arrays:
                own = list(arrays.values())
            truth = own if truth is None else truth
            cores.check(name, own, truth, backward=case.backward)
    return peaks


def _memory_row(case, peaks, peer, expected):
    size = peaks.get(peer, expected.get(peer))
    if size is None:
        return None
    mine, other = peaks[OURS] / 1e6, size / 1e6
    row = Row("long", f"{case}, peak memory", mine, other, peer, "MB", other / mine)
    if peer not in peaks:
        row.note = "the peer's: calculated from its scores"
    return row
