"""Publishing, withdrawing and restoring never loses a version or shows half of one."""

import subprocess
import sys
import textwrap

import pytest

import keras_attention as ka
from keras_attention.export.artifact.manifest import write_manifest
from keras_attention.export.deployment import versions
from keras_attention.export.verification.verify import CaseResult, Report


def artifact(folder, value="x"):
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_text(value)
    (folder / "variables" / "data").write_text(value * 1009)
    write_manifest(folder, format="saved_model", signatures=[], weights_bytes=7)
    return folder


def names(base):
    return sorted(path.name for path in base.iterdir())


@pytest.fixture
def source(tmp_path):
    return artifact(tmp_path / "built")


@pytest.fixture
def agreeing(monkeypatch):
    """Replaces the verification: its cases agree, or do not."""
    passed = {"now": True}

    def verify(folder, *, tolerance, runtime=None, **limits):
        result = CaseResult("s", "c", "r", 0.0, 0.0, tolerance, passed["now"], "off")
        return Report(folder, (result,))

    monkeypatch.setattr(
        "keras_attention.export.verification.verify.verify_folder", verify
    )
    return passed


def test_it_publishes_as_the_next_number_and_keeps_the_source(
    source, tmp_path, agreeing
):
    base = tmp_path / "served"
    assert ka.publish(source, base) == base / "1"
    assert ka.publish(source, base) == base / "2"
    assert ka.publish(source, base, version=7) == base / "7"
    assert names(base) == ["1", "2", "7"]
    assert (base / "7" / "variables" / "data").read_text() == "x" * 1009
    assert (source / "saved_model.pb").read_text() == "x"


def test_a_changed_artifact_is_not_published(source, tmp_path, agreeing):
    (source / "saved_model.pb").write_text("y")
    with pytest.raises(ValueError, match="same size, another sha256"):
        ka.publish(source, tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_an_artifact_that_disagrees_is_not_published(source, tmp_path, agreeing):
    agreeing["now"] = False
    with pytest.raises(RuntimeError, match="was not published"):
        ka.publish(source, tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_a_version_that_is_there_or_was_withdrawn_stays(source, tmp_path, agreeing):
    base = tmp_path / "served"
    artifact(base / "3", "old")
    with pytest.raises(FileExistsError, match="never overwritten"):
        ka.publish(source, base, version=3)
    (base / "3").rename(base / "3.withdrawn")
    with pytest.raises(FileExistsError, match="was withdrawn"):
        ka.publish(source, base, version=3)
    assert names(base) == ["3.withdrawn"]
    assert ka.publish(source, base) == base / "4"


def test_a_negative_version_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match="version=-1"):
        ka.publish(source, tmp_path / "served", version=-1)


def test_a_publisher_that_loses_the_race_takes_the_next_number(
    source, tmp_path, agreeing, monkeypatch
):
    base = tmp_path / "served"
    real = versions._publish_as

    def late(folder, final, *limits):
        if final.name == "1":
            artifact(final, "other")
        return real(folder, final, *limits)

    monkeypatch.setattr(versions, "_publish_as", late)
    assert ka.publish(source, base) == base / "2"
    assert (base / "1" / "saved_model.pb").read_text() == "other"


def test_rollback_keeps_the_newer_and_restore_brings_it_back(tmp_path):
    base = tmp_path / "served"
    for number in (1, 2, 5, 11):
        artifact(base / str(number), str(number))
    done = ka.rollback(base)
    assert (done.served, done.moved) == (5, (11,))
    done = ka.rollback(base, to=1)
    assert (done.served, done.moved) == (1, (5, 2))
    assert names(base) == ["1", "11.withdrawn", "2.withdrawn", "5.withdrawn"]
    assert (base / "11.withdrawn" / "saved_model.pb").read_text() == "11"
    done = ka.restore(base, 2)
    assert (done.served, done.moved) == (2, (2,))
    assert ka.restore(base).served == 11
    assert names(base) == ["1", "11", "2", "5.withdrawn"]


def test_a_rollback_or_restore_that_is_not_possible_is_an_error(tmp_path):
    artifact(tmp_path / "1")
    with pytest.raises(ValueError, match="no older version"):
        ka.rollback(tmp_path)
    with pytest.raises(ValueError, match="to=9"):
        ka.rollback(tmp_path, to=9)
    with pytest.raises(ValueError, match="Only a withdrawn version"):
        ka.restore(tmp_path)
    assert names(tmp_path) == ["1"]


def test_restore_never_replaces_a_version(tmp_path):
    artifact(tmp_path / "2", "new")
    artifact(tmp_path / "2.withdrawn", "old")
    with pytest.raises(FileExistsError, match="never overwritten"):
        ka.restore(tmp_path, 2)
    assert (tmp_path / "2" / "saved_model.pb").read_text() == "new"
    assert (tmp_path / "2.withdrawn" / "saved_model.pb").read_text() == "old"


def test_racing_publishers_each_get_a_number(source, tmp_path):
    code = f"""
    import sys
    from keras_attention.export.deployment import versions
    from keras_attention.export.verification.verify import CaseResult, Report
    def verify(folder, **limits):
        return Report(folder, (CaseResult("s", "c", "r", 0.0, 0.0, 1e-5, True),))
    versions.verify_artifact = verify
    for _ in range(5):
        versions.publish({str(source)!r}, {str(tmp_path / "served")!r})
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for process in started:
        _, error = process.communicate(timeout=100)
        assert process.returncode == 0, error
    base = tmp_path / "served"
    assert set(names(base)) == {str(number) for number in range(1, 16)}
    for folder in base.iterdir():
        assert (folder / "variables" / "data").read_text() == "x" * 1009


@pytest.mark.filterwarnings("ignore:.*is ignored")
def test_names_that_are_no_version_do_not_count_and_do_not_stop_publishing(
    source, tmp_path, agreeing
):
    base = tmp_path / "served"
    artifact(base / "1", "old")
    for name in ("0002", "９", "٣"):
        artifact(base / name, "other")
    with pytest.raises(ValueError, match="no older version"):
        versions.rollback(base)
    assert ka.publish(source, base) == base / "10"
    (base / "11").write_text("a file")
    assert ka.publish(source, base) == base / "12"
    assert versions.rollback(base).served == 10
    (base / "99.withdrawn").write_text("a file")
    artifact(base / "0030.withdrawn", "other")
    assert versions.restore(base) == versions.Rollback(base, 12, (12,))
