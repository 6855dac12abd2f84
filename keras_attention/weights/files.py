"""The files of a checkpoint folder. Needs neither TensorFlow nor Keras."""

import json
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"


def read_json(path: Path) -> Any:
    """Reads a JSON file, or says which one is damaged and where."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path.name} is not valid JSON: {error}. Fetch the file again. "
            f"Received: {path}"
        ) from error


def require_file(folder: Path, name: str) -> Path:
    """The path of a file of a folder, or what is there instead."""
    path = folder / name
    if path.is_file():
        return path
    there = "no such folder"
    if folder.is_dir():
        there = ", ".join(sorted(p.name for p in folder.iterdir())) or "an empty folder"
    hint = ""
    if name == WEIGHTS and list(folder.glob("*.bin")):
        hint = (
            " Pickled weights (*.bin) can run code when opened and are not read; "
            "convert them to safetensors."
        )
    raise FileNotFoundError(
        f"A Hugging Face folder needs {name}.{hint} Received: {folder} with {there}"
    )


def open_safetensors(path: Path) -> Any:
    """Opens a safetensors file; its tensors are read when they are asked for."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(
            f"{path.name} is damaged or incomplete: {error}. Nothing was loaded; "
            f"fetch the file again. Received: {path} of {path.stat().st_size} bytes"
        ) from error


class Tensor:
    """A tensor of an open safetensors file, read when it is asked for."""

    def __init__(self, file: Any, name: str):
        self._file, self._name = file, name
        self.shape = tuple(file.get_slice(name).get_shape())

    def __array__(self, dtype=None, copy=None):
        array = self._file.get_tensor(self._name)
        return array if dtype is None else array.astype(dtype)


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name to shape of every tensor of a safetensors file."""
    with open_safetensors(path) as file:
        names = list(file.keys())
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}
