"""`keras-attention fine-tune`, from files to a folder that the other commands take."""

import json
import re
import xml.dom.minidom

import keras
import pytest
from samples import VOCABULARY, eagerly, small_bert
from typer.testing import CliRunner

import keras_attention as ka
from keras_attention.cli.main import app

pytest.importorskip("tensorflow_text")
pytestmark = pytest.mark.tensorflow
TEXTS = ["the animal", "tired!", "the street", "a cab", "b c d", "tired e"] * 5
WORDS = [text.split() for text in TEXTS]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder with a small encoder, as the hub has them."""
    keras.utils.set_random_seed(0)
    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    model = ka.MaskedLM(small_bert(num_layers=1), tokenizer)
    folder = tmp_path_factory.mktemp("source") / "model"
    ka.save_pretrained(model, folder)
    return folder


def run(*arguments):
    with eagerly():
        return CliRunner().invoke(app, ["fine-tune", *map(str, arguments)])


def as_jsonl(path, **columns):
    rows = zip(*columns.values(), strict=True)
    objects = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    path.write_text("\n".join(objects), encoding="utf-8")
    return path


def test_a_csv_becomes_a_model_that_loads_with_its_report(source, tmp_path):
    lines = [f"{text},{'x<b>' if 't' in text else 'y'}" for text in TEXTS]
    data = tmp_path / "a.csv"
    data.write_text("review,label\n" + "\n".join(lines), encoding="utf-8")
    out = tmp_path / "out"
    settings = ["--set", "epochs=2", "--set", "batch_size=8", "--column", "text=review"]
    found = run(source, data, out, *settings, "--hold-out", "0.3", "--json")
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    saved = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert saved == report
    examples = report["examples"]
    assert examples["trained"] + examples["held_out"] == 30
    assert 2 < examples["held_out"] < 18
    assert len(report["history"]["val_loss"]) == 2
    assert len(report["curve"]) == 2 * -(-examples["trained"] // 8)
    assert report["settings"]["epochs"] == 2
    page = (out / "report.html").read_text(encoding="utf-8")
    (curve,) = re.findall("<svg.*</svg>", page)
    drawn = xml.dom.minidom.parseString(curve)
    (line,) = drawn.getElementsByTagName("polyline")
    assert len(line.getAttribute("points").split()) == len(report["curve"])
    assert len(drawn.getElementsByTagName("circle")) == 2
    model = ka.from_pretrained(report["path"])
    assert model.labels == ("x<b>", "y") == tuple(report["labels"])
    again = run(source, data, out, *settings)
    assert again.exit_code == 1
    assert "nothing is overwritten" in " ".join(again.output.split())


CASES = {
    "tag": {"words": WORDS, "tags": [["B-x"] + ["O"] * (len(x) - 1) for x in WORDS]},
    "answer": {"question": TEXTS, "context": TEXTS, "answer": [x[0] for x in WORDS]},
    "embed": {"text": TEXTS, "text_pair": TEXTS[::-1]},
    "fill": {"text": TEXTS},
}


@pytest.mark.slow
@pytest.mark.parametrize("task", CASES)
def test_each_task_of_an_encoder_is_trained_and_saved(task, source, tmp_path):
    data = as_jsonl(tmp_path / "a.jsonl", **CASES[task])
    call = [source, data, tmp_path / "out", "-t", task, "--set", "epochs=2"]
    score = {"tag": "f1", "answer": "f1", "embed": "recall_at_1", "fill": "perplexity"}
    watch = ["--set", "early_stopping=1", "--set", f"monitor=val_{score[task]}"]
    found = run(*call, *watch)
    assert found.exit_code == 0, found.output
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert type(ka.from_pretrained(report["path"])).__name__ == report["model"]
    assert report["settings"]["batch_size"] == (8 if task == "fill" else 32)
    assert score[task] in report["scores"]
    assert f"val_{score[task]}" in report["history"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["generate", "translate"])
def test_models_that_write_text_are_trained_on(task, tmp_path):
    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    if task == "generate":
        decoder = ka.GPTDecoder(len(VOCABULARY), 1, 2, 8, 12)
        model, columns = ka.CausalLM(decoder, tokenizer), {"text": TEXTS}
    else:
        pytest.importorskip("sacrebleu")
        backbone = ka.RecurrentSeq2Seq(len(VOCABULARY), embedding_dim=4, hidden_dim=8)
        model = ka.Seq2SeqLM(backbone, tokenizer)
        columns = {"source": TEXTS, "target": TEXTS}
    model.save(tmp_path / "model.keras")
    data = as_jsonl(tmp_path / "a.jsonl", **columns)
    call = [tmp_path / "model.keras", data, tmp_path / "out", "-t", task]
    found = run(*call, "--set", "epochs=1")
    assert found.exit_code == 0, found.output
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    loaded = report["path"]
    keras_file = loaded.endswith(".keras")
    loaded = ka.load_model(loaded) if keras_file else ka.from_pretrained(loaded)
    assert type(loaded) is type(model)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text,label\n", (), "no examples"),
        ("a,b\nx,y\n", (), "line 2: there is no column 'text'"),
        ("text,label\na,x\nb,x\n", (), "same label"),
        ("text,label\na,x\n,y\n", (), "line 3: the column 'text'"),
        ("text,label\na,x\nb,y\n", ("--set", "speed=3"), "must be one of batch_size"),
        ("text,label\na,x\nb,y\n", ("--set", "epochs"), "a name and a value"),
        ("text,label\na,x\nb,y\n", ("-t", "sing"), "must be one of classify, tag"),
        ("text,label\na,x\nb,y\n", ("-t", "generate"), "needs a model that writes"),
        ("text,label\na,x\nb,y\n", ("--hold-out", "0"), "not trained on"),
        ("text,label\na,x\nb,y\n", ("--set", "learning_rate=NaN"), "not finite"),
    ],
)
def test_what_cannot_be_trained_is_one_error_and_nothing_is_written(
    content, options, message, source, tmp_path
):
    data = tmp_path / "a.csv"
    data.write_text(content, encoding="utf-8")
    out = tmp_path / "out"
    settings = ["--validation", data] if "NaN" in str(options) else []
    found = run(source, data, out, *options, *settings)
    assert found.exit_code == 1
    assert message in " ".join(found.output.split())
    assert "Received: " in found.output
    assert not out.exists()
