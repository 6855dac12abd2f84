"""Several artifacts are verified in one process, and none of them hides another."""

import shutil
import subprocess
import sys

import pytest
from served import small_artifact

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
