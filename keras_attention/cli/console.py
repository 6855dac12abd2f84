"""Helpers of all commands: quiet start-up, one-line errors, JSON."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from keras_attention.untrusted import printable

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def json_option() -> Any:
    """Returns the `--json` option."""
    return typer.Option(False, "--json", help="Print one JSON object, for programs.")


def shown(name: Any) -> str:
    """Returns a path or a name that somebody else chose, for `console.print`."""
    return escape(printable(name))


def print_json(value: Any) -> None:
    """Prints one JSON object on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextlib.contextmanager
def failing_clearly() -> Iterator[None]:
    """Turns an expected error into one message and exit status 1.

    The library's errors say what to do; a traceback would hide that. Set
    KERAS_ATTENTION_TRACEBACK=1 to see the traceback.
    """
    try:
        yield
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("KERAS_ATTENTION_TRACEBACK"):
            raise
        errors.print("Error:", style="red", end=" ")
        lines = map(printable, str(error).split("\n"))
        errors.print("\n".join(lines), markup=False)
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
