"""Memory and time of a training step of BERT with `remat=True` and without.

    python -m benchmarks.remat                12 layers, 4 x 512 tokens; minutes, 8 GB
    python -m benchmarks.remat --layers 4     a smaller model

Each model trains in a fresh process, by `train_on_batch`, a step of `fit`. Both
processes take their steps in turn, so that the ratio is not one of the machine's load.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

HIDDEN, HEADS, INTERMEDIATE, VOCABULARY = 768, 12, 3072, 30522


def step(remat: bool, layers: int, batch: int, length: int) -> None:
    """Trains one step per line of the input; prints seconds and peak bytes of each."""
    import keras
    import numpy as np

    import keras_attention as ka

    keras.utils.set_random_seed(1)
    sizes = (VOCABULARY, layers, HEADS, HIDDEN, INTERMEDIATE)
    model = ka.TextClassifier(ka.BertEncoder(*sizes, remat=remat), ["a", "b"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss=loss)
    draw = np.random.default_rng(0)
    ids = draw.integers(0, VOCABULARY, (batch, length))
    labels = draw.integers(0, 2, batch)
    weights = _peak()
    for _ in sys.stdin:
        start = time.perf_counter()
        found = model.train_on_batch(ids, labels)
        seconds = time.perf_counter() - start
        print(seconds, _peak(), weights, float(found), flush=True)


def _peak() -> int:
    """Returns the largest memory of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    """Measures both, and prints the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--child", choices=["plain", "remat"])
    given = parser.parse_args()
    if given.child:
        step(given.child == "remat", given.layers, given.batch, given.length)
        return
    found: dict[str, list[list[float]]] = {"plain": [], "remat": []}
    children = {}
    for name in found:
        command = [sys.executable, "-m", "benchmarks.remat", *sys.argv[1:]]
        children[name] = subprocess.Popen(
            [*command, "--child", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    for _ in range(given.rounds + 1):  # the first step traces
        for name, child in children.items():
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("\n")
            child.stdin.flush()
            line = child.stdout.readline()
            found[name].append([float(number) for number in line.split()])
    for child in children.values():
        child.communicate()
    plain, remat = found["plain"], found["remat"]
    pairs = zip(plain[1:], remat[1:], strict=True)
    ratio = median(again[0] / once[0] for once, again in pairs)
    gigabytes = [steps[-1][1] / 1e9 for steps in (plain, remat)]
    print(f"{given.layers} layers, {given.batch} x {given.length} tokens")
    print(f"peak {gigabytes[0]:.2f} GB, with remat {gigabytes[1]:.2f} GB", end=": ")
    print(f"{gigabytes[1] / gigabytes[0]:.0%}")
    added = [(steps[-1][1] - steps[0][2]) / 1e9 for steps in (plain, remat)]
    print(f"of it in training {added[0]:.2f} and {added[1]:.2f} GB", end=": ")
    print(f"{added[1] / added[0]:.0%}")
    print(f"time of a step {ratio:.2f} x; losses {plain[0][3]:.7f}, {remat[0][3]:.7f}")


if __name__ == "__main__":
    main()
