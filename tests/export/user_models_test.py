"""Users' own models: exported, opened by a runtime, asked with lengths of their own.

`model(inputs)` is the reference. Lengths are drawn at random, axis by axis.
"""

import json

import keras
import numpy as np
import pytest
from export.idioms import IDIOMS

import keras_attention as ka

pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("verified_here")]
QUICK = {"cross_attention", "text_vectorization"}
# Keras 3.15.1 and TensorFlow 2.21: in any graph of unknown length, without this library
# too, TimeDistributed(Dense) returns one step. The export is refused, as it should be.
WRONG_IN_KERAS = {"named_entities": "TimeDistributed returns one step in a graph"}


def marks_of(name):
    marks = [] if name in QUICK else [pytest.mark.slow]
    if name in WRONG_IN_KERAS:
        marks.append(pytest.mark.xfail(reason=WRONG_IN_KERAS[name], strict=True))
    return marks


CASES = [
    pytest.param(name, format, id=f"{name}-{format}", marks=marks_of(name))
    for name, idiom in IDIOMS.items()
    for format in idiom.formats
]


def trained(idiom):
    """The model after a few steps, so that no weight is at its first value."""
    keras.utils.set_random_seed(0)
    model = idiom.make()
    inputs = tensors(idiom.draw(np.random.default_rng(1)))
    optimizer = keras.optimizers.Adam(0.01)
    import tensorflow as tf

    for _ in range(3):
        with tf.GradientTape() as tape:
            outputs = keras.tree.flatten(model(inputs, training=True))
            loss = sum(keras.ops.mean(keras.ops.square(x - 1.0)) for x in outputs)
        weights = model.trainable_weights
        found = tape.gradient(loss, [w.value for w in weights])
        pairs = [(g, w) for g, w in zip(found, weights, strict=True) if g is not None]
        optimizer.apply_gradients(pairs)
    return model


def tensors(inputs):
    return keras.tree.map_structure(
        lambda x: keras.ops.convert_to_tensor(x) if x.dtype.kind not in "OU" else x,
        inputs,
    )


def outputs_of(model, inputs):
    found = model(tensors(inputs), training=False)
    return [np.asarray(keras.ops.cast(x, "float32")) for x in keras.tree.flatten(found)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "format"), CASES)
def test_a_users_model_is_exported_and_answers_for_lengths_drawn_at_random(
    name, format, tmp_path
):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    idiom = IDIOMS[name]
    model = trained(idiom)
    folder = ka.export_model(
        model, tmp_path / "m", format, warmup=False, **idiom.options
    )
    with ka.open_artifact(folder) as artifact:
        signature = artifact.signatures["serving_default"]
        random = np.random.default_rng(7)
        for _ in range(30):
            inputs = idiom.draw(random)
            if format == "litert":  # the batch is 1 there
                inputs = keras.tree.map_structure(lambda x: x[:1], inputs)
            flat = keras.tree.flatten(inputs)
            names = [*signature.inputs]
            if isinstance(inputs, dict):
                flat, names = list(inputs.values()), list(inputs)
            elif isinstance(inputs, list):
                names = [one.name for one in model.inputs]
            given = dict(zip(names, flat, strict=True))
            found = artifact.run("serving_default", **given)
            expected = outputs_of(model, inputs)
            assert len(found) == len(expected)
            by_name = found.values()
            if isinstance(model(tensors(inputs)), dict):
                by_name = [found[key] for key in sorted(found)]
            for got, wanted in zip(by_name, expected, strict=True):
                assert got.shape == wanted.shape
                error = np.abs(got - wanted).max(initial=0)
                assert error <= idiom.tolerance * max(
                    1.0, np.abs(wanted).max(initial=0)
                )


def test_two_lengths_have_two_names_in_the_manifest(tmp_path):
    model = IDIOMS["cross_attention"].make()
    folder = ka.export_model(model, tmp_path / "m", warmup=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    described = manifest["signatures"]["serving_default"]
    shapes = {name: one["shape"] for name, one in described["inputs"].items()}
    assert shapes == {
        "source": ["batch", "source_length"],
        "target": ["batch", "target_length"],
    }
    assert described["outputs"]["logits"]["shape"] == ["batch", "target_length", 20]
    weights = ["batch", 2, "target_length", "source_length"]
    assert described["outputs"]["weights"]["shape"] == weights
    assert described["limits"] == {"source": 30, "target": 20}


def test_the_cases_ask_different_lengths_of_different_axes(tmp_path):
    from keras_attention.export.cases.grid import grid
    from keras_attention.export.signatures.catalogue import signatures_of

    (signature,) = signatures_of(IDIOMS["cross_attention"].make())
    for case in grid(signature):
        if "all padding" not in case.name:
            assert case.inputs["source"].shape[1] != case.inputs["target"].shape[1]


def test_limits_and_lengths_are_those_of_the_users_own_layers():
    from keras_attention.export.signatures.catalogue import signatures_of

    (signature,) = signatures_of(IDIOMS["the_tutorial_of_keras"].make())
    assert signature.limits == {"ids": 300}
    assert signature.max_lengths == {"sequence": 16}
    (signature,) = signatures_of(IDIOMS["bert_with_a_head"].make())
    assert signature.limits == {"token_ids": 50, "segment_ids": 2}
    assert signature.max_lengths == {"sequence": 16}


def test_a_large_table_of_tokens_is_not_tried_as_a_length():
    from keras_attention.export.signatures.catalogue import signatures_of

    seen = []

    class Recorded(keras.layers.Layer):
        def call(self, x):
            seen.append(x.shape[1])
            return x

    tokens = keras.Input((None,), dtype="int32", name="ids")
    x = Recorded()(keras.layers.Embedding(250_000, 2)(tokens))
    (signature,) = signatures_of(keras.Model(tokens, x))
    assert signature.limits == {"ids": 250_000}
    assert signature.max_lengths == {}
    assert max(size for size in seen if size is not None) <= 1025


def test_a_long_table_of_positions_is_believed_where_there_is_one_length():
    from keras_attention.export.signatures.catalogue import signatures_of

    x = keras.Input((None, 4), name="x")
    (signature,) = signatures_of(keras.Model(x, ka.PositionEmbedding(4096)(x)))
    assert signature.max_lengths == {"sequence": 4096}


def test_what_the_user_says_is_taken(tmp_path):
    from keras_attention.export.signatures.catalogue import signatures_of
    from keras_attention.export.signatures.keras_model import Description

    same = {"source": ("batch", "length"), "target": ("batch", "length")}
    said = Description(axes=same, limits={"source": 7}, max_lengths={"length": 9})
    (signature,) = signatures_of(IDIOMS["cross_attention"].make(), said)
    assert signature.inputs["source"].shape == ("batch", "length")
    assert signature.inputs["target"].shape == ("batch", "length")
    assert signature.limits == {"source": 7, "target": 20}
    assert signature.max_lengths == {"length": 9}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"axes": {"sauce": ("batch", "n")}}, "`axes` names inputs.*source.*sauce"),
        ({"axes": {"source": ("batch",)}}, r"one entry per axis.*2 entries.*Received"),
        ({"limits": {"sauce": 3}}, "`limits` names inputs.*Received: limits of sauce"),
    ],
)
def test_a_wrong_description_is_refused(arguments, words, tmp_path):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        ka.export_model(IDIOMS["cross_attention"].make(), tmp_path / "m", **arguments)
    assert not (tmp_path / "m").exists()


def test_a_subclass_that_says_nothing_is_told_what_to_pass(tmp_path):
    from export.idioms import built_subclass

    with pytest.raises(ValueError, match=r"sample_inputs=.*input_signature.*Received"):
        ka.export_model(built_subclass(), tmp_path / "m")


def test_a_model_of_this_library_takes_no_description(tmp_path):
    bert = ka.BertEncoder(50, 1, 2, 8, 16, max_sequence_length=16)
    with pytest.raises(ValueError, match=r"describe their own inputs.*limits"):
        ka.export_model(bert, tmp_path / "m", limits={"token_ids": 3})


def test_an_operator_that_nothing_opens_is_refused_when_it_is_written(tmp_path):
    import tensorflow as tf

    class Writes(keras.layers.Layer):
        def call(self, x):
            tf.io.write_file("/dev/null", "x")
            return x + tf.cast(tf.strings.length(tf.io.read_file("/dev/null")), x.dtype)

    x = keras.Input((3,), name="x")
    model = keras.Model(x, Writes()(x))
    with pytest.raises(ka.ExportError, match=r"only compute.*Received: operator Read"):
        ka.export_model(model, tmp_path / "m", warmup=False)
    assert not (tmp_path / "m").exists()


def test_names_and_signatures_can_be_mixed(tmp_path):
    bert = ka.BertEncoder(50, 1, 2, 8, 16, max_sequence_length=16)
    axes = ("batch", "sequence")
    inputs = {name: ka.TensorInfo("int32", axes) for name in ("token_ids",)}

    def first(**given):
        return {"first": bert(given)["sequence_output"][:, 0]}

    outputs = {"first": ka.TensorInfo("float32", ("batch", 8))}
    limits = {"limits": {"token_ids": 50}, "max_lengths": {"sequence": 16}}
    mine = ka.Signature("first", first, inputs, outputs, **limits)
    folder = ka.export_model(
        bert, tmp_path / "m", signatures=["attention", mine], warmup=False
    )
    with ka.open_artifact(folder) as artifact:
        assert set(artifact.signatures) == {"attention", "first"}
