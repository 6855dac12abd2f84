"""The `manifest.json` of an artifact: its files, its signatures, its verification.

Needs neither TensorFlow nor Keras, so that a deployment can check an artifact before
anything loads it. The contract for other languages is a JSON Schema, in the
repository's `export/schema/manifest.schema.json`.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from keras_attention import __version__, untrusted
from keras_attention.export.artifact.description import SignatureInfo
from keras_attention.untrusted import printable

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 24
FORMATS = {"saved_model": "SavedModel", "onnx": "ONNX", "litert": "LiteRT"}
"""The formats, with the name of each in a text."""
_OPTIONAL = ("quantization", "compilation")
_PACKAGES = (
    *("tensorflow", "tensorflow-text", "keras", "onnx", "tf2onnx", "onnxruntime"),
    "ai-edge-litert",
)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        format: `"saved_model"`, `"onnx"` or `"litert"`.
        signatures: Name to what the signature takes and returns.
        files: Relative path to `{"sha256": …, "bytes": …}`, without the manifest.
        weights_bytes: The size of the weights, each counted once.
        versions: Package to the version installed where the artifact was written.
        created: UTC, ISO 8601.
        verification: One dict per compared case: `signature`, `case`, `runtime`,
            `max_abs_error`, `max_rel_error`, `tolerance`, `passed`.
        op_libraries: The libraries of tensorflow-text that a loader must load first.
        manifest_version: The version of this layout. Readers refuse a higher one.
        quantization: The settings of `quantize_artifact`: `kind`, the files of the
            `source`, the weights left in `float32`. Written only by it.
        compilation: `jit_compile` and `length_buckets` of a SavedModel. Written only
            if one of them is used.
    """

    format: str
    signatures: dict[str, SignatureInfo]
    files: dict[str, dict[str, Any]]
    weights_bytes: int
    versions: dict[str, str]
    created: str
    verification: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    op_libraries: list[str] = dataclasses.field(default_factory=list)
    manifest_version: int = 1
    quantization: dict[str, Any] = dataclasses.field(default_factory=dict)
    compilation: dict[str, Any] = dataclasses.field(default_factory=dict)


def write_manifest(
    folder: Path,
    *,
    format: str,
    signatures: Iterable[Any],
    weights_bytes: int,
    verification: Sequence[Mapping[str, Any]] = (),
    op_libraries: Sequence[str] = (),
    compilation: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write the manifest of the files that are in the folder now.

    Args:
        folder: The artifact.
        format: `"saved_model"`, `"onnx"` or `"litert"`.
        signatures: The `Signature`s it was written from.
        weights_bytes: The size of the weights, each counted once.
        verification: The results of comparing the artifact with the model.
        op_libraries: See `saved_model.op_libraries`.
        compilation: See `Manifest`.
    """
    if format not in FORMATS:
        raise ValueError(
            "The manifest names the format of the artifact. Expected one of "
            f"{', '.join(FORMATS)}. Received: format={format!r}"
        )
    manifest = Manifest(
        format=format,
        signatures={signature.name: signature.info for signature in signatures},
        files=fingerprints(folder),
        weights_bytes=int(weights_bytes),
        versions=_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        verification=[dict(case) for case in verification],
        op_libraries=sorted(op_libraries),
        compilation=dict(compilation or {}),
    )
    save_manifest(folder, manifest)
    return manifest


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`.

    Args:
        folder: The artifact.
        manifest: Its content.
    """
    fields = dict(vars(manifest))
    fields["signatures"] = {
        name: info.to_json() for name, info in manifest.signatures.items()
    }
    for name in _OPTIONAL:
        if not fields[name]:
            del fields[name]
    text = json.dumps(
        fields,
        indent=2,
        ensure_ascii=False,
        allow_nan=False,  # NaN is not JSON, and an error of NaN verifies nothing
        default=lambda number: number.item(),  # NumPy's numbers
    )
    # The file appears whole or not at all: it may be replaced after a verification.
    partial = Path(folder, f".{MANIFEST_NAME}.{os.getpid()}")
    try:
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, Path(folder, MANIFEST_NAME))
    finally:
        partial.unlink(missing_ok=True)


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`; a ValueError says what is wrong with it."""
    path = Path(folder, MANIFEST_NAME)
    try:
        data = untrusted.read_json(path, MAX_MANIFEST_BYTES)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            "There is no artifact of this library. Expected a folder with a "
            f"{MANIFEST_NAME}, as `export_model` writes it. "
            f"Received: {untrusted.clip(folder)}"
        ) from error
    except ValueError as error:  # not JSON, not UTF-8, not a plain file
        raise _unreadable(path, "JSON in UTF-8", str(error)) from error
    if not isinstance(data, dict):
        raise _unreadable(path, "a JSON object", type(data).__name__)
    version = data.get("manifest_version")
    if type(version) is not int or version != 1:
        raise _unreadable(
            path,
            "manifest_version 1: a newer keras-attention may read it",
            f"manifest_version {untrusted.show(version)}",
        )
    known = get_type_hints(Manifest)
    wrong = (known.keys() ^ data.keys()) - {*_OPTIONAL}
    if wrong:
        raise _unreadable(path, f"the keys {sorted(known)}", str(sorted(wrong)))
    for name in data:
        hint = known[name]
        kind = get_origin(hint) or hint  # `dict[str, Any]` -> dict
        if not isinstance(data[name], kind) or isinstance(data[name], bool):
            received = untrusted.show(data[name])
            raise _unreadable(path, f"{name}: {kind.__name__}", received)
    _check_entries(path, data)
    return Manifest(**{**data, "signatures": _signatures(path, data["signatures"])})


def fingerprints(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the size and sha256 of every file but the manifest, by relative path.

    Args:
        folder: The artifact.
    """
    return {name: _fingerprint(path) for name, path in _files(folder).items()}


def check_files(
    folder: Path, manifest: Manifest, copies: Mapping[str, Path] | None = None
) -> None:
    """Compare the folder with its manifest, byte by byte.

    Args:
        folder: The artifact.
        manifest: Its manifest.
        copies: Name to a copy that is read in the place of the file in the folder.

    Raises:
        ValueError: Names every file that is missing, changed or extra.
    """
    found = _files(folder) | dict(copies or {})
    problems = [f"{name} is missing" for name in manifest.files if name not in found]
    problems += [f"{name} is extra" for name in found if name not in manifest.files]
    for name, expected in manifest.files.items():
        if name not in found:
            continue
        size = found[name].stat().st_size  # compared first: it costs no reading
        if size != expected["bytes"]:
            problems.append(
                f"{name} is changed ({size:,} bytes instead of {expected['bytes']:,})"
            )
        elif _fingerprint(found[name])["sha256"] != expected["sha256"]:
            problems.append(f"{name} is changed (same size, another sha256)")
    if problems:
        raise ValueError(
            "The artifact is not the one that was exported. Expected exactly the "
            f"files of its {MANIFEST_NAME}: copy or export it again. "
            f"Received: {printable('; '.join(problems))}, in {printable(folder)}"
        )


def _versions() -> dict[str, str]:
    """Read from the packages' metadata: importing the packages takes seconds."""
    versions = {"keras-attention": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _files(folder: Path) -> dict[str, Path]:
    """Relative path to path of every file but the manifest, in order.

    A link is an entry like a file, and is refused by its fingerprint or its name: its
    target can change, and may be outside the folder.
    """
    folder = Path(folder)
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST_NAME and (path.is_symlink() or not path.is_dir()):
            found[name] = path
    return found


def _fingerprint(path: Path) -> dict[str, Any]:
    if path.is_symlink() or not path.is_file():
        raise ValueError(
            "An artifact consists of plain files. Expected no links, sockets or "
            f"devices in it: copy what the link points to. Received: {printable(path)}"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"sha256": digest, "bytes": file.tell()}


def _check_entries(path: Path, data: dict[str, Any]) -> None:
    """Check what a reader relies on: a manifest is input like any other."""
    if data["format"] not in FORMATS:
        expected = f"format: one of {', '.join(FORMATS)}"
        raise _unreadable(path, expected, untrusted.show(data["format"]))
    for name, kind in (("op_libraries", str), ("verification", dict)):
        for entry in data[name]:
            if not isinstance(entry, kind):
                received = untrusted.show(entry)
                raise _unreadable(path, f"{name}: each {kind.__name__}", received)
    for name, entry in data["files"].items():
        if not (
            isinstance(entry, dict)
            and isinstance(entry.get("sha256"), str)
            and type(entry.get("bytes")) is int
            and entry["bytes"] >= 0
        ):
            expected = f"files[{untrusted.show(name)}]: sha256 and bytes"
            raise _unreadable(path, expected, untrusted.show(entry))
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            received = untrusted.show(name)
            raise _unreadable(path, "files: paths inside the folder", received)


def _signatures(path: Path, entries: dict[str, Any]) -> dict[str, SignatureInfo]:
    signatures = {}
    for name, entry in entries.items():
        try:
            signatures[name] = SignatureInfo.from_json(entry)
        except ValueError as error:
            expected = f"signatures[{untrusted.show(name)}]"
            raise _unreadable(path, expected, str(error)) from error
    return signatures


def _unreadable(path: Path, expected: str, received: str) -> ValueError:
    return ValueError(
        f"{path.name} cannot be read. Expected: {untrusted.clip(expected, 500)}. "
        f"Received: {untrusted.clip(received, 1000)}, in {untrusted.clip(path)}"
    )
