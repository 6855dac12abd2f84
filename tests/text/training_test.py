"""Vocabularies that are trained here, and the command that writes them."""

import json

import pytest
from text.sentence_piece.tokenizer_test import SENTENCES
from typer.testing import CliRunner

import keras_attention as ka
from keras_attention.cli.main import app

TRAIN = {
    "word-piece": ka.train_word_piece,
    "byte-pair": ka.train_byte_pair,
    "sentence-piece": ka.train_sentence_piece,
}


@pytest.mark.parametrize("kind", TRAIN)
def test_a_trained_tokenizer_has_tokens_for_its_texts(kind, tmp_path):
    size = {"byte-pair": 330}.get(kind, 120)
    tokenizer = TRAIN[kind](iter(SENTENCES), size)
    assert tokenizer.vocabulary_size <= size
    ids = tokenizer(SENTENCES[:20])["token_ids"]
    assert tokenizer.unk_token_id is not None
    if kind != "byte-pair":  # there the end token is the unknown token too
        assert tokenizer.unk_token_id not in ids.numpy()
    words = sum(len(text.split()) for text in SENTENCES[:20])
    letters = sum(map(len, SENTENCES[:20]))
    tokens = tokenizer.tokenize(SENTENCES[:20]).values.shape[0]
    assert words <= tokens < 0.7 * letters
    if kind != "word-piece":
        texts = [text.decode() for text in tokenizer.detokenize(ids).numpy()]
        assert texts == SENTENCES[:20]
    tokenizer.save(tmp_path)
    again = ka.load_tokenizer(tmp_path)
    assert again.vocabulary == tokenizer.vocabulary


def test_the_command_writes_a_folder(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(SENTENCES[:500]))
    out = str(tmp_path / "tokenizer")
    call = ["train-tokenizer", str(file), "--out", out, "--vocabulary-size", "90"]
    done = CliRunner().invoke(app, [*call, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == {"folder": out, "vocabulary_size": 90}
    assert ka.load_tokenizer(out).vocabulary_size == 90


def test_vocabularies_that_cannot_be_trained_are_refused():
    with pytest.raises(ValueError, match="more than 257"):
        ka.train_byte_pair(SENTENCES, 257)
    with pytest.raises(ValueError, match="'unigram' or 'bpe'"):
        ka.train_sentence_piece(SENTENCES, 100, kind="word")
    with pytest.raises(ValueError, match="another `vocabulary_size`"):
        ka.train_sentence_piece(SENTENCES[:1], 5000, kind="bpe")
