"""The memory that loading takes in addition to the weights."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import keras_attention as ka
from keras_attention.weights import llama_hf

# Runs in a separate process: imports first, then a small model, for which TensorFlow
# allocates what it needs once. The peak above the memory then in use is due to loading.
SCRIPT = """
import re, resource, sys
import keras_attention as ka
def peak():  # not ru_maxrss: a process inherits that of the one that started it
    status = open("/proc/self/status").read()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024
ka.from_pretrained(sys.argv[1])
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
model = ka.from_pretrained(sys.argv[2])
print(peak() - before, sum(int(w.numpy().nbytes) for w in model.weights))
"""


def write(folder, layers, hidden, feed_forward, shards):
    """A random Llama: its config.json and shards, written one layer at a time."""
    sizes = {
        "vocabulary_size": 8192,
        "num_heads": 8,
        "intermediate_dim": feed_forward,
        "hidden_dim": hidden,
    }
    settings = {
        "position": "rotary",
        "normalization": "rms",
        "activation": "silu",
        "gated": True,
        "use_bias": False,
    }
    small = ka.GPTDecoder(num_layers=1, **sizes, **settings)
    config = llama_hf.config_of(small) | {"num_hidden_layers": layers}
    shapes = {rule.tensor: rule.shape for rule in llama_hf.rules(small)}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    rng, places, written = np.random.default_rng(1), {}, 0
    for layer in range(layers):
        tensors = {}
        for name, shape in shapes.items():
            of_layer = name.startswith("layers.0.")
            if of_layer or layer == 0:
                name = name.replace("layers.0.", f"layers.{layer}.")  # noqa: PLW2901
                tensors["model." + name] = rng.random(shape, "float32") - 0.5
        file = f"model-{layer + 1:05d}-of-{layers:05d}.safetensors"
        if not shards:
            file = "model.safetensors"
        save_file(tensors, folder / file)
        places |= dict.fromkeys(tensors, file)
        written += sum(tensor.nbytes for tensor in tensors.values())
    if shards:
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return written


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux' /proc")
@pytest.mark.timeout(900)
def test_loading_a_gigabyte_peaks_at_little_more_than_a_gigabyte(
    tmp_path, record_property
):
    write(tmp_path / "small", 1, 64, 128, shards=False)
    written = write(tmp_path / "large", 14, 1024, 4864, shards=True)
    assert written > 1e9
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "small", tmp_path / "large"],
        capture_output=True,
        text=True,
        check=True,
    )
    peak, weights = map(int, done.stdout.split())
    assert weights == written
    record_property(
        "summary",
        f"loading {weights / 1e9:.2f} GB of weights takes {peak / 1e9:.2f} GB: "
        f"{peak / weights:.2f} times",
    )
    assert peak <= 1.3 * weights
