"""From a layer to a served model: build, train, export twice, run both artifacts.

The task: are 64 characters from Python's source code or from its documentation?
The model is a functional Keras model of this library's layers. It is exported to a
SavedModel (for TF Serving) and to ONNX; each export is verified before it is kept.

Expected: the accuracy on texts it has not seen, and the same outputs three times.
Needs "keras-attention-layers[onnx]"; about half a minute on two cores.
"""

import argparse
import inspect
import tempfile
import typing
from pathlib import Path
from pydoc_data.topics import topics

import _shared
import keras
import numpy as np

import keras_attention as ka


def code_or_english(length=64):
    """Returns texts as character codes; label 1 for code, 0 for documentation."""
    code = "".join(inspect.getsource(module) for module in (argparse, typing))
    english = " ".join(topics.values())
    pieces, labels = [], []
    for label, source in enumerate([english, code]):
        text = " ".join(source.split()).encode("ascii", "replace")
        starts = range(0, 2000 * length, length)
        pieces += [list(text[start : start + length]) for start in starts]
        labels += [label] * len(starts)
    order = np.random.default_rng(0).permutation(len(labels))
    return np.array(pieces, "int32")[order], np.array(labels, "float32")[order]


def main():
    parser = _shared.parser(__doc__)
    parser.add_argument("--out", type=Path, help="folder (a temporary one)")
    parser.add_argument("--epochs", type=int, default=3, help="over 3,500 texts (3)")
    options = parser.parse_args()
    keras.utils.set_random_seed(1)
    ids, labels = code_or_english()
    with tempfile.TemporaryDirectory() as temporary:
        run(ids, labels, options.epochs, options.out or Path(temporary))


def run(ids, labels, epochs, out):
    tokens = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(128, 64, mask_zero=True)(tokens)
    x = ka.SinusoidalEncoding()(x)
    attention = ka.MultiHeadAttention(num_heads=4, key_dim=16)
    x = ka.EncoderBlock(attention, ka.FeedForward(128), norm="pre")(x)
    code = keras.layers.Dense(1, "sigmoid", name="code")(x[:, 0])
    model = keras.Model(tokens, code)
    model.compile(keras.optimizers.Adam(3e-3), "bce", metrics=["accuracy"])
    model.fit(ids[:-500], labels[:-500], epochs=epochs, verbose=0)
    saved_model = ka.export_model(model, out / "code", "saved_model")
    onnx = ka.export_model(model, out / "code-onnx", "onnx")
    print(ka.verify_artifact(onnx).passed)
    _, accuracy = model.evaluate(ids[-500:], labels[-500:], verbose=0)
    print(f"right on {accuracy:.0%} of 500 texts it has not seen")
    answers = {"Keras": model.predict(ids[-5:], verbose=0)}
    for runtime, folder in {"session": saved_model, "ONNX Runtime": onnx}.items():
        with ka.open_artifact(folder) as artifact:
            outputs = artifact.run("serving_default", token_ids=ids[-5:])
            answers[runtime] = outputs["code"]
    for runtime, answer in answers.items():
        print(f"{runtime:12s}", " ".join(f"{p:.4f}" for p in answer[:, 0]))


if __name__ == "__main__":
    main()
