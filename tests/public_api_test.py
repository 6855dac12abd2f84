"""`import keras_attention as ka` is cheap, and every name it promises is there."""

import ast
import configparser
import inspect
import subprocess
import sys
import types
from pathlib import Path

import pytest

import keras_attention as ka

NAMES = sorted(ka.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_resolves_to_what_its_module_defines(name):
    value, module = getattr(ka, name), ka._DEFINED_IN[name]
    if isinstance(value, types.ModuleType):
        assert value.__name__ == f"{module}.{name}"
    else:
        # The list names the file to open, not one that imports the name from there.
        assert inspect.unwrap(value).__module__ == module
        assert value.__name__ == name


def test_dir_lists_every_public_name():
    assert set(NAMES) <= set(dir(ka))


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'MultiheadAttention'"):
        _ = ka.MultiheadAttention


def test_type_checkers_take_every_name_of_the_list_for_a_public_one():
    stub = ast.parse(Path(ka.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name, f"write `as {alias.name}`"


def test_the_wheel_holds_the_list():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    assert "*.pyi" in setup["options.package_data"]["keras_attention"]


@pytest.mark.parametrize("module", ["keras_attention", "keras_attention.cli.main"])
def test_importing_loads_neither_keras_nor_a_backend(module):
    if module != "keras_attention":
        pytest.importorskip(module)
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"keras", "tensorflow", "jax", "torch", "numpy", "onnxruntime"}
    assert module in loaded
    assert not heavy & set(loaded)
