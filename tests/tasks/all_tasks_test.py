"""What every task has in common, and the lists of tasks in the docs."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from small_models import small_tasks

import keras_attention as ka
from keras_attention.models.loading import register_classes

pytest.importorskip("tensorflow_text")
pytestmark = pytest.mark.tensorflow

DOCS = Path(__file__).parents[2] / "docs" / "tasks.md"
TASKS = small_tasks()


def documented():
    """The rows of the first table of docs/tasks.md: class name to method names."""
    table = DOCS.read_text(encoding="utf-8").split("\n\n")
    table = next(part for part in table if part.startswith("| class |"))
    rows = [line.split("|")[1:3] for line in table.splitlines()[2:]]
    return {name.strip(" `"): re.findall(r"`(\w+)", methods) for name, methods in rows}


def inputs_of(model):
    if model.tokenizer is None:
        shape = (2, *model.backbone.image_size, model.backbone.num_channels)
        return np.random.default_rng(0).normal(size=shape).astype("float32")
    return np.array([[2, 57, 58], [3, 8, 1]])


def test_the_docs_list_every_public_task_and_its_methods():
    register_classes()
    modules = [m for m in sys.modules if m.startswith("keras_attention.tasks.")]
    public = {
        name
        for module in modules
        for name, value in vars(sys.modules[module]).items()
        if name in ka.__all__ and value.__module__ == module
        if issubclass(value, keras.Model)
    }
    assert set(TASKS) <= public
    assert set(documented()) == public
    for name, methods in documented().items():
        assert methods
        assert all(hasattr(getattr(ka, name), method) for method in methods)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_batches_a_loss_and_signatures(name):
    from keras_attention.export.signatures.catalogue import signatures_of

    model = TASKS[name]()
    assert callable(model.batches)
    assert isinstance(model.compile_arguments()["loss"], keras.losses.Loss)
    assert signatures_of(model)
    for setting in type(model).SETTINGS:
        assert setting in model.get_config()


@pytest.mark.parametrize("name", TASKS)
def test_the_head_reads_the_features(name):
    model = TASKS[name]()
    inputs = inputs_of(model)
    given = inputs if model.tokenizer is None else {"token_ids": inputs}
    features = np.array(model.features(given))
    rank = 2 if model.reads_one_vector else 3
    assert features.ndim == rank
    assert features.shape[-1] == model.backbone.hidden_dim


@pytest.mark.parametrize("name", TASKS)
def test_saving_and_loading_changes_no_bit(name, tmp_path):
    model = TASKS[name]()
    inputs = inputs_of(model)
    model.save(tmp_path / "model.keras")
    loaded = ka.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(inputs), loaded(inputs))
    assert loaded.get_config() == model.get_config()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_saved_task_is_loaded_in_a_new_process(tmp_path):
    model = TASKS["TextClassifier"]()
    model.save(tmp_path / "model.keras")
    code = (
        "import sys, keras_attention as ka; model = ka.load_model(sys.argv[1]); "
        "print(model.classify(['the animal'])[0]['label'])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.keras")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split()[-1] == model.classify(["the animal"])[0]["label"]
