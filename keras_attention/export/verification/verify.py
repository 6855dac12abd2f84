"""Verifies artifacts: runs them in a process of their own on the cases they bring.

`python -m keras_attention.export.verification.verify FOLDER …` opens each artifact in
the runtime it is meant for, runs it on every case in it, and prints one line of JSON
per artifact.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from keras_attention.export.artifact.folders import artifact_folder
from keras_attention.export.cases.grid import CASES_NAME, Case, load_cases
from keras_attention.export.runtimes.base import Runner
from keras_attention.export.runtimes.opening import open_artifact, open_copy
from keras_attention.export.scanning.scan import scan_graphs, whole_copy
from keras_attention.export.verification.child_process import (
    CASE_TIME_LIMIT,
    TIME_LIMIT,
    Watchdog,
    most_memory,
    run_child,
)
from keras_attention.untrusted import clip, printable

TOLERANCE = 1e-5


@dataclass(frozen=True)
class CaseResult:
    """The difference between an artifact and the model on one case.

    Attributes:
        signature: The signature's name.
        case: The case's name.
        runtime: The runtime that ran it.
        max_abs_error: The largest absolute difference over all outputs.
        max_rel_error: The largest difference relative to its output's largest value.
        tolerance: The largest error allowed, absolute for values up to 1, relative
            above.
        passed: Whether the errors are within the tolerance, and shapes, integers and
            exact zeros agree.
        reason: The reason why it did not pass.
    """

    signature: str
    case: str
    runtime: str
    max_abs_error: float
    max_rel_error: float
    tolerance: float
    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """The results of one artifact.

    Attributes:
        path: The artifact.
        results: One per case.
        error: The reason why the artifact could not be opened, if it could not.
    """

    path: Path
    results: tuple[CaseResult, ...]
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether it was opened, there are cases, and all passed."""
        passed = all(result.passed for result in self.results)
        return not self.error and bool(self.results) and passed

    def worst(self) -> dict[str, CaseResult]:
        """The worst case of each signature: a failed one, else the largest error."""
        results = reversed(self.results)  # of equal ones the first is kept
        results = sorted(results, key=lambda x: (not x.passed, x.max_abs_error))
        worst = {result.signature: result for result in results}
        return {result.signature: worst[result.signature] for result in self.results}

    def __str__(self) -> str:
        if self.error:
            return self.error
        lines = [f"{'signature':20} {'cases':>5} {'worst error':>12}  worst case"]
        for name, result in self.worst().items():
            count = sum(one.signature == name for one in self.results)
            note = "" if result.passed else f"  FAILED: {printable(result.reason)}"
            lines.append(
                f"{printable(name):20} {count:>5} {result.max_abs_error:>12.2e}  "
                f"{printable(result.case)}{note}"
            )
        return "\n".join(lines)


class VerificationError(RuntimeError):
    """An artifact that does not agree with the model. It was not kept."""


@dataclass(frozen=True)
class _Options:
    """The options of the process that verifies: see `verify_artifact`."""

    tolerance: float
    runtime: str | None
    time_limit: float
    case_time_limit: float
    memory_limit: int
    private: bool


def verify_artifact(
    path: str | Path,
    *,
    tolerance: float | None = None,
    runtime: str | None = None,
    time_limit: float = TIME_LIMIT,
    case_time_limit: float = CASE_TIME_LIMIT,
    memory_limit: int | None = None,
) -> Report:
    """Verifies an exported artifact again, on this machine.

    Copies the files to where nobody else can change them, compares every one with its
    sha256 in manifest.json, then runs the artifact in a fresh process on every case in
    it. Needs the runtime, but neither the model nor Keras.

    Args:
        path: The artifact's folder; of a base folder the highest version is taken.
        tolerance: The largest error allowed; that of the export when `None`.
        runtime: See `open_artifact`.
        time_limit: The seconds after which the process is ended.
        case_time_limit: The seconds that opening the artifact, or one case, may take.
        memory_limit: int or `None`. The bytes of memory that the process may use;
            default: four fifths of the machine's. Only on Linux.

    Returns:
        The results; `report.passed` says whether all cases agree.

    Raises:
        FileNotFoundError: If there is no artifact.
        ValueError: If a file is missing, changed or not listed.
        RuntimeError: If the artifact does not open, or takes longer than a limit.
    """
    folder = artifact_folder(path)
    # The process scans the graphs before it opens them: it has the runtime loaded.
    with whole_copy(folder, scan=False) as (copy, manifest):
        if tolerance is None:
            allowed = [float(case["tolerance"]) for case in manifest.verification]
            tolerance = max(allowed, default=TOLERANCE)
        limits = {"time_limit": time_limit, "case_time_limit": case_time_limit}
        options = {**limits, "tolerance": tolerance, "memory_limit": memory_limit}
        try:
            report = verify_folder(copy, runtime=runtime, private=True, **options)
        except RuntimeError as error:
            raise RuntimeError(str(error).replace(str(copy), str(folder))) from None
    return replace(report, path=folder)


def verify_folder(folder: Path, **options: Any) -> Report:
    """Verifies an artifact in a fresh process; it needs no manifest yet.

    Args:
        folder: The folder with the artifact and its cases.
        **options: See `verify_folders`.

    Raises:
        RuntimeError: If the artifact does not open, or its process dies.
    """
    (report,) = verify_folders([folder], **options)
    if report.error:
        raise RuntimeError(report.error)
    return report


def verify_folders(
    folders: Sequence[Path],
    *,
    tolerance: float = TOLERANCE,
    runtime: str | None = None,
    time_limit: float = TIME_LIMIT,
    case_time_limit: float = CASE_TIME_LIMIT,
    memory_limit: int | None = None,
    private: bool = False,
) -> list[Report]:
    """Verifies several artifacts in one fresh process.

    If an artifact ends the process, the ones after it are verified in a new process.

    Args:
        folders: The folders with artifacts and their cases.
        tolerance: See `CaseResult.tolerance`.
        runtime: See `open_artifact`.
        time_limit: The seconds per artifact after which the process is ended.
        case_time_limit: See `verify_artifact`.
        memory_limit: See `verify_artifact`.
        private: Whether nobody else can change the folders. Their graphs are scanned,
            but the files are neither copied nor compared with a manifest.

    Returns:
        One report per folder, in order. `report.error` is the reason why an artifact
        could not be verified.
    """
    most = most_memory() if memory_limit is None else memory_limit
    options = _Options(tolerance, runtime, time_limit, case_time_limit, most, private)
    return _verify_folders(list(folders), options)


def _verify_folders(folders: list[Path], options: _Options) -> list[Report]:
    reports: list[Report] = []
    while remaining := folders[len(reports) :]:
        found, reason = _in_fresh_process(remaining, options)
        if reason and len(found) == len(remaining) > 1:
            # The process died after the last artifact, and each may be the reason.
            alone = [_verify_folders([folder], options) for folder in remaining]
            return reports + [report for (report,) in alone]
        if reason and len(found) in (0, len(remaining)):
            found = [{"results": [], "error": reason}]
        # If it died in between, the next artifact is the first of the next process:
        # one of those before may be the reason.
        for folder, one in zip(remaining, found, strict=False):
            results = tuple(CaseResult(**result) for result in one["results"])
            error = one["error"] and (
                "The artifact does not open in a fresh process, so it was not "
                f"verified. Received: {clip(folder)}: {clip(one['error'], 1000)}"
            )
            reports.append(Report(Path(folder), results, error))
    return reports


def _in_fresh_process(
    folders: Sequence[Path], options: _Options
) -> tuple[list[dict[str, Any]], str]:
    """The results that the process printed, and the reason if it died."""
    command = [sys.executable, "-m", "keras_attention.export.verification.verify"]
    command += [*map(str, folders), "--tolerance", str(options.tolerance)]
    command += ["--case-time-limit", str(options.case_time_limit)]
    command += ["--memory-limit", str(options.memory_limit)]
    command += ["--parent", str(os.getpid())]
    command += ["--runtime", options.runtime] if options.runtime else []
    command += ["--private"] if options.private else []
    limit = options.time_limit * len(folders)
    printed, status, last = run_child(command, limit)
    lines = [line for line in printed.splitlines() if line.startswith(_MARK)]
    found = [json.loads(line.removeprefix(_MARK)) for line in lines]
    if status == 0 and len(found) == len(folders):
        return found, ""
    return found, f"{last} (exit status {status})"


_MARK = "verified: "  # runtimes print lines of their own


def verify_here(
    folder: Path,
    *,
    tolerance: float = TOLERANCE,
    runtime: str | None = None,
    private: bool = False,
    on_step: Callable[[str], None] | None = None,
) -> Report:
    """Verifies an artifact in this process; it needs no manifest yet.

    Args:
        folder: The folder with the artifact and its cases.
        tolerance: See `CaseResult.tolerance`.
        runtime: See `open_artifact`.
        private: See `verify_folders`.
        on_step: Called with a text before the artifact is opened and before each case.
    """
    step = on_step or (lambda name: None)
    cases = load_cases(Path(folder) / CASES_NAME)
    results: list[CaseResult] = []
    if private:
        step("scanning the graphs")
        scan_graphs(Path(folder))
    with contextlib.ExitStack() as opened:
        runners: dict[str, Runner] = {}
        for case in cases:
            if case.signature not in runners:
                step(f"opening the signature {case.signature!r}")
                # An artifact is verified before its manifest is written.
                open_one = partial(open_artifact, allow_unverified=True)
                open_one = open_copy if private else open_one
                runner = open_one(Path(folder), case.signature, runtime=runtime)
                opened.enter_context(runner)
                # A SavedModel has all signatures, an ONNX file has one.
                runners |= dict.fromkeys(runner.signatures, runner)
            step(f"case {case.name!r} of the signature {case.signature!r}")
            results.append(_run_case(runners[case.signature], case, tolerance))
    return Report(Path(folder), tuple(results))


def _run_case(runner: Runner, case: Case, tolerance: float) -> CaseResult:
    about = (case.signature, case.name, runner.runtime)
    try:
        answers = runner.run(case.signature, **case.inputs)
    except Exception as error:  # every runtime has its own errors
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return CaseResult(*about, float("inf"), float("inf"), tolerance, False, reason)
    absolute = relative = 0.0
    reasons = []
    if set(answers) != set(case.expected):
        reasons.append(f"outputs {sorted(answers)} for {sorted(case.expected)}")
    for name in set(answers) & set(case.expected):
        expected, got = case.expected[name], answers[name]
        zeros = name in case.exact_zeros
        error, scale, reason = compare(name, expected, got, zeros, tolerance)
        absolute, relative = max(absolute, error), max(relative, error / scale)
        reasons += [reason] if reason else []
    return CaseResult(
        *about, absolute, relative, tolerance, not reasons, "; ".join(reasons)
    )


def compare(name, expected, got, zeros, tolerance):
    """Compare one output: `(largest difference, largest value, reason or "")`.

    Args:
        name: The output's name.
        expected: The model's array.
        got: The artifact's array.
        zeros: Whether zeros must be exact.
        tolerance: See `CaseResult.tolerance`.
    """
    if expected.shape != got.shape:
        return float("inf"), 1.0, f"{name} has shape {got.shape}, not {expected.shape}"
    if expected.dtype.kind != "f":
        same = np.array_equal(expected, got)
        return (0.0, 1.0, "") if same else (float("inf"), 1.0, f"{name} differs")
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(got)):
        return float("inf"), 1.0, f"{name} is NaN or infinite where the model is not"
    difference = np.abs(expected.astype("float64") - got)[finite]
    scale = float(np.abs(expected[finite]).max(initial=1e-30))
    error = float(difference.max(initial=0.0))
    if zeros and not _zeros_agree(expected, got):
        return error, scale, f"{name} is not exactly 0 where it must be"
    within = error <= tolerance * max(1.0, scale)
    return error, scale, "" if within else f"{name} is off by {error:.2e}"


def _zeros_agree(expected, got):
    """Whether fully masked rows are exactly 0, and hidden keys of other rows too.

    In other rows a weight too small for float32 may be 0 in one runtime only.
    """
    empty = np.all(expected == 0, axis=-1)
    return not got[empty].any() and bool((np.abs(got[expected == 0]) < 1e-30).all())


def main() -> None:
    """Prints the results of artifacts, one line of JSON for each."""
    import argparse

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--runtime")
    parser.add_argument("--case-time-limit", type=float, default=CASE_TIME_LIMIT)
    parser.add_argument("--memory-limit", type=int)
    parser.add_argument("--parent", type=int, default=os.getppid())
    parser.add_argument("--private", action="store_true")
    arguments = parser.parse_args()
    watchdog = Watchdog(
        arguments.case_time_limit, arguments.parent, arguments.memory_limit
    )
    options = {"tolerance": arguments.tolerance, "runtime": arguments.runtime}
    options |= {"private": True} if arguments.private else {}
    for folder in arguments.folders:
        found: dict[str, Any] = {"results": [], "error": ""}
        try:
            report = verify_here(folder, **options, on_step=watchdog.step)
            found["results"] = [asdict(result) for result in report.results]
        except Exception as error:  # the other folders are verified all the same
            lines = str(error).strip().splitlines() or [""]
            found["error"] = f"{type(error).__name__}: {lines[0]}"
        # One write, and flushed: it must be there even if the next artifact crashes.
        print(f"\n{_MARK}{json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()
