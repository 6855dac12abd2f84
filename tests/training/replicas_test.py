"""Training on several devices and in several processes, as on one device."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_attention as ka
from keras_attention.training.launcher import free_ports, launch

pytest.importorskip("tensorflow_text")
pytestmark = pytest.mark.tensorflow
SCRIPT = Path(__file__).parents[1] / "replicas.py"
# A last batch of one row of five, or of three of seven.
NAMES = [
    "BertEncoder:7",
    "CausalLM",
    "ImageClassifier:7",
    "MaskedLM:7",
    "NextSentence:5",
    "QuestionAnswerer:5",
    "SentenceEncoder:5",
    "Seq2SeqLM:7",
    "T5:5",
    "TextClassifier",
    "TextScorer:7",
    "TokenClassifier:5",
]


def assert_equal(found, expected):
    """Compare two trainings, except the weights of models that were made apart."""
    for name in ("history", "evaluate", "predict"):
        pairs = zip(
            keras.tree.flatten(found[name]),
            keras.tree.flatten(expected[name]),
            strict=True,
        )
        assert max(abs(one - other) for one, other in pairs) <= 1e-6, name
    assert found["shape"] == expected["shape"]


def on_two_devices(folder, *names):
    command = [sys.executable, str(SCRIPT), "local", str(folder), *names]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = json.loads((folder / "0.json").read_text("utf-8"))
    ones = [name for name in found if name.endswith(" one")]
    assert ones
    for name in ones:
        assert_equal(found[name.replace(" one", " two")], found[name])
    return found


def test_two_devices_train_as_one_where_a_batch_has_one_row(tmp_path):
    on_two_devices(tmp_path, "CausalLM:5")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_models_train_on_two_devices_and_in_two_processes_as_on_one(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    expected = on_two_devices(here, *NAMES)
    lines = []
    status = launch(SCRIPT, ["worker", str(there), *NAMES], write=lines.append)
    assert status == 0, lines[-30:]
    first, second = (json.loads((there / f"{i}.json").read_text()) for i in (0, 1))
    assert first == second  # every bit of the weights too
    assert len(first) == len(NAMES) + 2
    for name, values in first.items():
        assert_equal(values, expected[name.replace(" worker", " one")])
    model = ka.load_model(there / "CausalLM 7.keras")
    ids = [[5, 3], [6, 3, 7], [7, 3, 7, 8], [8, 3, 7, 8, 9], [9, 3], [10, 3, 7]]
    batches = model.batches([*ids, [11, 3, 7, 8]], batch_size=7, shuffle=False)
    outputs = model.predict_on_batch(batches[0][0])
    np.testing.assert_allclose(
        outputs.ravel()[:40], first["CausalLM 7 worker"]["predict"], rtol=0, atol=1e-6
    )


def checkpointed(folder, lost=0):
    """The lines of both workers of a training that ends well."""
    lines = []
    status = launch(SCRIPT, ["checkpoints", str(folder), str(lost)], write=lines.append)
    assert status == 0, lines[-30:]
    return sorted(line for line in lines if "begins with" in line or "weights" in line)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_when_a_worker_is_lost_the_other_ends_and_both_go_on(tmp_path, record_property):
    places = [f"localhost:{port}" for port in free_ports(2)]
    workers = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": places}, "task": task})
        workers.append(
            subprocess.Popen(
                [sys.executable, str(SCRIPT), "checkpoints", str(tmp_path / "a"), "5"],
                env={**os.environ, "TF_CONFIG": config},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    workers[1].communicate(timeout=600)
    assert workers[1].returncode == -9
    begin = time.monotonic()
    said = workers[0].communicate(timeout=120)[1]
    seconds = time.monotonic() - begin
    record_property("summary", f"the other worker ended after {seconds:.1f} s")
    assert seconds < 60
    assert workers[0].returncode != 0
    assert "Error" in said
    after = checkpointed(tmp_path / "a")
    # It was lost after step 5 of 8, and step 4 is in the newest checkpoint.
    assert after[:1] + after[2:3] == ["[0] begins with 4", "[1] begins with 4"]
    whole = checkpointed(tmp_path / "b")
    assert after[1::2] == whole[1::2]
    assert len({line.split()[-1] for line in after[1::2]}) == 1
