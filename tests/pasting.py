"""Runs blocks of Python as if each were pasted alone into a fresh interpreter.

A process that has imported TensorFlow and Keras, and nothing of this library, forks for
every block: importing them is most of what a fresh process costs, and a block that
needs one of them must still import it. A block of `>>>` must also print what it shows.

    printf '%s\n' '{"code": "print(1)", "folder": "/tmp"}' | python tests/pasting.py
"""

import contextlib
import doctest
import io
import json
import os
import re
import subprocess
import sys
import traceback
import types
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def blocks_of(page):
    """The blocks of Python of a page."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


class Interpreter:
    """The process that forks; `run` returns what a block wrote and how it ended."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "MPLBACKEND": "agg",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            text=True,
        )

    def run(self, code, folder):
        self.process.stdin.write(
            json.dumps({"code": code, "folder": str(folder)}) + "\n"
        )
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def _run(code):
    """Runs one block in a new `__main__`; returns what it wrote and its error."""
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    out, error = io.StringIO(), None
    with contextlib.redirect_stdout(out):
        try:
            if ">>> " in code:
                test = doctest.DocTestParser().get_doctest(
                    code, module.__dict__, "block", None, 0
                )
                told = []
                runner = doctest.DocTestRunner(optionflags=OPTIONS)
                if runner.run(test, out=told.append, clear_globs=False).failed:
                    error = "".join(told)
            else:
                exec(compile(code, "block", "exec"), module.__dict__)
        except BaseException:
            error = traceback.format_exc()
    return {"stdout": out.getvalue(), "error": error}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library writes to stdout is no answer
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            os.chdir(asked["folder"])
            sys.path[0] = str(ROOT)
            answers.write(json.dumps(_run(asked["code"])) + "\n")
            answers.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            end = {"stdout": "", "error": f"the process ended with status {status}"}
            answers.write(json.dumps(end) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
