"""The versions of one model: finds, checks, loads, replaces and closes them.

A new version is loaded and warmed up while the old one is served, then takes over in
one step. The old version is closed after its last request, so that no request is lost.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from keras_attention.export.artifact.folders import version_numbers
from keras_attention.export.artifact.manifest import (
    MANIFEST_NAME,
    Manifest,
)
from keras_attention.export.cases.grid import CASES_NAME, load_cases
from keras_attention.export.runtimes.base import Runner
from keras_attention.export.runtimes.opening import open_signatures
from keras_attention.export.scanning.scan import whole_copy
from keras_attention.serving.checks import Limits, check_request
from keras_attention.serving.errors import ServingError, printable
from keras_attention.serving.json_format import no_signature

# What a request without a name runs, if an artifact has several signatures.
DEFAULT_SIGNATURE = "serving_default"
DRAIN_SECONDS = 60
MAX_VERSION = 2**63 - 1  # gRPC's messages have no room for more


class LoadedVersion:
    """One opened artifact.

    Args:
        number: The version's number.
        folder: The artifact's folder. `open_artifact` compares all its files with the
            manifest before it loads one.
    """

    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self.leases = 0
        with whole_copy(folder) as (copy, manifest):
            if not manifest.signatures:
                raise ValueError(
                    "The artifact has nothing to serve. Expected at least one "
                    f"signature in its {MANIFEST_NAME}. "
                    f"Received: {printable(folder, 300)}"
                )
            self.manifest: Manifest = manifest
            self._runners: dict[str, Runner] = open_signatures(copy, manifest)
            try:
                self._warm_up(copy / CASES_NAME)
            except BaseException:
                self.close()
                raise

    @property
    def default_signature(self) -> str:
        """The signature to run if a request names none."""
        names = list(self.manifest.signatures)
        return names[0] if len(names) == 1 else DEFAULT_SIGNATURE

    def predict(
        self, signature: str, inputs: dict[str, np.ndarray], limits: Limits
    ) -> dict[str, np.ndarray]:
        """Check a request and run the signature."""
        entry = self.manifest.signatures.get(signature)
        if entry is None:
            raise no_signature(signature, self.manifest.signatures)
        check_request(signature, entry, inputs, limits)
        return self._runners[signature].run(signature, **inputs)

    def close(self) -> None:
        """Close the runtimes."""
        for runner in {id(one): one for one in self._runners.values()}.values():
            runner.close()
        self._runners.clear()

    def _warm_up(self, cases: Path) -> None:
        """Run each signature on its first case: the first call of a graph is slow."""
        if not cases.is_file():
            return
        warm: set[str] = set()
        for case in load_cases(cases):
            if case.signature not in warm:
                warm.add(case.signature)
                self._runners[case.signature].run(case.signature, **case.inputs)


@dataclasses.dataclass
class State:
    """The state of one version, in TF Serving's names."""

    state: str
    code: str = "OK"
    message: str = ""


class VersionedModel:
    """The versions in a folder, of which the highest are served.

    Args:
        path: A base folder with version folders, or one artifact.
        name: The model's name in requests; by default the folder's name.
        keep: The number of versions that are served at once.
        on_event: Called with a word and facts when a version is loaded or unloaded.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        keep: int = 1,
        on_event: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        self.path = Path(path).resolve()
        self.name = name or model_name(self.path)
        self.states: dict[int, State] = {}
        self._keep = keep
        self._on_event = on_event
        self._changed = threading.Condition()
        self._serving: dict[int, LoadedVersion] = {}
        self._failed: dict[int, int] = {}  # version -> change time of its manifest
        self._ignored: dict[str, str] = {}  # name in the folder -> reason

    def poll(self) -> None:
        """Read the folder once: load new versions, then unload old ones.

        A version that cannot be loaded is left out, and the one below it is served.
        """
        found = version_folders(self.path)
        self._report_ignored()
        for number in self._failed.keys() - found.keys():
            del self._failed[number]
        wanted: list[int] = []
        for number in sorted(found, reverse=True):
            if len(wanted) == self._keep:
                break
            if number in self._serving or self._load(number, found[number]):
                wanted.append(number)
        if not wanted:
            return  # an old version is better than none
        for number in sorted(self._serving.keys() - set(wanted)):
            self._unload(number)

    def _report_ignored(self) -> None:
        ignored = misnamed_versions(self.path)
        for name, reason in ignored.items():
            if self._ignored.get(name) != reason:
                self._on_event("ignored", name=printable(name), reason=reason)
        self._ignored = ignored

    @contextlib.contextmanager
    def lease(self, name: str, version: int | None) -> Iterator[LoadedVersion]:
        """A version that stays open inside the block."""
        with self._changed:
            loaded = self._serving.get(
                max(self._serving, default=-1) if version is None else version
            )
            if name != self.name or loaded is None:
                raise self._not_found(name, version)
            loaded.leases += 1
        try:
            yield loaded
        finally:
            with self._changed:
                loaded.leases -= 1
                self._changed.notify_all()

    @property
    def versions(self) -> list[int]:
        """The versions that are served now."""
        return sorted(self._serving)

    @property
    def left_out(self) -> dict[str, str]:
        """Name to reason, for what is in the folder and cannot be served."""
        failed = {
            str(number): state.message
            for number in sorted(self._failed)
            if (state := self.states.get(number)) and state.code != "OK"
        }
        return failed | {printable(name): why for name, why in self._ignored.items()}

    def status(self, name: str, version: int | None) -> dict[int, State]:
        """The states of all versions or of one, the highest first."""
        states = dict(self.states)
        if name != self.name or (version is not None and version not in states):
            raise ServingError(
                "NOT_FOUND",
                f"Could not find any versions of model {name}"
                if version is None
                else f"Could not find version {version} of model {name}",
            )
        chosen = states if version is None else [version]
        return {number: states[number] for number in sorted(chosen, reverse=True)}

    def close(self) -> None:
        """Unload every version after its requests have ended."""
        for number in self.versions:
            self._unload(number)

    def _not_found(self, name: str, version: int | None) -> ServingError:
        wanted = f"Latest({name})"
        if version is not None:
            wanted = f"Specific({name}, {version})"
        have = ", ".join(map(str, self._serving)) or "none yet"
        return ServingError(
            "NOT_FOUND" if name != self.name or self._serving else "UNAVAILABLE",
            f"Servable not found for request: {wanted}. Expected: model {self.name}, "
            f"version {have}",
        )

    def _load(self, number: int, folder: Path) -> bool:
        changed = _changed_at(folder)
        if self._failed.get(number) == changed:
            return False
        self.states[number] = State("LOADING")
        start = time.monotonic()
        try:
            loaded = LoadedVersion(number, folder)
        except Exception as error:  # a damaged version must not stop the server
            self._failed[number] = changed
            reason = printable(f"{type(error).__name__}: {error}")
            self.states[number] = State("END", "INTERNAL", reason)
            self._on_event("failed", version=number, reason=reason)
            return False
        with self._changed:
            self._serving[number] = loaded
            self.states[number] = State("AVAILABLE")
        seconds = round(time.monotonic() - start, 3)
        self._on_event("loaded", version=number, seconds=seconds)
        return True

    def _unload(self, number: int) -> None:
        with self._changed:
            loaded = self._serving.pop(number)
            self.states[number] = State("UNLOADING")
            drained = self._changed.wait_for(lambda: not loaded.leases, DRAIN_SECONDS)
        if drained:  # to close a runtime during a call may crash the process
            loaded.close()
        self.states[number] = State("END")
        self._on_event("unloaded", version=number)


def model_name(path: Path) -> str:
    """The name of the model in a folder: the base folder's name."""
    path = Path(path).resolve()
    is_version = path.name.isdecimal() and (path / MANIFEST_NAME).is_file()
    return path.parent.name if is_version else path.name


def version_folders(path: Path) -> dict[int, Path]:
    """Version to folder, for a base folder or a single artifact (version 1)."""
    # A folder such as `0002` has the number 2, but is not the folder of version 2.
    folders = {number: path / str(number) for number in version_numbers(path)}
    folders = {
        number: folder
        for number, folder in folders.items()
        if number <= MAX_VERSION and folder.is_dir()
    }
    if folders:
        return folders
    if (path / MANIFEST_NAME).is_file():
        return {int(path.name) if _is_version(path.name) else 1: path}
    return {}


def misnamed_versions(path: Path) -> dict[str, str]:
    """Name to reason, for what looks like a version in a base folder but is none."""
    found = {}
    for entry in sorted(path.iterdir()) if path.is_dir() else ():
        if not entry.name.isdecimal():
            continue
        if not _is_version(entry.name):
            found[entry.name] = (
                f"not a version: expected a number from 0 to {MAX_VERSION} in ASCII "
                "digits, without leading zeros"
            )
        elif not entry.is_dir():
            found[entry.name] = "not a version: expected a folder"
    return found


def _is_version(name: str) -> bool:
    if not (name.isascii() and name.isdecimal()):
        return False
    return str(int(name)) == name and int(name) <= MAX_VERSION


def _changed_at(folder: Path) -> int:
    try:
        return (folder / MANIFEST_NAME).stat().st_mtime_ns
    except OSError:
        return 0
