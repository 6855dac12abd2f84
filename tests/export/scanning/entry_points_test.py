"""Whatever opens an artifact judges it: each way, for each format."""

import shutil

import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper

import keras_attention as ka
from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.artifact.manifest import write_manifest
from keras_attention.export.cases.grid import CASES_NAME, Case, save_cases
from keras_attention.export.signatures.signature import Signature
from keras_attention.serving.models import LoadedVersion

pytestmark = pytest.mark.tensorflow
MARK = "written-by-a-graph"


def onnx_file(file, operator, domain=""):
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [None]) for n in "xy")
    node = helper.make_node(operator, ["x", "x"], ["y"], domain=domain)
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y])), file)


def saved_model(folder, hostile):
    def run(x):
        wanted = [tf.io.write_file(MARK, "x")] if hostile else []
        with tf.control_dependencies(wanted):
            return {"y": x + x}

    spec = tf.TensorSpec([None], tf.float32, name="x")
    signature = tf.function(run, input_signature=[spec])
    tf.saved_model.save(tf.Module(), str(folder), signatures={"s": signature})


def litert(file, hostile):
    def run(x):
        return {"y": tf.random.uniform([3]) if hostile else x + x}

    spec = tf.TensorSpec([3], tf.float32, name="x")
    function = tf.function(run, input_signature=[spec])
    module = tf.Module()
    module.run = function
    found = [function.get_concrete_function()]
    converter = tf.lite.TFLiteConverter.from_concrete_functions(found, module)
    file.write_bytes(converter.convert())


def make(format, folder, hostile):
    folder.mkdir(parents=True)
    if format == "saved_model":
        saved_model(folder, hostile)
    elif format == "onnx":
        onnx_file(folder / "s.onnx", *(("Steal", "evil") if hostile else ("Add",)))
    else:
        litert(folder / "serving_default.tflite", hostile)
    info = TensorInfo("float32", (3 if format == "litert" else "batch",))
    name = "serving_default" if format == "litert" else "s"
    signature = Signature(name, lambda x: {"y": x}, {"x": info}, {"y": info})
    x = np.ones(3, np.float32)
    save_cases([Case(name, "one", {"x": x}, {"y": x + x})], folder / CASES_NAME)
    write_manifest(folder, format=format, signatures=[signature], weights_bytes=7)
    return folder


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    made = {}

    def get(format, hostile):
        if (format, hostile) not in made:
            base = tmp_path_factory.mktemp(format)
            made[format, hostile] = make(format, base / "m" / "1", hostile)
        return made[format, hostile]

    return get


WAYS = {
    "scan": lambda path, place: ka.scan_artifact(path),
    "open": lambda path, place: ka.open_artifact(path).close(),
    "open unverified": lambda path, place: ka.open_artifact(
        path, allow_unverified=True
    ).close(),
    "verify": lambda path, place: ka.verify_artifact(path),
    "publish": lambda path, place: ka.publish(path, place / "served"),
    "serve": lambda path, place: LoadedVersion(1, path).close(),
    "compare": lambda path, place: ka.compare_artifacts([path], ["a"], {}),
}
FORMATS = ["saved_model", "onnx", "litert"]
REASONS = {"saved_model": "WriteFile", "onnx": "evil.Steal", "litert": "RANDOM_UNIFORM"}
FILES = {
    "saved_model": "saved_model.pb",
    "onnx": "s.onnx",
    "litert": "serving_default.tflite",
}
STARTS_A_PROCESS = ("verify", "publish")


def cases():
    for format in FORMATS:
        for way in WAYS:
            # A process that imports TensorFlow takes seconds; ONNX is quick.
            slow = way in STARTS_A_PROCESS and format != "onnx"
            marks = [pytest.mark.slow] if slow else []
            yield pytest.param(format, way, marks=marks, id=f"{format}-{way}")


@pytest.mark.parametrize(("format", "way"), [*cases()])
def test_a_hostile_artifact_with_an_honest_manifest_is_refused(
    format, way, artifacts, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    hostile = artifacts(format, True)
    for path in (hostile, hostile.parent):
        if way == "serve" and path != hostile:
            continue
        with pytest.raises((ValueError, RuntimeError), match=REASONS[format]):
            WAYS[way](path, tmp_path)
    assert not list(tmp_path.rglob(MARK))
    assert not list(tmp_path.rglob("served/1"))


@pytest.mark.parametrize(("format", "way"), [*cases()])
def test_a_changed_file_is_refused_and_an_honest_artifact_is_not(
    format, way, artifacts, tmp_path
):
    if way == "compare":
        pytest.skip("it needs an artifact of texts: see comparison_test")
    folder = shutil.copytree(artifacts(format, False), tmp_path / "m" / "1")
    WAYS[way](folder, tmp_path)
    file = folder / FILES[format]
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises((ValueError, RuntimeError), match="is changed"):
        WAYS[way](folder, tmp_path)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("hostile", [False, True], ids=["honest", "hostile"])
def test_without_a_manifest_nothing_is_opened_and_what_is_allowed_is_scanned(
    format, hostile, artifacts, tmp_path
):
    folder = shutil.copytree(artifacts(format, hostile), tmp_path / "1")
    (folder / "manifest.json").unlink()
    for way in ("open", "serve", "compare"):
        with pytest.raises((ValueError, FileNotFoundError), match=r"manifest\.json"):
            WAYS[way](folder, tmp_path)
    for way in ("scan", "verify", "publish"):
        with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
            WAYS[way](folder, tmp_path)
    if hostile:
        with pytest.raises(ValueError, match=REASONS[format]):
            WAYS["open unverified"](folder, tmp_path)
    else:
        WAYS["open unverified"](folder, tmp_path)


def test_openvino_opens_only_what_was_scanned(artifacts, tmp_path):
    hostile = artifacts("onnx", True)
    for more in ({}, {"allow_unverified": True}):
        with pytest.raises(ValueError, match=r"evil\.Steal"):
            ka.open_artifact(hostile, runtime="openvino", **more)


def test_a_hostile_artifact_is_not_quantised(artifacts, tmp_path):
    with pytest.raises(ValueError, match=r"evil\.Steal"):
        ka.quantize_artifact(artifacts("onnx", True), tmp_path / "int8")
    assert not (tmp_path / "int8").exists()


def test_what_is_verified_is_what_was_compared(artifacts, tmp_path, monkeypatch):
    """The files are exchanged after the comparison: the copy is verified."""
    from keras_attention.export.verification import verify

    folder = shutil.copytree(artifacts("onnx", False), tmp_path / "1")
    real = verify.verify_folder

    def exchange(copy, **options):
        assert copy != folder
        onnx_file(folder / "s.onnx", "Mul")
        (folder / CASES_NAME).write_bytes(b"")
        return real(copy, **options)

    monkeypatch.setattr(verify, "verify_folder", exchange)
    report = ka.verify_artifact(folder)
    assert report.passed
    assert report.path == folder


def test_a_server_copies_and_compares_an_artifact_once(artifacts, monkeypatch):
    from keras_attention.export.artifact import manifest

    hashed = []
    real = manifest._fingerprint
    monkeypatch.setattr(
        manifest, "_fingerprint", lambda path: hashed.append(path.name) or real(path)
    )
    LoadedVersion(1, artifacts("onnx", False)).close()
    assert sorted(hashed) == ["s.onnx", CASES_NAME]
