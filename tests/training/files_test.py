"""Examples in files are read as lists are, and a wrong one is named with its line."""

import gzip
import itertools
import json

import keras
import numpy as np
import pytest
from samples import VOCABULARY, small_bert

import keras_attention as ka
from keras_attention.training.from_files.files import (
    FileExamples,
    labels_in,
    rows_of_file,
)

pytest.importorskip("tensorflow_text")
pytestmark = pytest.mark.tensorflow

TEXTS = ["the animal", "tired!", 'the "street", the\nanimal', "a", "b c d", "tired e"]
LABELS = ["good", "bad"] * 3


@pytest.fixture(scope="module")
def parts():
    return small_bert(num_layers=1), ka.WordPieceTokenizer(VOCABULARY, max_length=61)


def classifier(parts, **settings):
    backbone, tokenizer = parts
    return ka.TextClassifier(backbone, ["bad", "good"], tokenizer, **settings)


def written(folder, name, content):
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(content.encode()))
    else:
        path.write_text(content, encoding="utf-8", newline="")
    return path


def as_csv(rows, names="text,label"):
    def quoted(x):
        return '"' + x.replace('"', '""') + '"'

    return names + "\n" + "\n".join(",".join(map(quoted, row)) for row in rows) + "\n"


def as_jsonl(rows, names=("text", "label")):
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    return "\n\n".join(map(json.dumps, objects))


def equal_batches(one, other):
    assert one.num_batches == other.num_batches
    for epoch in range(2):
        one.epoch = other.epoch = epoch
        for index in range(one.num_batches):
            a, b = one[index], other[index]
            keras.tree.assert_same_structure(a, b)
            for x, y in zip(keras.tree.flatten(a), keras.tree.flatten(b), strict=True):
                assert x.dtype == y.dtype
                np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.csv.gz"])
def test_files_give_the_batches_that_lists_give(parts, tmp_path, name, monkeypatch):
    from keras_attention.training.from_files import files

    monkeypatch.setattr(files, "_CHUNK", 4)  # so that the six examples are two chunks
    rows = list(zip(TEXTS, LABELS, strict=True))
    content = as_jsonl(rows) if "jsonl" in name else as_csv(rows)
    path = written(tmp_path, name, "\ufeff" + content)
    model = classifier(parts)
    found = ka.file_batches(model, path, batch_size=4, seed=3)
    equal_batches(found, model.batches(TEXTS, LABELS, batch_size=4, seed=3))
    both = ka.file_batches(model, [path, path], shuffle=False)
    equal_batches(both, model.batches(TEXTS * 2, LABELS * 2, shuffle=False))


def test_a_quotation_mark_has_no_meaning_in_tsv(tmp_path):
    content = 'text\tlabel\n"a" b\tx\n"He said, "no"\ty\n'
    path = written(tmp_path, "a.tsv", content)
    rows = [row for _, row in rows_of_file(path)]
    texts = ['"a" b', '"He said, "no"']
    assert rows == [{"text": t, "label": x} for t, x in zip(texts, "xy", strict=True)]


def test_every_task_of_texts_reads_files(parts, tmp_path):
    backbone, tokenizer = parts
    pairs, words = TEXTS[::-1], [text.split() for text in TEXTS]
    tags = [["B-one"] + ["O"] * (len(row) - 1) for row in words]
    conll = "-DOCSTART- O\n\n" + "\n\n".join(
        "\n".join(f"{w}\tx\t{t}" for w, t in zip(*one, strict=True))
        for one in zip(words, tags, strict=True)
    )
    answers = [{"text": text.split()[0], "start": 0} for text in TEXTS]
    decoder = ka.GPTDecoder(len(VOCABULARY), 1, 2, 8, 12)
    scores = [-0.5, 0.0, 0.25, 1.0, 0.5, -1.0]
    recurrent = ka.RecurrentSeq2Seq(len(VOCABULARY), embedding_dim=4, hidden_dim=8)
    answerer = ka.QuestionAnswerer(backbone, tokenizer)
    encoder = ka.SentenceEncoder(backbone, tokenizer)
    tagger = ka.TokenClassifier(backbone, ["O", "B-one"], tokenizer)
    followed = ka.NextSentence(backbone, tokenizer)
    truths = [True, False] * 3
    cases = [
        (tagger, None, (words, tags)),
        (answerer, "question context answer", (pairs, TEXTS, answers)),
        (encoder, "text text_pair score", (TEXTS, pairs, scores)),
        (encoder, "text text_pair", (TEXTS, pairs)),
        (ka.TextScorer(backbone, tokenizer), "text score", (TEXTS, scores)),
        (followed, "text next_text follows", (TEXTS, pairs, truths)),
        (ka.MaskedLM(backbone, tokenizer), "text", (TEXTS,)),
        (ka.CausalLM(decoder, tokenizer), "text", (TEXTS,)),
        (ka.Seq2SeqLM(recurrent, tokenizer), "source target", (TEXTS, pairs)),
    ]
    for model, names, columns in cases:
        name, content = "a.conll", conll
        if names is not None:
            name, content = (
                "a.jsonl",
                as_jsonl(zip(*columns, strict=True), names.split()),
            )
        path = written(tmp_path, name, content)
        found = ka.file_batches(model, path, batch_size=4)
        equal_batches(found, model.batches(*columns, batch_size=4))
        assert type(found) is type(model.batches(*columns))


def test_short_texts_of_a_file_share_rows(parts, tmp_path):
    decoder = ka.GPTDecoder(len(VOCABULARY), 1, 2, 8, 12, max_sequence_length=61)
    model = ka.CausalLM(decoder, parts[1])
    texts = [text.replace("\n", " ") for text in TEXTS]
    path = written(tmp_path, "a.txt", "\n".join(texts))
    found = ka.file_batches(model, path, packing=True)
    equal_batches(found, model.batches(texts, packing=True, batch_size=32))
    assert found.num_rows == 1
    with pytest.raises(ValueError, match=r"Only language models.*TextClassifier"):
        ka.file_batches(classifier(parts), path, packing=True)


def test_columns_are_renamed_and_values_converted(parts, tmp_path):
    model = classifier(parts)
    rows = [("1", text) for text in TEXTS[:3]] + [("0", text) for text in TEXTS[3:]]
    path = written(tmp_path, "a.csv", as_csv(rows, "stars,review"))
    columns = {"text": "review", "label": "stars"}
    found = ka.file_batches(model, path, columns=columns, shuffle=False)
    equal_batches(found, model.batches(TEXTS, [1, 1, 1, 0, 0, 0], shuffle=False))
    several = classifier(parts, multi_label=True)
    rows = [(text, "good|bad" if "a" in text else "") for text in TEXTS]
    path = written(tmp_path, "b.csv", as_csv(rows))
    names = [["good", "bad"] if "a" in text else [] for text in TEXTS]
    found = ka.file_batches(several, path, shuffle=False)
    equal_batches(found, several.batches(TEXTS, names, shuffle=False))
    answers = as_csv([("who", "ada and ada", "ada", "8")] * 2, ",".join(
        ["question", "context", "answer", "answer_start"]
    ))  # fmt: skip
    path = written(tmp_path, "c.csv", answers)
    values = [values for _, values in FileExamples(ka.QuestionAnswerer, path)]
    assert values == [("who", "ada and ada", {"text": "ada", "start": 8})] * 2
    path = written(tmp_path, "d.csv", answers.replace('"8"', '""'))
    values = [values for _, values in FileExamples(ka.QuestionAnswerer, path)]
    assert values[0][2] == {"text": "ada", "start": 0}


def test_labels_are_found_in_files(tmp_path):
    path = written(tmp_path, "a.csv", as_csv([("a", n) for n in ("10", "2", "1")]))
    assert labels_in(FileExamples(ka.TextClassifier, path)) == ["1", "2", "10"]
    path = written(tmp_path, "a.conll", "a B-x\nb O\n\nc I-x\n")
    assert labels_in(FileExamples(ka.TokenClassifier, path)) == ["O", "B-x", "I-x"]
    rows = [("a", str(number)) for number in range(1001)]
    path = written(tmp_path, "b.csv", as_csv(rows))
    with pytest.raises(ValueError, match=r"b.csv, line 1002: .*more than 1000"):
        labels_in(FileExamples(ka.TextClassifier, path))


def test_held_out_examples_are_the_same_each_time_and_no_others(tmp_path):
    rows = [(str(number), "x") for number in range(500)]
    path = written(tmp_path, "a.csv", as_csv(rows))

    def read(*share):
        examples = FileExamples(ka.TextClassifier, path, share=share)
        return [int(values[0]) for _, values in examples]

    held, others = read(0.0, 0.1), read(0.1, 1.0)
    assert read(0.0, 0.1) == held
    assert sorted(held + others) == list(range(500))
    assert 30 < len(held) < 70


def test_files_are_read_row_by_row(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"text": "a"}\n' * 10_000 + "{")
    assert len(list(itertools.islice(rows_of_file(path), 10_000))) == 10_000


WRONG = [
    ("a.csv", "", "no examples.*Received: .*a.csv"),
    ("b.csv", "text,label\n", "no examples.*b.csv"),
    ("c.csv", "a,b\nx,y\n", r"c.csv, line 2: .*no column 'text'.*columns 'a', 'b'"),
    ("d.csv", 'text,label\na,good\n"b\nc",wrong\n', r"d.csv, line 3: .*'wrong'"),
    ("e.csv", "text,label\na,good\nb,good\n", "same label"),
    ("f.csv", "text,label\na,good\n ,bad\n", "f.csv, line 3: .*'text'.*not empty"),
    ("g.csv", "text,label\na,good\nb\n", "g.csv .*line 3 has 1 columns, .* names 2"),
    ("h.csv", "text,label\na,\n", "h.csv, line 2: .*'label'.*a label was expected"),
    ("i.csv", 'text,label\na,"good\n', "i.csv cannot be read"),
    ("j.jsonl", '{"text": "a", "label": "bad"}\n[1]\n', "line 2 is no object"),
    ("k.jsonl", '{"text": "a", "label": "bad"}\n{"text": 1}', "k.jsonl, line 2: "),
    ("l.jsonl", "{'a': 1}\n", "l.jsonl cannot be read after line 0"),
    ("m.txt", "one\ntwo\n", "m.txt, line 1: .*no column 'label'"),
    ("n.parquet", "x", "The end of a file's name"),
    ("o.csv.gz", "text,label\na,good\nb,ugly\n", "o.csv.gz, line 3: .*'ugly'"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG)
def test_a_wrong_file_is_one_clear_error(parts, tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        ka.file_batches(classifier(parts), path)
    assert "Received: " in str(caught.value)
    assert len(str(caught.value)) < 2000


VALUES = [None, True, 0, -1, 1e300, "", " ", "\x00", "a" * 9999, [], ["a"], [None]]
VALUES += [
    {},
    {"text": 1, "start": 0},
    {"text": "x", "start": -9},
    {"text": "", "start": 1},
    [[1]],
]


@pytest.mark.slow
def test_any_value_in_any_column_is_taken_or_refused_with_its_line(parts, tmp_path):
    right = {
        ka.TextClassifier: {"text": "a b", "label": "good", "text_pair": "c"},
        ka.TokenClassifier: {"words": ["a"], "tags": ["good"]},
        ka.QuestionAnswerer: {"question": "a", "context": "a b", "answer": "b"},
        ka.SentenceEncoder: {"text": "a", "text_pair": "b", "score": 0.5},
        ka.NextSentence: {"text": "a", "next_text": "b", "follows": True},
    }
    refused = []
    for kind, row in right.items():
        labels = {"labels": ["bad", "good"]} if "Classifier" in kind.__name__ else {}
        model = kind(parts[0], tokenizer=parts[1], **labels)
        for column, value in itertools.product(row, VALUES):
            rows = [json.dumps(row), json.dumps({**row, column: value})]
            path = written(tmp_path, "a.jsonl", "\n".join(rows))
            try:
                found = ka.file_batches(model, path, shuffle=False)
            except ValueError as error:
                refused.append(str(error))
            else:
                assert found.num_rows >= 2
    assert len(refused) > 100
    assert all("line 2" in error and len(error) < 2000 for error in refused)


def test_other_wrong_files_are_errors(parts, tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\ncaf\xe9,good\n")
    with pytest.raises(ValueError, match="UTF-8"):
        ka.file_batches(classifier(parts), path)
    with pytest.raises(FileNotFoundError):
        ka.file_batches(classifier(parts), tmp_path / "no.csv")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"text,label\na,b\n")[:-9])
    with pytest.raises(ValueError, match=r"b.csv.gz cannot be read"):
        ka.file_batches(classifier(parts), tmp_path / "b.csv.gz")
    with pytest.raises(ValueError, match=r"renames text, label, text_pair"):
        ka.file_batches(classifier(parts), path, columns={"texts": "x"})
    conll = written(tmp_path, "c.conll", "a O\nb\n")
    with pytest.raises(ValueError, match="line 2 has a word without a tag"):
        list(rows_of_file(conll))
    answer = written(tmp_path, "d.jsonl", json.dumps(
        {"question": "a", "context": "the street", "answer": "animal"}
    ))  # fmt: skip
    with pytest.raises(ValueError, match=r"d.jsonl, line 1: .*'answer'"):
        ka.file_batches(ka.QuestionAnswerer(*parts), answer)


def test_a_text_that_is_longer_than_the_model_is_counted_or_refused(parts, tmp_path):
    rows = [("a " * 70, "good"), ("a", "bad"), ("b " * 59, "bad")]
    path = written(tmp_path, "a.csv", as_csv(rows))
    assert ka.file_batches(classifier(parts), path).num_full == 2
    long = ka.WordPieceTokenizer(VOCABULARY, max_length=80)
    model = classifier((parts[0], long))
    with pytest.raises(ValueError, match=r"a.csv, line 2: .*positions, 61.*72 tokens"):
        ka.file_batches(model, path)
    with pytest.raises(ValueError, match=r"positions, 61.*72 tokens in row 2 of 2"):
        model.batches(["a", "a " * 70], [0, 1])
    masked = ka.MaskedLM(parts[0], long)
    with pytest.raises(ValueError, match=r"positions, 61"):
        masked.batches(["a " * 70])
