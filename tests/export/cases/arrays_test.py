"""The arrays of verification.npz, which somebody else may have written."""

import io
import json
import os
import zipfile

import ml_dtypes
import numpy as np
import pytest

from keras_attention.export.cases import arrays
from keras_attention.export.cases.arrays import read_arrays
from keras_attention.export.cases.grid import Case, load_cases, save_cases


def npy(array, **changed):
    """Returns the bytes of an array, with changed entries of the header."""
    file = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, {**header, **changed})
    return file.getvalue() + array.tobytes()


def write(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def refused(path, match, function=read_arrays):
    with pytest.raises(ValueError, match=match) as caught:
        function(path)
    assert len(str(caught.value)) <= 2000
    assert "Received:" in str(caught.value)


def test_arrays_of_all_kinds_are_read(tmp_path):
    written = {
        "a": np.arange(6, dtype="float32").reshape(2, 3),
        "b": np.array(True),
        "c": np.zeros((0, 5), "int64"),
        "d": np.array(["ü", "ab"]),
        "e": np.asfortranarray(np.eye(3)),
    }
    np.savez_compressed(tmp_path / "a.npz", **written)
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == written.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    np.savez(tmp_path / "b.npz", a=np.ones(3, ml_dtypes.bfloat16))
    assert read_arrays(tmp_path / "b.npz")["a"].tobytes() == b"\x80\x3f" * 3


def test_a_small_file_of_large_arrays_is_refused_unless_the_limit_is_raised(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(arrays, "LEAST_LIMIT", 1000)
    path = write(tmp_path / "a.npz", a=npy(np.zeros(10**6, "int8")))
    refused(path, r"have 1,000,128 bytes, more than the limit.*raise `MAX_RATIO`")
    assert read_arrays(path, 2 * 10**6)["a"].size == 10**6
    monkeypatch.setattr(arrays, "MAX_RATIO", 10_000)
    assert read_arrays(path)["a"].size == 10**6


@pytest.mark.parametrize(
    "header",
    [
        {"shape": (2**40,)},
        {"shape": (-1, -4)},
        {"shape": (3,)},
        {"shape": (True, 4)},
        {"shape": (1,) * 40 + (4,)},
        {"descr": "|O"},
        {"descr": [("a", "<i4")]},
        {"descr": "<M8[s]"},
    ],
)
def test_headers_that_do_not_fit_the_data_are_refused(tmp_path, header):
    array = np.arange(4, dtype="int32")
    path = write(tmp_path / "a.npz", a=npy(array, **header))
    refused(path, "cannot be read")


def test_other_members_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.npz", a=npy(np.zeros(3)), b=b"no array")
    refused(path, "cannot be read")
    monkeypatch.setattr(arrays, "MAX_MEMBERS", 1)
    refused(path, "it has 2 members")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a\n.txt", "")
    refused(path, r"'a\\\\n.txt' is no array|is no array")
    os.mkfifo(tmp_path / "pipe.npz")
    refused(tmp_path / "pipe.npz", "plain file")
    refused(tmp_path / "none.npz", "missing")


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.pop("texts"),
        lambda entry: entry.update(texts=5),
        lambda entry: entry.update(texts={"a": {}}),
        lambda entry: entry.update(exact_zeros=[[]]),
        lambda entry: entry.update(exact_zeros=5),
        lambda entry: entry.update(name=None),
        lambda entry: entry.update(signature=["x" * 10**6]),
        lambda entry: entry.update(answers=[]),
    ],
)
def test_an_index_of_wrong_types_is_refused(tmp_path, change):
    case = Case("encode", "one", {"text": ["a"]}, {"y": np.ones(3)})
    save_cases([case], tmp_path / "a.npz")
    found = read_arrays(tmp_path / "a.npz")
    (entry,) = json.loads(found["index"].tobytes())
    change(entry)
    found["index"] = np.frombuffer(json.dumps([entry]).encode(), np.uint8)
    np.savez(tmp_path / "a.npz", **found)
    refused(tmp_path / "a.npz", r"a\.npz has a part", load_cases)
    del found["index"]
    np.savez(tmp_path / "a.npz", **found)
    refused(tmp_path / "a.npz", r"a\.npz has a part", load_cases)


@pytest.mark.parametrize("text", [b"(" * 5000, b"{'descr", b"lambda: 0", b"\xff"])
def test_a_header_that_is_no_expression_is_refused(tmp_path, text):
    whole = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text
    refused(write(tmp_path / "x.npz", a=whole), "cannot be read")
