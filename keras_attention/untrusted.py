"""Reads files that somebody else wrote: plain files of a limited size, and strict JSON.

Every error is a ValueError or a FileNotFoundError of at most 2,000 characters, in which
the text of the file is shortened and its control characters are escaped. This module
imports only the standard library, so that every package can use it.
"""

import contextlib
import json
import math
import os
import re
import reprlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

MAX_JSON_BYTES = 1 << 24
MAX_DEPTH = 64
MAX_VALUES = 1 << 23  # commas and brackets; the largest tokenizers have 2 million
MAX_ERROR = 2000
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple = 3, 8, 8, 8
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 100


def show(value: Any) -> str:
    """Returns a short `repr` of a value of a file, for an error."""
    return clip(_SHORT.repr(value))


def printable(text: Any) -> str:
    """Returns the text with every control character escaped, line breaks too.

    A file name may contain line breaks, which would forge a line of a log, and escape
    sequences, which a terminal obeys.

    Args:
        text: The text, or an object that `str` converts.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)
    )


def clip(text: Any, most: int = 300) -> str:
    """Returns a text of a file for an error: shortened, without control characters.

    Args:
        text: The text, or an object that `str` converts.
        most: The largest number of characters, more than 10.
    """
    text = str(text)
    start = text if len(text) <= most else text[:most]
    safe = printable(start)
    if len(safe) <= most and start is text:
        return safe
    return safe[: most - 1] + "…"


def open_plain(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a plain file; see `read_bytes`."""
    name, where = clip(Path(path).name), clip(path)
    try:
        _check_kind(os.stat(path), name, where)
        # If a pipe has replaced the file since then, opening it must not wait.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        file = open(os.open(path, flags), "rb")  # noqa: SIM115
        try:
            _check_kind(os.fstat(file.fileno()), name, where)
        except ValueError:
            file.close()
            raise
        return file
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"There is no file {name}. Check the path. Received: path={where}"
        ) from error
    except PermissionError:
        raise
    except OSError as error:
        raise ValueError(
            f"{name} cannot be read: {clip(error.strerror)}. Fetch the file again. "
            f"Received: path={where}"
        ) from error


def read_bytes(path: str | os.PathLike[str], most: int = MAX_JSON_BYTES) -> bytes:
    """Returns the content of a plain file.

    A pipe or a device is refused without being opened. A link to a plain file is read:
    the cache of the Hugging Face hub consists of them.

    Args:
        path: The path of the file.
        most: The largest number of bytes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a plain file, or larger.
    """
    with open_plain(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        name, where = clip(Path(path).name), clip(path)
        raise ValueError(
            f"{name} is larger than {most:,} bytes, which no file of this kind is. "
            f"Fetch the file again. Received: path={where}"
        )
    return content


def read_json(path: str | os.PathLike[str], most: int = MAX_JSON_BYTES) -> Any:
    """Returns the value in a JSON file.

    Args:
        path: The path of the file.
        most: The largest number of bytes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `read_bytes` or `parse_json` refuses it.
    """
    return parse_json(read_bytes(path, most), path)


def read_object(path: str | os.PathLike[str], most: int = MAX_JSON_BYTES) -> dict:
    """Returns the object in a JSON file; see `read_json`."""
    value = read_json(path, most)
    if not isinstance(value, dict):
        raise ValueError(
            f"{clip(Path(path).name)} must hold one JSON object {{…}}. Fetch the file "
            f"again. Received: {type(value).__name__} in path={clip(path)}"
        )
    return value


def parse_json(
    data: bytes,
    path: str | os.PathLike[str],
    most_deep: int = MAX_DEPTH,
    *,
    infinite: bool = False,
) -> Any:
    """Returns the value of strict JSON in UTF-8.

    A key that is in an object twice, NaN, infinity and half of a surrogate pair are
    errors: other readers would see other values.

    Args:
        data: The bytes.
        path: Where they are from, for errors.
        most_deep: How deep lists and objects can be nested.
        infinite: Whether NaN and infinity are allowed, as Python writes them.
    """
    name, where = clip(Path(path).name), clip(path)
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ValueError(
            f"{name} holds more than {MAX_VALUES:,} values, which no file of this kind "
            f"does. Fetch the file again. Received: path={where}"
        )
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=float if infinite else _constant,
            parse_float=float if infinite else _number,
        )
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        if _is_deeper(value, most_deep):
            raise RecursionError
    except RecursionError:
        raise ValueError(
            f"{name} is nested more than {most_deep} levels deep, which no file of "
            f"this kind is. Fetch the file again. Received: path={where}"
        ) from None
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ValueError(
            f"{name} is not UTF-8: {clip(error.reason)}. Fetch the file again. "
            f"Received: path={where}"
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{name} is not valid JSON: {clip(error)}. Fetch the file again. "
            f"Received: path={where}"
        ) from None
    return value


def inside(folder: Path, name: Any, source: str) -> Path:
    """Returns the path of a file or folder that a file names; it must be inside.

    In the cache of the Hugging Face hub the files are links into the folder `blobs`,
    which is inside too.

    Args:
        folder: The folder.
        name: The path that was named, relative to the folder; "" is the folder.
        source: The file that names it, for the error.
    """
    parts = re.split(r"[/\\]", name) if isinstance(name, str) else []
    if (
        parts
        and name.isprintable()
        and len(name) < 1024
        # The system has an error of its own for a longer name.
        and all(len(part.encode()) < 256 for part in parts)
    ):
        path, root = folder / name, Path(os.path.realpath(folder))
        roots = [root]
        if root.parent.name == "snapshots":
            roots.append(root.parent.parent / "blobs")
        real = Path(os.path.realpath(path))
        if (
            ".." not in parts
            and not Path(name).is_absolute()
            and any(real.is_relative_to(each) for each in roots)
        ):
            return path
    raise ValueError(
        f"{source} must name paths inside the folder, without '..' and links that lead "
        f"out of it. Fetch the folder again. Received: {show(name)} in {clip(folder)}"
    )


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Converts the errors of code that relies on the structure of a file.

    Inside, a missing part or one of a wrong type becomes a ValueError that names the
    file, and a ValueError that is too long is shortened.

    Args:
        path: The path of the file, or of the folder.
    """
    try:
        yield
    except (
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as e:
        reason = f"{type(e).__name__}: {clip(e)}"
    except ValueError as e:
        if "Received:" in str(e) and len(str(e)) <= MAX_ERROR:
            raise
        reason = clip(e, 1000)
    else:
        return
    raise ValueError(
        f"{clip(Path(path).name)} has a part that is missing or of a wrong type "
        f"({reason}). Fetch the file again. Received: path={clip(path)}"
    ) from None


def _check_kind(status: os.stat_result, name: str, where: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(
            f"{name} must be a plain file, not a folder, a pipe or a device. Fetch the "
            f"file again. Received: path={where}"
        )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))
        raise ValueError(f"the key {show(twice)} is in an object twice")
    return found


def _constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {clip(text, 40)} is too large")
    return number


def _is_deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
