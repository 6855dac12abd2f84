"""Ids, offsets and texts equal those of `sentencepiece` and of transformers."""

import io
import itertools
import json
import os
import pathlib
import struct

import keras
import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from text import real_texts

import keras_attention as ka
from keras_attention.text import engine


@pytest.fixture(autouse=True)
def graph(monkeypatch):
    """Here the graph answers; `engine_test.py` compares it with the other engine."""
    monkeypatch.setattr(engine, "batch", lambda *_: None)


WORDS = [
    "the",
    "a",
    "house",
    "cat",
    "sees",
    "is",
    "was",
    "not",
    "blue",
    "two",
    "number",
]
WORDS += ["fish", "and", "or", "under", "over", "maison", "chat", "voit", "bleu", "où"]
WORDS += [
    "été",
    "garçon",
    "Straße",
    "groß",
    "東京",
    "犬",
    "мир",
    "1984",
    "3.14",
    "don't",
]
RNG = np.random.default_rng(0)
SENTENCES = [" ".join(RNG.choice(WORDS, n)) + "." for n in RNG.integers(2, 12, 3000)]
HOSTILE = [
    "",
    " ",
    "  a  b ",
    "ÀÉ ﬁ ½ ① Ǆ ﷺ",
    "日本語テキスト",
    "👩‍👩‍👧‍👦 x\u200b\t\r\nq",
    "a\u0301e\u0301\u0327 \u1100\u1161",
    "\u00a0x\u202f!\u3000",
    "x\0y\x07",
    "</s> <s> <unk> <pad> <0x41>",
    "▁▁a ▁",
    "x" * 3000,
    "\ufffd \ufeff",
]
MODELS = {
    "unigram": {"model_type": "unigram", "vocab_size": 140},
    "bpe with bytes": {"model_type": "bpe", "byte_fallback": True, "vocab_size": 360},
    "bpe as it is": {
        "model_type": "bpe",
        "vocab_size": 140,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    },
    "no space before": {
        "model_type": "unigram",
        "vocab_size": 140,
        "add_dummy_prefix": False,
    },
}


def trained(**options):
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=file,
        minloglevel=2,
        num_threads=1,
        hard_vocab_limit=False,
        **options,
    )
    return file.getvalue()


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return trained(**MODELS[request.param])


def both(model):
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    return ka.SentencePieceTokenizer(model), reference


def assert_same(model, texts):
    tokenizer, reference = both(model)
    ids, starts, ends = tokenizer.tokenize_with_offsets(texts)
    assert ids.to_list() == tokenizer.tokenize(texts).to_list()
    protos = [reference.encode(text, return_type="proto") for text in texts]
    expected = [[piece.id for piece in proto.pieces] for proto in protos]
    assert ids.to_list() == expected
    for text, proto, row in zip(
        texts, protos, zip(starts.to_list(), ends.to_list(), strict=True), strict=True
    ):
        raw = text.encode()
        places = [
            [len(raw[:place].decode()) for place in places]
            for places in (
                [piece.begin for piece in proto.pieces],
                [piece.end for piece in proto.pieces],
            )
        ]
        assert [*row] == places, text
    decoded = tokenizer.detokenize(ids, skip_special_tokens=False)
    known = [reference.unk_id() not in row for row in expected]
    for text, row, is_known in zip(decoded.numpy(), expected, known, strict=True):
        if is_known:  # SentencePiece writes ⁇ for the unknown, transformers its name
            assert text.decode() == reference.decode(row)


def test_ids_offsets_and_texts_are_those_of_sentencepiece(model):
    assert_same(model, [*SENTENCES[:200], *HOSTILE])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_any_text_is_split_alike(model):
    @settings(max_examples=3000, deadline=None, derandomize=True)
    @given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
    def check(texts):
        assert_same(model, texts)

    check()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_code_point_is_split_alike(model):
    tokenizer, reference = both(model)
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    for start in range(0, len(points), 50_000):
        texts = [f"a{chr(point)}b" for point in points[start : start + 50_000]]
        assert tokenizer.tokenize(texts).to_list() == reference.encode(texts)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_texts_are_split_alike(record_property):
    texts = real_texts.sentences() + real_texts.paragraphs()
    for name, options in MODELS.items():
        assert_same(trained(**{**options, "vocab_size": 400}), texts)
        record_property("summary", f"{name}: {len(texts)} real texts, 0 differences")


def test_it_is_rebuilt_from_its_config_and_in_a_saved_model(model, tmp_path):
    tokenizer, _ = both(model)
    config = json.loads(json.dumps(tokenizer.get_config()))
    again = ka.SentencePieceTokenizer.from_config(config)
    texts = SENTENCES[:5]
    expected = tokenizer(texts)["token_ids"].numpy()
    assert (again(texts)["token_ids"].numpy() == expected).all()
    kind = keras.saving.serialize_keras_object(tokenizer)
    kind = keras.saving.deserialize_keras_object(kind)
    assert (kind(texts)["token_ids"].numpy() == expected).all()


def test_pairs_are_framed_cut_and_padded(model):
    tokenizer = ka.SentencePieceTokenizer(
        model,
        template={"start": ["<s>"], "middle": ["</s>", "</s>"], "end": ["</s>"]},
        max_length=11,
        padding_side="left",
    )
    batch = tokenizer(["the cat", "a"], ["the house sees the cat under the fish", "b"])
    ids, mask = batch["token_ids"].numpy(), batch["padding_mask"].numpy()
    assert ids.shape == (2, 11)
    assert mask[0].all()
    assert mask[1].sum() < 11
    assert not mask[1, 0]
    row = [tokenizer.id_to_token(i) for i in ids[0]]
    assert row[0] == "<s>"
    assert row.count("</s>") == 3


def folder_of(path, model, kind, **more):
    name = {"T5": "spiece.model", "Llama": "tokenizer.model", "Marian": "source.spm"}
    (path / name.get(kind, "sentencepiece.bpe.model")).write_bytes(model)
    settings = {"tokenizer_class": f"{kind}Tokenizer", **more}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["T5", "XLMRoberta", "Camembert", "Llama"])
def test_a_folder_gives_the_ids_of_transformers(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    is_llama = kind == "Llama"
    options = MODELS["bpe with bytes" if is_llama else "unigram"]
    if is_llama:
        options = {**options, "normalization_rule_name": "identity"}
        options["remove_extra_whitespaces"] = False
    # As their files have it; the defaults of transformers 4 and 5 differ.
    more = {"add_bos_token": True, "add_eos_token": False} if is_llama else {}
    folder = folder_of(tmp_path, trained(**options), kind, **more)
    ours = ka.load_tokenizer(folder)
    theirs = getattr(transformers, f"{kind}Tokenizer").from_pretrained(folder)
    for texts in (SENTENCES[:300], ["the cat", "où été"]):
        expected = [theirs(text)["input_ids"] for text in texts]
        batch = ours(texts)
        rows = tf.ragged.boolean_mask(batch["token_ids"], batch["padding_mask"])
        assert rows.to_list() == expected
    expected = theirs("the cat", "a fish")["input_ids"]
    assert ours(["the cat"], ["a fish"])["token_ids"].numpy().tolist() == [expected]
    text = theirs.decode(theirs(SENTENCES[0])["input_ids"], skip_special_tokens=True)
    (ids,) = ours(SENTENCES[:1])["token_ids"].numpy()[:, None]
    assert ours.detokenize(ids).numpy()[0].decode() == text


def test_marian_has_ids_of_its_own(tmp_path):
    model = trained(**MODELS["unigram"])
    pieces = ka.SentencePieceTokenizer(model).vocabulary
    order = ["</s>", "<unk>", *sorted(pieces[3:-5]), "<pad>"]
    folder = folder_of(tmp_path, model, "Marian")
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(order)}))
    tokenizer = ka.load_tokenizer(folder)
    (row,) = tokenizer(["the cat sees"])["token_ids"].numpy().tolist()
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    wanted = reference.encode("the cat sees", out_type=str)
    wanted = [order.index(piece) if piece in order else 1 for piece in wanted]
    assert row == [*wanted, 0]
    assert tokenizer.pad_token_id == len(order) - 1


def test_a_file_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        ka.SentencePieceTokenizer(b"something else")
    with pytest.raises(FileNotFoundError, match="Give its path"):
        ka.SentencePieceTokenizer(tmp_path / "none.model")
    folder_of(tmp_path, trained(**MODELS["unigram"]), "Reformer")
    with pytest.raises(ValueError, match="supported: camembert"):
        ka.load_tokenizer(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_served_model_reads_text_with_it(tmp_path):
    model = trained(**MODELS["unigram"])
    template = {"end": ["</s>"]}
    tokenizer = ka.SentencePieceTokenizer(model, template=template, max_length=40)
    encoder = ka.BertEncoder(
        tokenizer.vocabulary_size,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=40,
        num_segments=0,
    )
    task = ka.SentenceEncoder(encoder, tokenizer)
    folder = ka.export_model(task, tmp_path / "served", signatures=["serving_default"])
    assert ka.verify_artifact(folder).passed


def their_ids(tokens, scores, text):
    """The loop of llama2.c: it merges the best pair until there is none."""
    ids = {token: number for number, token in enumerate(tokens)}
    row: list[int] = []
    for letter in " " + text if text else "":
        found = ids.get(letter)
        row += [3 + b for b in letter.encode()] if found is None else [found]
    while True:
        pairs = [
            (scores[ids[tokens[a] + tokens[b]]], -place)
            for place, (a, b) in enumerate(itertools.pairwise(row))
            if tokens[a] + tokens[b] in ids
        ]
        if not pairs:
            return row
        place = -max(pairs)[1]
        row[place : place + 2] = [ids[tokens[row[place]] + tokens[row[place + 1]]]]


def llama2c_file(path, model):
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokens, scores = ["<unk>", "\n<s>\n", "\n</s>\n"], [0.0] * 3
    for number in range(3, reference.vocab_size()):
        tokens.append(reference.id_to_piece(number).replace("▁", " "))
        scores.append(reference.get_score(number))
    with path.open("wb") as file:
        file.write(struct.pack("<i", max(map(len, tokens))))
        for token, score in zip(tokens, scores, strict=True):
            file.write(struct.pack("<fi", score, len(token.encode())))
            file.write(token.encode())
    return tokens, scores


def test_a_tokenizer_of_llama2c_has_the_ids_of_its_loop(tmp_path):
    options = MODELS["bpe with bytes"] | {"normalization_rule_name": "identity"}
    model = trained(**options, remove_extra_whitespaces=False)
    tokens, scores = llama2c_file(tmp_path / "tok.bin", model)
    tokenizer = ka.SentencePieceTokenizer.from_llama2c(tmp_path / "tok.bin")
    texts = [*SENTENCES[:100], "x  y\n\tz é日"]
    expected = [their_ids(tokens, scores, text) for text in texts]
    assert tokenizer.tokenize(texts).to_list() == expected
    assert tokenizer(["a"])["token_ids"].numpy()[0, 0] == 1
    (tmp_path / "tok.bin").write_bytes(b"1234567890123456")
    with pytest.raises(ValueError, match=r"Give its tokenizer\.bin"):
        ka.SentencePieceTokenizer.from_llama2c(tmp_path / "tok.bin")


def test_the_stories_model_has_the_ids_of_its_loop():
    named = os.environ.get("KERAS_ATTENTION_STORIES260K", "")
    file = pathlib.Path(named).with_name("tok512.bin") if named else None
    if file is None or not file.exists():
        pytest.skip("KERAS_ATTENTION_STORIES260K must name stories260K.bin")
    tokenizer = ka.SentencePieceTokenizer.from_llama2c(file)
    data, place, tokens, scores = file.read_bytes(), 4, [], []
    while place < len(data):
        score, size = struct.unpack_from("<fi", data, place)
        place += 8 + size
        tokens.append(data[place - size : place].decode())
        scores.append(score)
    texts = ["Once upon a time, there was a little girl named Lily.", *SENTENCES[:300]]
    # C strings end at 0, and SentencePiece reads its own sign for a space as a space.
    texts += [text for text in HOSTILE if not {"\0", "▁"} & {*text}]
    expected = [their_ids(tokens, scores, text) for text in texts]
    assert tokenizer.tokenize(texts).to_list() == expected
    model = ka.CausalLM(
        ka.from_pretrained(named, task="backbone"), tokenizer, compiled=False
    )
    (story,) = model.generate(["Once upon a time"], max_new_tokens=20)
    assert story.startswith(", there was a little girl named Lily.")


def test_the_error_of_a_model_escapes_its_pieces():
    from sentencepiece import sentencepiece_model_pb2 as messages

    model = messages.ModelProto()
    model.pieces.add(piece="<unk>", type=2)
    model.pieces.add(piece="\x1b[2J\n" + "x" * 5000, type=6)  # no byte
    with pytest.raises(ValueError, match="not a SentencePiece model") as caught:
        ka.SentencePieceTokenizer(model.SerializeToString())
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 2000
