"""Loads and runs SavedModels without scanning them, and says what they did.

`python graph_worker.py` reads the path of a folder per line, and prints a line of JSON
for each. Before and after each, it reads the path `/mark/…`: in the log of
`traced_files.c` the files that a graph touches are between two marks.
"""

import contextlib
import ctypes
import json
import sys
from pathlib import Path

import numpy as np

from keras_attention.export.runtimes.tensorflow_session import SessionRunner

SECRET, OTHER = "client A: my secret", "client B"
RUN_SECONDS = 5.0
_M_PERTURB = (
    -6
)  # glibc fills memory with this byte, and its complement when it is freed


def mark(name):
    """Writes a line into the log of the files that are touched."""
    with contextlib.suppress(OSError):
        open(f"/mark/{name}", "rb").close()


def feeds(info, client):
    """The inputs of one client: texts and numbers that no other client sends."""
    arrays = {}
    for name, one in info.inputs.items():
        shape = one.shape if isinstance(one.shape, tuple) else (2,)
        shape = tuple(axis if isinstance(axis, int) else 2 for axis in shape)
        if one.dtype in ("string", "object", "str"):
            arrays[name] = np.full(shape, client, object)
        else:
            number = 7717 if client == SECRET else 3
            arrays[name] = np.full(shape, number).astype(one.dtype)
    return arrays


def same(a, b):
    """Whether two answers agree, NaN with NaN; floats up to their rounding."""
    if set(a) != set(b):
        return False
    for name in a:
        x, y = np.asarray(a[name]), np.asarray(b[name])
        if x.shape == y.shape and x.dtype.kind == y.dtype.kind == "f":
            # The order of a sum may depend on where the numbers are in memory.
            size = np.abs(x[np.isfinite(x)]).max(initial=0.0)
            if not np.allclose(x, y, rtol=0, atol=1e-4 * size, equal_nan=True):
                return False
        elif x.shape != y.shape or x.tolist() != y.tolist():
            return False
    return True


def answers(runner, name, client, perturb):
    """The answers to one client, or the name of the error."""
    ctypes.CDLL(None).mallopt(_M_PERTURB, perturb)
    try:
        return runner.run(name, **feeds(runner.signatures[name], client))
    except Exception as error:
        return {"error": type(error).__name__}
    finally:
        ctypes.CDLL(None).mallopt(_M_PERTURB, 0)


def mentions(answer, sent):
    """Whether a text or a number of one client is in the answer to another."""
    values = [np.asarray(value) for value in answer.values()]
    if isinstance(sent, str):
        return any(sent in str(value) for value in values)
    return any(value.dtype.kind in "fiu" and np.any(value == sent) for value in values)


def judge(runner):
    """Serves client B, then client A, then B again: B must see the same."""
    kept, timed_out, ran = [], False, 0
    for name in sorted(runner.signatures):
        first = answers(runner, name, OTHER, 0x55)
        again = answers(runner, name, OTHER, 0x55)
        secret = answers(runner, name, SECRET, 0x33)
        last = answers(runner, name, OTHER, 0xAA)
        ran += "error" not in first
        timed_out |= "TimeoutError" in (first.get("error"), last.get("error"))
        draws = not same(first, again)
        if mentions(last, SECRET) or mentions(last, 7717):
            kept.append(f"{name} tells client B what client A sent: {last}"[:300])
        elif not draws and not same(first, last):
            kept.append(f"{name} depends on the call before: {first} {last}"[:300])
        elif draws and not same(secret, secret):
            kept.append(name)
    return {"kept": kept, "timed_out": timed_out, "ran": ran}


def main():
    """Handles one folder per line."""
    for line in sys.stdin:
        folder = Path(line.strip())
        found = {"error": ""}
        mark(f"begin/{folder.name}")
        try:
            with SessionRunner(
                folder, intra_op_threads=1, time_limit=RUN_SECONDS
            ) as runner:
                found |= judge(runner)
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}"[:300]
        mark(f"end/{folder.name}")
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
