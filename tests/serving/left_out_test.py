"""Folders with something bad in them: what is good is served, and the rest is named."""

import json
import os
import shutil
import time

import pytest
import tensorflow as tf
from served import ask, small_artifact
from serving.hostile_test import GOOD, PREDICT, faults, serving, until

from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.artifact.folders import taken_numbers
from keras_attention.export.artifact.manifest import write_manifest
from keras_attention.export.formats.saved_model import write_saved_model
from keras_attention.export.signatures.signature import Signature


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "small"
    small_artifact(folder / "1")
    return folder


def writing_artifact(folder, target):
    """An artifact in order, but for a signature that writes a file."""

    def write(text):
        tf.io.write_file(str(target), text[0])
        return {"again": text}

    text = TensorInfo("string", ("batch",))
    signature = Signature("write", write, {"text": text}, {"again": text})
    write_saved_model([signature], folder, variables=[])
    about = {"format": "saved_model", "signatures": [signature], "weights_bytes": 0}
    write_manifest(folder, **about)


def damage(kind, folder, good):
    """Make one thing in a base folder bad; return the number of its version."""
    if kind == "a graph that writes":
        writing_artifact(folder / "9", folder.parent / "written")
        return 9
    if kind == "a file of that name":
        (folder / "9").write_text("a file")
        return None
    if not kind.isascii() or kind.isdecimal():
        shutil.copytree(good, folder / kind)
        return None
    (folder / "9").mkdir()
    if kind != "no manifest":
        shutil.copytree(good, folder / "9", dirs_exist_ok=True)
    manifest, graph = folder / "9" / "manifest.json", folder / "9" / "saved_model.pb"
    if kind == "half a manifest":
        manifest.write_bytes(manifest.read_bytes()[:1000])
    elif kind == "a manifest without signatures":
        found = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**found, "signatures": {}}))
    elif kind == "a manifest that is a pipe":
        manifest.unlink()
        os.mkfifo(manifest)
    elif kind == "a graph that is a pipe":
        graph.unlink()
        os.mkfifo(graph)
    elif kind == "another graph":
        graph.write_bytes(b"\x08\x01")
    elif kind == "a link out of the folder":
        (folder / "9" / "more").symlink_to("/etc/hostname")
    elif kind == "names that are escapes":
        (folder / "9" / "evil\nstarted \x1b[2J").write_bytes(b"")
    return 9


@pytest.mark.filterwarnings("ignore:.* is ignored")
@pytest.mark.parametrize(
    "kind",
    [
        *("0002", "９", "٣", str(2**63), "a file of that name", "no manifest"),
        *("half a manifest", "a manifest without signatures"),
        *("a manifest that is a pipe", "a graph that is a pipe", "another graph"),
        *("a link out of the folder", "names that are escapes"),
        "a graph that writes",
    ],
)
def test_a_good_version_is_served_where_something_else_is_bad(base, tmp_path, kind):
    folder = tmp_path / "small"
    shutil.copytree(base / "1", folder / "1")
    number = damage(kind, folder, base / "1")
    name = str(number or (9 if "file" in kind else kind))
    with serving(folder, poll_seconds=0.05) as (server, events):
        assert server.engine.model.versions == [1]
        assert ask(server.port, "POST", PREDICT, GOOD)[0] == 200
        status, answer = ask(server.port, "GET", "/v1/models/small")
        assert status == 200
        assert [*answer["left_out"]] == [name]
        assert answer["left_out"][name].isprintable()
        states = {s["version"]: s["state"] for s in answer["model_version_status"]}
        assert states == {"1": "AVAILABLE"} | ({str(number): "END"} if number else {})
        time.sleep(0.2)  # several polls
    started = next(event for event in events if event["event"] == "started")
    assert (started["versions"], started["left_out"]) == ("1", name)
    told = [e for e in events if e["event"] == ("failed" if number else "ignored")]
    assert len(told) == 1
    assert told[0]["reason"].isprintable()
    assert not [event for event in events if event["event"] == "fault"]
    assert not (tmp_path / "written").exists()


@pytest.mark.filterwarnings("ignore:.* is ignored")
@pytest.mark.parametrize("name", ["2", "0002", "٢"])
def test_a_version_is_published_past_a_file_of_the_next_number(base, tmp_path, name):
    folder = tmp_path / "small"
    shutil.copytree(base / "1", folder / "1")
    (folder / name).write_text("a file")
    with serving(folder) as (server, _):
        shutil.copytree(base / "1", tmp_path / "new")
        (tmp_path / "new").rename(folder / str(next_version(folder)))
        until(lambda: server.engine.model.versions == [3])
        assert ask(server.port, "POST", PREDICT, GOOD)[0] == 200


def next_version(folder):
    return max(taken_numbers(folder)) + 1


def test_an_error_of_the_folder_is_told_and_polling_goes_on(base, monkeypatch):
    with serving(base) as (server, events):
        monkeypatch.setattr(
            "keras_attention.serving.models.version_folders", lambda _: 1 / 0
        )
        until(lambda: faults(events, "folder"), 10)
        assert "ZeroDivisionError" in faults(events, "folder")[0]["reason"]
        assert ask(server.port, "POST", PREDICT, GOOD)[0] == 200
        monkeypatch.undo()
        time.sleep(0.3)
        count = sum(fault["count"] for fault in faults(events, "folder"))
        time.sleep(1.2)
        assert sum(f["count"] for f in faults(events, "folder")) <= count + 5
