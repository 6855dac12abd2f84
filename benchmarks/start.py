"""How long the command line and the import take."""

import subprocess
import sys
from pathlib import Path
from statistics import median

from benchmarks.measure import Progress, Row, Settings, compare, take_turns

HELP_LIMIT_S = 0.3


def run(settings: Settings, progress: Progress) -> list[Row]:
    command = str(Path(sys.executable).with_name("keras-attention"))
    programs = {
        "keras-attention --help": [command, "--help"],
        "import keras_attention": [sys.executable, "-c", "import keras_attention"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    calls = {name: _running(arguments) for name, arguments in programs.items()}
    samples = take_turns(calls, settings, progress)
    rows = []
    for name in list(programs)[:2]:
        row = compare("start", name, samples, name, "python -c pass")
        if name.endswith("--help"):
            verdict = "met" if median(samples[name]) < HELP_LIMIT_S else "missed"
            row.note = f"target < {HELP_LIMIT_S} s: {verdict}"
        rows.append(row)
    return rows


def _running(arguments):
    return lambda: subprocess.run(arguments, check=True, capture_output=True)
