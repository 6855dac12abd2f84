"""Lengths that are rounded up in the graph, and graphs that XLA compiles."""

import numpy as np
import pytest
import tensorflow as tf
from samples import VOCABULARY, small_bert

import keras_attention as ka
from keras_attention.export.signatures.catalogue import signatures_of
from keras_attention.export.signatures.length_buckets import prepared
from keras_attention.export.signatures.signature import Signature, TensorInfo

IDS = {
    "token_ids": TensorInfo("int32", ("batch", "sequence")),
    "padding_mask": TensorInfo("bool", ("batch", "sequence")),
}
PAIRS = {"pairs": TensorInfo("float32", ("batch", "sequence", "sequence"))}


def recording(seen):
    def function(token_ids, padding_mask):
        seen.append(token_ids.shape)
        x = tf.where(padding_mask, tf.cast(token_ids, tf.float32), 0.0)
        return {"pairs": x[:, :, None] * x[:, None]}

    return function


@pytest.mark.tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_caller_gets_outputs_of_the_length_of_the_inputs(jit_compile):
    plain = Signature("pairs", recording([]), IDS, PAIRS)
    rounded = prepared(plain, jit_compile=jit_compile, length_buckets=[4, 8])
    shapes = []
    for length in range(1, 11):
        ids = tf.constant(np.arange(2 * length).reshape(2, length) + 1, tf.int32)
        given = {"token_ids": ids, "padding_mask": ids % 3 > 0}
        expected, got = plain.function(**given), rounded.function(**given)
        np.testing.assert_array_equal(got["pairs"], expected["pairs"])
        shapes.append(got["pairs"].shape[1:])
    assert shapes == [(n, n) for n in range(1, 11)]


@pytest.mark.tensorflow
def test_only_lengths_of_the_buckets_reach_the_model():
    seen = []
    signature = Signature("pairs", recording(seen), IDS, PAIRS)
    rounded = prepared(signature, jit_compile=False, length_buckets=[4, 8])
    for length in range(1, 11):
        ids = tf.ones((1, length), tf.int32)
        rounded.function(token_ids=ids, padding_mask=ids > 0)
    assert [shape[1] for shape in seen] == [4] * 4 + [8] * 4 + [9, 10]


def test_what_cannot_be_padded_or_compiled_is_left_as_it_is():
    decoder = ka.GPTDecoder(
        11, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16
    )
    model = ka.CausalLM(decoder, compiled=False)
    changed = {
        one.name
        for one in signatures_of(model)
        if "saved_model" in one.formats
        and prepared(one, jit_compile=True, length_buckets=[4]) is not one
    }
    assert changed == {"prefill", "serving_default", "attention", "hidden_states"}


@pytest.mark.parametrize(
    "buckets", [[8, 4], [4, 4], [0, 4], [4.0], [True], [4, 100]], ids=str
)
def test_buckets_that_make_no_sense_are_refused(buckets, tmp_path):
    model = ka.SentenceEncoder(small_bert(), None)
    with pytest.raises(ValueError, match=r"`length_buckets`.*Received"):
        ka.export_model(model, tmp_path / "m", length_buckets=buckets)
    assert not (tmp_path / "m").exists()


def test_signatures_that_cannot_be_compiled_are_an_error(tmp_path):
    decoder = ka.GPTDecoder(
        11, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16
    )
    model = ka.CausalLM(decoder, compiled=False)
    chosen = {"signatures": ["generate_ids"], "jit_compile": True}
    with pytest.raises(ValueError, match=r"Nothing can be compiled.*generate_ids"):
        ka.export_model(model, tmp_path / "m", **chosen)
    assert not (tmp_path / "m").exists()


@pytest.mark.tensorflow
def test_texts_of_a_half_precision_model_are_compiled_too():
    from keras_attention.export.api import _answering_in_float32

    model = ka.SentenceEncoder(
        small_bert(dtype="mixed_bfloat16"), ka.WordPieceTokenizer(VOCABULARY)
    )
    text, *_ = map(_answering_in_float32, signatures_of(model))
    assert text.takes_text
    assert prepared(text, jit_compile=True, length_buckets=[]) is not text
    answer = text.function(text=tf.constant(["The animal!"]))
    assert answer["sentence_embedding"].dtype == "float32"


def test_other_formats_have_no_xla(tmp_path):
    model = ka.SentenceEncoder(small_bert(), None)
    with pytest.raises(ValueError, match="are for SavedModels"):
        ka.export_model(model, tmp_path / "m", "onnx", jit_compile=True)


@pytest.mark.slow
def test_a_compiled_artifact_is_verified_in_each_length(tmp_path):
    from keras_attention.export.artifact.manifest import read_manifest

    model = ka.SentenceEncoder(small_bert(), None)
    chosen = {"jit_compile": True, "length_buckets": [8, 16, 32]}
    folder = ka.export_model(model, tmp_path / "m", warmup=False, **chosen)
    manifest = read_manifest(folder)
    assert manifest.compilation == chosen
    assert b"_XlaMustCompile" in (folder / "saved_model.pb").read_bytes()
    cases = {one["case"] for one in manifest.verification}
    assert {"length 8", "length 16", "length 32"} <= cases
    assert max(one["max_abs_error"] for one in manifest.verification) < 1e-5
