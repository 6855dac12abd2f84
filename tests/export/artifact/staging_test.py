"""A written folder is complete or missing, whatever happens to the exporter."""

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from keras_attention.export.artifact import staging as publish
from keras_attention.export.artifact.staging import staging

# A writer as slow as an exporter, in small steps; a last file closes the artifact.
WRITER = """
    import sys, time
    from pathlib import Path
    from keras_attention.export.artifact.staging import staging
    final, value, pause = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    print("ready", flush=True)
    with staging(final) as folder:
        (folder / "variables").mkdir()
        for number in range(20):
            (folder / "variables" / str(number)).write_text(value * 1000)
            time.sleep(pause)
        (folder / "saved_model.pb").write_text(value)
    print("published", flush=True)
"""


def start_writer(final, value="x", pause=0.005, before=""):
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(before) + textwrap.dedent(WRITER),
            str(final),
            value,
            str(pause),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_whole(final, value="x"):
    assert (final / "saved_model.pb").read_text() == value
    names = {str(number) for number in range(20)}
    assert {path.name for path in (final / "variables").iterdir()} == names
    for path in (final / "variables").iterdir():
        assert path.read_text() == value * 1000


def hidden(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def test_the_folder_appears_with_everything_in_it(tmp_path):
    final = tmp_path / "made" / "too" / "1"
    with staging(final) as folder:
        (folder / "a").write_text("a")
        assert folder.parent == final.parent
        assert folder.name.startswith(f".1.staging-{os.getpid()}-")
        assert not final.exists()
    assert (final / "a").read_text() == "a"
    assert list(final.parent.iterdir()) == [final]


def test_files_and_folders_are_on_disk_before_the_rename(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(publish, "_sync", lambda path: synced.append(path.name))
    with staging(tmp_path / "1") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("a")
    assert synced == ["file", "deep", folder.name, tmp_path.name]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit()])
def test_a_body_that_raises_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)), staging(tmp_path / "1") as folder:  # noqa: PT012
        (folder / "a").write_text("a")
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "broken link"])
def test_what_exists_is_refused_at_the_start_and_left_alone(tmp_path, kind):
    final = tmp_path / "1"
    put(final, kind)
    before = os.lstat(final)
    entered = False
    with pytest.raises(FileExistsError, match="never overwritten"), staging(final):
        entered = True
    assert not entered
    assert os.lstat(final) == before
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "broken link"])
@pytest.mark.parametrize("new_kernel", [True, False])
def test_what_appeared_meanwhile_is_refused_at_the_end_and_left_alone(
    tmp_path, monkeypatch, kind, new_kernel
):
    if not new_kernel:
        monkeypatch.setattr(publish, "_rename_no_replace", lambda *_: False)
    final = tmp_path / "1"
    with (  # noqa: PT012
        pytest.raises(FileExistsError, match=r"Nothing was changed\. Received.*/1'"),
        staging(final) as folder,
    ):
        (folder / "a").write_text("a")
        put(final, kind)
        before = os.lstat(final)
    assert os.lstat(final) == before
    assert list(tmp_path.iterdir()) == [final]


def put(path, kind):
    if kind == "file":
        path.write_text("old")
    elif kind == "broken link":
        path.symlink_to("nowhere")
    else:
        path.mkdir()
        if kind == "folder":
            (path / "old").write_text("old")


def test_without_renameat2_the_folder_appears_too(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "_rename_no_replace", lambda *_: False)
    with staging(tmp_path / "1") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "1/a").read_text() == "a"
    assert list(tmp_path.iterdir()) == [tmp_path / "1"]


def test_this_machine_renames_without_replacing(tmp_path):
    """Otherwise the tests above would only test the fallback."""
    (tmp_path / "a").mkdir()
    assert publish._rename_no_replace(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").mkdir()
    with pytest.raises(FileExistsError):
        publish._rename_no_replace(tmp_path / "a", tmp_path / "b")


def test_a_killed_exporter_leaves_all_or_nothing_and_the_next_one_cleans_up(
    tmp_path, record_property
):
    rng, outcomes = random.Random(7), []
    for number in range(12):
        final = tmp_path / str(number) / "1"
        writer = start_writer(final)
        assert writer.stdout.readline() == "ready\n"
        # There are 21 files: the last rounds kill while they are flushed, or after.
        wait_for_files(final, 2 * number)
        time.sleep(rng.uniform(0, 0.01))
        writer.send_signal(signal.SIGKILL)
        writer.communicate(timeout=20)
        if final.exists():
            assert_whole(final)
            outcomes.append("whole")
            continue
        outcomes.append("nothing")
        final.parent.mkdir(exist_ok=True)
        with staging(final) as folder:
            (folder / "a").write_text("a")
        assert list(final.parent.iterdir()) == [final]
    record_property("summary", f"12 exporters killed, left: {', '.join(outcomes)}")
    assert {*outcomes} == {"nothing", "whole"}


def wait_for_files(final, count):
    """Wait until `count` files are written, at most all 21."""
    deadline = time.monotonic() + 20
    while not final.exists() and time.monotonic() < deadline:
        # Not rglob: it fails if a folder is renamed while it runs.
        if sum(len(files) for *_, files in os.walk(final.parent)) >= count:
            return
        time.sleep(0.001)


def test_a_leftover_of_a_living_process_or_another_name_stays(tmp_path):
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    names = {
        f".1.staging-{sleeper.pid}-abcd1234",  # lives
        f".10.staging-{2**22 + 1}-abcd1234",  # of 10, not of 1
        ".1.staging-of-somebody-else",
        ".1.staging-",
    }
    for name in names:
        (tmp_path / name).mkdir()
    dead = tmp_path / f".1.staging-{2**22 + 1}-abcd1234"  # above the largest pid
    dead.mkdir()
    with staging(tmp_path / "1"):
        assert not dead.exists()
    sleeper.communicate(timeout=20)
    assert {path.name for path in tmp_path.iterdir()} == {*names, "1"}


def test_a_locked_leftover_stays_though_its_process_is_not_seen(tmp_path):
    """Two containers may share a disk, but not their process ids."""
    folder = tmp_path / f".1.staging-{2**22 + 1}-abcd1234"
    folder.mkdir()
    lock = publish._lock(folder)
    with staging(tmp_path / "1"):
        assert folder.exists()
    os.close(lock)
    with staging(tmp_path / "1b"):
        assert folder.exists()


@pytest.mark.parametrize("fallback", [False, True], ids=["renameat2", "fallback"])
def test_of_two_exporters_exactly_one_wins(tmp_path, fallback):
    before = ""
    if fallback:
        before = """
            from keras_attention.export.artifact import staging as publish
            publish._rename_no_replace = lambda *_: False
        """
    for number in range(4):
        final = tmp_path / str(number)
        writers = [start_writer(final, value, 0.002, before) for value in "ab"]
        outputs = [writer.communicate(timeout=30) for writer in writers]
        won = [v for v, (out, _) in zip("ab", outputs, strict=True) if "publ" in out]
        lost = [err for out, err in outputs if "publ" not in out]
        assert len(won) == 1
        assert "FileExistsError" in lost[0]
        assert "never overwritten" in lost[0]
        assert_whole(final, won[0])
        assert hidden(tmp_path) == []


def test_a_write_that_fails_names_the_disk_and_leaves_nothing(tmp_path):
    limit = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))
    """
    final = tmp_path / "1"
    writer = start_writer(final, before=limit)
    _, error = writer.communicate(timeout=30)
    assert writer.returncode == 1
    assert "There is no space left to write the artifact" in error
    assert "bytes are free" in error
    assert "Nothing was changed. Received: [Errno 27] File too large" in error
    assert list(tmp_path.iterdir()) == []


class ResourceExhaustedError(Exception):
    """Like TensorFlow's error, which is not an OSError."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        ResourceExhaustedError("x.data: No space left on device"),
    ],
)
def test_a_full_disk_is_explained_for_every_kind_of_error(tmp_path, error):
    with pytest.raises(OSError, match="no space left to write") as caught:  # noqa: SIM117
        with staging(tmp_path / "1", needed_bytes=1234):
            raise error
    assert caught.value.errno == errno.ENOSPC
    assert "room for 1,234 bytes" in str(caught.value)
    assert caught.value.__cause__ is error
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_found_before_anything_is_written(tmp_path):
    entered = False
    with (
        pytest.raises(OSError, match="room for 1,000,000,000,000,000,000 bytes"),
        staging(tmp_path / "1", needed_bytes=10**18),
    ):
        entered = True
    assert not entered
    assert list(tmp_path.iterdir()) == []


def test_a_file_as_parent_is_explained(tmp_path):
    (tmp_path / "file").write_text("a")
    for final in (tmp_path / "file/1", tmp_path / "file/deep/1"):
        with pytest.raises(NotADirectoryError, match="one is a file"), staging(final):
            pass
    assert (tmp_path / "file").read_text() == "a"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_place_that_cannot_be_written_is_explained(tmp_path, monkeypatch, number):
    def refuse(self, *_, **__):
        raise OSError(number, os.strerror(number), str(self))

    (tmp_path / "parent").mkdir()
    # Root, as in a container, can write to a folder whatever its permissions are.
    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:  # noqa: PT011, PT012
        patch.setattr(Path, "mkdir", refuse)
        with staging(tmp_path / "parent/1"):
            pass
    assert caught.value.errno == number
    assert "Expected a folder that this user can write to" in str(caught.value)


def test_an_error_about_another_file_is_left_as_it_is(tmp_path):
    error = PermissionError(errno.EACCES, "no", "/etc/vocabulary.txt")
    with pytest.raises(PermissionError) as caught, staging(tmp_path / "1"):
        raise error
    assert caught.value is error


def test_a_relative_path_is_not_moved_by_the_body(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with staging(Path("1")) as folder:
        os.chdir("elsewhere")
        (folder / "a").write_text("a")
    assert (tmp_path / "1/a").is_file()


def test_folders_made_for_an_artifact_that_fails_are_not_left(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    with pytest.raises(ValueError, match="stop"), staging(kept / "a" / "b" / "1"):
        raise ValueError("stop")
    assert list(tmp_path.rglob("*")) == [kept]
