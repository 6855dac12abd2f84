"""The files of `TrainingCheckpoint`: safetensors with a checksum, written whole."""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_attention import untrusted

_ABOUT, _SUM = "keras_attention.training", "sha256"
_PATTERN = "step-*.safetensors"


class Content(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        about: Its place and its settings, as JSON has them.
        tensors: The values of all variables, by name.
    """

    about: dict[str, Any]
    tensors: dict[str, np.ndarray]


def write(folder: Path, step: int, content: Content) -> None:
    """Writes a checkpoint, which appears under its name only when it is complete.

    Args:
        folder: The folder, which is made if there is none.
        step: The number of steps so far.
        content: What it holds.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:09d}.safetensors"
    part = path.with_name(f".{path.name}.part")
    tensors = {
        name: np.ascontiguousarray(value).reshape(value.shape)
        for name, value in content.tensors.items()
    }
    about = json.dumps(content.about, sort_keys=True)
    save_file(tensors, part, {_ABOUT: about, _SUM: _checksum(about, tensors)})
    _to_disk(part)
    os.replace(part, path)
    _to_disk(folder)


def newest(folder: Path, may_change: bool) -> tuple[Path, Content] | None:
    """Returns the newest checkpoint that is whole, or `None` where there is none.

    Args:
        folder: The folder, which may be missing.
        may_change: Whether damaged files are renamed, and files that were not written
            to their end removed.

    Raises:
        ValueError: If there are checkpoints and all are damaged.
    """
    if may_change:
        for part in folder.glob(f".{_PATTERN}.part"):
            part.unlink()
    reasons = []
    for path in sorted(folder.glob(_PATTERN), reverse=True):
        try:
            content = read(path)
        except ValueError as error:
            reasons.append(untrusted.clip(error, 300))
            if may_change:
                os.replace(path, path.with_name(f"{path.name}.damaged"))
            continue
        if reasons:
            warnings.warn(
                f"{' '.join(reasons)[:1000]} The training goes on from {path.name}, "
                "the checkpoint before.",
                stacklevel=2,
            )
        return path, content
    if reasons:
        raise ValueError(
            f"No checkpoint can be read. {' '.join(reasons)[:1000]} Remove the folder "
            f"to begin the training anew. Received: {untrusted.clip(folder)}"
        )
    return None


def read(path: Path) -> Content:
    """Returns what a checkpoint holds, after comparing it with its checksum.

    Raises:
        ValueError: If it is damaged, or was not written by `TrainingCheckpoint`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            notes = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about, expected = notes[_ABOUT], notes[_SUM]
        if _checksum(about, tensors) != expected:
            raise ValueError("its content does not have its checksum")
        return Content(json.loads(about), tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{untrusted.clip(path.name)} is damaged, or is no checkpoint of a "
            f"training: {untrusted.clip(error)}."
        ) from None


def remove_old(folder: Path, keep: int) -> None:
    """Removes all checkpoints but the newest.

    Args:
        folder: The folder.
        keep: The number of those that stay.
    """
    for path in sorted(folder.glob(_PATTERN))[:-keep]:
        path.unlink()


def check_tensors(path: Path, found: Mapping[str, Any], variables: Mapping) -> None:
    """Refuses a checkpoint whose variables are not those of the model."""
    wrong = sorted(found.keys() ^ variables.keys())
    wrong += [
        name
        for name in sorted(found.keys() & variables.keys())
        if tuple(variables[name].shape) != found[name].shape
        or str(variables[name].dtype) != found[name].dtype.name
    ]
    if wrong:
        raise ValueError(
            "The checkpoint is of another model or optimizer, and nothing was loaded. "
            "Build the model as in the training that wrote it, or pass another folder. "
            f"Received: {untrusted.clip(path)} with {len(found)} variables, a model "
            f"with {len(variables)}; the first that differs is {wrong[0]}"
        )


def check_settings(path: Path, saved: Any, current: Any) -> None:
    """Refuses a checkpoint of a training with other data or another optimizer."""
    saved, current = _flat(saved), _flat(json.loads(json.dumps(current)))
    differing = [
        f"{name}: {saved.get(name, 'nothing')}, now {current.get(name, 'nothing')}"
        for name in sorted(saved.keys() | current.keys())
        if saved.get(name) != current.get(name)
    ]
    if differing:
        raise ValueError(
            "The checkpoint is of a training with other settings, and nothing was "
            "loaded. Use the same ones (also the number of epochs, if the learning "
            "rate depends on it), or pass another folder. Received: "
            f"{untrusted.clip(path)} with {untrusted.clip('; '.join(differing), 1000)}"
        )


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Returns the leaves of nested dicts as JSON, by their path."""
    if not isinstance(value, dict):
        return {name: json.dumps(value)}
    found = {}
    for key, part in value.items():
        found |= _flat(part, f"{name}.{key}" if name else key)
    return found


def _checksum(about: str, tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(about.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype.name} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
