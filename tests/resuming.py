"""A script that kills trainings at random moments and lets them go on.

python tests/resuming.py FOLDER KILLS

It imports TensorFlow once, and forks a process for each part of a training. It ends
with an error if a training that was killed has other weights than one that was not.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
import safetensors.numpy
from samples import VOCABULARY

import keras_attention as ka
from keras_attention.training import fine_tuning

TASKS = ["TextClassifier", "MaskedLM", "CausalLM"]
TEXTS = ["the tired animal", "a street", "the", "a b c d e f", "animal !", "tired"]
SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 24}
EPOCHS = 12


def make(name):
    """Make a model with dropout and its batches."""
    keras.utils.set_random_seed(int.from_bytes(os.urandom(3)))
    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    if name == "CausalLM":
        decoder = ka.GPTDecoder(len(VOCABULARY), **SIZES)
        model = ka.CausalLM(decoder, tokenizer)
        return model, model.batches(TEXTS, batch_size=2)
    backbone = ka.BertEncoder(len(VOCABULARY), **SIZES)
    if name == "MaskedLM":
        model = ka.MaskedLM(backbone, tokenizer)
        return model, model.batches(TEXTS, mask_rate=0.4, batch_size=2)
    model = ka.TextClassifier(backbone, ["a", "b"], tokenizer)
    return model, model.batches(TEXTS, [0, 1] * 3, batch_size=2)


class Tell(keras.callbacks.Callback):
    """Writes a byte when the training begins, or after its first step."""

    def __init__(self, pipe, first_step):
        super().__init__()
        self.pipe, self.first_step = pipe, first_step

    def on_train_begin(self, logs=None):
        if not self.first_step:
            os.write(self.pipe, b"x")

    def on_train_batch_end(self, batch, logs=None):
        if logs and self.first_step:  # a step that is left out has no logs
            self.first_step = False
            os.write(self.pipe, b"x")


def arrays(variables):
    """Return the values of variables."""
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def write_slowly(tensors, path, metadata):
    """Write a file of tensors as a slow disk does, in two parts."""
    content = safetensors.numpy.save(tensors, metadata)
    with open(path, "wb") as file:
        for part in (content[: len(content) // 2], content[len(content) // 2 :]):
            file.write(part)
            file.flush()
            time.sleep(0.01)


def train(name, first, folder, out, *, first_step, pipe):
    """Train from the weights of `first`, and write those of the end to `out`."""
    model, batches = make(name)
    if not first.exists():
        np.savez(first, *arrays(model.variables))
    with np.load(first) as values:
        for variable, key in zip(model.variables, values.files, strict=True):
            variable.assign(values[key])
    optimizer = fine_tuning.fine_tuning_optimizer(1e-2, EPOCHS * batches.num_batches)
    model.compile(optimizer, **model.compile_arguments())
    callbacks = [Tell(pipe, first_step)]
    if folder is not None:
        safetensors.numpy.save_file = write_slowly
        callbacks.append(ka.TrainingCheckpoint(folder, every_steps=1))
    model.fit(batches, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    np.savez(out, *arrays(model.variables), *arrays(model.optimizer.variables))


def run(*args, first_step=True, kill_after=None):
    """Train in a forked process; return its exit status and the seconds it trained.

    `kill_after` is the number of seconds from its beginning or after its first step.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            train(*args, first_step=first_step, pipe=theirs)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
    begin = time.monotonic()
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status, time.monotonic() - begin


def main(folder, kills):
    """Kill each task's training a third of the times, and compare."""
    folder, draw = Path(folder), random.Random(0)
    counts = {"tasks": TASKS, "kills": 0, "trainings": 0, "unfinished writes": 0}
    for number, name in enumerate(TASKS):
        first, whole = folder / f"{name} first.npz", folder / f"{name} whole.npz"
        run(name, first, None, whole)
        seconds = run(name, first, folder / f"{name} 0", folder / "other.npz")[1]
        left = kills // 3 + (number < kills % 3)
        while left:
            counts["trainings"] += 1
            checkpoints = folder / f"{name} {counts['trainings']}"
            out = folder / f"{name} {counts['trainings']}.npz"
            # The kills come so early that a training goes on several times.
            for _ in range(left):
                # Some end before the first step, which takes longest.
                moment = {
                    "first_step": draw.random() < 0.85,
                    "kill_after": draw.uniform(0, 0.4 * seconds),
                }
                status, _ = run(name, first, checkpoints, out, **moment)
                if status == 0:
                    break
                left -= 1
                counts["kills"] += 1
                counts["unfinished writes"] += len([*checkpoints.glob(".*.part")])
            else:
                run(name, first, checkpoints, out)
            with np.load(whole) as expected, np.load(out) as found:
                for key in expected.files:
                    np.testing.assert_array_equal(found[key], expected[key])
    print(json.dumps(counts))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
