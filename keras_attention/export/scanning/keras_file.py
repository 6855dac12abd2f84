"""Reads a `.keras` file as data: its members, their sizes, and its classes."""

import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PACKAGES = ("keras", "keras_hub", "keras_attention", "builtins")
_REFUSED = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer")
_REFUSED += ("FlaxLayer", "function", "__tensor_type__")
_JSON_BYTES, _RATIO = 64 << 20, 200
# Settings of Keras and KerasHub that are a path if they are a text.
_PATHS = ("vocabulary", "idf_weights", "merges", "proto")
# Settings that are the size of a weight, or the number of layers with weights.
_SIZES = (
    "units",
    "filters",
    "input_dim",
    "output_dim",
    "vocabulary_size",
    "num_layers",
)
_SIZES += ("vocab_size", "hidden_dim", "intermediate_dim")
_SMALL = 1 << 16


def inspect_keras(file: Path) -> tuple[set[str], list[str]]:
    """Reads a `.keras` file; returns `(classes, problems)`.

    Sizes are checked before anything is unpacked.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            problems = _members(archive)
            if problems:
                return set(), problems
            broken = archive.testzip()
            if broken is not None:
                return set(), [f"{broken} does not have its checksum"]
            config = json.loads(archive.read("config.json"))
            problems = _links(archive)
            most = max(_SMALL, sum(one.file_size for one in archive.infolist()))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        return set(), [f"it is not a whole zip file ({error})"]
    except (ValueError, NotImplementedError, RuntimeError, RecursionError) as error:
        return set(), [f"it cannot be read ({type(error).__name__}: {error})"]
    classes: set[str] = set()
    for entry in _objects(config):
        name, module = entry.get("class_name"), entry.get("module")
        if name is None:
            continue
        package = str(module or "builtins").partition(".")[0]
        classes.add(f"{package}.{name}")
        if package not in _PACKAGES:
            problems.append(f"class {name} of the foreign module {module}")
        if name in _REFUSED:
            problems.append(f"class {name}, which runs code from the file")
        config_of = entry.get("config")
        if isinstance(config_of, dict):
            problems += _settings(name, package, config_of, most)
    return classes, problems


def _settings(name: str, package: str, config: dict[str, Any], most: int) -> list[str]:
    """Returns the settings that read another file or need more memory than there is.

    Args:
        name: The class.
        package: The package of the class.
        config: Its settings.
        most: A weight cannot have more rows or columns than the file has bytes.
    """
    problems = [
        f"class {name} with {key} of a file"
        for key in _PATHS
        if package != "keras_attention" and isinstance(config.get(key), str)
    ]
    for key in _SIZES:
        size = config.get(key)
        if isinstance(size, int | float) and not -1 <= size <= most:
            problems.append(f"class {name} with {key}={size}, more than the file has")
    return problems


def _links(archive: zipfile.ZipFile) -> list[str]:
    """Returns the weights that are not simply in the file."""
    import h5py

    problems = []
    for name in archive.namelist():
        if name.endswith((".h5", ".hdf5")):
            try:
                with archive.open(name) as member, h5py.File(member, "r") as opened:
                    problems += [f"{name}: {one}" for one in _links_of(opened)]
            except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
                problems.append(f"{name} is not an HDF5 file ({error})")
    return problems


def _links_of(file: Any) -> Iterator[str]:
    import h5py

    waiting, seen = [file], set()
    while waiting:
        group = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            yield "a group that contains itself, or is contained twice"
            continue
        seen.add(address)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                yield f"{name!r} is a link"
                continue
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                size, stored = item.nbytes, item.id.get_storage_size()
                if item.external or item.is_virtual:
                    yield f"{name!r} is in another file"
                elif size > 1 << 20 and size > _RATIO * max(1, stored):
                    yield f"{name!r} is a bomb of {size:,} bytes"


def _members(archive: zipfile.ZipFile) -> list[str]:
    problems = []
    names = archive.namelist()
    if "config.json" not in names:
        problems.append("config.json is missing")
    if len(set(names)) != len(names):
        problems.append("a member is contained twice")
    for member in archive.infolist():
        name, size = member.filename, member.file_size
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            problems.append(f"member {name!r} is outside the file")
        if member.flag_bits & 1:
            problems.append(f"member {name!r} is encrypted")
        if name.endswith(".json") and size > _JSON_BYTES:
            problems.append(f"{name} unpacks to {size:,} bytes")
        elif size > 1 << 20 and size > _RATIO * max(1, member.compress_size):
            problems.append(f"{name} is a zip bomb of {size:,} bytes")
    return problems


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
