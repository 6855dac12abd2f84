"""Loading `.keras` files that hold classes of this library."""

import functools
import importlib
import pkgutil
import re
import zipfile
from pathlib import Path
from typing import Any

import keras

_PACKAGES = ("ops", "layers", "blocks", "models", "tasks", "training")


@functools.cache
def register_classes() -> None:
    """Imports every module whose classes a `.keras` file may name.

    Keras finds a registered class only after its module was imported, and this
    library imports a module only when one of its names is used.
    """
    for part in _PACKAGES:
        package = importlib.import_module(f"keras_attention.{part}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    if keras.backend.backend() == "tensorflow":  # else they would load TensorFlow
        register_tokenizers()


@functools.cache
def register_tokenizers() -> None:
    """Imports the tokenizers, which a task may hold. They need TensorFlow."""
    for kind in ("byte_pair", "pipeline", "sentence_piece", "wordpiece"):
        importlib.import_module(f"keras_attention.text.{kind}.tokenizer")


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
    packages = _packages_of(Path(path))
    if "keras_attention.text" in packages:
        register_tokenizers()
    if "keras_hub" in packages:
        try:
            importlib.import_module("keras_hub")
        except ImportError as error:
            raise ImportError(
                "The file holds classes of KerasHub. Install it with: pip install "
                f'"keras-hub>=0.32". Received: {path}'
            ) from error
    return keras.saving.load_model(path, **kwargs)


def _packages_of(path: Path) -> set[str]:
    """Returns the packages of the classes that a `.keras` file names.

    Of ours it returns the subpackages too. A file that cannot be read names none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = archive.read("config.json").decode("utf-8")
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile):
        return set()  # Keras' own loader raises the error for such a file
    return set(re.findall(r'"module": "(keras_attention\.\w+|\w+)', config))
