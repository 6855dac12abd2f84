"""`import keras_attention as ka` is cheap, and every name it promises is there."""

import ast
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
    value = getattr(ka, name)
    if name in ka._MODULES:
        assert isinstance(value, types.ModuleType)
        assert value.__name__ == f"keras_attention.{ka._MODULES[name]}"
    else:
        # Not re-exported from elsewhere: the table names the file to open.
        assert inspect.unwrap(value).__module__ == (
            f"keras_attention.{ka._DEFINED_IN[name]}"
        )
        assert value.__name__ == name


def test_dir_lists_every_public_name():
    assert set(NAMES) <= set(dir(ka))


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'MultiheadAttention'"):
        _ = ka.MultiheadAttention


def test_type_checkers_see_the_same_names_as_the_runtime():
    seen = {}
    for node in ast.walk(ast.parse(Path(ka.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith(ka.__name__):
            for alias in node.names:
                assert alias.asname == alias.name, f"write `as {alias.name}`"
                module = f"{node.module}.{alias.name}"
                if alias.name not in ka._MODULES:
                    module = node.module
                seen[alias.name] = module.removeprefix("keras_attention.")
    assert seen == ka._DEFINED_IN | ka._MODULES


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
