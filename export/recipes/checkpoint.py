"""Exports a checkpoint as SavedModel and ONNX: python checkpoint.py MODEL OUT.

MODEL is a Hugging Face folder or a name on the hub. Writes OUT/served/1, a SavedModel
with every signature, and OUT/onnx; then runs both on the same inputs.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import keras_attention as ka


def example_inputs(signature, length=5):
    """Returns ids within the limits, without padding."""
    inputs = {}
    for name, info in signature["inputs"].items():
        limit = signature["limits"].get(name, 2)
        array = np.arange(length) * 7 % limit
        inputs[name] = (array[None] if limit > 2 else np.ones((1, length))).astype(
            info["dtype"]
        )
    return inputs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    model = ka.from_pretrained(given.model)
    saved = ka.export_model(model, given.out / "served", on_progress=print)
    onnx = ka.export_model(model, given.out / "onnx", "onnx", on_progress=print)
    signatures = json.loads((onnx / "manifest.json").read_text())["signatures"]
    for name, signature in signatures.items():
        inputs = example_inputs(signature)
        with ka.open_artifact(saved) as one, ka.open_artifact(onnx, name) as other:
            answers, others = one.run(name, **inputs), other.run(name, **inputs)
        for output, answer in answers.items():
            error = np.abs(answer - others[output]).max()
            print(f"{name} {output} {list(answer.shape)}: differs by {error:.1e}")


if __name__ == "__main__":
    main()
