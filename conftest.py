"""What tests and doctests share: the slow tier, a fixed seed, clean global state.

With KERAS_BACKEND=jax or torch, tests that are marked with `tensorflow` are left out.

It is here and not in tests/ so that the doctests of keras_attention/ have it too.
"""

import gc
import importlib
import importlib.util
import os
import sys
from unittest import mock

# Before anything imports Keras or TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

# It imports torch and peft, which end a process that has TensorFlow.
collect_ignore = ["tests/parity/transformers/peft_side.py"]


def pytest_addoption(parser):
    """Add --slow and --fuzz."""
    parser.addoption("--slow", action="store_true", help="run the slow tests too")
    parser.addoption("--fuzz", action="store_true", help="run the fuzzers in full")


def pytest_configure(config):
    """Import torch first: triton, a part of it, crashes a process with TensorFlow."""
    if config.getoption("--slow"):
        for name in ("torch", "triton"):
            if importlib.util.find_spec(name):
                importlib.import_module(name)


def pytest_collection_modifyitems(config, items):
    """Skip the slow tier unless it was asked for; leave out other backends' tests."""
    _leave_out_other_backends(config, items)
    for name, target in (("slow", "test-all"), ("fuzz", "fuzz")):
        if config.getoption(f"--{name}"):
            continue
        reason = f"{name}: run by `make {target}` (pytest --{name})"
        for item in items:
            if name in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def _leave_out_other_backends(config, items):
    left_out = [item for item in items if not _runs_here(item)]
    items[:] = [item for item in items if item not in set(left_out)]
    config.hook.pytest_deselected(items=left_out)


def _runs_here(item):
    """A test that is marked with a backend runs there alone, any other everywhere."""
    backend = os.environ["KERAS_BACKEND"]
    for name in ("tensorflow", "torch"):
        if item.get_closest_marker(name):
            return name == backend
    return True


def pytest_collection_finish():
    """Tell the garbage collector that what the imports made stays.

    Keras collects garbage once for each layer that it quantises, and looked through all
    of TensorFlow each time.
    """
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    """Print what tests wrote with `record_property("summary", "…")`."""
    for report in terminalreporter.stats.get("passed", []):
        for name, text in report.user_properties:
            if name == "summary":
                terminalreporter.write_line(text)


@pytest.fixture(autouse=True)
def _names_in_examples(request, doctest_namespace):
    # Examples in docstrings begin with these names imported.
    if isinstance(request.node, pytest.DoctestItem):
        import keras
        import numpy as np

        import keras_attention as ka

        doctest_namespace.update(
            keras=keras, ops=keras.ops, np=np, ka=ka, masks=ka.masks
        )


@pytest.fixture(autouse=True)
def _arrays_from_torch(monkeypatch):
    # NumPy cannot read a torch tensor that is part of a graph of gradients, so tests
    # build that graph only for gradients (tests/backends.py) and in fit.
    if os.environ["KERAS_BACKEND"] != "torch":
        yield
        return
    import keras
    import torch

    monkeypatch.setattr(keras.Model, "fit", torch.enable_grad()(keras.Model.fit))
    with torch.no_grad():
        yield


# TensorFlow's part of a seed makes it forget the kernel of every eager operation. To
# make them again took a quarter of the time of all tests. Only `tf.random.normal` and
# the like need that: they keep their state in a kernel, and Keras in a variable.
_FORGETS_KERNELS = "tensorflow.python.eager.context.pywrap_tfe.TFE_ContextClearCaches"


@pytest.fixture(autouse=True)
def _fixed_seed_and_clean_policy(_names_in_examples):
    # A test that does not use Keras does not wait for its import.
    if "keras" in sys.modules:
        import keras

        with mock.patch(_FORGETS_KERNELS):
            keras.utils.set_random_seed(1337)
    yield
    if "keras" in sys.modules:
        import keras

        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        keras.config.enable_traceback_filtering()


@pytest.fixture
def verified_here(request, monkeypatch):
    """Exports are verified in this process, which has imported TensorFlow already.

    For tests of what is exported. That a fresh process verifies is tested in
    export/api_test.py and export/verification, and by every test with --slow.
    """
    if request.config.getoption("--slow"):
        return
    from keras_attention.export import api
    from keras_attention.export.verification import verify

    monkeypatch.setattr(api, "verify_folder", verify.verify_here)


@pytest.fixture
def eagerly(request):
    """What is compiled runs operation by operation, for tests that call it once.

    Compiling takes longer than a call. That graphs give the same is tested next to it,
    and by every test with --slow.
    """
    if request.config.getoption("--slow"):
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
