"""Artifacts that were changed or could do harm are refused before they are loaded."""

import json
import os
import random
import shutil
import time
import zipfile

import h5py
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper
from tensorflow.core.protobuf import saved_model_pb2

import keras_attention as ka
from keras_attention.export.artifact.manifest import write_manifest
from keras_attention.export.runtimes.opening import open_artifact
from keras_attention.export.scanning import allowed_operators as allowed

FLOATS = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in "xy"]


def onnx_model(*nodes, **more):
    return helper.make_model(helper.make_graph(nodes, "g", *FLOATS_IN_OUT, **more))


FLOATS_IN_OUT = ([FLOATS[0]], [FLOATS[1]])
DOUBLE = helper.make_node("Add", ["x", "x"], ["y"])


class Module(tf.Module):
    def __init__(self):
        super().__init__()
        self.scale = tf.Variable([2.0, 3.0, 5.0])

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32)])
    def good(self, x):
        return {"y": tf.map_fn(lambda row: row * self.scale, x)}


def with_manifest(folder, format):
    write_manifest(folder, format=format, signatures=[], weights_bytes=7)
    return folder


def save_module(module, function, folder):
    tf.saved_model.save(module, str(folder), signatures={"s": function})
    return with_manifest(folder, "saved_model")


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    module = Module()
    return save_module(module, module.good, tmp_path_factory.mktemp("sm") / "1")


@pytest.fixture
def onnx_folder(tmp_path):
    folder = tmp_path / "onnx"
    folder.mkdir()
    onnx.save(onnx_model(DOUBLE), folder / "s.onnx")
    return with_manifest(folder, "onnx")


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    import keras

    path = tmp_path_factory.mktemp("keras") / "m.keras"
    inputs = keras.Input((3,))
    keras.Model(inputs, keras.layers.Dense(5)(inputs)).save(path)
    return path


def test_the_lists_name_operators_that_exist():
    from tensorflow.python.framework import op_def_registry  # pyright: ignore

    names = allowed.TENSORFLOW | allowed.SAVING | allowed.RESTORING
    missing = {name for name in names if op_def_registry.get(name) is None}
    assert not missing


def test_good_artifacts_pass_and_open(saved_model, onnx_folder, keras_file):
    found = ka.scan_artifact(saved_model)
    assert found.format == "saved_model"
    assert found.checksums
    assert {"Mul", "SaveV2", "RestoreV2"} <= set(found.operators)
    assert ka.scan_artifact(saved_model.parent) == found
    assert ka.scan_artifact(onnx_folder).operators == ("Add",)
    assert not ka.scan_artifact(onnx_folder / "s.onnx").checksums
    assert "keras.Dense" in ka.scan_artifact(keras_file).operators
    with open_artifact(saved_model) as runner:
        assert runner.run("s", x=[[1.0, 1.0, 2.0]])["y"].tolist() == [[2, 3, 10]]


def writes_a_file(x):
    tf.io.write_file("written-by-a-model", "x")
    return {"y": x}


def reads_a_file(x):
    return {"y": x, "text": tf.io.read_file("/etc/hostname")}


def runs_python(x):
    return {"y": tf.py_function(lambda v: v, [x], tf.float32)}


def prints_to_a_file(x):
    tf.print("x", output_stream="file://printed-by-a-model")
    return {"y": x}


def hides_in_a_branch(x):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: reads_a_file(x)["text"], lambda: "")


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (writes_a_file, "WriteFile"),
        (reads_a_file, "ReadFile"),
        (runs_python, "EagerPyFunc"),
        (prints_to_a_file, "PrintV2"),
        (lambda x: {"y": hides_in_a_branch(x)}, "ReadFile"),
    ],
    ids=["write", "read", "python", "print", "branch"],
)
def test_a_saved_model_that_does_more_is_refused(function, operator, tmp_path):
    traced = tf.function(function, input_signature=[tf.TensorSpec([3], tf.float32)])
    module = tf.Module()
    module.function = traced
    folder = save_module(module, traced, tmp_path / "1")
    with pytest.raises(ValueError, match=f"refused.*operator {operator}"):
        ka.scan_artifact(folder)
    with pytest.raises(ValueError, match=f"refused.*operator {operator}"):
        open_artifact(folder)


def test_only_the_saver_may_call_its_functions(saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "1")
    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    graph = saved.meta_graphs[0]
    save = graph.saver_def.save_tensor_name.partition(":")[0]
    node = next(n for n in graph.graph_def.node if n.name == save)
    graph.graph_def.node.add().CopyFrom(node)
    graph.graph_def.node[-1].name = "initialise"
    file.write_bytes(saved.SerializeToString())
    with pytest.raises(ValueError, match="initialise uses the files of the saver"):
        ka.scan_artifact(with_manifest(folder, "saved_model"))


def test_unknown_operators_of_onnx_are_refused(tmp_path):
    bad = helper.make_node("Steal", ["x"], ["y"], domain="evil")
    branch = helper.make_graph([bad], "b", [], [FLOATS[1]])
    nested = helper.make_node("If", ["c"], ["y"], then_branch=branch)
    for node in (bad, nested, helper.make_node("Nothing", ["x"], ["y"])):
        onnx.save(onnx_model(node), tmp_path / "s.onnx")
        with pytest.raises(ValueError, match=r"operator (evil.Steal|ai.onnx.Nothing)"):
            ka.scan_artifact(tmp_path / "s.onnx")


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("../w", "not a path inside"),
        ("/etc/hostname", "not a path inside"),
        ("a/../../w", "not a path inside"),
        ("symlink", "is a link"),
        ("hard", "hard link"),
        ("none", "is not there"),
        ("short", "ends after the file"),
    ],
)
def test_weights_outside_the_folder_are_refused(location, reason, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (tmp_path / "w").write_bytes(bytes(12))
    (folder / "symlink").symlink_to(tmp_path / "w")
    os.link(tmp_path / "w", folder / "hard")
    (folder / "short").write_bytes(bytes(11))
    tensor = TensorProto(name="w", data_type=1, dims=[3], data_location=1)
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value="12")
    (folder / "s.onnx").write_bytes(
        onnx_model(DOUBLE, initializer=[tensor]).SerializeToString()
    )
    with pytest.raises(ValueError, match=reason):
        ka.scan_artifact(folder / "s.onnx")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"module": "keras.layers", "class_name": "Lambda"}, "class Lambda"),
        ({"a": [{"module": "os", "class_name": "system"}]}, "foreign module os"),
        ({"a": "x" * 9_000_000}, "zip bomb"),
    ],
    ids=["lambda", "module", "bomb"],
)
def test_a_keras_file_that_brings_code_or_a_bomb_is_refused(config, reason, tmp_path):
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        name = "config.json" if reason != "zip bomb" else "assets/a"
        archive.writestr("config.json", "{}") if name != "config.json" else None
        archive.writestr(name, json.dumps(config))
    with pytest.raises(ValueError, match=reason):
        ka.scan_artifact(tmp_path / "m.keras")


def mutate(data, chance):
    data = bytearray(data)
    at = chance.randrange(len(data))
    end = min(len(data), at + chance.randint(1, 31))
    kind = chance.randrange(4)
    if kind == 0:
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:end] = bytes(end - at)
    else:
        data[at:at] = data[at:end]
    return bytes(data)


@pytest.mark.parametrize("count", [211, pytest.param(20_011, marks=pytest.mark.slow)])
@pytest.mark.timeout(1200)
def test_no_mutated_artifact_is_silently_accepted(
    count, saved_model, onnx_folder, tmp_path
):
    chance, seconds, mutated = random.Random(7), 0.0, 0
    copy = shutil.copytree(saved_model, tmp_path / "1")
    # The manifest is not among its own checksums: see docs/exporting.md.
    files = [p for p in copy.rglob("*") if p.is_file() and p.name != "manifest.json"]
    files.append(onnx_folder / "s.onnx")
    originals = {file: file.read_bytes() for file in files if file.stat().st_size}
    while mutated < count:
        file = chance.choice(list(originals))
        changed = mutate(originals[file], chance)
        if changed == originals[file]:
            continue
        mutated += 1
        file.write_bytes(changed)
        start = time.perf_counter()
        with pytest.raises(ValueError, match="not the one that was exported"):
            ka.scan_artifact(copy if copy in file.parents else onnx_folder)
        seconds = max(seconds, time.perf_counter() - start)
        file.write_bytes(originals[file])
    assert seconds < 5
    ka.scan_artifact(copy)


@pytest.mark.parametrize("count", [101, pytest.param(5003, marks=pytest.mark.slow)])
@pytest.mark.timeout(1200)
def test_reading_mutated_graphs_and_archives_ends_in_an_error_or_an_answer(
    count, saved_model, onnx_folder, keras_file, tmp_path
):
    from keras_attention.export.scanning.scan import inspect_file

    chance = random.Random(11)
    sources = [saved_model / "saved_model.pb", onnx_folder / "s.onnx", keras_file]
    for source in sources:
        original, target = source.read_bytes(), tmp_path / source.name
        for _ in range(count):
            target.write_bytes(mutate(original, chance))
            start = time.perf_counter()
            inspect_file(target)  # problems are returned: nothing is raised
            assert time.perf_counter() - start < 5


# Allowed operators that TensorFlow calls stateful, and why each can only compute.
STATEFUL = {
    "reads a weight": {
        *("ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VarHandleOp"),
        *("VarIsInitializedOp", "DisableCopyOnRead"),
    },
    "loads a weight": {
        *("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"),
        "ResourceScatterUpdate",
    },
    "reads a table, or fills it when it is loaded": {
        *("HashTableV2", "LookupTableFindV2", "LookupTableImportV2"),
        *("LookupTableSizeV2", "MutableDenseHashTableV2", "MutableHashTableV2"),
    },
    "calls a function of the graph": {"If", "StatefulPartitionedCall", "While"},
    "raises an error": {"Assert", "CheckNumerics"},
    "draws numbers": {
        *("RandomStandardNormal", "RandomUniform", "RandomUniformInt"),
        "StatelessRandomGetAlg",
    },
    "allocates": {"Empty"},
}


def test_an_allowed_operator_has_no_state_by_its_own_definition():
    from tensorflow.python.framework import op_def_registry

    explained = set().union(*STATEFUL.values())
    stateful = {
        name
        for name in allowed.TENSORFLOW
        if (definition := op_def_registry.get(name)) is None or definition.is_stateful
    }
    assert stateful == explained


def test_an_allowed_operator_takes_no_path_of_a_file():
    from tensorflow.python.framework import op_def_registry

    words = ("file", "path", "address", "device_name", "container_name", "prefix")
    found = {
        name: argument.name
        for name in sorted(allowed.TENSORFLOW)
        if (definition := op_def_registry.get(name)) is not None
        for argument in [*definition.input_arg, *definition.attr]
        if any(word in argument.name for word in words) and argument.type != "int"
    }
    assert not found


@pytest.mark.tensorflow
def test_an_honest_artifact_inside_a_hostile_one_does_not_excuse_it(
    saved_model, tmp_path
):
    mark = tmp_path / "written"

    @tf.function(input_signature=[tf.TensorSpec([3], tf.float32)])
    def hostile(x):
        with tf.control_dependencies([tf.io.write_file(str(mark), "x")]):
            return {"y": tf.identity(x)}

    base = tmp_path / "m"
    tf.saved_model.save(tf.Module(), str(base / "1"), signatures={"s": hostile})
    shutil.copytree(saved_model, base / "1" / "7")
    with_manifest(base / "1", "saved_model")
    for path in (base, base / "1"):
        for read in (
            ka.scan_artifact,
            open_artifact,
            ka.verify_artifact,
            lambda path: ka.publish(path, tmp_path / "served"),
        ):
            with pytest.raises(ValueError, match="must not contain another one"):
                read(path)
    assert not mark.exists()


def test_what_is_loaded_is_what_was_scanned(onnx_folder, monkeypatch):
    from keras_attention.export.runtimes import opening

    runtime = opening.RUNTIMES["onnxruntime"]
    good = (onnx_folder / "s.onnx").read_bytes()
    triple = helper.make_node("Sum", ["x", "x", "x"], ["y"])

    def swap_and_open(path, threads):
        onnx.save(onnx_model(triple), onnx_folder / "s.onnx")
        return runtime.open(path, threads)

    changed = {**opening.RUNTIMES, "onnxruntime": runtime._replace(open=swap_and_open)}
    monkeypatch.setattr(opening, "RUNTIMES", changed)
    with open_artifact(onnx_folder) as runner:
        assert runner.run("s", x=[1.0, 2.0, 5.0])["y"].tolist() == [2, 4, 10]
    assert (onnx_folder / "s.onnx").read_bytes() != good


def test_a_saved_model_is_loaded_from_the_copy_that_was_scanned(
    saved_model, tmp_path, monkeypatch
):
    from keras_attention.export.runtimes import opening

    folder = shutil.copytree(saved_model, tmp_path / "1")
    runtime = opening.RUNTIMES["tensorflow"]

    def remove_and_open(path, threads):
        shutil.rmtree(folder)
        return runtime.open(path, threads)

    changed = {"tensorflow": runtime._replace(open=remove_and_open)}
    monkeypatch.setattr(opening, "RUNTIMES", {**opening.RUNTIMES, **changed})
    with open_artifact(folder) as runner:
        assert runner.run("s", x=[[1.0, 1.0, 2.0]])["y"].tolist() == [[2, 3, 10]]


def test_weights_in_another_file_are_loaded_from_the_copy(tmp_path):
    (tmp_path / "w").write_bytes(bytes(11) + b"\x40" + bytes(12))
    tensor = TensorProto(name="w", data_type=1, dims=[3], data_location=1)
    tensor.external_data.add(key="location", value="w")
    tensor.external_data.add(key="offset", value="8")
    add = helper.make_node("Add", ["x", "w"], ["y"])
    model = onnx_model(add, initializer=[tensor])
    (tmp_path / "s.onnx").write_bytes(model.SerializeToString())
    for folder in (tmp_path, with_manifest(tmp_path, "onnx")):
        with open_artifact(folder, allow_unverified=True) as runner:
            assert runner.run("s", x=[1.0, 1.0, 1.0])["y"].tolist() == [3, 1, 1]


def test_without_a_manifest_nothing_is_opened_unless_the_caller_says_so(tmp_path):
    onnx.save(onnx_model(DOUBLE), tmp_path / "s.onnx")
    for path in (tmp_path, tmp_path / "s.onnx"):
        with pytest.raises(
            ValueError, match=r"no manifest.json.*allow_unverified=True"
        ):
            open_artifact(path)
        with open_artifact(path, allow_unverified=True) as runner:
            assert runner.run("s", x=[1.0, 2.0, 5.0])["y"].tolist() == [2, 4, 10]
    bad = helper.make_node("Steal", ["x"], ["y"], domain="evil")
    onnx.save(onnx_model(bad), tmp_path / "s.onnx")
    with pytest.raises(ValueError, match=r"refused.*operator evil.Steal"):
        open_artifact(tmp_path, allow_unverified=True)


def test_addresses_and_entries_given_twice_are_refused_in_external_weights(tmp_path):
    hidden = tmp_path / "*" / "_ORT_MEM_ADDR_" / "*"
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(bytes(12))
    (tmp_path / "w").write_bytes(bytes(12))
    for locations, reason in (
        (["*/_ORT_MEM_ADDR_/*"], "address in memory"),
        (["/etc/passwd", "w"], "twice"),
    ):
        tensor = TensorProto(name="w", data_type=1, dims=[3], data_location=1)
        for location in locations:
            tensor.external_data.add(key="location", value=location)
        model = onnx_model(DOUBLE, initializer=[tensor])
        (tmp_path / "s.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match=reason):
            ka.scan_artifact(tmp_path / "s.onnx")


def test_a_function_of_onnx_that_calls_itself_is_refused(tmp_path):
    again = helper.make_node("F", ["x"], ["y"], domain="own")
    model = onnx_model(again)
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model.functions.append(
        helper.make_function("own", "F", ["x"], ["y"], [again], opset)
    )
    (tmp_path / "s.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="function F calls itself"):
        ka.scan_artifact(tmp_path / "s.onnx")


def test_a_name_cannot_forge_a_line_of_a_log(onnx_folder):
    (onnx_folder / "x\n12:00 INFO all is well\x1b[2K").write_text("x")
    with pytest.raises(ValueError, match=r"x\\n12:00 INFO.*\\x1b.* is extra") as caught:
        ka.scan_artifact(onnx_folder)
    assert str(caught.value).isprintable()


def keras_archive(path, config, weights):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)
    return path


@pytest.mark.parametrize(
    ("name", "setting", "reason"),
    [
        ("StringLookup", {"vocabulary": "/etc/passwd"}, "with vocabulary of a file"),
        ("TextVectorization", {"idf_weights": "/etc/x"}, "with idf_weights of a file"),
        ("Dense", {"units": 1e10}, "units=10000000000.0, more than the file has"),
        ("Embedding", {"input_dim": 10**12}, "more than the file has"),
    ],
)
def test_settings_that_read_files_or_need_all_memory_are_refused(
    name, setting, reason, tmp_path
):
    config = {"module": "keras.layers", "class_name": name, "config": setting}
    with h5py.File(tmp_path / "w.h5", "w"):
        pass
    content = (tmp_path / "w.h5").read_bytes()
    path = keras_archive(tmp_path / "m.keras", config, content)
    with pytest.raises(ValueError, match=reason):
        ka.scan_artifact(path)


@pytest.mark.parametrize("kind", ["external", "soft", "storage", "bomb", "no HDF5"])
def test_weights_of_a_keras_file_that_are_elsewhere_are_refused(kind, tmp_path):
    file = tmp_path / "w.h5"
    with h5py.File(file, "w") as opened:
        if kind == "external":
            opened["w"] = h5py.ExternalLink("/elsewhere.h5", "/w")
        elif kind == "soft":
            opened["w"] = h5py.SoftLink("/other")
        elif kind == "storage":
            opened.create_dataset("w", (3,), "f4", external=[("/elsewhere", 0, 12)])
        elif kind == "bomb":
            opened.create_dataset("w", (10**9,), "f4", chunks=(10**6,))
    content = b"nothing" if kind == "no HDF5" else file.read_bytes()
    path = keras_archive(tmp_path / "m.keras", {}, content)
    reason = r"is a link|is in another file|is a bomb|is not an HDF5 file"
    with pytest.raises(ValueError, match=reason):
        ka.scan_artifact(path)
