"""What runs at loading and in a signature is judged, not what the artifact calls it."""

import shutil

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import keras_attention as ka
from keras_attention.export.artifact.manifest import write_manifest
from keras_attention.export.scanning.saved_model import inspect_saved_model

pytestmark = pytest.mark.tensorflow


class Scale(tf.Module):
    def __init__(self):
        super().__init__()
        self.scale = tf.Variable([2.0, 3.0, 5.0])

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def run(self, x):
        return {"y": x * self.scale}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest") / "1"
    module = Scale()
    tf.saved_model.save(module, str(folder), signatures={"s": module.run})
    return folder


@pytest.fixture
def problems(honest, tmp_path):
    """Changes the graph of the honest SavedModel; returns what the scan finds."""

    def changed(change):
        folder = shutil.copytree(honest, tmp_path / "1", dirs_exist_ok=True)
        file = folder / "saved_model.pb"
        saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
        change(saved.meta_graphs[0])
        file.write_bytes(saved.SerializeToString())
        return "; ".join(inspect_saved_model(file)[1])

    return changed


def function_with(meta, operator):
    library = meta.graph_def.library.function
    return next(f for f in library if any(n.op == operator for n in f.node_def))


def node_with(function, operator):
    return next(n for n in function.node_def if n.op == operator)


def add_text(function, name, text):
    node = function.node_def.add(name=name, op="Const")
    node.attr["dtype"].type = tf.string.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(text))


def test_an_honest_saved_model_has_no_problems(problems):
    assert problems(lambda meta: None) == ""


def test_a_restoring_operator_that_also_saves_is_refused(problems):
    def change(meta):
        restore = function_with(meta, "RestoreV2")
        original = node_with(function_with(meta, "SaveV2"), "SaveV2")
        save = restore.node_def.add()
        save.CopyFrom(original)
        add_text(restore, "elsewhere", "/tmp/elsewhere")
        save.input[0] = "elsewhere:output:0"
        meta.saver_def.save_tensor_name = meta.saver_def.restore_op_name + ":0"

    found = problems(change)
    assert "both saves and restores" in found
    assert "operator SaveV2 in restoring" in found


@pytest.mark.parametrize("kind", ["constant", "joined"])
def test_a_checkpoint_outside_the_artifact_is_refused(kind, problems):
    def change(meta):
        restore = function_with(meta, "RestoreV2")
        add_text(restore, "elsewhere", "/../../other")
        path = "elsewhere:output:0"
        if kind == "joined":
            join = restore.node_def.add(name="join", op="StringJoin")
            join.input.extend([restore.signature.input_arg[0].name, path])
            join.attr["N"].i = 2
            path = "join:output:0"
        node_with(restore, "RestoreV2").input[0] = path

    assert "reads a checkpoint that is not the one of the artifact" in problems(change)


def test_a_path_that_the_loader_does_not_feed_is_refused(problems):
    def change(meta):
        add_text_of_graph = meta.graph_def.node.add(name="mine", op="Const")
        add_text_of_graph.attr["dtype"].type = tf.string.as_datatype_enum
        value = tf.make_tensor_proto("/elsewhere")
        add_text_of_graph.attr["value"].tensor.CopyFrom(value)
        for node in meta.graph_def.node:
            if node.name == meta.saver_def.restore_op_name:
                node.input[0] = "mine"

    assert "reads a checkpoint that is not the one of the artifact" in problems(change)


def test_a_path_may_be_handed_on_unchanged(problems):
    def change(meta):
        restore = function_with(meta, "RestoreV2")
        same = restore.node_def.add(name="same", op="Identity")
        same.input.append(restore.signature.input_arg[0].name)
        same.attr["T"].type = tf.string.as_datatype_enum
        node_with(restore, "RestoreV2").input[0] = "same:output:0"

    assert problems(change) == ""


def test_a_signature_that_takes_the_path_of_the_checkpoint_is_refused(problems):
    def change(meta):
        taken = meta.signature_def["s"].inputs["path"]
        taken.name = meta.saver_def.filename_tensor_name
        taken.dtype = tf.string.as_datatype_enum

    assert "the signature s takes the path of the saver" in problems(change)


def test_an_initialiser_that_restores_is_refused(problems):
    def change(meta):
        main = meta.collection_def["saved_model_main_op"].node_list
        main.value[:] = [meta.saver_def.restore_op_name]

    assert "operator RestoreV2 in initialising" in problems(change)


def test_a_function_that_calls_itself_is_refused(problems):
    def change(meta):
        restore = function_with(meta, "RestoreV2")
        again = restore.node_def.add(name="again", op="StatefulPartitionedCall")
        again.attr["f"].func.name = restore.signature.name

    assert "calls itself" in problems(change)


def test_an_asset_outside_the_folder_is_refused(problems):
    def change(meta):
        meta.asset_file_def.add(filename="../../secret").tensor_info.name = "x:0"

    assert "asset '../../secret' is not a path inside" in problems(change)


class Keeps(tf.Module):
    """Stores its input, in one of several ways."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.kept = tf.Variable([b""], shape=[None], dtype=tf.string, trainable=False)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")])
    def run(self, texts):
        before = tf.identity(self.kept.read_value())
        with tf.control_dependencies([before]):
            self._keep(texts)
        return {"y": before}

    def _keep(self, texts):
        if self.way == "at once":
            self.kept.assign(texts)
        elif self.way == "in a function":
            tf.function(self.kept.assign)(texts)
        elif self.way == "in a branch":
            tf.cond(
                tf.size(texts) > 0,
                lambda: tf.identity(self.kept.assign(texts)),
                lambda: tf.identity(texts),
            )
        else:
            tf.while_loop(
                lambda i: i < 2,
                lambda i: (i + tf.size(self.kept.assign(texts)) * 0 + 1,),
                [tf.constant(0)],
            )


@pytest.mark.parametrize(
    "way", ["at once", "in a function", "in a branch", "in a loop"]
)
def test_a_signature_that_keeps_what_it_was_fed_is_refused(way, tmp_path):
    module = Keeps(way)
    folder = tmp_path / "1"
    tf.saved_model.save(module, str(folder), signatures={"s": module.run})
    write_manifest(folder, format="saved_model", signatures=[], weights_bytes=7)
    with pytest.raises(ValueError, match="AssignVariableOp in the signature s"):
        ka.open_artifact(folder)


def test_a_hidden_name_of_a_signature_does_not_excuse_it(tmp_path):
    module = Keeps("at once")
    name = "__saved_model_other"
    tf.saved_model.save(module, str(tmp_path), signatures={name: module.run})
    _, found = inspect_saved_model(tmp_path / "saved_model.pb")
    assert f"signature {name}: it keeps a state between calls" in "; ".join(found)


def test_a_table_may_be_filled_when_it_is_loaded(tmp_path):
    module = tf.Module()
    values = tf.lookup.KeyValueTensorInitializer(["a", "b"], [3, 5])
    module.table = tf.lookup.StaticHashTable(values, -1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")])
    def run(texts):
        return {"ids": module.table.lookup(texts)}

    tf.saved_model.save(module, str(tmp_path), signatures={"s": run})
    assert inspect_saved_model(tmp_path / "saved_model.pb")[1] == []
    with ka.open_artifact(tmp_path, allow_unverified=True) as runner:
        assert runner.run("s", texts=["b", "c"])["ids"].tolist() == [5, -1]
