"""Exact attention over long sequences: time and peak memory of chunks and of T × S.

Each candidate computes each case in a fresh process. One computes at a time. Where a
peer that holds all scores would take more memory than there is, it is left out.
"""

import contextlib
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import cores
from benchmarks.cores import Case
from benchmarks.measure import LeftOut, Progress, Row, Settings, compare, take_turns
from benchmarks.worker import Worker, available_bytes

LONGEST = 16384
OURS = "ours, chunked"
QUADRATIC = ("ours, dense", "Keras MHA")
PEERS = (*QUADRATIC, "torch SDPA")
SLOWEST = 1.3  # times the peer
TIME_TARGETS = {"Keras MHA": 1 / SLOWEST, "torch SDPA": 1 / SLOWEST}
MEMORY_TARGETS = {"Keras MHA": 10.0}
# Of what is free: other programs want memory too.
SHARE = 0.8


def run(settings: Settings, tell: Progress) -> list[Row | LeftOut]:
    names, missing = cores.installed(OURS, *PEERS)
    rows: list[Row | LeftOut] = [LeftOut(*item) for item in missing.items()]
    lengths = (LONGEST // 16, LONGEST // 8) if settings.quick else (4096, 8192, LONGEST)
    for backward in (False, True):
        for causal in (False, True):
            peaks: dict[str, int] = {}
            for length in lengths:
                case = Case(length, causal=causal, backward=backward)
                expected = {n: 4 * peaks[n] for n in QUADRATIC if n in peaks}
                found, peaks = _measure(case, names, expected, settings, tell)
                rows += found
    return rows


def _measure(case, names, expected, settings, tell):
    """Rows of a case, and the peak memory of each candidate that was run."""
    rows: list[Row | LeftOut] = []
    free = available_bytes()
    for name, need in expected.items():
        if need > SHARE * free:
            reason = f"would take {need / 2**30:.1f} GB, and {free / 2**30:.1f} are free"
            rows.append(LeftOut(f"{name}, {case}", reason))
    dropped = {row.case.rsplit(f", {case}", 1)[0] for row in rows}
    with contextlib.ExitStack() as stack:
        workers = []
        for name in names:
            if name not in dropped:
                worker = Worker(name, [case], settings.threads)
                workers.append(stack.enter_context(worker))
        tell(f"{case}: starting")
        for worker in workers:
            worker.wait()
        samples, peaks = _samples(case, workers, settings, tell)
    for peer in [name for name in names[1:] if name in samples]:
        longest = case.length == LONGEST
        target = TIME_TARGETS.get(peer) if longest else None
        row = compare("long", f"time, {case}", samples, OURS, peer, target=target)
        rows.append(row)
    for peer in names[1:]:
        if peer in peaks or peer in expected:
            rows.append(_memory(case, peaks, peer, expected))
    return rows, peaks
