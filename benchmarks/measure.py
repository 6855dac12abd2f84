"""Measures candidates in interleaved rounds of random order, and their ratio.

Absolute times drift with the other load of the machine. A ratio does not, if both sides
are measured in turn. So every round runs every candidate once, and the interval of the
ratio comes from resampling whole rounds (bootstrap).
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

Progress = Callable[[str], None]
SHORTEST_SAMPLE_S = 0.02
# A first call this long is used as it is: tracing is a small part of it.
LONG_CALL_S = 5.0


@dataclass
class Row:
    """A row of the table: ours and one peer. A ratio over 1 is in our favour."""

    group: str
    case: str
    ours: float
    peer: float
    peer_name: str
    unit: str
    ratio: float
    low: float | None = None
    high: float | None = None
    target: float | None = None
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Compares the ratio with the target; "level" if the interval contains it."""
        if self.target is None:
            return ""
        low, high = self.low or self.ratio, self.high or self.ratio
        if low < self.target <= high:
            return "level"
        return "met" if self.ratio >= self.target else "missed"


@dataclass(frozen=True)
class Skipped:
    """A comparison that was not possible here, and the reason."""

    what: str
    reason: str


@dataclass(frozen=True)
class Settings:
    rounds: int = 15
    threads: int = 2
    quick: bool = False
    data: str | None = None


def take_turns(
    candidates: Mapping[str, Callable[[], Any]],
    settings: Settings,
    progress: Progress = lambda _: None,
    rounds: int | None = None,
) -> dict[str, list[float]]:
    """Returns the seconds per call of each candidate, one sample per round."""
    rounds = settings.rounds if rounds is None else rounds
    repeats = {}
    for name, call in candidates.items():
        progress(f"warming up {name}")
        took = _seconds(call, 1)
        if took < LONG_CALL_S:
            took = _seconds(call, 1)
        repeats[name] = max(1, round(SHORTEST_SAMPLE_S / took))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    order, generator = list(candidates), random.Random(0)
    for index in range(rounds):
        progress(f"round {index + 1} of {rounds}")
        generator.shuffle(order)
        for name in order:
            samples[name].append(_seconds(candidates[name], repeats[name]))
    return samples


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def compare(
    group: str,
    case: str,
    samples: Mapping[str, list[float]],
    ours: str,
    peer: str,
    *,
    per: float | None = None,
    unit: str = "ms",
    **more: Any,
) -> Row:
    """Makes a row from samples in seconds; with `per` items per call, in items/s."""
    mine, theirs = np.array(samples[ours]), np.array(samples[peer])
    picks = np.random.default_rng(0).integers(0, len(mine), (2000, len(mine)))
    ratios = np.median(theirs[picks], axis=1) / np.median(mine[picks], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))

    def shown(values):
        return per / median(values) if per else 1e3 * median(values)

    return Row(
        group,
        case,
        ours=shown(mine),
        peer=shown(theirs),
        peer_name=peer,
        unit=unit,
        ratio=float(np.median(theirs) / np.median(mine)),
        low=float(low),
        high=float(high),
        samples={ours: list(samples[ours]), peer: list(samples[peer])},
        **more,
    )


def fastest(samples: Mapping[str, list[float]], *names: str) -> str:
    """Returns the name with the lowest median."""
    return min(names, key=lambda name: median(samples[name]))
