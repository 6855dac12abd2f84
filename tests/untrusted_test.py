"""The reader of files that somebody else wrote."""

import json
import os
import time

import pytest

from keras_attention import untrusted


def refused(function, *arguments, match):
    """Asserts a short error of ours, at once and without control characters."""
    begin = time.monotonic()
    with pytest.raises(ValueError, match=match) as caught:
        function(*arguments)
    text = str(caught.value)
    assert time.monotonic() - begin < 1
    assert len(text) <= untrusted.MAX_ERROR
    assert text.isprintable()
    assert "Received:" in text


def test_a_plain_file_is_read_and_a_link_to_one(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, 2.5, "é", null]}')
    (tmp_path / "b.json").symlink_to("a.json")
    expected = {"a": [1, 2.5, "é", None]}
    assert untrusted.read_json(tmp_path / "a.json") == expected
    assert untrusted.read_object(tmp_path / "b.json") == expected
    with pytest.raises(FileNotFoundError, match=r"no file c\.json.*Received: path="):
        untrusted.read_json(tmp_path / "c.json")


def test_only_plain_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "zero", "folder"):
        refused(untrusted.read_bytes, tmp_path / name, match="must be a plain file")
    (tmp_path / "self").symlink_to("self")
    refused(untrusted.read_bytes, tmp_path / "self", match="cannot be read")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "sparse.json", "wb") as file:
        file.truncate(1 << 40)
    path = tmp_path / "sparse.json"
    refused(untrusted.read_json, path, match=r"larger than 16,777,216 bytes")
    refused(untrusted.read_bytes, path, 5, match=r"larger than 5 bytes")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"[" * 200_000 + b"]" * 200_000, "nested more than 64 levels"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64 levels"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' is in an object twice"),
        (b'{"a": NaN}', "NaN is not a number of JSON"),
        (b"[1e999]", "the number 1e999 is too large"),
        (b"[" + b"9" * 5000 + b"]", "not valid JSON"),
        (b'["\\ud800"]', "not UTF-8"),
        (b'["\xff"]', "not UTF-8"),
        (b"[1,]", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[" + b"0," * (1 << 23) + b"0]", "holds more than 8,388,608 values"),
        (b'{"%b": 1, "%b": 2}' % (b"x" * 10**6, b"x" * 10**6), "twice"),
    ],
)
def test_json_that_other_readers_read_otherwise_is_refused(data, match):
    refused(untrusted.parse_json, data, "a\n\x1b[2Jb" * 1000, match=match)


def test_64_levels_are_read():
    data = b"[" * 64 + b"]" * 64
    assert untrusted.parse_json(data, "x") == json.loads(data)


def test_text_of_a_file_is_shortened_and_escaped():
    assert untrusted.clip("a\n\x1b[31m\u202eé") == r"a\n\x1b[31m\u202eé"
    assert len(untrusted.clip("\x00" * 10**7)) == 300
    assert untrusted.show({"a": ["x" * 10**6] * 10**5}).startswith("{'a': ['xxx")
    assert len(untrusted.show({str(n): n for n in range(10**5)})) <= 300


def test_paths_stay_inside_the_folder(tmp_path):
    folder = tmp_path / "cache" / "snapshots" / "1"
    folder.mkdir(parents=True)
    (tmp_path / "cache" / "blobs").mkdir()
    (folder / "hub").symlink_to("../../blobs/5")
    (folder / "out").symlink_to(tmp_path)
    for name in ("", "a", "a/b.json", "hub"):
        assert untrusted.inside(folder, name, "x.json") == folder / name
    odd = ("x" * 256, "a/" + "é" * 128, "\ud800" * 99, "a\0", 5, None)
    for name in ("..", "a/../../b", "a\\..\\b", "/etc", "out", "out/a", *odd):
        refused(untrusted.inside, folder, name, "x.json", match="inside the folder")


def test_errors_of_a_wrong_structure_name_the_file():
    def read(error):
        with untrusted.reading("folder/x.json"):
            raise error

    for error in (
        KeyError("k" * 10**6),
        TypeError("t"),
        ZeroDivisionError(),
        OverflowError(),
    ):
        refused(read, error, match=rf"^x\.json has a part.*{type(error).__name__}")
    refused(read, ValueError("long" * 10**6), match=r"^x\.json has a part")
    with pytest.raises(ValueError, match=r"^short, ours\. Received: 5$"):
        read(ValueError("short, ours. Received: 5"))
