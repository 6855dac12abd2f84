"""Each line of docs/from-transformers.md runs, on a small folder of the name it has.

The numbers of tasks and of generation are compared with those of transformers in
tests/parity. Here a line is run, and its answer must have the documented form.
"""

import json
import re

import numpy as np
import pytest
from pasting import ROOT
from samples import VOCABULARY, small_bert
from small_models import SIZES
from weights.causal_lm_test import bytes_vocabulary

import keras_attention as ka

pytestmark = pytest.mark.tensorflow
PAGE = (ROOT / "docs" / "from-transformers.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINE = re.compile(r"\| `(load\(.*\).*)` \|$", re.MULTILINE)
LINES = LINE.findall(PAGE)
REMOVED = LINE.findall(PAGE.split("## Pipelines that transformers still has")[0])
# One task and one encoder-decoder; the others are slow.
QUICK = ("bert-base-cased-squad2", "t5-small")
TEXTS = ["translate English to French: the animal is tired", "a street, the tired!"]


def save_task(kind, folder, *labels, sizes=None, **options):
    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    backbone = small_bert(num_layers=1, **(sizes or {}))
    ka.save_pretrained(kind(backbone, *labels, tokenizer=tokenizer, **options), folder)


def squad(folder):
    save_task(ka.QuestionAnswerer, folder)


def entities(folder):
    save_task(ka.TokenClassifier, folder, ["O", "B-PER", "I-PER"])


def sentiment(folder):
    labels, distilbert = ["NEGATIVE", "POSITIVE"], {"num_segments": 0, "pooler": False}
    options = {"pooling": "first", "hidden_activation": "relu", "sizes": distilbert}
    save_task(ka.TextClassifier, folder, labels, **options)


def entailment(folder):
    save_task(ka.TextClassifier, folder, ["contradiction", "entailment", "neutral"])


def masked(folder):
    save_task(ka.MaskedLM, folder)


def sentences(folder):
    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    ka.save_pretrained(ka.SentenceEncoder(small_bert(), tokenizer), folder)
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    modules += [{"path": "pool", "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "pool").mkdir()
    pooling = {"word_embedding_dimension": 33, "pooling_mode_mean_tokens": True}
    (folder / "pool" / "config.json").write_text(json.dumps(pooling))


def gpt2(folder):
    decoder = ka.GPTDecoder(260, **SIZES, max_sequence_length=256)
    ka.save_pretrained(ka.CausalLM(decoder), folder)
    bytes_vocabulary(folder, 257)


def t5(folder):
    tokenizer = ka.train_sentence_piece(TEXTS * 50, 40)
    backbone = ka.T5EncoderDecoder(64, **SIZES)
    model = ka.Seq2SeqLM(backbone, start_token_id=0, end_token_id=1)
    ka.save_pretrained(model, folder)
    (folder / "spiece.model").write_bytes(tokenizer.model_bytes)
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def bart(folder):
    shape = {"positions": "learned", "position_offset": 2, "scale_embedding": False}
    shape |= {"normalize_embedding": True, "use_logits_bias": True}
    backbone = ka.Seq2SeqTransformer(260, **SIZES, **shape, max_sequence_length=192)
    ka.save_pretrained(ka.Seq2SeqLM(backbone, start_token_id=2, end_token_id=2), folder)
    bytes_vocabulary(folder, 257)


def marian(folder):
    tokenizer = ka.train_sentence_piece(TEXTS * 50, 40)
    order = [
        "</s>",
        "<unk>",
        *sorted({*tokenizer.vocabulary} - {"</s>", "<unk>", "<pad>"}),
        "<pad>",
    ]
    shape = {"positions": "concatenated", "use_logits_bias": True}
    backbone = ka.Seq2SeqTransformer(
        len(order), **SIZES, **shape, max_sequence_length=192
    )
    last = len(order) - 1
    ka.save_pretrained(
        ka.Seq2SeqLM(backbone, start_token_id=last, end_token_id=0), folder
    )
    (folder / "source.spm").write_bytes(tokenizer.model_bytes)
    ids = {token: index for index, token in enumerate(order)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    settings = {"tokenizer_class": "MarianTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def vit(folder):
    backbone = ka.VisionTransformer((8, 8), 4, **SIZES, pooler=False)
    ka.save_pretrained(ka.ImageClassifier(backbone, ["cat", "dog"]), folder)


FOLDERS = {
    "deepset/bert-base-cased-squad2": squad,
    "dslim/bert-base-NER": entities,
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": sentiment,
    "cross-encoder/nli-MiniLM2-L6-H768": entailment,
    "google-bert/bert-base-uncased": masked,
    "sentence-transformers/all-MiniLM-L6-v2": sentences,
    "openai-community/gpt2": gpt2,
    "google-t5/t5-small": t5,
    "google/flan-t5-small": t5,
    "facebook/bart-large-cnn": bart,
    "Helsinki-NLP/opus-mt-en-de": marian,
    "google/vit-base-patch16-224": vit,
}
NAMES = {
    "ka": ka,
    "load": ka.from_pretrained,
    "q": "the animal?",
    "c": "the tired animal.",
    "text": "the animal is tired",
    "labels": ["street", "animal"],
    "images": np.zeros((2, 8, 8, 3), "float32"),
}


def is_texts(answer):
    return [type(text) for text in answer] == [str]


# The method of a line -> whether its answer has the documented form.
FORMS = {
    "answer": lambda answer: {*answer[0]} >= {"text", "start", "end", "score"},
    "generate": is_texts,
    "classify": lambda answer: len(answer) == 2 or {*answer[0]} == {
        "label", "score", "scores"
    },
    "tag": lambda answer: len(answer) == 1 and isinstance(answer[0], list),
    "fill": lambda answer: len(answer[0][0]) == 5 and {*answer[0][0][0]} == {
        "token", "score"
    },
    "encode": lambda answer: answer.shape == (1, 33),
    "images": lambda answer: tuple(answer.shape) == (2, SIZES["hidden_dim"]),
}  # fmt: skip


def id_of(line):
    return re.search(r'load\("([^"]*)"', line)[1] + ("-features" * ("task=" in line))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(
            line,
            id=id_of(line),
            marks=[pytest.mark.slow] * (not id_of(line).endswith(QUICK)),
        )
        for line in LINES
    ],
)
def test_a_line_of_the_page_runs(line, tmp_path, monkeypatch):
    name = re.search(r'load\("([^"]*)"', line)[1]
    monkeypatch.chdir(tmp_path)
    FOLDERS[name](tmp_path / name)
    answer = eval(line, dict(NAMES))
    method = (re.search(r"\)\.(\w+)\(", line) or re.search(r"\)\((\w+)\)", line))[1]
    assert FORMS[method](answer), answer


def test_every_pipeline_that_transformers_removed_has_a_row():
    """They are those of transformers 4 that transformers 5 refuses."""
    removed = ("question-answering", "summarization", "translation")
    for name in (*removed, "text2text-generation", "image-to-text"):
        assert f'`pipeline("{name}", name)' in PAGE, name
    assert len(REMOVED) == 5
    # The README's first screen names them too, with the same words.
    for method in ("answer", "generate"):
        assert f".{method}(" in README.split("\n## ")[0]
