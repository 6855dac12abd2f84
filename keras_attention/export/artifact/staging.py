"""Makes a folder appear whole or not at all.

Everything is written into a hidden folder next to the final one, flushed to disk, and
renamed. A killed exporter, a full disk or a second exporter can never leave half an
artifact under the final name, where a model server would load it.
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
    """Yield an empty folder that becomes `final` if the body does not raise.

    If the body raises, the folder is removed and `final` is not there. Of several
    exporters to one name exactly one succeeds. The next call for the same name removes
    what killed exporters left behind.

    Args:
        final: The final path, which must not exist. Its parents are made if needed.
        needed_bytes: int, optional. Refuse at once if less is free on the disk.

    Raises:
        FileExistsError: If the path exists, or appeared while the body ran.
        OSError: If the place cannot be written, or has no space left.
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
    """Make the parent folders; return those that were missing, innermost first."""
    made = [parent for parent in final.parents if not parent.exists()]
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            errno.ENOTDIR,
            "The artifact cannot be put there. Expected folders above it, and one is a "
            "file: choose another place. Nothing was changed. Received",
            str(final),
        ) from error
    except OSError as error:
        raise _not_writable(error, final) from error
    return made


@contextlib.contextmanager
def _removing_if_empty(folders: list[Path]) -> Iterator[None]:
    """Remove these folders if the body raises and they are empty."""
    try:
        yield
    except BaseException:
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextlib.contextmanager
def _explained(final: Path, folder: Path, needed_bytes: int) -> Iterator[None]:
    """Raise errors that say how to fix a full disk and a read-only place."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES):
            # Only for our own folders: the body may have failed to read its input.
            if str(error.filename) in (str(folder), str(final.parent)):
                raise _not_writable(error, final) from error
            raise
        # TensorFlow and ONNX have exceptions of their own for a full disk.
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
        "The artifact cannot be written there. Expected a folder that this user can "
        "write to: choose another, or change its permissions. Nothing was changed. "
        f"Received: {error.strerror}",
        str(final),
    )


def _remove_leftovers(final: Path) -> None:
    """Remove the folders of exporters to this name that no longer run."""
    prefix = _staging_name(final, "").rpartition("-")[0]
    for path in final.parent.iterdir():
        if not path.name.startswith(prefix):
            continue
        pid, _, token = path.name.removeprefix(prefix).partition("-")
        if not (pid.isdigit() and token) or path.is_symlink() or _is_alive(int(pid)):
            continue
        # The process may run in another container that shares the disk, where this
        # number is unknown. It holds a lock for as long as it runs.
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
    except (OSError, OverflowError):  # another user's process, or too large a number
        return True
    return True


def _lock(folder: Path) -> int | None:
    """Lock a folder until the returned descriptor is closed; `None` if it fails."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has the lock, or there are no locks here
        os.close(descriptor)
        return None
    return descriptor


def _to_disk(folder: Path) -> None:
    """Flush every file and folder: a power cut could keep only the rename."""
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
    """Rename, and fail if `final` exists: `os.rename` would replace an empty folder."""
    try:
        renamed = _rename_no_replace(folder, final)
        if not renamed:
            # These are two steps, but still only one exporter can win: `mkdir` fails if
            # the folder exists, and renaming onto an empty folder is atomic. A kill
            # between the two leaves an empty folder, never half an artifact.
            final.mkdir()
            if sys.platform == "win32":  # it cannot rename onto a folder
                final.rmdir()
            os.rename(folder, final)
    except FileExistsError:
        _refuse_if_it_exists(final)
        raise


def _rename_no_replace(folder: Path, final: Path) -> bool:
    """Call Linux's renameat2 with RENAME_NOREPLACE; return False if it is missing."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old C library
        return False
    source, target = os.fsencode(folder), os.fsencode(final)
    if not rename(_AT_FDCWD, source, _AT_FDCWD, target, _RENAME_NOREPLACE):
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL):  # not on this kernel or disk
        return False
    raise OSError(number, os.strerror(number), str(folder), None, str(final))
