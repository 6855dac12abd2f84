"""The commands of every README of export/ run, line by line, in their own folder.

A copy of export/ stands in an empty folder, in which `../../minilm-onnx` is written.
What a README installs is there already, and Docker is not: `pip` and `npm` do nothing,
and in place of `docker compose` the development server runs, as that README says.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import keras
import pytest
from from_transformers_test import gpt2
from samples import minilm_folder

ROOT = Path(__file__).parents[2]
EXPORT = ROOT / "export"
BASH = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MAKES = ("keras-attention", "python3", "pip", "npm", "docker")
pytestmark = [pytest.mark.slow, pytest.mark.tensorflow, pytest.mark.timeout(900)]


def lines_of(folder):
    text = (EXPORT / folder / "README.md").read_text(encoding="utf-8")
    return [line for block in BASH.findall(text) for line in block.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a copy of export/ and the models that the READMEs name."""
    for package in ("tf2onnx", "onnxruntime", "tokenizers", "tensorflow_text"):
        pytest.importorskip(package)
    minilm = minilm_folder()
    place = tmp_path_factory.mktemp("readmes")
    shutil.copytree(
        EXPORT, place / "export", ignore=shutil.ignore_patterns("node_modules")
    )
    programs = place / "programs"
    programs.mkdir()
    python = f'exec "{sys.executable}" "$@"'
    scripts = dict.fromkeys(MAKES, "exit 0")
    scripts["python3"] = python
    scripts["keras-attention"] = python.replace(
        '"$@"', '-m keras_attention.cli.main "$@"'
    )
    for name, line in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    keras.utils.set_random_seed(1)
    gpt2(place / "gpt2")
    for folder in (EXPORT / "clients").parent.iterdir():
        if folder.is_dir():
            target = place / "export" / folder.name / "path" / "to"
            target.mkdir(parents=True)
            (target / "all-MiniLM-L6-v2").symlink_to(minilm)
            (target / "gpt2").symlink_to(place / "gpt2")
    return place


def run(place, folder, line):
    """Runs one line of a README in its folder, and returns what it printed."""
    path = f"{place / 'programs'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=place / "export" / folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-500:]}\n{done.stderr[-2000:]}"
    return done.stdout


@contextlib.contextmanager
def background(place, folder, line, address):
    """Runs a server in the background until it answers; ends it afterwards."""
    path = f"{place / 'programs'}{os.pathsep}{os.environ['PATH']}"
    server = subprocess.Popen(
        ["bash", "-c", f"exec {line}"],
        cwd=place / "export" / folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(240):
            with contextlib.suppress(OSError), urllib.request.urlopen(address):
                break
            assert server.poll() is None, f"{line} ended"
            time.sleep(0.5)
        else:
            pytest.fail(f"{line} did not answer at {address}")
        yield
    finally:
        server.terminate()
        server.wait()


def skip_if_taken(port):
    with socket.socket() as one:
        if one.connect_ex(("127.0.0.1", port)) == 0:
            pytest.skip(f"port {port} of this machine is taken")


def test_the_clients(place):
    said = {line: run(place, "clients", line) for line in lines_of("clients")}
    (similar,) = (out for line, out in said.items() if "--similar" in line)
    assert similar.startswith("1.0000  A man is eating.\n0.")
    assert sum("text_generation.py" in line for line in said) == 3
    (ids,) = (out for line, out in said.items() if "onnx_client.py" in line)
    assert '"sentence_embedding": [[' in ids


def test_the_recipes(place):
    said = {line: run(place, "recipes", line) for line in lines_of("recipes")}
    (compared,) = (out for line, out in said.items() if "checkpoint.py" in line)
    assert "differs by" in compared
    (right,) = (out for line, out in said.items() if "keras_model.py" in line)
    assert int(re.search(r"(\d+)% right", right)[1]) > 80


def test_tf_serving(place):
    for package in ("starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(package)
    skip_if_taken(8501)
    export, docker, ask = lines_of("tf_serving")
    assert docker == "docker compose up -d"
    run(place, "tf_serving", export)
    page = (EXPORT / "tf_serving" / "README.md").read_text(encoding="utf-8")
    serve = re.search(r"`(keras-attention serve [^`]*)`", page)[1]
    address = "http://localhost:8501/v1/models/minilm"
    with background(place, "tf_serving", serve, address):
        assert '"outputs"' in run(place, "tf_serving", ask)
        assert '"outputs"' in run(place, "tf_serving", ask.replace("8501", "8501/"))
        grpc = re.search(r"`(grpc_client.py [^`]*)`", page)[1]
        if "tensorflow_serving" in sys.modules or _has("tensorflow_serving"):
            run(place, "tf_serving", f"python3 {grpc}")


def _has(package):
    import importlib.util

    return importlib.util.find_spec(package) is not None


def test_the_page_of_the_browser(place):
    skip_if_taken(8000)
    export, install, serve = lines_of("web")
    run(place, "web", export)
    assert install.startswith("npm ci")
    with (
        background(place, "web", serve, "http://localhost:8000/artifact/manifest.json"),
        urllib.request.urlopen("http://localhost:8000") as answer,
    ):
        assert b"page.js" in answer.read()
    # The block of JavaScript asks for a signature and inputs that the artifact has.
    page = (EXPORT / "web" / "README.md").read_text(encoding="utf-8")
    name, inputs = re.search(
        r'artifact\.ask\("(\w+)", \{(.*?)\}\)', page, re.S
    ).groups()
    import keras_attention as ka

    with ka.open_artifact(place / "export" / "web" / "artifact") as artifact:
        described = artifact.signatures[name]
    assert re.findall(r"(\w+):", inputs) == [*described.inputs]
    drawn = re.search(r"outputs\.(\w+)", page)[1]
    assert drawn in described.outputs


def test_the_repository_of_triton(place):
    """triton_test.py does the rest of that README, where its wheel is installed."""
    (install, line, ask) = lines_of("triton")
    assert "nvidia-pytriton" in install
    assert ask.startswith("triton/bin/python client.py")
    make, launch = line.split(" && ")
    assert launch.startswith("triton/bin/python launch.py repository")
    if not (place / "served" / "minilm").exists():
        run(place, "tf_serving", lines_of("tf_serving")[0])
    run(place, "triton", make)
    assert (place / "export/triton/repository/minilm/config.pbtxt").is_file()


def test_the_program_in_c(place):
    for program in ("make", "gcc"):
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
    build, ops, ask = (line.replace("../../.venv/bin/python", sys.executable)
                       for line in lines_of("native"))  # fmt: skip
    if not (place / "served" / "minilm").exists():
        run(place, "tf_serving", lines_of("tf_serving")[0])
    ask = ask.replace("path/to/saved_model/1", "../../served/minilm/1")
    ask = ask.replace("OUTPUT", "sentence_embedding")
    run(place, "native", build)
    said = run(place, "native", f"{ops}\n{ask}")
    assert len(said.splitlines()) == 2


def test_every_folder_with_a_readme_is_followed():
    folders = {page.parent.name for page in EXPORT.glob("*/README.md")}
    source = Path(__file__).read_text(encoding="utf-8")
    for folder in folders:
        assert f'lines_of("{folder}")' in source, folder
