"""Exports your own Keras model to ONNX: python keras_model.py OUT.

A small classifier of token ids learns which of two ids comes first. It is exported with
one Attention operator per layer, and the artifact is run on new data.
"""

import argparse

import keras
import numpy as np

import keras_attention as ka

VOCABULARY, LENGTH = 23, 11


def build():
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(VOCABULARY, 32, mask_zero=True)(ids)
    x = ka.SinusoidalEncoding()(x)
    x = x + ka.MultiHeadAttention(num_heads=4, key_dim=8)(x, x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(ids, keras.layers.Dense(2, name="logits")(x))


def data(count, random):
    """Draws rows of ids from 3 on with one 1 and one 2; is the 1 before the 2?"""
    ids = random.integers(3, VOCABULARY, (count, LENGTH)).astype("int32")
    places = random.permuted(np.tile(np.arange(LENGTH), (count, 1)), axis=1)[:, :2]
    np.put_along_axis(ids, places[:, :1], 1, axis=1)
    np.put_along_axis(ids, places[:, 1:], 2, axis=1)
    return ids, (places[:, 0] < places[:, 1]).astype("int32")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--epochs", type=int, default=15)
    given = parser.parse_args()
    keras.utils.set_random_seed(3)
    random = np.random.default_rng(3)
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(*data(4096, random), epochs=given.epochs, verbose=0)
    folder = ka.export_model(model, given.out, "onnx")
    ids, right = data(512, random)
    with ka.open_artifact(folder) as artifact:
        logits = artifact.run("serving_default", token_ids=ids)["logits"]
    print(f"{folder}: {np.mean(logits.argmax(-1) == right):.0%} right")


if __name__ == "__main__":
    main()
