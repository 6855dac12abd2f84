"""Written SavedModels can be read by the session loaders: TF Serving, C, Java, Go."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.formats.errors import ExportError
from keras_attention.export.formats.saved_model import op_libraries, write_saved_model
from keras_attention.export.runtimes.tensorflow_session import SessionRunner
from keras_attention.export.signatures.signature import Signature

VOCABULARY, POSITIONS, UNITS, CLASSES = 2503, 17, 419, 7
BATCH, SEQUENCE = 3, 5


def build_model():
    """Return a mean of embeddings, then classes: 4.2 MB of weights."""
    keras.utils.set_random_seed(11)
    token_ids = keras.Input((None,), dtype="int32")
    padding_mask = keras.Input((None,), dtype="bool")
    x = keras.layers.Embedding(VOCABULARY, UNITS)(token_ids)
    keep = keras.ops.cast(padding_mask, x.dtype)[..., None]
    x = keras.ops.sum(x * keep, axis=1) / keras.ops.sum(keep, axis=1)
    outputs = keras.layers.Dense(CLASSES)(x)
    return keras.Model([token_ids, padding_mask], outputs)


def ids_signature(model, name="serving_default", dtype="int32", **changes):
    def function(token_ids, padding_mask):
        return {"scores": model([tf.cast(token_ids, tf.int32), padding_mask])}

    axes = ("batch", "sequence")
    fields = {
        "function": function,
        "inputs": {
            "token_ids": TensorInfo(dtype, axes),
            "padding_mask": TensorInfo("bool", axes),
        },
        "outputs": {"scores": TensorInfo("float32", ("batch", CLASSES))},
        "limits": {"token_ids": VOCABULARY},
        "max_lengths": {"sequence": POSITIONS},
    }
    return Signature(name, **{**fields, **changes})


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "1"
    write_saved_model(
        [ids_signature(model), ids_signature(model, "wide", dtype="int64")],
        folder,
        variables=model.variables,
    )
    return folder


@pytest.fixture(scope="module")
def session(folder):
    with SessionRunner(folder) as runner:
        yield runner


@pytest.fixture
def inputs():
    rng = np.random.default_rng(5)
    token_ids = rng.integers(0, VOCABULARY, (BATCH, SEQUENCE)).astype("int32")
    padding_mask = np.ones((BATCH, SEQUENCE), bool)
    padding_mask[1, 3:] = False
    return {"token_ids": token_ids, "padding_mask": padding_mask}


def expected(model, inputs):
    return model([inputs["token_ids"], inputs["padding_mask"]]).numpy()


@pytest.mark.parametrize("signature", ["serving_default", "wide"])
def test_a_session_gives_the_numbers_of_the_model(model, session, inputs, signature):
    scores = session.run(signature, **inputs)["scores"]
    np.testing.assert_allclose(scores, expected(model, inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.tensorflow
def test_python_gives_the_numbers_of_the_model(model, folder, inputs):
    loaded = tf.saved_model.load(str(folder))
    tensors = {name: tf.constant(array) for name, array in inputs.items()}
    scores = loaded.signatures["serving_default"](**tensors)
    assert list(scores) == ["scores"]
    np.testing.assert_allclose(
        scores["scores"], expected(model, inputs), rtol=1e-6, atol=1e-6
    )


def test_the_names_are_exactly_those_of_the_signature(session):
    assert sorted(session.signatures) == ["serving_default", "wide"]
    info = session.signatures["serving_default"]
    assert {k: str(v) for k, v in info.inputs.items()} == {
        "token_ids": "int32 [?, ?]",
        "padding_mask": "bool [?, ?]",
    }
    assert {k: str(v) for k, v in info.outputs.items()} == {"scores": "float32 [?, 7]"}


def test_each_weight_is_stored_once(model, folder, record_property):
    weights = sum(4 * int(np.prod(v.shape)) for v in model.variables)
    stored = sum(f.stat().st_size for f in (folder / "variables").iterdir())
    record_property("summary", f"SavedModel: {stored / weights:.4f} of the weights")
    assert weights >= 4e6
    assert weights <= stored <= 1.05 * weights


@pytest.mark.tensorflow
def test_a_tied_weight_is_stored_once(model, tmp_path):
    write_saved_model(
        [ids_signature(model)], tmp_path / "1", variables=model.variables * 2
    )
    stored = sum(f.stat().st_size for f in (tmp_path / "1/variables").iterdir())
    assert stored < 1.05 * 4 * model.count_params()


def change(inputs, **arrays):
    return {**inputs, **arrays}


def long_inputs(length):
    shape = (BATCH, length)
    return {"token_ids": np.ones(shape, "int32"), "padding_mask": np.ones(shape, bool)}


OUT_OF_VOCABULARY = (
    f"token_ids must be in [0, {VOCABULARY}): ids of the vocabulary of this model. "
    "Received: ids from "
)
ONES = np.ones((BATCH, SEQUENCE), "int32")
BAD_CALLS = {
    "an id over the vocabulary": (
        {"token_ids": np.where(np.eye(BATCH, SEQUENCE), VOCABULARY, ONES)},
        OUT_OF_VOCABULARY + f"1 to {VOCABULARY}",
    ),
    "a negative id": (
        {"token_ids": np.where(np.eye(BATCH, SEQUENCE), -1, ONES)},
        OUT_OF_VOCABULARY + "-1 to 1",
    ),
    "too long": (
        long_inputs(POSITIONS + 1),
        f"The sequence length of token_ids is over the {POSITIONS} positions of this "
        f"model: shorten the input to at most {POSITIONS}. Received: {POSITIONS + 1}",
    ),
    "lengths that differ": (
        {"padding_mask": np.ones((BATCH, SEQUENCE - 1), bool)},
        "token_ids and padding_mask must have the same sequence size. "
        "Received: 5 and 4",
    ),
    # Broadcasting would give an output, but the axes must have the same size.
    "a mask of one row": (
        {"padding_mask": np.ones((1, SEQUENCE), bool)},
        "token_ids and padding_mask must have the same batch size. Received: 3 and 1",
    ),
}


@pytest.mark.parametrize(("arrays", "message"), BAD_CALLS.values(), ids=list(BAD_CALLS))
@pytest.mark.parametrize("signature", ["serving_default", "wide"])
def test_a_bad_call_is_one_clear_error_in_a_session(
    session, inputs, signature, arrays, message
):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        session.run(signature, **change(inputs, **arrays))


@pytest.mark.tensorflow
@pytest.mark.parametrize(("arrays", "message"), BAD_CALLS.values(), ids=list(BAD_CALLS))
def test_a_bad_call_is_the_same_error_in_python(folder, inputs, arrays, message):
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    tensors = {
        name: tf.constant(array, tf.int32 if name == "token_ids" else tf.bool)
        for name, array in change(inputs, **arrays).items()
    }
    first_words = message.split(" Received:")[0]
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(first_words)):
        serve(**tensors)


def test_an_int64_id_that_wraps_to_a_good_int32_is_refused(session, inputs):
    wrapping = inputs["token_ids"].astype("int64") + 2**32
    message = re.escape(OUT_OF_VOCABULARY + str(wrapping.min()))
    with pytest.raises(ValueError, match=message):
        session.run("wide", **change(inputs, token_ids=wrapping))


def test_the_longest_length_and_the_last_id_are_good(model, session):
    inputs = long_inputs(POSITIONS)
    inputs["token_ids"] *= VOCABULARY - 1
    scores = session.run("serving_default", **inputs)["scores"]
    np.testing.assert_allclose(scores, expected(model, inputs), rtol=1e-5, atol=1e-6)


def test_an_empty_batch_is_good(session):
    empty = {
        "token_ids": np.zeros((0, SEQUENCE), "int32"),
        "padding_mask": np.zeros((0, SEQUENCE), bool),
    }
    assert session.run("serving_default", **empty)["scores"].shape == (0, CLASSES)


class Tokenizer(tf.Module):
    """Words of a tiny vocabulary, by a lookup table; unknown ones are id 3."""

    def __init__(self):
        super().__init__()
        keys = tf.constant(["red", "green", "blue"])
        values = tf.constant([0, 1, 2], tf.int64)
        init = tf.lookup.KeyValueTensorInitializer(keys, values)
        self.table = tf.lookup.StaticVocabularyTable(init, num_oov_buckets=1)

    def __call__(self, texts):
        return self.table.lookup(tf.strings.split(texts)).to_tensor(3)


def text_signature(embedding, tokenizer, **changes):
    def function(texts):
        return {"vectors": tf.reduce_sum(embedding(tokenizer(texts)), axis=1)}

    fields = {
        "function": function,
        "inputs": {"texts": TensorInfo("string", ("batch",))},
        "outputs": {"vectors": TensorInfo("float32", ("batch", 2))},
    }
    return Signature("serving_default", **{**fields, **changes})


@pytest.fixture(scope="module")
def embedding():
    layer = keras.layers.Embedding(4, 2)
    layer.build()
    return layer


@pytest.mark.tensorflow
def test_texts_go_through_a_lookup_table_in_a_session(embedding, tmp_path):
    tokenizer = Tokenizer()
    write_saved_model(
        [text_signature(embedding, tokenizer)],
        tmp_path / "1",
        variables=embedding.variables,
        assets_and_resources=[tokenizer],
    )
    table = embedding.get_weights()[0]
    with SessionRunner(tmp_path / "1") as runner:
        vectors = runner.run("serving_default", texts=["red blue", "green été"])
    np.testing.assert_allclose(
        vectors["vectors"], [table[0] + table[2], table[1] + table[3]], rtol=1e-6
    )
    assert op_libraries(tmp_path / "1") == []


@pytest.mark.tensorflow
def test_the_libraries_of_tensorflow_text_are_named(embedding, tmp_path):
    text = pytest.importorskip("tensorflow_text")
    words = text.FastWordpieceTokenizer(
        ["red", "green", "[UNK]", "##er"],
        token_out_type=tf.int32,
        support_detokenization=False,
    )
    holder = tf.Module()
    holder.words = words
    signature = text_signature(embedding, lambda x: words.tokenize(x).to_tensor())
    write_saved_model(
        [signature],
        tmp_path / "1",
        variables=embedding.variables,
        assets_and_resources=[holder],
    )
    assert op_libraries(tmp_path / "1") == ["_fast_wordpiece_tokenizer.so"]
    table = embedding.get_weights()[0]
    with SessionRunner(tmp_path / "1") as runner:
        vectors = runner.run("serving_default", texts="redder")["vectors"]
    np.testing.assert_allclose(vectors[0], table[2] + table[0] * 0, rtol=1e-6)


@pytest.mark.tensorflow
def test_an_untracked_table_is_refused_at_export(embedding, tmp_path):
    with pytest.raises(ExportError, match="in `assets_and_resources`"):
        write_saved_model(
            [text_signature(embedding, Tokenizer())],
            tmp_path / "1",
            variables=embedding.variables,
        )


@pytest.mark.tensorflow
def test_a_variable_that_is_not_given_is_refused_by_its_name(model, tmp_path):
    kernel = model.layers[-1].kernel
    given = [v for v in model.variables if v is not kernel]
    with pytest.raises(ExportError, match=r"reads variables .*without dense\S*/kernel"):
        write_saved_model([ids_signature(model)], tmp_path / "1", variables=given)
    assert not (tmp_path / "1").exists()


@pytest.mark.tensorflow
def test_a_layer_as_resource_is_refused(embedding, tmp_path):
    with pytest.raises(TypeError, match="A Keras layer cannot be a resource"):
        write_saved_model(
            [text_signature(embedding, Tokenizer())],
            tmp_path / "1",
            variables=embedding.variables,
            assets_and_resources=[embedding],
        )


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"outputs": {"logits": TensorInfo("float32", ("batch", 7))}},
            "exactly the decl",
        ),
        ({"outputs": {"scores": TensorInfo("float16", ("batch", 7))}}, "float16"),
        ({"outputs": {"scores": TensorInfo("float32", ("batch", 8))}}, "not as decl"),
        ({"max_lengths": {"length": 7}}, "length"),
        ({"limits": {"ids": 7}}, "ids"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(model, tmp_path, changes, message):
    with pytest.raises(ExportError, match=message):
        write_saved_model(
            [ids_signature(model, **changes)], tmp_path / "1", variables=model.variables
        )


@pytest.mark.tensorflow
def test_two_signatures_of_one_name_are_refused(model, tmp_path):
    with pytest.raises(ExportError, match="names that differ"):
        write_saved_model(
            [ids_signature(model)] * 2, tmp_path / "1", variables=model.variables
        )


@pytest.mark.tensorflow
def test_values_that_are_not_built_variables_are_refused(model, tmp_path):
    with pytest.raises(TypeError, match="Only built Keras variables"):
        write_saved_model(
            [ids_signature(model)], tmp_path / "1", variables=[np.ones(3)]
        )
