"""The library that answers outside of graphs, compared with the graph."""

import math

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("tensorflow_text")

import tensorflow as tf
from text.byte_pair.tokenizer_test import END, MERGES, VOCABULARY
from text.sentence_piece.tokenizer_test import MODELS, trained
from text.tokenizer_reference import small_vocabulary

import keras_attention as ka
from keras_attention.text import engine, framing

TEMPLATE = {"start": ["<s>"], "middle": ["</s>", "</s>"], "end": ["</s>"]}
TEXTS = [
    "",
    " ",
    "the  cat's 12",
    f"a {END} [MASK] b",
    "é" * 300,
    "x\0y",
    "中 文",
    "  a",
]
OTHERS = ["is blue", "", "a" * 40, "the end", "b", "", "x y z", "the the the the the"]


def _byte_pair(**options):
    framed = {part: [END] * len(tokens) for part, tokens in TEMPLATE.items()}
    special = {"eos": END}
    return ka.BytePairTokenizer(
        VOCABULARY, MERGES, special_tokens=special, template=framed, **options
    )


def _pieces(**options):
    model = trained(**MODELS["unigram"])
    return ka.SentencePieceTokenizer(model, template=TEMPLATE, **options)


def _word_level(**options):
    names = ["?", "the", "cat", "a", "b", "x", "y", "z", "is", "blue", "é" * 300]
    steps = {
        "model": {
            "type": "WordLevel",
            "unk_token": "?",
            "vocab": {name: number for number, name in enumerate(names)},
        },
        "pre_tokenizer": {"type": "Whitespace"},
    }
    return ka.PipelineTokenizer(steps, **options)


KINDS = {
    "word piece": lambda **options: ka.WordPieceTokenizer(
        small_vocabulary(), **options
    ),
    "byte pair": _byte_pair,
    "sentence piece": _pieces,
    "word level": _word_level,
}


def answers(monkeypatch, call, *given):
    """What both engines return or raise."""
    found = []
    for batch in (engine.batch, lambda *_: None):
        monkeypatch.setattr(engine, "batch", batch)
        try:
            found.append(call(*given))
        except Exception as error:
            found.append((type(error).__name__, str(error).splitlines()[0]))
    monkeypatch.undo()
    return found


def assert_equal(ours, theirs):
    if not isinstance(ours, dict):
        assert ours == theirs
        return
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert value.dtype == theirs[key].dtype
        np.testing.assert_array_equal(value, theirs[key], key)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] * (n > 1)) for n, k in enumerate(KINDS)],
)
def test_both_engines_give_the_same_batches(kind, monkeypatch):
    tokenizer = KINDS[kind](max_length=7)
    tokenizer._fewest_for_graph = math.inf  # else many texts are the graph's
    assert_equal(*answers(monkeypatch, tokenizer, TEXTS, OTHERS))
    assert_equal(*answers(monkeypatch, tokenizer.encode_with_offsets, TEXTS))


def test_many_texts_are_split_by_the_graph_where_it_is_faster(monkeypatch):
    tokenizer = KINDS["word piece"]()
    calls = []
    split = engine.batch
    monkeypatch.setattr(engine, "batch", lambda *all: calls.append(1) or split(*all))
    few, many = tokenizer(["the cat"] * 31), tokenizer(["the cat"] * 32)
    assert calls == [1]
    np.testing.assert_array_equal(few["token_ids"], many["token_ids"][:31])


def test_what_the_library_cannot_read_is_left_to_the_graph():
    assert engine.hugging_face({"decoder": {"type": "ByteLevel"}}) is None


def drawn(rng, rows):
    """Token lists with offsets, and the same as the graph has them."""
    ids = [[*rng.integers(10, 99, rng.integers(9))] for _ in range(rows)]
    spans = [[(int(i) + 1, int(i) + 3) for i in row] for row in ids]
    flat = np.array([i for row in ids for i in row], np.int32)
    splits = np.cumsum([0, *map(len, ids)])
    extras = {"starts": tf.constant(flat + 1), "ends": tf.constant(flat + 3)}
    pieces = framing.Pieces(tf.constant(flat), tf.constant(splits), extras)
    return ids, spans, pieces


def test_both_engines_frame_truncate_and_pad_alike():
    rng = np.random.default_rng(0)
    for turn in range(60):
        rows, is_pair = int(rng.integers(1, 4)), bool(turn % 3)
        parts = [[1] * int(rng.integers(3)) for _ in range(3)]
        template = framing.Template(*parts, has_segments=bool(turn % 2))
        limits = framing.Limits(
            [None, 6, 9, 12][rng.integers(4)],
            5,
            framing.SIDES[rng.integers(2)],
            framing.SIDES[rng.integers(2)],
            framing.STRATEGIES[rng.integers(3)],
        )
        found = [drawn(rng, rows) for _ in range(1 + is_pair)]
        answered = iter([one[:2] for one in found])
        given = [["x"] * rows] * len(found)
        full = turn % 4 > 0  # without offsets one text takes a shorter way
        ours = engine.batch(lambda *_: next(answered), given, full, template, limits)  # noqa: B023
        extras = (lambda one: one) if full else lambda one: one._replace(extras={})
        pieces = [extras(one[2]) for one in found] + [None]
        if ours is None:  # the graph raises the error
            with pytest.raises(tf.errors.InvalidArgumentError, match="truncation="):
                framing.frame(*pieces[:2], template, limits)
        else:
            assert_equal(ours, framing.frame(*pieces[:2], template, limits))


HOSTILE = [
    [],
    [None],
    ["a", None],
    [float("nan")],
    [1],
    [b"a\xff"],
    ["a", b"b"],
    ["\ud800"],
    [["a"]],
    "a",
    None,
    np.array(["a", "b"]),
]


def test_both_engines_raise_the_same_errors(monkeypatch):
    tokenizer = _word_level()
    for given in HOSTILE:
        assert_equal(*answers(monkeypatch, tokenizer, given))
    assert_equal(*answers(monkeypatch, tokenizer, ["a", "b"], ["a"]))


@pytest.mark.parametrize("texts", [[None], ["a", None], [float("nan")], None])
def test_what_is_no_text_is_refused_in_our_words(texts):
    with pytest.raises(ValueError, match=r"takes texts as strings .* Received: texts="):
        _word_level()(texts)


def test_a_library_answers_only_lists_of_strings_outside_of_graphs(monkeypatch):
    asked = []
    tokenizer = _word_level()
    encode = engine.hugging_face(tokenizer.get_config()["specification"])

    def spied(texts, with_offsets):
        asked.append(texts)
        return encode(texts, with_offsets)

    monkeypatch.setattr(engine, "hugging_face", lambda _: spied)
    for texts in (["a", "b"], ("a",)):
        tokenizer(texts)
    assert asked == [["a", "b"], ["a"]]
    tokenizer(tf.constant(["a"]))
    tokenizer(np.array(["a"]))
    tf.function(lambda: tokenizer(["a"]))()
    assert len(asked) == 2


def test_without_the_libraries_the_graph_answers(monkeypatch):
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda _: None)
    tokenizer = _word_level()
    assert tokenizer(["the cat"])["token_ids"].numpy().tolist() == [[1, 2]]
    assert engine.sentence_piece(b"", []) is None
