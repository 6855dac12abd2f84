"""Reads a `.keras` file as data: its members, their sizes, and its classes."""

import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_attention import untrusted
from keras_attention.export.scanning import limits

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
_SMALL, _DEEPEST = 1 << 16, 256
# Settings that are the size of an output.
_LENGTHS = ("n", "size", "target_shape", "padding", "cropping", "max_length")
_LENGTHS += ("sequence_length", "num_tokens", "max_tokens", "output_sequence_length")
_LENGTHS += ("kernel_size", "pool_size", "height", "width", "target_size", "key_dim")
_LENGTHS += ("num_heads", "max_sequence_length", "depth_multiplier", "frame_length")
_LENGTHS += ("fft_length", "ragged_padding")
# Two settings whose product is the number of elements of one weight.
_PRODUCTS = (
    ("input_dim", "output_dim"),
    ("vocabulary_size", "hidden_dim"),
    ("hidden_dim", "intermediate_dim"),
)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


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
            config = read_member(archive, "config.json", file)
            problems = _links(archive)
            most = max(_SMALL, sum(one.file_size for one in archive.infolist()))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        return set(), [f"it is not a whole zip file ({error})"]
    except (ValueError, NotImplementedError, RuntimeError, RecursionError) as error:
        return set(), [f"it cannot be read ({type(error).__name__}: {error})"]
    classes: set[str] = set()
    for entry in _objects(config):
        name = entry.get("class_name")
        if name is None:
            continue
        package, wrong = _origin(entry)
        classes.add(f"{package}.{name}")
        problems += wrong
        config_of = entry.get("config")
        if isinstance(config_of, dict):
            problems += _settings(name, package, config_of, most)
            problems += _weights(name, entry, config_of, most)
    return classes, problems


def read_member(archive: zipfile.ZipFile, name: str, file: Path) -> Any:
    """Returns the value in a JSON member of a `.keras` file.

    Args:
        archive: The file.
        name: The member.
        file: The path of the file, for errors.

    Raises:
        ValueError: If the member is too large, nested too deep or not valid JSON.
        KeyError: If there is no such member.
    """
    with archive.open(name) as member:
        content = member.read(_JSON_BYTES + 1)
    if len(content) > _JSON_BYTES:
        raise ValueError(
            f"{name} unpacks to more than {_JSON_BYTES:,} bytes, which no file of this "
            f"kind does. Fetch the file again. Received: path={untrusted.clip(file)}"
        )
    return untrusted.parse_json(content, file / name, _DEEPEST, infinite=True)


def _origin(entry: dict[str, Any]) -> tuple[str, list[str]]:
    """Returns the package that a class is from, and what is wrong with its name.

    Keras looks a class up by its registered name first, then by the module and the
    class name, which may be a path: `layers.Lambda` in `keras`.
    """
    name, module = entry["class_name"], entry.get("module")
    registered = entry.get("registered_name")
    texts = [x for x in (name, module, registered) if x is not None]
    if not all(isinstance(one, str) for one in texts):
        return "", [f"a class whose name is no text: {untrusted.show(name)}"]
    package = str(module or "builtins").partition(".")[0]
    prefix, _, last = name.rpartition(">")
    problems = []
    if not _NAME.fullmatch(last):
        problems.append(f"class {untrusted.clip(name)}, whose name is a path")
    for owner in (package, prefix, str(registered or "").rpartition(">")[0]):
        if owner and owner not in _PACKAGES:
            problems.append(f"class {name} of the foreign module {module or owner}")
        elif owner not in ("", package, "builtins") and package != "builtins":
            problems.append(f"class {name} of {package} and of {owner}")
    parts = {last.rpartition(".")[2], str(registered or "").rpartition(">")[2]}
    for one in sorted(parts.intersection(_REFUSED)):
        problems.append(f"class {one}, which runs code from the file")
    if package == "builtins" and registered:
        package = registered.rpartition(">")[0] or package
    return package, problems


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
    for key in _LENGTHS:
        size = _elements(config.get(key))
        if size > limits.max_bytes():
            problems.append(f"class {name} with {key}={untrusted.show(config[key])}")
    return problems


def _elements(size: Any) -> float:
    """Returns the product of all sizes in a number or in nested lists of numbers."""
    if isinstance(size, list):
        return math.prod(max(1.0, _elements(one)) for one in size[:64])
    is_size = isinstance(size, int | float) and not isinstance(size, bool)
    return abs(float(min(max(size, -1e25), 1e25))) if is_size else 1.0


def _weights(name: str, entry: Any, config: dict[str, Any], most: int) -> list[str]:
    """Returns the weights that have more elements than the file has bytes."""
    sizes = [[config.get(key) for key in pair] for pair in _PRODUCTS]
    built = entry.get("build_config")
    shape = built.get("input_shape") if isinstance(built, dict) else None
    if isinstance(shape, list) and shape:
        sizes.append([shape[-1], config.get("units")])
        sizes.append([shape[-1], config.get("kernel_size"), config.get("filters")])
    groups = config.get("groups")
    count = groups if isinstance(groups, int) and groups > 0 else 1
    return [
        f"class {name} with a weight of {untrusted.show(pair)}, more than the file has"
        for pair in sizes
        if all(isinstance(one, int | float | list) for one in pair)
        and _elements(pair) > 8 * most * count
    ]


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
