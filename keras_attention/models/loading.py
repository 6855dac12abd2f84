"""Loading `.keras` files that hold classes of this library."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import keras


def register_classes() -> None:
    """Imports every module whose classes a `.keras` file may name.

    Keras finds a registered class only once its module was imported, and this
    library imports a module only when one of its names is used.
    """
    for part in ("ops", "layers", "blocks", "models", "tasks", "training"):
        package = importlib.import_module(f"keras_attention.{part}")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")


def load_model(path: str | Path, **kwargs: Any) -> Any:
    """`keras.saving.load_model`, knowing all classes of this library.

    Args:
        path: Of a `.keras` file.
        **kwargs: Those of `keras.saving.load_model`.

    Returns:
        The model.

    Example:
    ```python
    model = ka.load_model("model.keras")
    ```
    """
    register_classes()
    return keras.saving.load_model(path, **kwargs)
