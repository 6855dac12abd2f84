"""Trainings that were stopped and go on: the weights at the end are the same bits."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from samples import VOCABULARY, small_bert

import keras_attention as ka
from keras_attention.training import checkpoint_files

pytest.importorskip("tensorflow_text")
pytestmark = pytest.mark.tensorflow
SCRIPT = Path(__file__).parents[1] / "resuming.py"
TEXTS = ["the tired animal", "a street", "the", "a b c d e f", "animal !"]


class StoppedError(Exception):
    pass


class StopAt(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise StoppedError


def made(seed, hidden_dim=24, rate=1e-2, use_ema=True):
    """A masked language model with dropout; its batches hide tokens at random."""
    keras.utils.set_random_seed(seed)
    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    backbone = small_bert(num_layers=1, hidden_dim=hidden_dim)
    model = ka.MaskedLM(backbone, tokenizer)
    model.compile(ka.AdamW(rate, use_ema=use_ema), **model.compile_arguments())
    return model, model.batches(TEXTS, batch_size=2, mask_rate=0.4)


def fit(model, batches, *callbacks):
    return model.fit(batches, epochs=3, verbose=0, callbacks=list(callbacks))


def weights(model):
    values = [*model.variables, *model.optimizer.variables]
    return [np.array(value) for value in values]


@pytest.fixture(scope="module")
def expected():
    """The weights of a training that was not stopped."""
    model, batches = made(1)
    fit(model, batches)
    return weights(model)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a training that was stopped after 5 of 9 steps, in epoch 2."""
    folder = tmp_path_factory.mktemp("checkpoints")
    model, batches = made(1)
    checkpoint = ka.TrainingCheckpoint(folder, every_steps=2)
    with pytest.raises(StoppedError):
        fit(model, batches, checkpoint, StopAt(5))
    return folder


def copy_of(folder, to):
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_a_stopped_training_ends_with_the_same_bits(stopped, tmp_path, expected):
    folder = copy_of(stopped, tmp_path / "copy")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["step-000000002.safetensors", "step-000000004.safetensors"]
    model, batches = made(2)  # other weights, dropout and epoch before it goes on
    fit(model, batches, ka.TrainingCheckpoint(folder, every_steps=2))
    for found, value in zip(weights(model), expected, strict=True):
        np.testing.assert_array_equal(found, value)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["step-000000006.safetensors", "step-000000008.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_checkpoint_is_set_aside(stopped, tmp_path, damage):
    folder = copy_of(stopped, tmp_path / "copy")
    for number, name in enumerate(["000000004", "000000002"]):
        path = folder / f"step-{name}.safetensors"
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 1])
        rest = b"" if damage == "cut" else flipped + content[middle + 1 :]
        path.write_bytes(content[:middle] + rest)
        if number == 0:
            with pytest.warns(UserWarning, match="goes on from step-000000002"):
                found = checkpoint_files.newest(folder, True)
            assert found[1].about["place"]["total"] == 2
            assert (folder / f"{path.name}.damaged").is_file()
    with pytest.raises(ValueError, match=r"No checkpoint can be read.*Received"):
        checkpoint_files.newest(folder, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_dim": 48}, "another model or optimizer"),
        ({"use_ema": False}, "use_ema: true, now false"),
        ({"rate": 0.5}, r"learning_rate: 0\.0\d*, now 0\.5"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(stopped, changes, message):
    model, batches = made(2, **changes)
    before = weights(model)[: len(model.variables)]
    with pytest.raises(ValueError, match=message) as error:
        fit(model, batches, ka.TrainingCheckpoint(stopped))
    assert "Received: " in str(error.value)
    assert len(str(error.value)) <= 2000
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_other_data_is_refused(stopped):
    model, _ = made(2)
    batches = model.batches(TEXTS, batch_size=1, mask_rate=0.4)
    with pytest.raises(ValueError, match="batch_size: 2, now 1"):
        fit(model, batches, ka.TrainingCheckpoint(stopped))


@pytest.mark.parametrize("stage", ["os.replace", "safetensors.numpy.save_file"])
def test_a_write_that_fails_leaves_the_checkpoint_before(
    stopped, tmp_path, monkeypatch, stage
):
    folder = copy_of(stopped, tmp_path / "copy")
    content = checkpoint_files.newest(folder, True)[1]

    def fails(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stage, fails)
        with pytest.raises(OSError, match="No space"):
            checkpoint_files.write(folder, 5, content)
    path, _ = checkpoint_files.newest(folder, True)
    assert path.name == "step-000000004.safetensors"
    assert len(list(folder.iterdir())) == 2  # nothing is left of the failed write


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="`keep` and `every_steps` must be at least 1"):
        ka.TrainingCheckpoint("folder", keep=0)
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    unbuilt.compile("sgd", "mse")
    with pytest.raises(ValueError, match="needs a model that is built"):
        unbuilt.fit(
            np.ones((2, 1)),
            np.ones((2, 1)),
            verbose=0,
            callbacks=[ka.TrainingCheckpoint("folder")],
        )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_training_killed_at_40_moments_ends_with_the_same_bits(
    tmp_path, record_property
):
    command = [sys.executable, str(SCRIPT), str(tmp_path), "40"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    counts = json.loads(found.stdout.splitlines()[-1])
    assert counts["kills"] == 40
    assert counts["tasks"] == ["TextClassifier", "MaskedLM", "CausalLM"]
    assert counts["unfinished writes"] > 0  # some were killed while they wrote
    record_property("summary", f"killed and resumed: {counts}")
