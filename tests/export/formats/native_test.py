"""A C program computes from raw strings, with the artifact, what Python computes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from c_client import ask, compile_client, library_options, needs_compiler, rows

from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.formats.saved_model import op_libraries, write_saved_model
from keras_attention.export.signatures.signature import Signature

WORDS = ["[UNK]", "red", "green", "blue", "##er"]
UNITS = 3

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return compile_client(tmp_path_factory.mktemp("build"))


class LookupTokenizer(tf.Module):
    """Words by a lookup table: operations of TensorFlow alone."""

    def __init__(self):
        super().__init__()
        values = tf.range(len(WORDS), dtype=tf.int64)
        init = tf.lookup.KeyValueTensorInitializer(tf.constant(WORDS), values)
        self.table = tf.lookup.StaticHashTable(init, default_value=0)

    def __call__(self, texts):
        return self.table.lookup(tf.strings.split(texts)).to_tensor()


class WordPieces(tf.Module):
    """WordPiece by an operation of tensorflow-text."""

    def __init__(self):
        super().__init__()
        import tensorflow_text

        self.tokenizer = tensorflow_text.FastWordpieceTokenizer(
            WORDS, token_out_type=tf.int64, support_detokenization=False
        )

    def __call__(self, texts):
        return self.tokenizer.tokenize(texts).to_tensor()


def signatures(embedding, tokenizer):
    def encode(texts):
        token_ids = tokenizer(texts)
        return {
            "vectors": tf.reduce_sum(embedding(token_ids), axis=1),
            "token_ids": token_ids,
            "is_known": tf.reduce_all(token_ids > 0, axis=1),
            "texts_again": tf.strings.join([texts, "!"]),
            "halves": tf.cast(tf.ones_like(token_ids), tf.float16),
        }

    texts = {"texts": TensorInfo("string", ("batch",))}
    outputs = {
        "vectors": TensorInfo("float32", ("batch", UNITS)),
        "token_ids": TensorInfo("int64", ("batch", "sequence")),
        "is_known": TensorInfo("bool", ("batch",)),
        "texts_again": TensorInfo("string", ("batch",)),
        "halves": TensorInfo("float16", ("batch", "sequence")),
    }
    decode = Signature(
        "decode",
        lambda token_ids: {"vectors": embedding(token_ids)},
        {"token_ids": TensorInfo("int32", ("batch",))},
        {"vectors": TensorInfo("float32", ("batch", UNITS))},
    )
    return [Signature("encode", encode, texts, outputs), decode]


def save(folder, tokenizer):
    keras.utils.set_random_seed(3)
    embedding = keras.layers.Embedding(len(WORDS), UNITS)
    embedding.build()
    both = signatures(embedding, tokenizer)
    write_saved_model(
        both,
        folder,
        variables=embedding.variables,
        assets_and_resources=[tokenizer],
    )
    return folder, both[0].function


@pytest.fixture(scope="module")
def lookup_model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("lookup") / "1", LookupTokenizer())


# A quote, a backslash and a tab have to be escaped; the last text is not ASCII.
TEXTS = ["red green", 'blue "quoted" \\ \t red', "", "été 日本 blue"]


@pytest.mark.tensorflow
@pytest.mark.parametrize("output", ["vectors", "token_ids", "is_known"])
def test_c_gives_the_numbers_of_python(client, lookup_model, output):
    folder, function = lookup_model
    expected = function(tf.constant(TEXTS))[output].numpy()
    got = rows(ask(client, folder, "encode", output, *TEXTS))
    # Nine digits represent a float32 exactly.
    np.testing.assert_array_equal(np.array(got, expected.dtype), expected)


@pytest.mark.tensorflow
def test_c_names_the_inputs_and_gives_numbers(client, lookup_model):
    folder, function = lookup_model
    expected = function(tf.constant(WORDS[1:3]))["vectors"].numpy()
    named = ["--input", "token_ids", "1", "2"]
    got = rows(ask(client, folder, "decode", "vectors", *named))
    np.testing.assert_array_equal(np.array(got, "float32"), expected)
    named = ["--input", "texts", *WORDS[1:3]]
    got = rows(ask(client, folder, "encode", "vectors", *named))
    np.testing.assert_array_equal(np.array(got, "float32"), expected)


def test_c_gives_texts(client, lookup_model):
    got = rows(ask(client, lookup_model[0], "encode", "texts_again", *TEXTS))
    assert got == [text + "!" for text in TEXTS]


@pytest.mark.tensorflow
def test_c_loads_the_operations_of_tensorflow_text(client, tmp_path):
    pytest.importorskip("tensorflow_text")
    folder, function = save(tmp_path / "1", WordPieces())
    libraries = library_options(op_libraries(folder))
    assert libraries
    texts = ["redder", "blueer green"]
    got = rows(ask(client, *libraries, folder, "encode", "vectors", *texts))
    expected = function(tf.constant(texts))["vectors"].numpy()
    np.testing.assert_array_equal(np.array(got, "float32"), expected)

    done = ask(client, folder, "encode", "vectors", *texts)
    assert done.returncode == 1
    assert b"Op type not registered 'FastWordpieceTokenize" in done.stderr


BAD_CALLS = {
    "no such model": (["nowhere", "encode", "vectors", "a"], "nowhere"),
    "no such signature": (["", "enc", "vectors", "a"], "no signature 'enc'. Expected"),
    "no such output": (["", "encode", "v", "a"], "no output 'v'. Expected one of:"),
    "a signature of ids": (["", "decode", "vectors", "a"], "does not take texts alone"),
    "a dtype C cannot print": (["", "encode", "halves", "a"], "cannot print numbers"),
    "an input that is not there": (
        ["", "decode", "vectors", "--input", "texts", "a"],
        "pass each input once: --input NAME VALUE... Its inputs: token_ids",
    ),
    "a word for a number": (
        ["", "decode", "vectors", "--input", "token_ids", "1", "two"],
        "not a number of this input: 'two'",
    ),
    "a number that is too large": (
        ["", "decode", "vectors", "--input", "token_ids", "4294967296"],
        "not a number of this input: '4294967296'",
    ),
    "no texts": (["", "encode", "vectors"], "usage: client"),
    "no library": (["--library", "nowhere.so", "", "e", "v", "a"], "nowhere.so"),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=[*BAD_CALLS])
def test_a_bad_call_ends_with_the_reason(client, lookup_model, call, message):
    done = ask(client, *(part or lookup_model[0] for part in call))
    assert done.returncode == 1
    assert done.stdout == b""
    assert message in done.stderr.decode()


@pytest.mark.tensorflow
def test_a_failing_check_in_the_graph_is_reported(client, tmp_path):
    signature = Signature(
        "encode",
        lambda texts: {"lengths": tf.strings.length(texts)},
        {"texts": TensorInfo("string", ("batch",))},
        {"lengths": TensorInfo("int32", ("batch",))},
        max_lengths={"batch": 2},
    )
    write_saved_model([signature], tmp_path / "1", variables=[])
    assert rows(ask(client, tmp_path / "1", "encode", "lengths", "a", "bcd")) == [1, 3]
    done = ask(client, tmp_path / "1", "encode", "lengths", "a", "b", "c")
    assert done.returncode == 1
    assert b"batch length of texts is over the 2 positions of this" in done.stderr
