"""A wrong path, a server that is not there, bad JSON: one clear line each."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

EXPORT = Path(__file__).parents[2] / "export"


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, EXPORT / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:{port}", "No server answers at http://127.0.0.1:"),
        ("http://127.0.0.1:{port}/", "refused"),
        ("localhost:{port}", "Expected a URL such as http://localhost:8501"),
    ],
)
def test_rest_client_says_in_one_line_that_nobody_answers(url, reason):
    url = url.format(port=free_port())
    done = run("tf_serving/rest_client.py", url, "m", '{"text": ["x"]}')
    assert done.returncode == 1
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("script", "arguments", "reason"),
    [
        ("onnx_client.py", ["nowhere", "{}"], "manifest.json. Received: nowhere"),
        ("onnx_client.py", ["nowhere", "{x}"], "this is not JSON"),
        ("onnx_client.py", ["nowhere", "[1]"], "expected an object"),
        (
            "sentence_embedding.py",
            ["nowhere", "tokenizer.json", "text"],
            "manifest.json. Received: nowhere",
        ),
        ("text_generation.py", ["nowhere", "Once"], "Received: nowhere"),
    ],
)
def test_a_wrong_path_is_one_clear_line(script, arguments, reason):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tokenizers")
    done = run(f"clients/{script}", *arguments)
    assert done.returncode
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_inputs_that_do_not_fit_are_refused_in_words(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(str(EXPORT / "clients"))
    import onnx_client

    info = {"dtype": "int32", "shape": ["batch", "sequence"]}
    for value, reason in (
        ([[1, 2], [3]], "rows of different lengths"),
        ([["a"]], "no numbers"),
        ([1, 2], r"as \[batch, sequence\]. Received: 1 axes"),
    ):
        with pytest.raises(SystemExit, match=reason):
            onnx_client._array("token_ids", value, info)
    assert onnx_client.inputs_of(json.dumps({"a": [1]})) == {"a": [1]}
