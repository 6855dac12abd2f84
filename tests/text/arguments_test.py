import sys

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("tensorflow_text")

import tensorflow as tf
from text.tokenizer_reference import SPECIAL, small_vocabulary

from keras_attention.text.wordpiece.tokenizer import WordPieceTokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer(small_vocabulary())


@pytest.mark.parametrize(
    ("vocabulary", "options", "words"),
    [
        ([], {}, "an empty vocabulary"),
        ([*SPECIAL, "a", "a"], {}, "'a' at indices 5 and 6"),
        ([*SPECIAL, 7], {}, "7 at index 5"),
        ([t for t in SPECIAL if t != "[PAD]"], {}, r"lacks the special.*'\[PAD\]'"),
        ([t for t in SPECIAL if t != "[UNK]"], {}, r"lacks the special.*'\[UNK\]'"),
        ([t for t in SPECIAL if t != "[CLS]"], {}, r"lacks the special.*'\[CLS\]'"),
        ([t for t in SPECIAL if t != "[SEP]"], {}, r"lacks the special.*'\[SEP\]'"),
        (SPECIAL, {"special_tokens": {"mask": "<m>"}}, "lacks the special token '<m>'"),
        (SPECIAL, {"special_tokens": {"bos": "<s>"}}, r"\['bos'\]"),
        (SPECIAL, {"added_tokens": ["<x>"]}, "added_tokens with '<x>'"),
        (["", *SPECIAL], {"added_tokens": [""]}, "added_tokens with ''"),
        ([*SPECIAL, "aba"], {"added_tokens": ["aba"]}, "overlap.*'aba' and 'aba'"),
        ([*SPECIAL, "ab", "bc"], {"added_tokens": ["ab", "bc"]}, "'ab' and 'bc'"),
        (SPECIAL, {"max_length": 2}, "max_length=2"),
        (SPECIAL, {"max_length": 7.0}, "max_length=7.0"),
        (SPECIAL, {"max_input_chars_per_word": 0}, "max_input_chars_per_word=0"),
        ([*SPECIAL, "x" * 300], {}, "cannot hold this vocabulary.*256"),
        ([*SPECIAL, "\0"], {}, "cannot hold this vocabulary"),
    ],
)
def test_an_error_names_the_value_of_a_wrong_constructor_argument(
    vocabulary, options, words
):
    with pytest.raises(ValueError, match=rf"(?s){words}") as caught:
        WordPieceTokenizer(vocabulary, **options)
    assert "Received: " in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ("the", r"Wrap it in a list.*texts='the'"),
        (tf.constant("the"), r"Wrap it in a list.*scalar"),
        ([1, 2], r"Token ids go to the model directly.*\[1, 2\] \(list\)"),
        (tf.constant([1, 2]), r"Token ids go to the model directly.*int32"),
        (np.zeros([2, 3]), r"Token ids go to the model directly.*ndarray"),
        ([["a"], ["b"]], r"Flatten it.*\(2, 1\)"),
        (tf.ragged.constant([["a"], []]), r"Flatten it"),
        ([None, "a"], r"strings \[B\].*None"),
        (["\ud800"], r"strings \[B\].*ud800"),
    ],
)
def test_an_error_names_the_value_that_is_not_a_row_of_strings(tokenizer, texts, words):
    for call in (tokenizer, tokenizer.tokenize):
        with pytest.raises(ValueError, match=rf"(?s){words}") as caught:
            call(texts)
        assert "Received: " in str(caught.value)
    with pytest.raises(ValueError, match="texts_pair as strings"):
        tokenizer(["a"], texts)


@pytest.mark.tensorflow
def test_another_number_of_pairs_than_of_texts_is_refused(tokenizer):
    with pytest.raises(ValueError, match="Received: 2 texts and 1 texts_pair"):
        tokenizer(["a", "b"], ["c"])
    signature = [tf.TensorSpec([None], tf.string)] * 2
    call = tf.function(tokenizer, signature)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must have the same length"
    ):
        call(tf.constant(["a", "b"]), tf.constant(["c"]))


def test_ids_and_tokens_that_do_not_exist_are_refused(tokenizer):
    for token_id in (-1, tokenizer.vocabulary_size):
        with pytest.raises(ValueError, match=f"Received: token_id={token_id}"):
            tokenizer.id_to_token(token_id)
    with pytest.raises(ValueError, match="Received: token='the cat'"):
        tokenizer.token_to_id("the cat")


def test_detokenize_refuses_what_is_not_rows_of_ids(tokenizer):
    for ids in ([1, 2], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match=r"integer ids \[B, T\].*Received: shape"):
            tokenizer.detokenize(ids)


def test_the_error_of_a_missing_tensorflow_text_has_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_text", None)
    with pytest.raises(
        ImportError, match=r'pip install "keras-attention-layers\[text\]"'
    ):
        WordPieceTokenizer(SPECIAL)


@pytest.mark.parametrize("kind", ["word_piece", "byte_pair", "sentence_piece"])
def test_ids_without_a_token_have_no_text(kind):
    """A model's table may have more rows than there are tokens, as T5's has."""
    import keras_attention as ka

    train = getattr(ka, f"train_{kind}")
    tokenizer = train(["the cat sees the dog"] * 20, 300 if kind == "byte_pair" else 30)
    (row,) = tokenizer(["the cat"])["token_ids"].numpy().tolist()
    size = tokenizer.vocabulary_size
    padded = [[size, *row, size + 1000]]
    expected = tokenizer.detokenize([row]).numpy().tolist()
    assert expected == [b"the cat"]
    for rows in (padded, tf.ragged.constant(padded), np.array(padded, "int64")):
        assert tokenizer.detokenize(rows).numpy().tolist() == expected
