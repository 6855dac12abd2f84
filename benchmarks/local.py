"""Attention in a window of 256 keys on each side: in blocks, or masked T × S."""

import contextlib
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import cores
from benchmarks.cores import Case
from benchmarks.measure import Progress, Row, Settings, Skipped, compare, take_turns
from benchmarks.worker import Worker

WINDOW = 256
LONGEST = 8192
# Ours is first; the others are checked and timed against it.
LAYERS = ("our layer", "Keras sliding_window")
CORES = ("our windows", "Keras core", "torch SDPA", "lucidrains local-attention")
# The layers include projections, which take the same time on both sides.
TARGETS = {
    "Keras sliding_window": 8.0,
    "Keras core": 8.0,
    "lucidrains local-attention": 2.5,
}
GROWTH_LIMIT = 2.2


def run(settings: Settings, progress: Progress) -> list[Row | Skipped]:
    names, missing = cores.installed(*LAYERS, *CORES)
    rows: list[Row | Skipped] = [Skipped(*item) for item in missing.items()]
    lengths = (LONGEST // 8, LONGEST // 4) if settings.quick else (2048, 4096, LONGEST)
    forward = [Case(length, WINDOW) for length in lengths]
    backward = [Case(length, WINDOW, backward=True) for length in lengths[-2:]]
    cases = forward + backward
    with contextlib.ExitStack() as stack:
        workers = []
        for name in names:
            progress(f"starting {name}")
            worker = Worker(name, cases, settings.threads)
            workers.append(stack.enter_context(worker))
            worker.wait()
        _check(workers, cases, progress)
        for some, rounds in (
            (forward, settings.rounds),
            (backward, max(3, settings.rounds * 2 // 3)),
        ):
            calls = {
                (worker.candidate, case): _calling(worker, cases.index(case))
                for worker in workers
                for case in some
            }
            samples = take_turns(calls, settings, progress, rounds=rounds)
            rows += _rows(names, some, samples)
    return rows


def _calling(worker, number):
    return lambda: worker.call(number)


def _check(workers, cases, progress):
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(cases):
            progress(f"comparing the results at {case}")
            results = {}
            for worker in workers:
                path = Path(folder) / "results.npz"
                worker.call(number)
                worker.save(str(path), number)
                with np.load(path) as arrays:
                    results[worker.candidate] = list(arrays.values())
            for ours, *peers in (LAYERS, CORES):
                for peer in peers:
                    if peer in results:
                        pair = results[peer], results[ours]
                        cores.check(peer, *pair, backward=case.backward)


def _rows(names, cases, samples):
    rows = []
    for case in cases:
        of_case = {name: samples[name, case] for name in names}
        for ours, peer in _pairs(names):
            target = TARGETS.get(peer) if case.length == LONGEST else None
            title = f"{case}: {ours}"
            rows.append(compare("local", title, of_case, ours, peer, target=target))
    shorter, longer = cases[-2:]
    growths = {
        name: median(samples[name, longer]) / median(samples[name, shorter])
        for name in names
    }
    for ours, peer in _pairs(names):
        mine, other = growths[ours], growths[peer]
        words = str(longer).replace("T=", f"T={shorter.length} to ")
        case = f"growth from {words}, {ours}"
        row = Row("local", case, mine, other, peer, "×", other / mine)
        verdict = "met" if mine <= GROWTH_LIMIT else "missed"
        row.note = f"target ≤ {GROWTH_LIMIT}: {verdict}"
        rows.append(row)
    return rows


def _pairs(names):
    return [
        (ours, peer)
        for ours, *peers in (LAYERS, CORES)
        for peer in peers
        if peer in names
    ]
