"""Triton itself, from its wheel, returns what the model computes."""

import concurrent.futures
import json
import re
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from served import small_artifact

TRITON = Path(__file__).parents[2] / "export/triton"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

IDS, WEIGHTS = [[1, 2, 3], [4, 5, 10]], [[0.5, 0.25, 1.0], [2.0, 0.0, -1.0]]
INPUTS = {"token_ids": IDS, "weights": WEIGHTS}


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An environment with Triton and numpy 1; all else comes from this one."""
    pytest.importorskip("tf2onnx")
    place = tmp_path_factory.mktemp("triton") / "environment"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    pip = [place / "bin/python", "-m", "pip", "install", "-q"]
    for packages in (
        ["--no-deps", "nvidia-pytriton==0.7.0"],
        ["numpy==1.26.4", "tritonclient[grpc]>=2.50"],
    ):
        done = subprocess.run([*pip, *packages], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(
                f"{packages[-1]} cannot be installed here: {done.stderr[-300:]}"
            )
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_paths()["purelib"])
    # TensorFlow imports JAX if it is installed, and a new JAX needs a new numpy.
    (packages / "jax.py").write_text("raise ImportError('left out')")
    return place / "bin/python"


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def page(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


@pytest.fixture(scope="module")
def triton(python, tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    models = {}
    for format in ("saved_model", "onnx"):
        for number in (1, 2):
            folder = place / format / str(number)
            models[format, number] = small_artifact(folder, seed=number, format=format)
        make(place / format, place / "repository", "--name", format)
    make(
        place / "saved_model",
        place / "repository",
        "--name",
        "spell",
        "--signature",
        "spell",
    )
    http, grpc, metrics = free_ports(3)
    ports = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    log = place / "log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [python, TRITON / "launch.py", place / "repository", *ports],
            stdout=file,
            stderr=file,
        )
    try:
        end = time.monotonic() + 300
        while not is_ready(http):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.5)
        yield python, grpc, metrics, models
    finally:
        server.terminate()
        server.wait(60)


def make(*arguments):
    command = [sys.executable, TRITON / "make_repository.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def is_ready(port):
    try:
        return page(port, "/v2/health/ready") == ""
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def asked(triton, model, inputs, *options):
    python, port, *_ = triton
    client = [python, TRITON / "client.py", f"127.0.0.1:{port}", model]
    return subprocess.run(
        [*client, json.dumps(inputs), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def answers(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.tensorflow
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("format", ["saved_model", "onnx"])
def test_both_versions_of_both_formats_give_the_numbers_of_the_model(
    triton, format, version
):
    expected = triton[3][format, version](
        **{k: tf.constant(v) for k, v in INPUTS.items()}
    )
    (got,) = answers(asked(triton, format, INPUTS, f"--version={version}"))
    np.testing.assert_allclose(got["vectors"], expected, atol=1e-6)
    if version == 2:
        assert answers(asked(triton, format, INPUTS)) == [got]  # the latest


def test_raw_texts_are_inputs_and_outputs(triton):
    (got,) = answers(asked(triton, "spell", {"text": ["été", "日本語"]}))
    # One value per row is a column in Triton.
    assert got == {"again": [["été!"], ["日本語!"]], "lengths": [[3], [3]]}
    refused = asked(triton, "spell", {"texts": ["a"]})
    assert refused.returncode == 1
    assert "Expected the inputs ['text']" in refused.stderr


@pytest.mark.parametrize("format", ["saved_model", "onnx"])
def test_64_requests_at_once_are_batched_and_one_bad_one_is_refused_alone(
    triton, format, record_property
):
    bad = {**INPUTS, "token_ids": [[1, 2, 3], [4, 5, 11]]}
    before = figures(triton, format)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        good = pool.submit(asked, triton, format, INPUTS, "--copies=64")
        refused = pool.submit(asked, triton, format, bad).result()
    got = answers(good.result())
    (alone,) = answers(asked(triton, format, INPUTS))
    assert len(got) == 64
    for answer in got:
        np.testing.assert_allclose(answer["vectors"], alone["vectors"], atol=1e-6)
    assert refused.returncode == 1
    assert "'token_ids' must be in [0, 11)" in refused.stderr
    requests, runs = (
        a - b for a, b in zip(figures(triton, format), before, strict=True)
    )
    record_property("summary", f"Triton, {format}: {requests} requests in {runs} runs")
    assert requests >= 65
    assert runs < requests / 2


def figures(triton, model):
    """The number of requests that succeeded, and how often the model ran."""
    text = page(triton[2], "/metrics")
    pattern = r'^nv_inference_{}{{model="{}",.*}} (\d+)$'
    return [
        sum(map(int, re.findall(pattern.format(name, model), text, re.M)))
        for name in ("request_success", "exec_count")
    ]
