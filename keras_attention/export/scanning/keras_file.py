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
    return classes, problems


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
