"""Makes a folder appear whole or not at all.

Everything is written into a hidden sibling, brought to disk, and renamed. A killed
exporter, a full disk or a second exporter can never leave half an artifact under the
final name, where a model server would pick it up.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

_NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_RENAME_NOREPLACE, _AT_FDCWD = 1, -100  # linux/fs.h, fcntl.h


@contextlib.contextmanager
def staging(final: Path, *, needed_bytes: int = 0) -> Iterator[Path]:
    """Yield an empty folder that becomes `final` when the body ends well.

    If the body raises, the folder is removed and `final` is not there. Of several
    exporters to one name exactly one succeeds. What killed exporters left behind is
    removed by the next call for the same name.

    Args:
        final: Must not exist. Its parent is made if need be.
        needed_bytes: int, optional. Refuse at once if less is free on the disk.

    Raises:
        FileExistsError: Something is there already, or came while the body ran.
        OSError: The place cannot be written, or has no space left.
    """
    final = Path(os.path.abspath(final))  # the body may change the working directory
    _refuse_if_it_exists(final)
    made = _make_parent(final)
    folder = final.with_name(_staging_name(final, str(os.getpid())))
    with _removing_if_empty(made), _explained(final, folder, needed_bytes):
        _remove_leftovers(final)
        free = shutil.disk_usage(final.parent).free
        if free < needed_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        folder.mkdir()
        lock = _lock(folder)
        try:
            yield folder
            _to_disk(folder)
            rename_to_new(folder, final)
        finally:
            # After the rename there is nothing under this name.
            shutil.rmtree(folder, ignore_errors=True)
            if lock is not None:
                os.close(lock)
        _sync(final.parent)


def _staging_name(final: Path, pid: str) -> str:
    return f".{final.name}.staging-{pid}-{secrets.token_hex(4)}"


def _refuse_if_it_exists(final: Path) -> None:
    if os.path.lexists(final):
        raise FileExistsError(
            errno.EEXIST,
            "An artifact is never overwritten, a server may be reading it. Expected a "
            "new name, such as the next version number: remove or rename the old one "
            "first. Nothing was changed. Received",
            str(final),
        )


def _make_parent(final: Path) -> list[Path]:
    """Make the folders above; return those that were not there, innermost first."""
    made = [parent for parent in final.parents if not parent.exists()]
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            errno.ENOTDIR,
            "The artifact cannot be put there. Expected a folder above it, and there "
            "is a file: choose another place. Nothing was changed. Received",
            str(final),
        ) from error
    except OSError as error:
        raise _not_writable(error, final) from error
    return made


@contextlib.contextmanager
def _removing_if_empty(folders: list[Path]) -> Iterator[None]:
    """Remove these folders when the body raises, unless others put something in."""
    try:
        yield
    except BaseException:
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextlib.contextmanager
def _explained(final: Path, folder: Path, needed_bytes: int) -> Iterator[None]:
    """Say of a full disk and a read-only place what can be done about it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES):
            # Only about our own folders: the body may have failed to read its input.
            if str(error.filename) in (str(folder), str(final.parent)):
                raise _not_writable(error, final) from error
            raise
        # TensorFlow and ONNX have exceptions of their own for this.
        texts = [os.strerror(code) for code in _NO_SPACE]
        number = getattr(error, "errno", None)
        if number not in _NO_SPACE and not any(text in str(error) for text in texts):
            raise
        free = shutil.disk_usage(final.parent).free
        needed = f"{needed_bytes:,} bytes" if needed_bytes else "the artifact's size"
        raise OSError(
            number if number in _NO_SPACE else errno.ENOSPC,
            f"There is no space left to write the artifact. Expected room for {needed} "
            f"(and no lower limit on a file's size: see `ulimit -f`), {free:,} bytes "
            "are free: free some, or choose another disk. Nothing was changed. "
            f"Received: {error}",
            str(final),
        ) from error


def _not_writable(error: OSError, final: Path) -> OSError:
    return type(error)(
        error.errno,
        "The artifact cannot be written there. Expected a folder in which this user "
        "may write: choose another, or change its permissions. Nothing was changed. "
        f"Received: {error.strerror}",
        str(final),
    )


def _remove_leftovers(final: Path) -> None:
    """Remove what exporters to this name left behind that no longer run."""
    prefix = _staging_name(final, "").rpartition("-")[0]
    for path in final.parent.iterdir():
        if not path.name.startswith(prefix):
            continue
        pid, _, token = path.name.removeprefix(prefix).partition("-")
        if not (pid.isdigit() and token) or path.is_symlink() or _is_alive(int(pid)):
            continue
        # The process of this number may live in another container that shares the
        # disk. It holds a lock for as long as it runs.
        lock = _lock(path)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":  # os.kill(pid, 0) would send it a Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or not a number of a process
        return True
    return True


def _lock(folder: Path) -> int | None:
    """Lock a folder until the file descriptor is closed; None if that cannot be."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody else's, or a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def _to_disk(folder: Path) -> None:
    """Bring every file and folder to disk: a rename may survive a power cut alone."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_to_new(folder: Path, final: Path) -> None:
    """Rename, failing if `final` exists: `os.rename` would replace an empty folder."""
    try:
        renamed = _rename_no_replace(folder, final)
        if not renamed:
            # Not one step, but still only one exporter can win: making a folder fails
            # if it exists, and renaming onto an empty one is atomic. A kill between
            # the two leaves an empty folder, never half an artifact.
            final.mkdir()
            if sys.platform == "win32":  # cannot rename onto a folder, and need not
                final.rmdir()
            os.rename(folder, final)
    except FileExistsError:
        _refuse_if_it_exists(final)
        raise


def _rename_no_replace(folder: Path, final: Path) -> bool:
    """Linux's renameat2 with RENAME_NOREPLACE; False where there is none."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old C library
        return False
    source, target = os.fsencode(folder), os.fsencode(final)
    if not rename(_AT_FDCWD, source, _AT_FDCWD, target, _RENAME_NOREPLACE):
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL):  # not this kernel, not this disk
        return False
    raise OSError(number, os.strerror(number), str(folder), None, str(final))
