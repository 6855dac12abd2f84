"""Attention layers for Keras 3, from a single layer to a served model.

Importing this package loads neither Keras nor a backend: a public name is imported from
its module when it is first used (PEP 562). The names and their modules are listed in
`__init__.pyi`, next to this file, which type checkers read too.
"""

import ast
import importlib
import pkgutil
import sys
from typing import Any

import wrapt

__version__ = "0.1.0"


def _listed_names() -> dict[str, str]:
    """Returns every public name of `__init__.pyi` with the module it comes from."""
    stub = pkgutil.get_data(__name__, "__init__.pyi")
    assert stub is not None, "the loader of this package can read its files"
    return {
        alias.name: node.module
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


_DEFINED_IN = _listed_names()

__all__ = list(_DEFINED_IN)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_DEFINED_IN[name])
    if hasattr(module, name):
        value = getattr(module, name)
    else:  # the name is a module itself: `masks` of `keras_attention.ops`
        value = importlib.import_module(f"{module.__name__}.{name}")
    globals()[name] = value  # later uses do not call this function
    _register_classes()
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register_classes(*_: Any) -> None:
    """Imports every class of ours, so that `keras.saving.load_model` finds them.

    Keras finds a class only if its module was imported. This waits for nothing while
    Keras is not loaded, and while a module of ours is being imported: that module may
    be the one that loads Keras.
    """
    ours = [name for name in [*sys.modules] if name.startswith(f"{__name__}.")]
    importing = any(
        getattr(sys.modules[name].__spec__, "_initializing", False) for name in ours
    )
    if "keras" in sys.modules and not importing:
        importlib.import_module(f"{__name__}.models.loading").register_classes()


wrapt.register_post_import_hook(_register_classes, "keras")
