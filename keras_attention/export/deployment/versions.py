"""Chooses the version of a base folder that is served: publish, withdraw, restore.

TF Serving and Triton serve the largest numeric folder and ignore other names. So a
version is withdrawn by renaming it to `N.withdrawn`, and nothing is ever deleted. Every
step is one rename, which fails if the new name exists.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from keras_attention.export.artifact.folders import (
    artifact_folder,
    taken_numbers,
    version_numbers,
    version_of,
)
from keras_attention.export.artifact.staging import rename_to_new, staging
from keras_attention.export.verification.child_process import TIME_LIMIT
from keras_attention.export.verification.verify import verify_artifact

_WITHDRAWN = ".withdrawn"
_ATTEMPTS = 100


@dataclass(frozen=True)
class Rollback:
    """The result of `rollback` or `restore`.

    Attributes:
        base: The base folder.
        served: The version that a model server serves now, or `None`.
        moved: The versions that were withdrawn or restored.
    """

    base: Path
    served: int | None
    moved: tuple[int, ...]


def publish(
    source: str | Path,
    target: str | Path,
    *,
    version: int | None = None,
    time_limit: float = TIME_LIMIT,
) -> Path:
    """Verifies an artifact and copies it into place as a version, whole or not at all.

    The copy is made next to its final place, on the same disk, and verified there: the
    files that are checked are the files that are served. The source stays. Nothing is
    ever overwritten; if several publish at once, each gets a number of its own.

    Args:
        source: The artifact's folder, or a base folder, whose highest version is used.
        target: The base folder that a model server watches.
        version: int, optional. The version's number. By default the highest number in
            the folder plus one; withdrawn versions count too.
        time_limit: The seconds that the verification may take.

    Returns:
        The folder of the new version.

    Raises:
        FileExistsError: If the given version exists already or was withdrawn.
        RuntimeError: If the artifact does not agree with its cases, or takes longer
            than the limit.
        ValueError: If a file is missing, changed or not listed.

    Example:
    ```python
    ka.publish("build/minilm/1", "served/minilm")  # served/minilm/4
    ```
    """
    folder, base = artifact_folder(source), Path(target)
    if version is not None and version < 0:
        raise ValueError(
            "`version` must be 0 or more: it names a folder. Received: "
            f"version={version}"
        )
    for _ in range(_ATTEMPTS):
        number = _next(base) if version is None else version
        _refuse_withdrawn(base, number)
        try:
            return _publish_as(folder, base / str(number), time_limit)
        except FileExistsError:
            if version is not None:
                raise
    raise FileExistsError(
        f"Other publishers used each number first, {_ATTEMPTS} times. Publish again, "
        f"with fewer publishers at the same time. Received: {base}"
    )


def rollback(base: str | Path, *, to: int | None = None) -> Rollback:
    """Makes an older version the served one; newer ones are renamed `N.withdrawn`.

    The largest is withdrawn first, so that a server sees only versions that it has seen
    before.

    Args:
        base: The base folder that a model server watches.
        to: int, optional. The version to serve; by default the one below the highest.

    Example:
    ```python
    ka.rollback("served/minilm")  # 3 is served again, 4 is now 4.withdrawn
    ```
    """
    base = Path(base)
    versions = sorted(version_numbers(base))
    if to is None:
        if len(versions) < 2:
            raise ValueError(
                "There is no older version to go back to. Expected two or more "
                f"numeric folders. Received: {versions} in {base}"
            )
        to = versions[-2]
    if to not in versions:
        raise ValueError(
            "A rollback needs an existing version. Expected one of "
            f"{versions}; `restore` brings back the withdrawn ones "
            f"({withdrawn_versions(base)}). Received: to={to}"
        )
    newer = [number for number in reversed(versions) if number > to]
    for number in newer:
        rename_to_new(base / str(number), base / f"{number}{_WITHDRAWN}")
    return Rollback(base, to, tuple(newer))


def restore(base: str | Path, version: int | None = None) -> Rollback:
    """Gives a withdrawn version its number back.

    Args:
        base: The base folder that a model server watches.
        version: int, optional. The version to restore; by default the highest
            withdrawn one.

    Example:
    ```python
    ka.restore("served/minilm", 4)  # 4.withdrawn is 4 again
    ```
    """
    base = Path(base)
    known = withdrawn_versions(base)
    number = max(known, default=None) if version is None else version
    if number is None or number not in known:
        raise ValueError(
            "Only a withdrawn version can be restored. Expected one of "
            f"{known}. Received: version={version}, in {base}"
        )
    rename_to_new(base / f"{number}{_WITHDRAWN}", base / str(number))
    return Rollback(base, max(version_numbers(base)), (number,))


def withdrawn_versions(base: Path) -> list[int]:
    """Returns the versions that `rollback` withdrew."""
    if not base.is_dir():
        return []
    withdrawn = [path for path in base.glob(f"*{_WITHDRAWN}") if path.is_dir()]
    numbers = [version_of(path.name.removesuffix(_WITHDRAWN)) for path in withdrawn]
    return sorted(number for number in numbers if number is not None)


def _next(base: Path) -> int:
    return max(taken_numbers(base), default=0) + 1


def _refuse_withdrawn(base: Path, number: int) -> None:
    if number in withdrawn_versions(base):
        raise FileExistsError(
            f"Version {number} was withdrawn and keeps its number. Publish with a new "
            f"number, or use `restore`. Received: version={number}, in {base}"
        )


def _publish_as(folder: Path, final: Path, time_limit: float) -> Path:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with staging(final, needed_bytes=size) as copy:
        shutil.copytree(folder, copy, symlinks=True, dirs_exist_ok=True)
        report = verify_artifact(copy, time_limit=time_limit)
        if not report.passed:
            raise RuntimeError(
                "The artifact does not agree with its verification cases, so it was "
                "not published. Expected an artifact that passes `verify`. "
                f"Received:\n{report}"
            )
    return final
