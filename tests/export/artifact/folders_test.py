"""A path means one folder for every reader, and its files are copied first."""

import os
import stat

import pytest

from keras_attention.export.artifact.folders import (
    artifact_folder,
    taken_numbers,
    version_numbers,
    version_of,
)
from keras_attention.export.artifact.private_copy import private_copy
from keras_attention.untrusted import printable


def file(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_base_folder_means_its_highest_version(tmp_path):
    for number in (1, 2, 10):
        file(tmp_path / str(number) / "saved_model.pb")
    assert artifact_folder(tmp_path) == tmp_path / "10"
    assert artifact_folder(tmp_path / "2") == tmp_path / "2"


@pytest.mark.parametrize(
    "own", ["saved_model.pb", "a.onnx", "a.tflite", "manifest.json"]
)
@pytest.mark.parametrize(
    "nested",
    ["7/anything", "٣/anything", "other/saved_model.pb", "deep/er/b.onnx"],
)
def test_an_artifact_that_contains_another_one_is_refused(own, nested, tmp_path):
    file(tmp_path / "1" / own)
    file(tmp_path / "1" / nested)
    for path in (tmp_path, tmp_path / "1"):
        with pytest.raises(ValueError, match="must not contain another one"):
            artifact_folder(path)


def test_only_plain_numbers_are_versions(tmp_path):
    for name in ("1", "0002", "９", "٣", "3x", "-4", str(2**63), "9" * 50):
        (tmp_path / name).mkdir()
    file(tmp_path / "5")
    with pytest.warns(UserWarning, match="is ignored"):
        assert version_numbers(tmp_path) == [1]
    assert sorted(taken_numbers(tmp_path)) == [1, 2, 3, 5, 9]
    assert version_of(str(2**63 - 1)) == 2**63 - 1
    assert version_of("9" * 5000) is None


def test_control_characters_are_escaped():
    assert printable("a\nINFO b\x1b[31m\u202e é") == r"a\nINFO b\x1b[31m\u202e é"


def test_a_copy_is_private_and_removed(tmp_path):
    file(tmp_path / "a" / "b", "text")
    with private_copy(tmp_path, ["a/b"]) as copy:
        assert (copy / "a" / "b").read_text() == "text"
        assert stat.S_IMODE(copy.stat().st_mode) == 0o700
    assert not copy.exists()


@pytest.mark.timeout(20)
def test_a_link_or_a_pipe_is_not_copied(tmp_path):
    (tmp_path / "link").symlink_to(file(tmp_path / "real"))
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with (
            pytest.raises(ValueError, match="plain files"),
            private_copy(tmp_path, [name]),
        ):
            pass
