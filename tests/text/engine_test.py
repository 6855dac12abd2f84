"""The library that answers outside of graphs, compared with the graph."""

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("tensorflow_text")

import tensorflow as tf
from text.byte_pair.tokenizer_test import END, MERGES, VOCABULARY
from text.sentence_piece.tokenizer_test import MODELS, trained
from text.tokenizer_reference import small_vocabulary

import keras_attention as ka
from keras_attention.text import arguments, engine

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


def answers(tokenizer, monkeypatch, *given):
    """What both engines return or raise, by the names of the methods."""
    found = []
    for batch in (engine.batch, lambda *_: None):
        monkeypatch.setattr(engine, "batch", batch)
        results = {}
        for name in ("__call__", "encode_with_offsets", "encode_whole"):
            try:
                chosen = given[:1] if name == "encode_whole" else given
                result = getattr(tokenizer, name)(*chosen)
            except Exception as error:
                result = type(error).__name__, str(error).splitlines()[0]
            results[name] = result
        found.append(results)
    monkeypatch.undo()
    return found


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, ours in one.items():
        theirs = other[name]
        if not isinstance(ours, dict):
            assert ours == theirs
            continue
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert value.dtype == theirs[key].dtype
            np.testing.assert_array_equal(value, theirs[key], f"{name}: {key}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_both_engines_give_the_same_batches(kind, side, monkeypatch):
    sides = {"padding_side": side, "truncation_side": side}
    for length in (7, None):
        tokenizer = KINDS[kind](max_length=length, **sides)
        for given in ((TEXTS,), (TEXTS[3:4],), (TEXTS, OTHERS), ((*TEXTS,), OTHERS)):
            assert_equal(*answers(tokenizer, monkeypatch, *given))


@pytest.mark.parametrize("strategy", ["only_first", "only_second"])
def test_both_engines_shorten_the_same_text(strategy, monkeypatch):
    tokenizer = _byte_pair(max_length=23, truncation=strategy)
    for given in ((["a" * 40], ["b"]), (["b"], ["a" * 40]), (["a"] * 2, ["b"] * 2)):
        assert_equal(*answers(tokenizer, monkeypatch, *given))


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


@pytest.mark.parametrize("kind", ["byte pair", "word level"])
def test_both_engines_raise_the_same_errors(kind, monkeypatch):
    tokenizer = KINDS[kind]()
    for given in HOSTILE:
        assert_equal(*answers(tokenizer, monkeypatch, given))
    assert_equal(*answers(tokenizer, monkeypatch, ["a", "b"], ["a"]))


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
    assert arguments.strings(["a"], "texts").shape == [1]
