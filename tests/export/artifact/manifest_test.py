"""The manifest describes an artifact, and detects every change of its files."""

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.artifact.manifest import (
    Manifest,
    check_files,
    read_manifest,
    write_manifest,
)
from keras_attention.export.signatures.signature import Signature

SCHEMA = Path(__file__).parents[3] / "export/schema/manifest.schema.json"
SIGNATURE = Signature(
    "encode",
    lambda token_ids: {"output": token_ids},
    inputs={"token_ids": TensorInfo("int32", ("batch", "sequence"))},
    outputs={"output": TensorInfo("float32", ("batch", "sequence", 7))},
    limits={"token_ids": 30522},
    max_lengths={"sequence": 512},
)
CASE = {
    "signature": "encode",
    "case": "batch 2, length 7",
    "runtime": "session",
    "max_abs_error": np.float32(0.5),
    "max_rel_error": 1e-7,
    "tolerance": 1e-5,
    "passed": np.bool_(True),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables/data").write_bytes(bytes(range(100)))
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    return tmp_path


@pytest.fixture
def manifest(folder):
    return write_manifest(
        folder,
        format="saved_model",
        signatures=[SIGNATURE],
        weights_bytes=100,
        verification=[CASE],
        op_libraries=["_b.so", "_a.so"],
    )


def test_what_is_written_is_read(folder, manifest):
    assert read_manifest(folder) == manifest
    assert not list(folder.glob(".*"))


def test_the_manifest_describes_the_artifact(manifest):
    assert manifest.format == "saved_model"
    assert {name: info.to_json() for name, info in manifest.signatures.items()} == {
        "encode": {
            "inputs": {"token_ids": {"dtype": "int32", "shape": ["batch", "sequence"]}},
            "outputs": {
                "output": {"dtype": "float32", "shape": ["batch", "sequence", 7]}
            },
            "limits": {"token_ids": 30522},
            "max_lengths": {"sequence": 512},
        }
    }
    assert manifest.files == {
        "saved_model.pb": {
            "sha256": hashlib.sha256(b"graph").hexdigest(),
            "bytes": 5,
        },
        "variables/data": manifest.files["variables/data"],
    }
    assert manifest.files["variables/data"]["bytes"] == manifest.weights_bytes == 100
    assert {"keras-attention", "tensorflow", "keras"} <= manifest.versions.keys()
    age = datetime.now().astimezone() - datetime.fromisoformat(manifest.created)
    assert abs(age) < timedelta(minutes=1)
    assert manifest.created.endswith("+00:00")
    assert manifest.op_libraries == ["_a.so", "_b.so"]


def test_writing_it_again_describes_the_same_files(folder, manifest):
    again = write_manifest(
        folder, format="saved_model", signatures=[SIGNATURE], weights_bytes=100
    )
    assert again.files == manifest.files
    assert again.verification == []


def test_the_manifest_fits_the_schema(folder, manifest):
    schema = json.loads(SCHEMA.read_text())
    data = json.loads((folder / "manifest.json").read_text())
    assert data["verification"] == [{**CASE, "max_abs_error": 0.5, "passed": True}]
    check_required_keys(schema, schema, data)
    try:
        import jsonschema
    except ImportError:
        return
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(data, schema, cls=jsonschema.Draft202012Validator)


def check_required_keys(root, schema, data):
    """Check `required`, `properties`, `additionalProperties` and `pattern`."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
    if "pattern" in schema:
        assert re.search(schema["pattern"], data)
    if schema.get("type") == "array":
        for item in data:
            check_required_keys(root, schema["items"], item)
    if schema.get("type") != "object":
        return
    assert set(schema.get("required", ())) <= data.keys()
    others = schema.get("additionalProperties", {})
    for name, value in data.items():
        part = schema.get("properties", {}).get(name, others)
        assert part is not False, name
        check_required_keys(root, part, value)


def test_the_schema_has_the_fields_of_the_manifest():
    schema = json.loads(SCHEMA.read_text())
    fields = {field.name for field in dataclasses.fields(Manifest)}
    assert fields == schema["properties"].keys()
    assert set(schema["required"]) == fields - {"quantization", "compilation"}


def test_untouched_files_pass(folder, manifest):
    check_files(folder, manifest)


def test_missing_changed_and_extra_files_are_all_named(folder, manifest):
    (folder / "saved_model.pb").unlink()
    data = bytearray((folder / "variables/data").read_bytes())
    data[50] ^= 1
    (folder / "variables/data").write_bytes(data)
    (folder / "assets").mkdir()
    (folder / "assets/more").write_text("x")
    with pytest.raises(ValueError, match="is not the one that was exported") as caught:
        check_files(folder, manifest)
    received = str(caught.value).split("Received: ")[1]
    assert received.split(", in ")[0].split("; ") == [
        "saved_model.pb is missing",
        "assets/more is extra",
        "variables/data is changed (same size, another sha256)",
    ]


def test_a_truncated_file_is_named_with_its_sizes(folder, manifest):
    (folder / "variables/data").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"changed \(5 bytes instead of 100"):
        check_files(folder, manifest)


def test_an_additional_empty_folder_is_no_difference(folder, manifest):
    (folder / "assets").mkdir()
    check_files(folder, manifest)


def test_a_link_is_refused(folder, manifest, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "data"
    elsewhere.write_bytes((folder / "variables/data").read_bytes())
    (folder / "variables/data").unlink()
    (folder / "variables/data").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="plain files"):
        check_files(folder, manifest)
    with pytest.raises(ValueError, match="plain files"):
        write_manifest(folder, format="onnx", signatures=[], weights_bytes=0)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no artifact of this library"):
        read_manifest(tmp_path)


def encoded(data):
    return data["signatures"]["encode"]["inputs"]["token_ids"]


def edit(folder, change):
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(manifest_version=2), "a newer keras-attention"),
        (lambda d: d.pop("manifest_version"), "manifest_version None"),
        (lambda d: d.pop("files"), "the keys"),
        (lambda d: d.update(more=1), "the keys"),
        (lambda d: d.update(files=[]), "files: dict"),
        (lambda d: d.update(weights_bytes="7"), "weights_bytes: int"),
        (lambda d: d.update(weights_bytes=True), "weights_bytes: int"),
        (lambda d: d.update(format="pickle"), "pickle"),
        (lambda d: d["files"].update({"../up": d["files"]["saved_model.pb"]}), "up"),
        (lambda d: d["files"].update({"/etc/x": d["files"]["saved_model.pb"]}), "etc"),
        (lambda d: d["files"].update(x={"bytes": 1}), "sha256 and bytes"),
        (lambda d: d["signatures"].update(x={}), "signatures"),
        (lambda d: d["signatures"]["encode"].update(limits={"x": 1.5}), "whole numb"),
        (lambda d: d["signatures"]["encode"]["inputs"].update(x={}), "names of axes"),
        (lambda d: encoded(d).update(shape=[True, "batch"]), "names of axes"),
        (lambda d: encoded(d).update(dtype=None), "names of axes"),
    ],
)
def test_an_invalid_manifest_is_refused(folder, manifest, change, message):
    edit(folder, change)
    with pytest.raises(ValueError, match=f"cannot be read.*{message}"):
        read_manifest(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"null", b'{"a": NaN'])
def test_a_damaged_manifest_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json cannot be read"):
        read_manifest(folder)


def test_an_error_of_nan_is_not_written(folder):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_manifest(
            folder,
            format="onnx",
            signatures=[],
            weights_bytes=0,
            verification=[{**CASE, "max_abs_error": float("nan")}],
        )
    assert not (folder / "manifest.json").exists()


def test_an_unknown_format_is_refused(folder):
    with pytest.raises(ValueError, match="format='pickle'"):
        write_manifest(folder, format="pickle", signatures=[], weights_bytes=0)


def test_checking_needs_neither_tensorflow_nor_keras(folder, manifest):
    code = (
        "import sys\n"
        "from keras_attention.export.artifact import manifest as m\n"
        "m.check_files(sys.argv[1], m.read_manifest(sys.argv[1]))\n"
        "print(sorted({'tensorflow', 'keras', 'numpy'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"
