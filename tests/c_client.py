"""Compiling and asking the C program of `export/native`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[1] / "export/native"

needs_compiler = pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("make")),
    reason="gcc or make is missing (Debian: apt install build-essential)",
)


def compile_client(build):
    """The program, built in the folder; a warning is an error here."""
    make = ["make", "-C", NATIVE, f"BUILD={build}", f"PYTHON={sys.executable}"]
    done = subprocess.run(
        [*make, "CC=gcc", "CFLAGS=-O1 -Wall -Wextra -Werror -pedantic"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    return build / "client"


def ask(client, *arguments):
    """The finished process."""
    return subprocess.run(
        [str(client), *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def rows(done):
    """What it printed, one value a row."""
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def library_options(names):
    """The options that load libraries of tensorflow-text, by file name."""
    text = pytest.importorskip("tensorflow_text")
    ops = Path(text.__file__).parent / "python" / "ops"
    return [part for name in names for part in ("--library", ops / name)]
