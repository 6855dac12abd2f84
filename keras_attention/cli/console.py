"""Helpers of all commands: quiet start-up, one-line errors, tables, progress, JSON."""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from keras_attention.untrusted import printable

# In a pipe a line has no width: a path must not be broken at column 80.
console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
errors = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())

_SILENT_SECONDS = 2.0


def json_option() -> Any:
    """Returns the `--json` option."""
    return typer.Option(False, "--json", help="Print one JSON object, for programs.")


def shown(name: Any) -> str:
    """Returns a path or a name that somebody else chose, for `console.print`."""
    return escape(printable(name))


def print_json(value: Any) -> None:
    """Prints one JSON object on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of cells as a table, or stacked if a terminal is too narrow for it.

    No cell is cut or broken. In a pipe a table has the width it needs.

    Args:
        headings: The names of the columns. Columns of numbers are aligned right.
        rows: The cells as rich's markup. A row that continues the one above, with an
            empty first cell, is stacked below it.
    """
    cells = [[Text.from_markup(cell) for cell in row] for row in rows]
    columns = list(zip(*cells, strict=True)) if cells else [() for _ in headings]
    widths = [
        max([len(heading), *(cell.cell_len for cell in column)])
        for heading, column in zip(headings, columns, strict=True)
    ]
    if console.is_terminal and sum(widths) + 2 * (len(widths) - 1) > console.width:
        _print_stacked(headings, cells)
        return
    right = [
        bool(column)
        and all(not cell.plain or cell.plain[0].isdigit() for cell in column)
        for column in columns
    ]
    for row in ([Text(heading, "bold") for heading in headings], *cells):
        line = Text()
        for cell, width, to_the_right in zip(row, widths, right, strict=True):
            padding = " " * (width - cell.cell_len)
            line.append("  " if line else "")
            line.append(padding if to_the_right else "")
            line.append_text(cell)
            line.append("" if to_the_right else padding)
        line.rstrip()
        console.print(line, soft_wrap=True)


def _print_stacked(headings, cells):
    for row in cells:
        for index, (heading, cell) in enumerate(zip(headings, row, strict=True)):
            if not cell:
                continue
            name = f"  {heading}: " if index and heading else "  " * bool(index)
            console.print(Text(name).append_text(cell), soft_wrap=True)


@contextlib.contextmanager
def working(stage: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Says what is being done now; returns the function that changes it.

    A terminal shows one line that changes. Where standard error is a file or a pipe,
    each stage is one line of it, from two seconds after the start on: what is done
    sooner needs no word.

    Args:
        stage: What is being done first.
        quiet: Whether to say nothing, for commands that print JSON.
    """
    if quiet:
        yield lambda stage: None
        return
    if errors.is_terminal:
        with errors.status(f"{stage} …") as status:
            yield lambda stage: status.update(f"{stage} …")
        return
    lines = _Lines(stage)
    try:
        yield lines.update
    finally:
        lines.timer.cancel()


class _Lines:
    """Writes stages to standard error, once the first two seconds are over."""

    def __init__(self, stage):
        self.stage, self.started = stage, time.monotonic()
        self.timer = threading.Timer(_SILENT_SECONDS, self._print)
        self.timer.daemon = True
        self.timer.start()

    def update(self, stage):
        if stage == self.stage:
            return
        self.stage = stage
        if time.monotonic() - self.started >= _SILENT_SECONDS:
            self._print()

    def _print(self):
        errors.print(Text(f"{self.stage} …"))


@contextlib.contextmanager
def failing_clearly(as_json: bool = False) -> Iterator[None]:
    """Turns an expected error into one message and exit status 1.

    The library's errors say what to do; a traceback would hide that. Set
    KERAS_ATTENTION_TRACEBACK=1 to see the traceback.

    Args:
        as_json: Whether the message is also printed on standard output, as the entry
            `error` of one JSON object: a program reads there.
    """
    try:
        yield
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("KERAS_ATTENTION_TRACEBACK"):
            raise
        errors.print("Error:", style="red", end=" ")
        lines = map(printable, str(error).split("\n"))
        errors.print("\n".join(lines), markup=False)
        if as_json:
            print_json({"error": str(error), "type": type(error).__name__})
        raise typer.Exit(1) from error


@contextlib.contextmanager
def no_native_messages() -> Iterator[None]:
    """Hides what native libraries write to standard error while they start.

    Whatever its log level, TensorFlow reports CPU features and missing GPUs, directly
    on the file descriptor and not through Python.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def start_tensorflow() -> None:
    """Imports TensorFlow and Keras and runs one operation, quietly, on the CPU.

    Exporting needs no GPU, and float32 on a GPU may be TF32: artifacts would be
    compared with less exact numbers.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    with no_native_messages():
        import keras

        keras.ops.zeros(())
    # Without the warning that the session loader, which we use, is deprecated.
    logging.getLogger("tensorflow").setLevel("ERROR")
