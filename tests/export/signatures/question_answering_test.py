"""The graph returns the answers of `QuestionAnswerer.answer`."""

import numpy as np
import pytest
import tensorflow as tf
from samples import VOCABULARY
from small_models import with_random_weights

import keras_attention as ka
from keras_attention.export.cases.grid import TEXTS
from keras_attention.export.signatures.catalogue import signatures_of

pytest.importorskip("tensorflow_text")

pytestmark = pytest.mark.tensorflow

SENTENCE = "The animal didn't cross the street because it was too tired. "
CONTEXTS = [
    SENTENCE,
    SENTENCE * 8,  # several windows
    "",
    " \t\n ",
    "tired!",
    "¿«tired»? tired,tired",
    *TEXTS["hostile texts"],
    "street " * 200,
]
QUESTIONS = ["Who was tired?", "", "animal street cross the street because it"]


def byte_pair():
    from keras_attention.text.patterns import byte_characters

    pieces = [*byte_characters().values(), "Ġt", "ir", "<pad>", "<s>", "</s>"]
    merges = [("Ġ", "t"), ("i", "r")]
    special = {"pad": "<pad>", "cls": "<s>", "sep": "</s>"}
    template = {"start": ["<s>"], "middle": ["</s>", "</s>"], "end": ["</s>"]}
    return ka.BytePairTokenizer(
        pieces, merges, special_tokens=special, template=template, max_length=90
    )


def wordpiece():
    return ka.WordPieceTokenizer(VOCABULARY, max_length=40)


@pytest.fixture(
    scope="module",
    params=[byte_pair, pytest.param(wordpiece, marks=pytest.mark.slow)],
)
def model(request):
    tokenizer = request.param()
    backbone = ka.BertEncoder(
        tokenizer.vocabulary_size,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=24,
        max_sequence_length=128,
    )
    model = ka.QuestionAnswerer(backbone, tokenizer, overlap=9)
    return with_random_weights(model)


@pytest.fixture(scope="module")
def answer(model):
    (signature,) = (one for one in signatures_of(model) if one.name == "answer")
    return tf.function(signature.function, autograph=False, reduce_retracing=True)


def test_the_graph_returns_the_answers_of_python(model, answer):
    pairs = [(question, context) for question in QUESTIONS for context in CONTEXTS]
    questions, contexts = zip(*pairs, strict=True)
    expected = model.answer(questions, contexts, verbose=False)
    got = answer(question=tf.constant(questions), context=tf.constant(contexts))
    got = {name: value.numpy() for name, value in got.items()}
    for row, one in enumerate(expected):
        place = (-1, -1) if one["start"] is None else (one["start"], one["end"])
        assert (got["start"][row], got["end"][row]) == place
        assert got["text"][row].decode() == one["text"]
        assert got["score"][row] == pytest.approx(one["score"], rel=1e-4, abs=1e-7)


def test_the_margin_is_what_the_threshold_is_compared_with(model, answer):
    given = ["Who was tired?"] * 2, [SENTENCE, SENTENCE * 8]
    got = answer(question=tf.constant(given[0]), context=tf.constant(given[1]))
    for row, margin in enumerate(got["no_answer_margin"].numpy()):
        one = [texts[row : row + 1] for texts in given]
        for change, is_found in ((1e-3, True), (-1e-3, False)):
            threshold = float(margin) + change
            (found,) = model.answer(*one, no_answer_threshold=threshold, verbose=False)
            assert (found["start"] is not None) == is_found


def test_a_question_without_room_for_the_context_is_a_clear_error(answer):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Shorten the question"):
        answer(question=tf.constant(["who? " * 60]), context=tf.constant([SENTENCE]))


def test_words_have_the_same_characters_as_in_python():
    from keras_attention.export.signatures.question_answering import word_places
    from keras_attention.tasks.words import word_spans

    # Every code point between letters; surrogates are none.
    codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    text = "".join(f"a{chr(code)}b " for code in codes[::7])
    values = tf.constant([*map(ord, text)])
    starts, ends, _ = word_places(values, tf.zeros_like(values, tf.int64))
    found = np.stack([starts, ends], 1)
    np.testing.assert_array_equal(found, word_spans(text))
