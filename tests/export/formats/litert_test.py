"""LiteRT files compute what their model computes, at fixed sizes."""

import re
import struct
import sys
import threading
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import MODELS, SIZES, with_random_weights
from typer.testing import CliRunner

import keras_attention as ka
from keras_attention.cli.main import app
from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.artifact.manifest import read_manifest
from keras_attention.export.cases.grid import grid
from keras_attention.export.formats.errors import ExportError
from keras_attention.export.formats.litert import write_litert
from keras_attention.export.runtimes import litert as litert_runner
from keras_attention.export.runtimes.litert import LiteRtRunner
from keras_attention.export.runtimes.opening import open_artifact
from keras_attention.export.scanning import allowed_operators as allowed
from keras_attention.export.scanning.litert import inspect_litert
from keras_attention.export.signatures import catalogue
from keras_attention.export.signatures.signature import Signature
from keras_attention.export.signatures.static_axes import with_sizes

LENGTH = 13


def axes_of(model, **sizes):
    """A prime for each axis of the signature that is exported by default."""
    known = [one for one in catalogue.signatures_of(model) if "litert" in one.formats]
    inputs = next(one for one in known if not one.takes_text).inputs
    named = {a for info in inputs.values() for a in info.shape if isinstance(a, str)}
    primes = dict(zip(sorted(named - {"batch"}), (LENGTH, 17), strict=False))
    return {**primes, **sizes}


@pytest.fixture(scope="module")
def bert():
    return with_random_weights(MODELS["bert"]())


@pytest.fixture(scope="module")
def artifact(bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("litert") / "bert"
    names = ["serving_default", "attention"]
    sizes = {"batch": 3, "sequence": LENGTH}
    return ka.export_model(bert, folder, "litert", signatures=names, static_axes=sizes)


def questions(*, real=(LENGTH, 5, 0), limit=61):
    rng = np.random.default_rng(7)
    keep = np.arange(LENGTH) < np.array(real)[:, None]
    ids = rng.integers(1, limit, (3, LENGTH)) * keep
    return {"token_ids": ids, "segment_ids": ids % 2, "padding_mask": keep}


@pytest.mark.parametrize("name", ["gpt2", "llama", "vit"])
def test_an_export_agrees_with_its_model(name, tmp_path, record_property):
    model = with_random_weights(MODELS[name]())
    folder = ka.export_model(
        model, tmp_path / "lite", "litert", static_axes=axes_of(model)
    )
    manifest = read_manifest(folder)
    assert manifest.format == "litert"
    assert [path.name for path in folder.glob("*.tflite")] == ["serving_default.tflite"]
    inputs = manifest.signatures["serving_default"].inputs
    assert {info.shape[0] for info in inputs.values()} == {1}
    assert {case["runtime"] for case in manifest.verification} == {"LiteRT"}
    assert len(manifest.verification) == (3 if name == "vit" else 8)
    worst = max(case["max_abs_error"] for case in manifest.verification)
    record_property("summary", f"LiteRT, {name}: worst {worst:.1e}")
    assert worst < 1e-5


def test_both_signatures_are_verified_again_and_scanned(artifact):
    report = ka.verify_artifact(artifact, runtime="litert")
    assert report.passed, str(report)
    assert len(report.results) == 18
    found = ka.scan_artifact(artifact)
    assert found.format == "litert"
    assert found.checksums
    assert {"SOFTMAX", "BATCH_MATMUL", "GATHER"} <= set(found.operators)
    single = ka.scan_artifact(artifact / "attention.tflite")
    assert (single.format, single.checksums) == ("litert", False)


def test_hidden_keys_have_exactly_zero_weight(artifact, bert):
    asked = questions()
    with open_artifact(artifact, "attention") as runner:
        answers = runner.run("attention", **asked)
    (weights,) = answers.values()  # [B, N, T, S]
    hidden = np.broadcast_to(~asked["padding_mask"][:, None, None], weights.shape)
    assert not weights[hidden].any()
    # A query that is padding, or in a row of padding, has zero weights too.
    sums = np.broadcast_to(asked["padding_mask"][:, None], weights.shape[:-1])
    assert not weights[~sums].any()
    np.testing.assert_allclose(weights.sum(-1), sums, atol=1e-6)
    expected = ka.attention_maps(bert, asked)
    np.testing.assert_allclose(weights, next(iter(expected.values())), atol=1e-5)


def test_threads_may_share_a_runner(artifact):
    asked = [questions(real=(n, n, n)) for n in range(1, 9)]
    with open_artifact(artifact, "serving_default") as runner:
        expected = [runner.run("serving_default", **one) for one in asked]
        wrong = []

        def ask(number):
            for _ in range(5):
                got = runner.run("serving_default", **asked[number])
                same = got.keys() == expected[number].keys() and all(
                    np.array_equal(got[key], expected[number][key]) for key in got
                )
                wrong.extend([] if same else [number])

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize("wrong", [61, -1, 400_000])
def test_ids_beyond_the_vocabulary_are_refused(artifact, wrong):
    asked = questions()
    asked["token_ids"][1, 2] = wrong
    with (
        open_artifact(artifact, "serving_default") as runner,
        pytest.raises(ValueError, match=r"token_ids must be in \[0, 61\).*Received"),
    ):
        runner.run("serving_default", **asked)


def test_another_length_is_refused(artifact):
    asked = {name: value[:, :7] for name, value in questions().items()}
    with (
        open_artifact(artifact, "serving_default") as runner,
        pytest.raises(ValueError, match=rf"Expected: \w+ \[3, {LENGTH}\]"),
    ):
        runner.run("serving_default", **asked)


def test_one_of_several_files_must_be_named_and_the_runtime_must_fit(artifact):
    with pytest.raises(ValueError, match="Which of the files"):
        open_artifact(artifact)
    with pytest.raises(ValueError, match=r"opened by litert\. Received"):
        open_artifact(artifact, "attention", runtime="onnxruntime")


@pytest.mark.tensorflow
def test_the_interpreter_of_tensorflow_returns_the_same(artifact, monkeypatch):
    asked = questions()
    file = artifact / "serving_default.tflite"
    with open_artifact(file) as runner:
        expected = runner.run("serving_default", **asked)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    if not hasattr(tf.lite, "Interpreter"):
        pytest.skip("this TensorFlow has none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_artifact(file) as runner:
            got = runner.run("serving_default", **asked)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=1e-5)


def test_without_a_runtime_the_error_says_what_to_install(monkeypatch):
    for name in ("ai_edge_litert", "ai_edge_litert.interpreter", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ImportError, match=r'pip install "keras-attention-layers\[litert\]"'
    ):
        litert_runner.LiteRtRunner(Path("a.tflite"))


def test_the_grid_covers_lengths_and_paddings_within_the_size(bert):
    static, *_ = with_sizes(
        catalogue.signatures_of(bert), {"batch": 3, "sequence": LENGTH}
    )
    assert static.inputs["token_ids"].shape == (3, LENGTH)
    assert static.outputs["sequence_output"].shape == (3, LENGTH, 16)
    assert static.max_lengths == {}
    masks = {case.name: case.inputs["padding_mask"] for case in grid(static)}
    real = {name: mask.sum(-1).tolist() for name, mask in masks.items()}
    assert real[f"length {LENGTH}, no padding"] == [LENGTH] * 3
    assert real["every row is all padding"] == [0, 0, 0]
    assert real["one row is all padding"] == [LENGTH, 0, LENGTH]
    assert real["length 7 of 13, right padding"] == [7, 6, 4]
    assert (
        masks["length 7 of 13, right padding"][0].tolist() == [True] * 7 + [False] * 6
    )
    assert masks["length 7 of 13, left padding"][0].tolist() == [False] * 6 + [True] * 7
    assert real["length 1 of 13, left padding"] == [1, 1, 1]
    for case in grid(static):
        hidden = case.inputs["token_ids"][~case.inputs["padding_mask"]]
        assert not hidden.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r'static_axes=\{"sequence": 128\}.*Received: no size for sequence'),
        ({"static_axes": {"sequence": 0}}, "from 1 on. Received: sequence=0"),
        ({"static_axes": {"sequence": True}}, "from 1 on. Received: sequence=True"),
        (
            {"static_axes": {"sequenc": 7}},
            r"\['batch', 'sequence'\]. Received: sequenc",
        ),
        ({"static_axes": {"sequence": 513}}, "at most 512 .*Received: sequence=513"),
        ({"static_axes": {"sequence": 7}, "version": 1}, "LiteRT is the folder itself"),
        ({"static_axes": {"sequence": 7}, "format": "onnx"}, "the axes are free"),
        ({"format": "tflite"}, "saved_model, onnx, litert. Received: format='tflite'"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(bert, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        ka.export_model(bert, tmp_path / "x", **{"format": "litert", **arguments})
    assert not list(tmp_path.iterdir())


def test_half_precision_is_refused(tmp_path):
    model = ka.GPTDecoder(61, **SIZES, dtype="mixed_bfloat16")
    with pytest.raises(ValueError, match=r"LiteRT files are .*compute in bfloat16"):
        ka.export_model(model, tmp_path / "x", "litert", static_axes={"sequence": 7})


def test_texts_are_refused(bert, tmp_path):
    text = Signature(
        "text",
        lambda text: {"y": text},
        {"text": TensorInfo("string", ("batch",))},
        {"y": TensorInfo("string", ("batch",))},
    )
    with pytest.raises(ValueError, match=r"LiteRT has no tokenizers.*Received: string"):
        ka.export_model(bert, tmp_path / "x", "litert", signatures=[text])


def vector_signature(function):
    described = {"x": TensorInfo("float32", ("batch", 5))}
    return Signature(
        "s", lambda x: {"y": function(x)}, described, {"y": described["x"]}
    )


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (tf.math.erfinv, r"tf\.Erfinv"),
        (lambda x: x + tf.random.normal([1, 5]), "RANDOM_STANDARD_NORMAL"),
    ],
)
def test_an_operator_that_is_not_allowed_is_named(tmp_path, function, operator):
    (static,) = with_sizes([vector_signature(function)], None)
    with pytest.raises(ExportError, match=rf"Received: .*{operator}"):
        write_litert(static, tmp_path / "s.tflite", variables=[])
    assert not list(tmp_path.iterdir())


@pytest.mark.tensorflow
def test_free_axes_are_refused_by_the_writer(tmp_path):
    signature = vector_signature(tf.identity)
    with pytest.raises(ExportError, match=r"Expected `static_axes` with \['batch'\]"):
        write_litert(signature, tmp_path / "s.tflite", variables=[])


@pytest.mark.tensorflow
def test_own_examples_must_have_the_sizes():
    def examples(*batches):
        return lambda: [(f"{n}", {"x": np.ones((n, 5), "f")}, None) for n in batches]

    make = vector_signature(tf.identity).__dict__
    signature = Signature(**{**make, "examples": examples(1, 2)})
    (static,) = with_sizes([signature], {"batch": 2})
    assert [case.name for case in grid(static)] == ["2"]
    (static,) = with_sizes([signature], {"batch": 3})
    with pytest.raises(ValueError, match=r"none has the sizes.*Received"):
        list(grid(static))


def test_the_list_of_operators_has_the_numbers_of_the_schema():
    from tensorflow.lite.python import schema_py_generated as schema  # pyright: ignore

    numbers = vars(schema.BuiltinOperator)
    for number, name in {**allowed.LITERT, **allowed.LITERT_REFUSED}.items():
        assert numbers[name] == number
    assert not allowed.LITERT.keys() & allowed.LITERT_REFUSED.keys()
    assert numbers["CUSTOM"] not in allowed.LITERT


@pytest.mark.tensorflow
def test_operators_of_tensorflow_are_refused_by_the_scan(tmp_path):
    function = tf.function(lambda x: {"y": tf.linalg.det(x)}, autograph=False)
    traced = function.get_concrete_function(tf.TensorSpec([3, 3], "float32", name="x"))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
    sets = tf.lite.OpsSet
    converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS, sets.SELECT_TF_OPS]
    file = tmp_path / "flex.tflite"
    file.write_bytes(converter.convert())
    with pytest.raises(ValueError, match="operator custom FlexMatrixDeterminant"):
        ka.scan_artifact(file)


def test_damaged_files_are_refused_or_read_but_never_crash_the_scan(artifact, tmp_path):
    good = (artifact / "attention.tflite").read_bytes()
    file = tmp_path / "damaged.tflite"
    rng = np.random.default_rng(3)
    refused = 0
    for size in (0, 3, 8, 30, len(good) // 2):
        file.write_bytes(good[:size])
        assert inspect_litert(file)[1]
    for _ in range(300):
        damaged = bytearray(good)
        for at in rng.integers(0, 60, 3):
            damaged[at] = rng.integers(256)
        for at in rng.integers(len(good) - 1000, len(good), 5):
            damaged[at] = rng.integers(256)
        file.write_bytes(damaged)
        refused += bool(inspect_litert(file)[1])
    assert refused > 100
    file.write_bytes(b"no flatbuffer at all")
    with pytest.raises(ValueError, match=r"does not open in LiteRT.*Received"):
        LiteRtRunner(file)
    with pytest.raises(ValueError, match=r"refused.*not a LiteRT file"):
        open_artifact(file, allow_unverified=True)


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({2}, []),
        ({2, 8}, ["weights in another file"]),
        ({2, 9}, ["weights in another file"]),
        (set(), ["it has no graph"]),
    ],
)
def test_weights_outside_the_file_are_refused(tmp_path, fields, problems):
    # The root table with some of its ten fields; each is an empty list.
    entries = [4 if number in fields else 0 for number in range(10)]
    table = struct.pack("<I4s12H", 32, b"TFL3", 24, 8, *entries)
    file = tmp_path / "a.tflite"
    file.write_bytes(table + struct.pack("<iII", 24, 4, 0))
    assert inspect_litert(file) == (set(), problems)


def test_a_changed_file_is_not_opened(artifact, tmp_path):
    folder = tmp_path / "changed"
    folder.mkdir()
    for file in artifact.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with (folder / "attention.tflite").open("ab") as opened:
        opened.write(b"x")
    with pytest.raises(ValueError, match=r"attention\.tflite is changed"):
        open_artifact(folder, "attention")


def test_the_command_line_exports_verifies_and_describes(tmp_path):
    inputs = keras.Input((None,), dtype="int32", name="ids")
    hidden = keras.layers.Embedding(11, 8, mask_zero=True)(inputs)
    attended = ka.MultiHeadAttention(2, 4)(query=hidden, value=hidden)
    keras.Model(inputs, attended).save(tmp_path / "m.keras")
    out = tmp_path / "lite"

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result.exit_code, re.sub(r"\s+", " ", result.output)

    export = ("export", tmp_path / "m.keras", out, "--format", "litert")
    assert run(*export, "--static-axis", "sequence=x")[0] == 1
    code, said = run(*export, "--static-axis", "sequence=7", "--static-axis", "batch=2")
    assert code == 0, said
    assert "LiteRT" in said
    for command, words in (
        ("verify", "verified"),
        ("info", "ids: int32 [2, 7]"),
        ("scan", "in order"),
    ):
        code, said = run(command, out)
        assert code == 0, said
        assert words in said


def attends(layer):
    def make():
        inputs = keras.Input((None,), dtype="int32", name="ids")
        hidden = keras.layers.Embedding(31, 16, mask_zero=True)(inputs)
        return keras.Model(inputs, layer()(query=hidden, value=hidden))

    return make


def recurrent():
    inputs = keras.Input((None,), dtype="int32", name="ids")
    hidden = keras.layers.Embedding(31, 16, mask_zero=True)(inputs)
    return keras.Model(inputs, keras.layers.LSTM(8)(hidden))


MORE = {
    "sequence to sequence": lambda: ka.Seq2SeqTransformer(61, **SIZES),
    "t5": lambda: ka.T5EncoderDecoder(61, **SIZES),
    "causal": lambda: ka.CausalLM(ka.GPTDecoder(61, **SIZES)),
    "sentence": lambda: ka.SentenceEncoder(ka.BertEncoder(61, **SIZES)),
    "classifier": lambda: ka.TextClassifier(
        ka.BertEncoder(61, **SIZES), labels=["a", "b"]
    ),
    "masked": lambda: ka.MaskedLM(ka.BertEncoder(61, **SIZES)),
    "keras": attends(lambda: keras.layers.MultiHeadAttention(2, 8)),
    "grouped": attends(lambda: keras.layers.GroupQueryAttention(8, 4, 2)),
    "window": attends(lambda: ka.MultiHeadAttention(2, 8, sliding_window=4)),
    "additive": attends(lambda: ka.AdditiveAttention(8)),
    "dot product": attends(ka.DotProductAttention),
    "global": attends(ka.GlobalAttention),
    "local": attends(ka.LocalAttention),
    "monotonic": attends(ka.MonotonicAttention),
    "longformer": attends(lambda: ka.LongformerAttention(2, 8, 4)),
    "bigbird": attends(lambda: ka.BigBirdAttention(2, 8, 4)),
    "recurrent": recurrent,
    **MODELS,
}


@pytest.mark.slow
@pytest.mark.timeout(600)
# Keras' grouped layer warns about a mask that it does use.
@pytest.mark.filterwarnings("ignore:.* was passed an input with a mask:UserWarning")
@pytest.mark.parametrize("name", MORE)
def test_the_grid_passes_in_a_batch_too(name, tmp_path, record_property):
    model = with_random_weights(MORE[name]())
    folder = ka.export_model(
        model, tmp_path / "lite", "litert", static_axes=axes_of(model, batch=3)
    )
    report = ka.verify_artifact(folder)
    assert report.passed, str(report)
    worst = max(result.max_abs_error for result in report.results)
    record_property("summary", f"LiteRT, {name}, batch 3: worst {worst:.1e}")
