import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from samples import minilm_folder, small_bert
from typer.testing import CliRunner

import keras_attention as ka
from keras_attention.cli.main import app

pytest.importorskip("onnxruntime")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    keras.utils.set_random_seed(5)
    folder = tmp_path_factory.mktemp("hf") / "bert"
    ka.save_pretrained(small_bert(), folder)
    return folder


@pytest.fixture(scope="module")
def artifact(bert_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "onnx"
    result = run("export", bert_folder, out, "--format", "onnx")
    assert result.exit_code == 0, result.output
    return out, result.output


@pytest.mark.parametrize(
    "command",
    [[], ["demo"], ["export"], ["verify"], ["info"], ["scan"], ["publish"], ["serve"]],
    ids=str,
)
def test_help_loads_neither_tensorflow_nor_keras(command):
    code = f"""
import sys
from keras_attention.cli.main import app
try:
    app({[*command, "--help"]!r})
except SystemExit as stop:
    assert not stop.code, stop.code
loaded = {{"tensorflow", "keras", "numpy", "onnxruntime"}} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout


def test_the_version_is_the_packages():
    assert run("--version").output == f"keras-attention {ka.__version__}\n"


def test_export_prints_the_table_and_where_the_artifact_is(artifact):
    folder, output = artifact
    assert "serving_default" in output
    assert "ONNX Runtime" in output
    assert folder.name in output
    assert (folder / "serving_default.onnx").is_file()


def test_verify_passes_and_prints_json_for_programs(artifact):
    result = run("verify", artifact[0], "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.output)
    assert printed["passed"]
    assert len(printed["results"]) == 20


def test_verify_fails_with_status_1_when_the_tolerance_is_not_met(artifact):
    result = run("verify", artifact[0], "--tolerance", "1e-12")
    assert result.exit_code == 1
    assert "is off by" in result.output
    assert "FAILED" in result.output


def test_verify_lists_every_case_on_demand(artifact):
    result = run("verify", artifact[0], "--all")
    assert result.output.count("ONNX Runtime") == 20


def test_verify_names_a_damaged_file(artifact, tmp_path):
    copy = shutil.copytree(artifact[0], tmp_path / "copy")
    (copy / "verification.npz").write_bytes(b"no")
    result = run("verify", copy)
    assert result.exit_code == 1
    assert "verification.npz" in result.output.replace("\n", "")


def test_info_describes_an_artifact_with_its_axes(artifact):
    result = run("info", artifact[0])
    assert "token_ids: int32 [batch, sequence]" in result.output
    printed = json.loads(run("info", artifact[0], "--json").output)
    assert printed["format"] == "onnx"
    assert printed["signatures"]["serving_default"]["outputs"]["pooled_output"] == (
        "float32 [batch, 33]"
    )
    assert printed["verified"].startswith("20 cases")


def test_info_describes_a_hugging_face_folder(bert_folder):
    printed = json.loads(run("info", bert_folder, "--json").output)
    model = ka.from_pretrained(bert_folder)
    assert printed["tensors"] == (
        f"{len(model.weights)} with {model.count_params():,} numbers"
    )
    assert printed["config"]["model_type"] == "bert"


def test_info_and_export_take_keras_files(tmp_path):
    path = tmp_path / "model.keras"
    model = small_bert(pooler=False)
    model.save(path)
    printed = json.loads(run("info", path, "--json").output)
    assert printed["class"] == "keras_attention>BertEncoder"
    result = run("export", path, tmp_path / "out", "-f", "onnx", "--json")
    assert result.exit_code == 0, result.output
    assert all(case["passed"] for case in json.loads(result.output)["verification"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "no/such/folder", "out"], "no/such/folder"),
        (["verify", "no/such/folder"], "no/such/folder"),
        (["info", "no/such/folder"], "no/such/folder"),
        (["serve", "no/such/folder"], "no/such/folder"),
        (["demo", "--weights", "no/such/folder"], "no/such/folder"),
    ],
)
def test_a_wrong_path_is_one_clear_message(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 1
    assert "Error:" in result.output
    assert words in result.output.replace("\n", "")
    assert "Traceback" not in result.output


def test_a_damaged_keras_file_is_one_clear_message(tmp_path):
    path = tmp_path / "broken.keras"
    path.write_bytes(b"PK not a zip")
    assert "complete .keras archive" in run("info", path).output.replace("\n", " ")


def test_an_existing_folder_is_refused_and_stays(artifact, bert_folder):
    before = {p.name: p.read_bytes() for p in artifact[0].iterdir()}
    result = run("export", bert_folder, artifact[0], "--format", "onnx")
    assert result.exit_code == 1
    assert {p.name: p.read_bytes() for p in artifact[0].iterdir()} == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_runs_all_five_steps(tmp_path):
    minilm_folder()
    done = subprocess.run(
        [sys.executable, "-m", "keras_attention.cli.main", "demo", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["checkpoint"]["read"] == 103
    for row in printed["similarities"]:
        np.testing.assert_allclose(row["here"], row["published"], atol=5e-4)
    assert set(printed["artifacts"]) == {"saved_model", "onnx"}
    for answer in printed["search"]:
        assert len(answer["top"]) == 3
        for top in answer["top"]:
            np.testing.assert_allclose(top["saved_model"], top["onnx"], atol=1e-5)
    assert printed["attention"]["weight"] > 0.3
    picture = (tmp_path / printed["attention"]["picture"]).read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_scan_prints_operators_and_refuses_with_status_1(artifact, tmp_path):
    printed = json.loads(run("scan", artifact[0], "--json").output)
    assert printed["checksums"]
    assert "MatMul" in printed["operators"]
    copy = shutil.copytree(artifact[0], tmp_path / "copy")
    (copy / "extra").write_text("x")
    result = run("scan", copy)
    assert result.exit_code == 1
    assert "extra is extra" in result.output


def test_rollback_and_restore_print_the_version_that_is_served(tmp_path):
    for name in ("2", "3"):
        (tmp_path / name).mkdir()
    printed = json.loads(run("rollback", tmp_path, "--json").output)
    assert printed == {"base": str(tmp_path), "served": 2, "withdrawn": [3]}
    assert (tmp_path / "3.withdrawn").is_dir()
    printed = json.loads(run("restore", tmp_path, "--json").output)
    assert printed == {"base": str(tmp_path), "served": 3, "restored": [3]}
    assert run("rollback", tmp_path, "--to", 5).exit_code == 1


def test_an_error_is_also_json_where_json_is_asked_for(tmp_path):
    for command in (["info"], ["verify"], ["scan"], ["export", "--json", "x"]):
        result = run(*command, tmp_path / "nothing", "--json")
        assert result.exit_code == 1
        printed = json.loads(result.stdout)
        assert (
            printed["error"].endswith(str(tmp_path / "nothing"))
            or "x" in printed["error"]
        )
        assert printed["type"] in ("ValueError", "FileNotFoundError")
        assert result.stderr.startswith("Error: ")


def test_scan_says_in_words_which_files_it_reads(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    result = run("scan", tmp_path / "notes.txt")
    assert result.exit_code == 1
    assert "ends in .onnx, .tflite, .keras" in result.output
    assert "Errno" not in result.output


def test_info_of_a_keras_file_is_readable(tmp_path):
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(7, 4)(tokens)
    x = ka.MultiHeadAttention(2, 2)(x, x)
    model = keras.Model(tokens, keras.layers.Dense(3)(keras.layers.Dense(2)(x)))
    model.save(tmp_path / "m.keras")
    said = run("info", tmp_path / "m.keras").output
    assert "tokens: int32 [?, ?]" in said
    assert "  Dense: 2\n" in said
    assert "  MultiHeadAttention: 1\n" in said
    assert "{" not in said  # no raw dict
    small_bert().save(tmp_path / "bert.keras")
    said = run("info", tmp_path / "bert.keras").output
    assert "hidden_dim: 33" in said
    assert "{" not in said


def printed(width, *arguments):
    """What `print_table` writes to a terminal of that width."""
    import io

    from rich.console import Console

    from keras_attention.cli import console as module

    screen = io.StringIO()
    before = module.console
    module.console = Console(
        file=screen, width=width, force_terminal=True, color_system=None
    )
    try:
        module.print_table(*arguments)
    finally:
        module.console = before
    return screen.getvalue()


@pytest.mark.parametrize("width", [20, 60, 200])
def test_a_table_cuts_no_name_and_no_number(width):
    names = ["served/minilm-int8-with-a-long-name", "ONNX Runtime", "0.99904", "no"]
    headings = ["artifact", "runtime", "worst cosine", "close"]
    said = printed(width, headings, [names, ["", "", "0.5", ""]])
    assert "…" not in said
    for name in names:
        assert name in said
    assert len(said.splitlines()) == (3 if width == 200 else 5)


def test_a_table_in_a_pipe_has_the_width_it_needs(artifact):
    said = run("verify", artifact[0], "--all").output
    rows = [line for line in said.splitlines() if line.startswith("serving_default  ")]
    assert len(rows) == 20
    assert all(row.endswith("✓") for row in rows)


def test_where_every_error_is_zero_no_case_is_the_worst(capsys):
    from keras_attention.cli.verify import print_results

    result = {
        "signature": "f",
        "runtime": "session",
        "case": "batch 1, length 1",
        "passed": True,
        "max_abs_error": 0.0,
    }
    worse = {**result, "max_abs_error": 1e-7, "case": "batch 3"}
    print_results([result])
    assert "batch" not in capsys.readouterr().out
    print_results([result, worse])
    assert "batch 3" in capsys.readouterr().out
    print_results([{**result, "passed": False, "reason": "names differ"}])
    assert "batch 1" in capsys.readouterr().out


def test_stages_are_told_after_two_seconds(capsys, monkeypatch):
    import time

    from keras_attention.cli import console as module

    monkeypatch.setattr(module, "_SILENT_SECONDS", 0.1)
    with module.working("Reading") as update:
        update("Writing")
        assert capsys.readouterr().err == ""
        time.sleep(0.3)
        update("Checking")
        update("Checking")
    assert capsys.readouterr().err == "Writing …\nChecking …\n"
    with module.working("Reading", quiet=True) as update:
        time.sleep(0.2)
        update("Writing")
    assert capsys.readouterr().err == ""
