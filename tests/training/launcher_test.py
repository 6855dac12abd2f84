"""Several processes of one training. The scripts do not import TensorFlow."""

import os
import time

import pytest
from typer.testing import CliRunner

import keras_attention as ka
from keras_attention.cli.main import app

PRINT_PLACE = """
import json, os, sys
config = json.loads(os.environ["TF_CONFIG"])
print(len(config["cluster"]["worker"]), config["task"], sys.argv[1:], flush=True)
"""
# The second worker fails; the first one has started a process and waits.
FAIL = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0:
    child = subprocess.Popen(["sleep", "600"])
    Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
print("failing")
HOW
"""


def script(folder, text):
    path = folder / "train.py"
    path.write_text(text, encoding="utf-8")
    return path


def has_ended(number):
    """Whether a process has ended; one that nobody waited for is a zombie."""
    try:
        with open(f"/proc/{number}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_each_worker_has_its_place_and_the_arguments(tmp_path):
    lines = []
    path = script(tmp_path, PRINT_PLACE)
    assert ka.launch(path, ["--rate", "1"], num_workers=3, write=lines.append) == 0
    assert sorted(lines) == [
        f"[{i}] 3 {{'type': 'worker', 'index': {i}}} ['--rate', '1']" for i in range(3)
    ]


@pytest.mark.parametrize(
    ("how", "status"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 137)]
)
def test_when_one_fails_all_end_with_its_status(tmp_path, how, status):
    lines, numbers = [], tmp_path / "numbers"
    path = script(tmp_path, FAIL.replace("HOW", how))
    begin = time.monotonic()
    assert ka.launch(path, [str(numbers)], write=lines.append) == status
    assert time.monotonic() - begin < 30
    assert "[1] failing" in lines or status == 137  # its output was in a buffer
    assert all(has_ended(int(one)) for one in numbers.read_text().split())


def test_the_command_passes_options_after_the_script(tmp_path):
    path = script(tmp_path, PRINT_PLACE + "sys.exit(3 * (len(sys.argv) - 3))")
    call = ["launch", "--workers", "1", str(path), "a", "--workers", "5"]
    found = CliRunner().invoke(app, call)
    assert found.exit_code == 3
    place = "1 {'type': 'worker', 'index': 0} ['a', '--workers', '5']"
    assert found.stdout.splitlines() == [f"[0] {place}"]


def test_a_missing_script_is_one_clear_error(tmp_path):
    found = CliRunner().invoke(app, ["launch", str(tmp_path / "none.py")])
    assert found.exit_code == 1
    assert "needs the path of a Python script" in found.stderr
    assert os.listdir(tmp_path) == []
