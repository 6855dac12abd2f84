"""Several artifacts are verified in one process, and none of them hides another."""

import pathlib
import shutil
import subprocess
import sys
import time

import pytest
from served import small_artifact

import keras_attention as ka
from keras_attention.export.verification import child_process, verify

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.timeout(300)

# The module's command line, with one folder whose artifact ends the process.
ABORTING = """
import os, sys
from keras_attention.export.verification import verify
real = verify.verify_here
def verify_here(folder, **options):
    if folder.name == "aborts":
        print("the runtime crashed", file=sys.stderr, flush=True)
        os._exit(13)
    return real(folder, **options)
verify.verify_here = verify_here
verify.main()
if "dies late" in str(sys.argv):
    os._exit(7)
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts") / "good"
    small_artifact(folder, format="onnx")
    return folder


@pytest.fixture
def processes(monkeypatch):
    """The folders that each process was started with."""
    started, run = [], subprocess.Popen

    def start(command, **options):
        start_of_options = command.index("--tolerance")
        started.append([path.rsplit("/")[-1] for path in command[3:start_of_options]])
        return run([sys.executable, "-c", ABORTING, *command[3:]], **options)

    monkeypatch.setattr(child_process.subprocess, "Popen", start)
    return started


def copy(good, folder):
    shutil.copytree(good, folder)
    return folder


def test_several_artifacts_share_a_process(good, tmp_path, processes):
    folders = [good, copy(good, tmp_path / "other")]
    reports = verify.verify_folders(folders)
    assert processes == [["good", "other"]]
    assert [report.path for report in reports] == folders
    assert all(report.passed and len(report.results) == 20 for report in reports)


def test_an_artifact_that_does_not_open_is_reported_between_the_others(
    good, tmp_path, processes
):
    damaged = copy(good, tmp_path / "damaged")
    (damaged / "serving_default.onnx").write_bytes(b"no graph")
    reports = verify.verify_folders([good, damaged, tmp_path / "missing", good])
    assert len(processes) == 1
    assert [report.passed for report in reports] == [True, False, False, True]
    assert "serving_default.onnx is changed" in reports[1].error
    assert f"Received: {tmp_path / 'missing'}" in str(reports[2])
    with pytest.raises(RuntimeError, match="does not open in a fresh process"):
        verify.verify_folder(damaged)


def test_an_artifact_that_ends_the_process_fails_alone(good, tmp_path, processes):
    aborts = copy(good, tmp_path / "aborts")
    reports = verify.verify_folders([good, aborts, good])
    assert [report.passed for report in reports] == [True, False, True]
    assert "the runtime crashed (exit status 13)" in reports[1].error
    # The second process shows that it was not the first artifact that ended the first.
    assert processes == [["good", "aborts", "good"], ["aborts", "good"], ["good"]]


def test_artifacts_of_a_process_that_dies_at_its_end_are_verified_alone(
    good, tmp_path, processes
):
    late = copy(good, tmp_path / "dies late")
    reports = verify.verify_folders([good, late])
    assert [report.passed for report in reports] == [True, False]
    assert "exit status 7" in reports[1].error
    assert processes == [["good", "dies late"], ["good"], ["dies late"]]


# A command line in which one case never ends, and the process says its number first.
ENDLESS = """
import os, pathlib, sys, time
from keras_attention.export.verification import verify
def _run_case(runner, case, tolerance):
    pathlib.Path(os.environ["STARTED"]).write_text(str(os.getpid()))
    time.sleep(1000)
verify._run_case = _run_case
verify.main()
"""


@pytest.fixture
def endless(tmp_path, monkeypatch):
    run = subprocess.Popen
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))

    def start(command, **options):
        return run([sys.executable, "-c", ENDLESS, *command[3:]], **options)

    monkeypatch.setattr(child_process.subprocess, "Popen", start)
    return tmp_path / "started"


def is_running(pid):
    try:
        return "\nState:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("limit", ["time_limit", "case_time_limit"])
def test_a_case_that_never_ends_is_ended(limit, good, endless):
    with pytest.raises(RuntimeError, match="took more than 15 seconds"):
        ka.verify_artifact(good, **{limit: 15})
    assert not is_running(endless.read_text())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_case_that_fills_the_memory_is_ended(good, endless, monkeypatch):
    hungry = ENDLESS.replace(
        "time.sleep(1000)",
        "x = bytearray(1 << 32); x[::4096] = x[1::4096]; time.sleep(1000)",
    )
    monkeypatch.setattr(sys.modules[__name__], "ENDLESS", hungry)
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"MemoryError: case .* 2,000,000,000 bytes"):
        ka.verify_artifact(good, memory_limit=2_000_000_000)
    assert time.monotonic() - begin < 100
    assert not is_running(endless.read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_ends_with_its_parent(good, tmp_path, monkeypatch):
    started = tmp_path / "started"
    monkeypatch.setenv("STARTED", str(started))
    code = f"""
import subprocess, sys
from keras_attention.export.verification import child_process, verify
run = subprocess.Popen
child_process.subprocess.Popen = lambda command, **options: run(
    [sys.executable, "-c", {ENDLESS!r}, *command[3:]], **options
)
verify.verify_folder({str(good)!r})
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 120
    while not (started.exists() and started.read_text()):
        assert time.monotonic() < end
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while is_running(started.read_text()):
        assert time.monotonic() < end
        time.sleep(0.1)
