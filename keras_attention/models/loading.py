"""Loading `.keras` files that hold classes of this library."""

import importlib
import pkgutil
import re
import zipfile
from pathlib import Path
from typing import Any

import keras

PARTS = ("ops", "layers", "blocks", "models", "tasks", "training")


def register_classes(parts: tuple[str, ...] = PARTS) -> None:
    """Imports every module whose classes a `.keras` file may name.

    Keras finds a registered class only after its module was imported, and this
    library imports a module only when one of its names is used.

    Args:
        parts: The folders of this library to import. `"text"` is not among the
            default ones, because tokenizers import TensorFlow on every backend.
    """
    for part in parts:
        package = importlib.import_module(f"keras_attention.{part}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


def load_model(path: str | Path, **kwargs: Any) -> Any:
    """Loads a `.keras` file that may hold classes of this library and of KerasHub.

    It is `keras.saving.load_model`, called after these classes were imported.

    Args:
        path: The path of a `.keras` file.
        **kwargs: The other arguments of `keras.saving.load_model`.

    Returns:
        The model.

    Example:
    ```python
    model = ka.load_model("model.keras")
    ```
    """
    register_classes()
    modules = _modules_of(Path(path))
    if any(module.startswith("keras_attention.text") for module in modules):
        register_classes(("text",))
    if any(module.split(".")[0] == "keras_hub" for module in modules):
        try:
            importlib.import_module("keras_hub")
        except ImportError as error:
            raise ImportError(
                "The file holds classes of KerasHub. Install it with: pip install "
                f'"keras-hub>=0.32". Received: {path}'
            ) from error
    return keras.saving.load_model(path, **kwargs)


def _modules_of(path: Path) -> set[str]:
    """Returns the modules whose classes a `.keras` file names."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = archive.read("config.json").decode("utf-8")
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile):
        return set()  # Keras' own loader raises the error for such a file
    return set(re.findall(r'"module": "([\w.]+)', config))
