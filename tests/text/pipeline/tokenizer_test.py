import json
import subprocess
import sys

import keras
import pytest

pytest.importorskip("tokenizers")

import tensorflow as tf
from text.pipeline import kinds
from tokenizers import Tokenizer

import keras_attention as ka
from keras_attention.text import engine


@pytest.fixture(autouse=True)
def graph(monkeypatch):
    """Here the graph answers; `engine_test.py` compares it with the other engine."""
    monkeypatch.setattr(engine, "batch", lambda *_: None)


def differences(tokenizer, reference, texts):
    """The texts whose ids, offsets or decoded texts are not those of the crate."""
    found = []
    for at in range(0, len(texts), 500):
        some = texts[at : at + 500]
        batch = tokenizer.encode_with_offsets(some)
        masks = batch["padding_mask"].numpy()
        columns = [batch[name].numpy() for name in ("token_ids", "starts", "ends")]
        encodings = reference.encode_batch(some)
        ids = [one.ids for one in encodings]
        for row, (text, one) in enumerate(zip(some, encodings, strict=True)):
            ours, *ends = (column[row][masks[row]].tolist() for column in columns)
            if (ours, [*zip(*ends, strict=True)]) != (one.ids, one.offsets):
                found.append((text, ours, ends, one.ids, one.offsets))
        rows = tf.ragged.constant(ids, tf.int32, ragged_rank=1)
        for skip in (True, False):
            back = tokenizer.detokenize(rows, skip_special_tokens=skip).numpy()
            theirs = reference.decode_batch(ids, skip_special_tokens=skip)
            pairs = zip([text.decode() for text in back], theirs, strict=True)
            found += [(one, other) for one, other in pairs if one != other]
    return found


def both(kind):
    reference = kinds.KINDS[kind]()
    specification = json.loads(reference.to_str())
    return ka.PipelineTokenizer(specification), reference


@pytest.mark.parametrize("kind", [*kinds.KINDS][: kinds.QUICK])
def test_ids_offsets_and_decoded_texts_are_those_of_hugging_face(kind):
    assert differences(*both(kind), kinds.texts(200)) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_five_thousand_texts_are_encoded_as_by_hugging_face(kind):
    assert differences(*both(kind), kinds.texts(5000, seed=1)) == []


def test_a_folder_is_loaded_saved_and_loaded_again(tmp_path):
    reference = kinds.KINDS["word level"]()
    reference.save(str(tmp_path / "tokenizer.json"))
    settings = {"unk_token": "<unk>", "padding_side": "left", "model_max_length": 5}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = ka.load_tokenizer(tmp_path)
    assert isinstance(tokenizer, ka.PipelineTokenizer)
    assert (tokenizer.max_length, tokenizer.padding_side) == (5, "left")
    tokenizer.save(tmp_path / "again")
    again = ka.load_tokenizer(tmp_path / "again")
    assert again.get_config() == tokenizer.get_config()
    serialized = keras.saving.serialize_keras_object(tokenizer)
    restored = keras.saving.deserialize_keras_object(serialized)
    assert restored.get_config() == tokenizer.get_config()
    reread = Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    ids = [one.ids for one in reread.encode_batch(["the cat", "a"])]
    assert restored.tokenize(["the cat", "a"]).to_list() == ids


REFUSED = [
    ("normalizer", {"type": "ByteLevel"}, "normalizer 'ByteLevel'"),
    ("pre_tokenizer", {"type": "UnicodeScripts"}, "'UnicodeScripts'"),
    ("pre_tokenizer", {"type": "Digits", "other": 1}, "'other' of Digits"),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(?<=a)b"}}, "behavior"),
    ("decoder", {"type": "CTC"}, "decoder 'CTC'"),
    ("post_processor", {"type": "Other"}, "post_processor 'Other'"),
    ("model", {"type": "BPE", "dropout": 0.5}, "'dropout'"),
    ("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "u"}, "unk_token"),
    ("added_tokens", [{"id": 0, "content": "x", "odd": 1}], "an added token"),
    ("other", {}, "the section 'other'"),
]


@pytest.mark.parametrize(("name", "section", "message"), REFUSED)
def test_what_is_not_computed_is_refused_by_name(name, section, message):
    model = {"type": "WordLevel", "vocab": {"u": 0}, "unk_token": "u"}
    with pytest.raises(ValueError, match=message):
        ka.PipelineTokenizer({"model": model, name: section})


@pytest.mark.parametrize(
    "pattern", ["(?<=a)b", "a++", "\\bx", "^a", "[[:alpha:]]", "a("]
)
def test_a_pattern_that_is_not_computed_is_refused(pattern):
    model = {"type": "WordLevel", "vocab": {"u": 0}, "unk_token": "u"}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    with pytest.raises(ValueError, match="in a regular expression"):
        ka.PipelineTokenizer({"model": model, "pre_tokenizer": split})


def old_folder(folder, kind):
    """Writes vocab.json and merges.txt of CLIP or Qwen2, as their authors do."""
    data = json.loads(
        kinds.KINDS["CLIP" if kind == "CLIPTokenizer" else "o200k"]().to_str()
    )
    model = data["model"]
    vocab = dict(model["vocab"])
    if kind == "CLIPTokenizer":
        for token in ("<|startoftext|>", "<|endoftext|>"):
            vocab[token] = len(vocab)
        settings = {}
    else:
        names = ("<|endoftext|>", "<|im_start|>", "<tool>")
        settings = {
            "added_tokens_decoder": {
                str(len(vocab) + number): {"content": name, "special": number < 2}
                for number, name in enumerate(names)
            },
            "eos_token": "<|im_start|>",
            "pad_token": "<|endoftext|>",
        }
    pairs = [
        pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]
    ]
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    text = "#version: 0.2\n" + "\n".join(pairs)
    (folder / "merges.txt").write_text(text, encoding="utf-8")
    settings = {"tokenizer_class": kind, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


SCRIPT = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
print(json.dumps([tokenizer(text)["input_ids"] for text in json.load(sys.stdin)]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["CLIPTokenizer", "Qwen2Tokenizer"])
def test_a_vocab_json_and_merges_txt_mean_what_transformers_makes_of_them(
    kind, tmp_path
):
    pytest.importorskip("transformers")
    old_folder(tmp_path, kind)
    tokenizer = ka.load_tokenizer(tmp_path)
    texts = [*kinds.texts(100), "<|im_start|>a <|endoftext|> <tool>b"]
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    batch = tokenizer(texts)
    rows = tf.ragged.boolean_mask(batch["token_ids"], batch["padding_mask"]).to_list()
    wrong = [
        (text, ours, theirs)
        for text, ours, theirs in zip(
            texts, rows, json.loads(result.stdout), strict=True
        )
        if ours != theirs
    ]
    assert wrong == []
