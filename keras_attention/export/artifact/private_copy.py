"""Copies the files of an artifact to where nobody else can change them.

What is checked must be what is loaded. So the files are copied once into a folder that
only this user can enter; the copy is compared with the manifest, scanned and loaded.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from keras_attention.untrusted import printable


@contextlib.contextmanager
def private_copy(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """Copies files into a new private folder, and removes it at the end.

    Args:
        folder: The folder of the files.
        names: The paths of the files, relative to the folder.
    """
    with tempfile.TemporaryDirectory(
        prefix="keras-attention-", ignore_cleanup_errors=True
    ) as made:
        add_to_copy(folder, names, Path(made))
        yield Path(made)


def add_to_copy(folder: Path, names: Iterable[str], copy: Path) -> dict[str, Path]:
    """Copies more files into a private copy.

    Args:
        folder: The folder of the files.
        names: The paths of the files, relative to the folder and inside it.
        copy: The folder that `private_copy` yielded.

    Returns:
        Name to copy.
    """
    copies = {name: copy / name for name in names}
    for name, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(Path(folder, name), target)
    return copies


def _copy(source: Path, target: Path) -> None:
    """Copy a plain file; a link, a pipe or a device is refused without waiting."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        opened = os.open(source, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _not_plain(source) from error
    with open(opened, "rb") as reader:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise _not_plain(source)
        with target.open("xb") as writer:
            try:
                _copy_in_the_kernel(reader.fileno(), writer.fileno())
            except (AttributeError, OSError):  # another system, or another disk
                reader.seek(0)
                writer.seek(0)
                writer.truncate()
                shutil.copyfileobj(reader, writer, 1 << 20)


def _copy_in_the_kernel(reader: int, writer: int) -> None:
    """Copy without moving the bytes through Python; some file systems share them."""
    while os.copy_file_range(reader, writer, 1 << 30):
        pass


def _not_plain(path: Path) -> ValueError:
    return ValueError(
        "An artifact consists of plain files that can be read. Expected no links, "
        "sockets or devices in it: copy what the link points to. "
        f"Received: {printable(path)}"
    )
