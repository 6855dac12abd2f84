"""The catalogue of signatures, and the documentation that lists it."""

import re
from pathlib import Path

import keras
import pytest

import keras_attention as ka
from keras_attention.export.signatures.catalogue import CATALOGUE, signatures_of

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ("exporting.md", "tasks.md")
NAMES = sorted(kind.__name__ for kind in CATALOGUE)


def matrix_rows():
    """The pairs (model, signature) of docs/matrix.md."""
    found, model = [], ""
    for line in (DOCS / "matrix.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells and not set(line) <= set("|-"):
            model = cells[0] or model
            found.append((model, cells[1]))
    return found[1:]  # without the heading


@pytest.mark.parametrize("name", NAMES)
def test_every_model_of_the_catalogue_is_public_and_documented(name):
    assert hasattr(ka, name)
    pages = [(DOCS / page).read_text(encoding="utf-8") for page in PAGES]
    rows = [line for page in pages for line in page.splitlines() if line[:1] == "|"]
    assert any(f"`{name}`" in row for row in rows), f"{PAGES} have no row with {name}"
    in_matrix = {re.split(r"\W", model)[0] for model, _ in matrix_rows()}
    assert name in in_matrix


@pytest.mark.slow
def test_the_matrix_has_a_row_for_every_signature():
    from benchmarks.matrix import models

    expected = [
        (name, signature.name)
        for name, make in models().items()
        for signature in signatures_of(make())
        if not signature.on_request
    ]
    assert matrix_rows() == expected


def test_a_model_that_is_not_known_is_an_error_that_says_what_to_pass():
    class Unknown(keras.Model):
        pass

    with pytest.raises(ValueError, match=r"signatures=\[ka.*Received: model="):
        signatures_of(Unknown())


def test_lengths_of_which_pooling_leaves_nothing_are_not_asked(tmp_path):
    """TensorFlow pools an empty sequence to an empty one, ONNX Runtime to one entry."""
    x = keras.Input((None, 4), name="x")
    halves = keras.layers.AveragePooling1D(2)(x)
    whole = keras.layers.Concatenate(axis=1)([x, halves])
    model = keras.Model(x, keras.layers.Dense(2, name="y")(whole))
    (signature,) = signatures_of(model)
    assert min(signature.lengths["sequence"]) == 2
    assert signature.max_lengths == {}
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    ka.export_model(model, tmp_path / "m", "onnx")  # verified
