"""Reports the faults of clients: one line per fault, and a limit on their number."""

import ctypes
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# More peers than this in one second share one line per kind of fault.
MAX_PEERS = 100
OTHERS = "other peers"


@dataclass
class _Recent:
    logged: float
    uncounted: int = 0
    reason: str = ""


class FaultLog:
    """Passes on faults as events, the same fault of the same peer once per second.

    The faults in between are counted; `flush` reports them when their second is over.

    Args:
        on_event: Called with "fault" and the facts.
        seconds: The time in which the same fault is reported once.

    Attributes:
        total: The number of faults until now.
    """

    def __init__(
        self,
        on_event: Callable[..., None] = lambda *_, **__: None,
        seconds: float = 1.0,
    ) -> None:
        self._on_event = on_event
        self._seconds = seconds
        self._lock = threading.Lock()
        self._recent: dict[tuple[str, str], _Recent] = {}
        self.total = 0

    def report(self, kind: str, peer: str, reason: str) -> None:
        """Report one fault.

        Args:
            kind: A word for the kind of fault.
            peer: The address of the client, without the port.
            reason: What happened.
        """
        now = time.monotonic()
        with self._lock:
            self.total += 1
            if (kind, peer) not in self._recent and len(self._recent) >= MAX_PEERS:
                peer = OTHERS
            recent = self._recent.get((kind, peer))
            if recent is not None and now - recent.logged < self._seconds:
                recent.uncounted += 1
                recent.reason = reason
                return
            count = 1 + (recent.uncounted if recent is not None else 0)
            self._recent[kind, peer] = _Recent(now)
        self._tell(kind, peer, count, reason)

    def flush(self) -> None:
        """Report the faults that were only counted until now."""
        now, lines = time.monotonic(), []
        with self._lock:
            for (kind, peer), recent in list(self._recent.items()):
                if now - recent.logged < self._seconds:
                    continue
                if recent.uncounted:
                    lines.append((kind, peer, recent.uncounted, recent.reason))
                    self._recent[kind, peer] = _Recent(now)
                else:
                    del self._recent[kind, peer]
        for line in lines:
            self._tell(*line)

    def _tell(self, kind: str, peer: str, count: int, reason: str) -> None:
        facts: dict[str, Any] = {"kind": kind, "peer": peer, "count": count}
        self._on_event("fault", **facts, reason=reason)


class FreedMemory:
    """Gives memory back to the system after an attack.

    The C library keeps what large requests occupied, in an area per thread.

    Args:
        faults: The log of faults, which shows whether there was an attack.
        seconds: The time between two attempts.
    """

    def __init__(self, faults: FaultLog, seconds: float = 5.0) -> None:
        self._faults = faults
        self._seconds = seconds
        self._seen, self._attempts, self._next = 0, 0, 0.0

    def give_back(self) -> None:
        """Give memory back, if there were faults some seconds ago."""
        now = time.monotonic()
        if self._seen != self._faults.total:
            self._seen, self._attempts = self._faults.total, 3
        if self._attempts and now >= self._next:
            self._attempts -= 1
            self._next = now + self._seconds
            trim_memory()


def trim_memory() -> bool:
    """Ask the C library to give free memory back; return whether it can."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):  # not the GNU C library
        return False
