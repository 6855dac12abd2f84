"""Configurations of `.keras` files that name other classes, files or all memory."""

import json
import zipfile

import h5py
import keras
import pytest

import keras_attention as ka
from keras_attention.cli.info import describe
from keras_attention.export.scanning.keras_file import inspect_keras


@pytest.fixture
def problems(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w"):
        pass
    weights = (tmp_path / "w.h5").read_bytes()

    def found(config, raw=None):
        with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
            archive.writestr("config.json", json.dumps(config) if raw is None else raw)
            archive.writestr("metadata.json", "{}")
            archive.writestr("model.weights.h5", weights)
        return "; ".join(inspect_keras(tmp_path / "m.keras")[1])

    return found


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (
            {"module": "keras", "class_name": "layers.Lambda"},
            "class Lambda, which runs",
        ),
        ({"module": "keras", "class_name": "layers.TFSMLayer"}, "whose name is a path"),
        ({"module": "keras.src.layers", "class_name": "core.x.Lambda"}, "is a path"),
        (
            {
                "module": "keras.layers",
                "class_name": "X",
                "registered_name": "a>Lambda",
            },
            "class Lambda, which runs code",
        ),
        (
            {"module": "keras.layers", "class_name": "X", "registered_name": "evil>X"},
            "of the foreign module",
        ),
        (
            {
                "module": "keras_attention.text",
                "class_name": "Tokenizer",
                "registered_name": "keras_hub>WordPieceTokenizer",
                "config": {"vocabulary": "/etc/passwd"},
            },
            "class Tokenizer of keras_attention and of keras_hub",
        ),
        (
            {
                "module": None,
                "class_name": "Tokenizer",
                "registered_name": "keras_hub>WordPieceTokenizer",
                "config": {"vocabulary": "/etc/passwd"},
            },
            "with vocabulary of a file",
        ),
        ({"module": ["keras"], "class_name": "Dense"}, "whose name is no text"),
        ({"module": "keras.layers", "class_name": {"a": 1}}, "whose name is no text"),
    ],
)
def test_a_class_cannot_hide_behind_another_name(entry, reason, problems):
    assert reason in problems({"layers": [entry]})


def test_keras_itself_finds_a_class_by_a_path():
    # Otherwise the test above would be about nothing.
    config = {"module": "keras", "class_name": "layers.Dense", "config": {"units": 3}}
    assert keras.saving.deserialize_keras_object(config).units == 3


def entry(name, config, **more):
    return {"module": "keras.layers", "class_name": name, "config": config, **more}


BUILT = {"build_config": {"input_shape": [None, 60_000]}}
BOMBS = [
    entry("Dense", {"units": 10**10}),
    entry("Dense", {"units": 60_000}, **BUILT),
    entry("Conv1D", {"filters": 60_000, "kernel_size": [1]}, **BUILT),
    entry("Embedding", {"input_dim": 60_000, "output_dim": 60_000}),
    entry("RepeatVector", {"n": 10**10}),
    entry("ZeroPadding2D", {"padding": [[10**6, 10**6], [10**6, 10**6]]}),
    entry("Resizing", {"height": 10**10, "width": 3}),
    entry("Reshape", {"target_shape": [10**6, 10**6]}),
    entry("Conv2D", {"filters": 1, "kernel_size": [10**6, 10**6]}),
    entry("MultiHeadAttention", {"num_heads": 2, "key_dim": 1e300}),
]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda one: one["class_name"])
def test_settings_that_need_all_memory_are_refused(bomb, problems):
    assert f"class {bomb['class_name']} with" in problems({"layers": [bomb]})


def test_settings_of_ordinary_size_are_in_order(problems):
    built = {"build_config": {"input_shape": [None, 512]}}
    layers = [
        entry("Dense", {"units": 512}, **built),
        entry("ReLU", {"max_value": float("inf")}),
        entry("Dropout", {"rate": 0.5, "seed": 2**62}),
        entry("Reshape", {"target_shape": [-1, 512]}),
        entry("ZeroPadding2D", {"padding": [[1, 1], [0, 2]]}),
        entry("TextVectorization", {"vocabulary": None, "max_tokens": 100_000}),
    ]
    assert problems({"layers": layers}) == ""


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 5000 + "]" * 5000, "levels deep"),
        ('{"a": "\\ud800"}', "not UTF-8"),
        ("{", "not valid JSON"),
    ],
)
def test_a_config_is_read_strictly(raw, reason, problems, tmp_path):
    assert reason in problems(None, raw)
    with pytest.raises(ValueError, match=f"(?s){reason}.*Received") as caught:
        describe(tmp_path / "m.keras")
    assert len(str(caught.value)) < 2000


def test_a_real_model_is_in_order(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.ZeroPadding2D(1)(inputs)
    x = keras.layers.Conv2D(5, 3, groups=1)(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(7, activation="relu")(x))
    model.compile("adam", "mse")
    model.save(tmp_path / "m.keras")
    assert "keras.Conv2D" in ka.scan_artifact(tmp_path / "m.keras").operators
    assert describe(tmp_path / "m.keras")["class"] == "Functional"
