"""Does the artifact say what the model said? Asked in a process of its own.

`python -m keras_attention.export.verification.verify FOLDER` opens the artifact in
the runtime it is meant for, asks every case that travels with it, and prints the
results as JSON.
"""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from keras_attention.export.artifact.manifest import (
    artifact_folder,
    check_files,
    read_manifest,
)
from keras_attention.export.cases.grid import CASES_NAME, Case, load_cases
from keras_attention.export.runtimes.base import Runner
from keras_attention.export.runtimes.opening import open_artifact

TOLERANCE = 1e-5


@dataclass(frozen=True)
class CaseResult:
    """How far an artifact is from the model on one case.

    Attributes:
        signature: Which signature was asked.
        case: Which case.
        runtime: Which runtime answered.
        max_abs_error: Largest absolute difference over all outputs.
        max_rel_error: The same over the largest value of its output.
        tolerance: What the error may be, of values up to 1 absolutely, of larger
            ones relatively.
        passed: Whether it is; whether shapes, integers and exact zeros agree too.
        reason: Why not.
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
        results: One a case.
    """

    path: Path
    results: tuple[CaseResult, ...]

    @property
    def passed(self) -> bool:
        """Whether there are cases and all passed."""
        return bool(self.results) and all(result.passed for result in self.results)

    def worst(self) -> dict[str, CaseResult]:
        """The worst case of each signature: one that failed, else the largest error."""
        worst: dict[str, CaseResult] = {}
        for result in self.results:
            known = worst.get(result.signature)
            if known is None or _badness(result) > _badness(known):
                worst[result.signature] = result
        return worst

    def __str__(self) -> str:
        lines = [f"{'signature':20} {'cases':>5} {'worst error':>12}  worst case"]
        for name, result in self.worst().items():
            count = sum(one.signature == name for one in self.results)
            note = "" if result.passed else f"  FAILED: {result.reason}"
            lines.append(
                f"{name:20} {count:>5} {result.max_abs_error:>12.2e}  "
                f"{result.case}{note}"
            )
        return "\n".join(lines)


def _badness(result: CaseResult) -> tuple[bool, float]:
    return not result.passed, result.max_abs_error


class VerificationError(RuntimeError):
    """An artifact does not say what the model says. It was not kept."""


def verify_artifact(
    path: str | Path, *, tolerance: float | None = None, runtime: str | None = None
) -> Report:
    """Verifies an exported artifact again, here and now.

    Checks every file against the sha256 of manifest.json, then asks the artifact, in
    a fresh process, every case that travels with it. Needs the runtime, not the model
    and not Keras.

    Args:
        path: The artifact's folder; of a base folder the highest version is taken.
        tolerance: As for `export_model`; the one it was exported with when `None`.
        runtime: See `open_artifact`.

    Returns:
        The results; `report.passed` says whether all cases agree.

    Raises:
        FileNotFoundError: If there is no artifact.
        ValueError: If a file is missing, changed or not listed.
    """
    folder = artifact_folder(path)
    manifest = read_manifest(folder)
    check_files(folder, manifest)  # its operators: see `open_artifact`
    if tolerance is None:
        allowed = [float(case["tolerance"]) for case in manifest.verification]
        tolerance = max(allowed, default=TOLERANCE)
    return verify_folder(folder, tolerance=tolerance, runtime=runtime)


def verify_folder(
    folder: Path, *, tolerance: float = TOLERANCE, runtime: str | None = None
) -> Report:
    """Verifies an artifact in a fresh process.

    Args:
        folder: With the artifact and its cases.
        tolerance: See `CaseResult.tolerance`.
        runtime: See `open_artifact`.

    Raises:
        RuntimeError: If the process dies: the artifact does not open.
    """
    command = [
        sys.executable,
        "-m",
        "keras_attention.export.verification.verify",
        str(folder),
        "--tolerance",
        str(tolerance),
        *(("--runtime", runtime) if runtime else ()),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"code {done.returncode}"]
        raise RuntimeError(
            "The artifact does not open in a fresh process, so it was not verified. "
            f"Received: {folder}: {last[0]}"
        )
    results = json.loads(done.stdout.splitlines()[-1])
    return Report(Path(folder), tuple(CaseResult(**result) for result in results))


def verify_here(
    folder: Path, *, tolerance: float = TOLERANCE, runtime: str | None = None
) -> Report:
    """Verifies an artifact in this process."""
    cases = load_cases(Path(folder) / CASES_NAME)
    results: list[CaseResult] = []
    with contextlib.ExitStack() as opened:
        runners: dict[str, Runner] = {}
        for case in cases:
            if case.signature not in runners:
                runner = opened.enter_context(
                    open_artifact(folder, case.signature, runtime=runtime)
                )
                # A SavedModel answers for all its signatures, an ONNX file for one.
                runners |= dict.fromkeys(runner.signatures, runner)
            results.append(_ask(runners[case.signature], case, tolerance))
    return Report(Path(folder), tuple(results))


def _ask(runner: Runner, case: Case, tolerance: float) -> CaseResult:
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
        error, scale, reason = _compare(name, expected, got, zeros, tolerance)
        absolute, relative = max(absolute, error), max(relative, error / scale)
        reasons += [reason] if reason else []
    return CaseResult(
        *about, absolute, relative, tolerance, not reasons, "; ".join(reasons)
    )


def _compare(name, expected, got, zeros, tolerance):
    """`(largest difference, largest value, reason to fail or "")`."""
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
    if zeros and not _zeros_kept(expected, got):
        return error, scale, f"{name} is not exactly 0 where it must be"
    within = error <= tolerance * max(1.0, scale)
    return error, scale, "" if within else f"{name} is off by {error:.2e}"


def _zeros_kept(expected, got):
    """Rows without anything visible are exactly 0; hidden keys in other rows are.

    In other rows a weight too small for float32 may be 0 in one runtime only.
    """
    empty = np.all(expected == 0, axis=-1)
    return not got[empty].any() and bool((np.abs(got[expected == 0]) < 1e-30).all())


def main() -> None:
    """Prints the results of one artifact as JSON."""
    import argparse

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--runtime")
    arguments = parser.parse_args()
    report = verify_here(
        arguments.folder, tolerance=arguments.tolerance, runtime=arguments.runtime
    )
    print(json.dumps([asdict(result) for result in report.results]))


if __name__ == "__main__":
    main()
