"""The `manifest.json` of an artifact: what is in it, what it takes, what was proven.

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

from keras_attention import __version__

MANIFEST_NAME = "manifest.json"
FORMATS = ("saved_model", "onnx", "litert")
_OPTIONAL = ("quantization", "compilation")
_PACKAGES = (
    *("tensorflow", "tensorflow-text", "keras", "onnx", "tf2onnx", "onnxruntime"),
    "ai-edge-litert",
)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    Attributes:
        format: `"saved_model"`, `"onnx"` or `"litert"`.
        signatures: Name to a dict of `inputs` and `outputs` (each a name to `dtype`
            and `shape`, whose entries are sizes or names of dynamic axes), `limits`
            and `max_lengths`.
        files: Relative path to `{"sha256": …, "bytes": …}`, without the manifest.
        weights_bytes: Size of the weights, each counted once.
        versions: Package to version, of what was installed where it was written.
        created: UTC, ISO 8601.
        verification: One dict a compared case: `signature`, `case`, `runtime`,
            `max_abs_error`, `max_rel_error`, `tolerance`, `passed`.
        op_libraries: Libraries of tensorflow-text a loader must load first.
        manifest_version: Of this layout. Readers refuse a higher one.
        quantization: Of an artifact of `quantize_artifact`: `kind`, the files of the
            `source`, the weights left in `float32`. Not written where there is none.
        compilation: Of a SavedModel that was written with `jit_compile` or
            `length_buckets`: both. Not written of others.
    """

    format: str
    signatures: dict[str, dict[str, Any]]
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
    """Describe the files that are in the folder now.

    Args:
        folder: The artifact.
        format: `"saved_model"`, `"onnx"` or `"litert"`.
        signatures: The `Signature`s it was written from.
        weights_bytes: Size of the weights, each counted once.
        verification: Results of comparing the artifact with the model.
        op_libraries: See `saved_model.op_libraries`.
        compilation: What `Manifest` says of it.
    """
    if format not in FORMATS:
        raise ValueError(
            "The manifest names the format of the artifact. Expected one of "
            f"{FORMATS}. Received: format={format!r}"
        )
    manifest = Manifest(
        format=format,
        signatures={signature.name: _described(signature) for signature in signatures},
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
    """Writes `manifest.json` as it is.

    Args:
        folder: The artifact.
        manifest: What it says.
    """
    described = dataclasses.asdict(manifest)
    for name in _OPTIONAL:
        if not described[name]:
            del described[name]
    text = json.dumps(
        described,
        indent=2,
        ensure_ascii=False,
        allow_nan=False,  # NaN is not JSON: an error of NaN is no verification
        default=lambda number: number.item(),  # NumPy's
    )
    # Whole or not at all: it may be written again after a verification.
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
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            "There is no artifact of this library. Expected a folder with a "
            f"{MANIFEST_NAME}, as `export_model` writes it. Received: {folder}"
        ) from error
    except ValueError as error:  # not JSON, not UTF-8
        raise _unreadable(path, "JSON in UTF-8", str(error)) from error
    if not isinstance(data, dict):
        raise _unreadable(path, "a JSON object", type(data).__name__)
    version = data.get("manifest_version")
    if version != 1:
        raise _unreadable(
            path,
            "manifest_version 1: a newer keras-attention may read it",
            f"manifest_version {version!r}",
        )
    known = get_type_hints(Manifest)
    wrong = (known.keys() ^ data.keys()) - {*_OPTIONAL}
    if wrong:
        raise _unreadable(path, f"the keys {sorted(known)}", f"{sorted(data)}")
    for name in data:
        hint = known[name]
        kind = get_origin(hint) or hint  # `dict[str, Any]` -> dict
        if not isinstance(data[name], kind) or isinstance(data[name], bool):
            raise _unreadable(path, f"{name}: {kind.__name__}", repr(data[name])[:100])
    _check_entries(path, data)
    return Manifest(**data)


def fingerprints(folder: Path) -> dict[str, dict[str, Any]]:
    """Relative path to size and sha256 of every file but the manifest.

    Args:
        folder: The artifact.
    """
    return {name: _fingerprint(path) for name, path in _files(folder).items()}


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare the folder with its manifest, byte by byte.

    Raises:
        ValueError: Names every file that is missing, changed or extra.
    """
    found = _files(folder)
    problems = [f"{name} is missing" for name in manifest.files if name not in found]
    problems += [f"{name} is extra" for name in found if name not in manifest.files]
    for name, expected in manifest.files.items():
        if name not in found:
            continue
        size = found[name].stat().st_size  # says enough, and costs no reading
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
            f"Received: {'; '.join(problems)}, in {folder}"
        )


def artifact_folder(path: str | Path) -> Path:
    """The artifact at `path`: the folder itself, or its highest version."""
    versions = version_numbers(Path(path))
    return Path(path, str(max(versions))) if versions else Path(path)


def version_numbers(base: Path) -> list[int]:
    """The version folders of a SavedModel's base folder."""
    if not base.is_dir():
        return []
    return [int(p.name) for p in base.iterdir() if p.name.isdecimal() and p.is_dir()]


def _described(signature: Any) -> dict[str, Any]:
    sides = {"inputs": signature.inputs, "outputs": signature.outputs}
    described: dict[str, Any] = {
        side: {
            name: {"dtype": info.dtype, "shape": list(info.shape)}
            for name, info in tensors.items()
        }
        for side, tensors in sides.items()
    }
    described["limits"] = dict(signature.limits)
    described["max_lengths"] = dict(signature.max_lengths)
    return described


def _versions() -> dict[str, str]:
    """From the packages' metadata: importing them to ask would take seconds."""
    versions = {"keras-attention": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _files(folder: Path) -> dict[str, Path]:
    """Relative path -> path of every file but the manifest, in order.

    A link is an entry like a file, to be refused by its fingerprint or its name: what
    stands behind it can change, and may lie outside the folder.
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
            f"devices in it: copy what the link points to. Received: {path}"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"sha256": digest, "bytes": file.tell()}


def _check_entries(path: Path, data: dict[str, Any]) -> None:
    """What a reader relies on: a manifest is input like any other."""
    if data["format"] not in FORMATS:
        raise _unreadable(path, f"format: one of {FORMATS}", repr(data["format"]))
    for name, entry in data["files"].items():
        if not (
            isinstance(entry, dict)
            and isinstance(entry.get("sha256"), str)
            and type(entry.get("bytes")) is int
        ):
            raise _unreadable(path, f"files[{name!r}]: sha256 and bytes", repr(entry))
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise _unreadable(path, "files: paths inside the folder", repr(name))
    for name, entry in data["signatures"].items():
        parts = ("inputs", "outputs", "limits", "max_lengths")
        if not (
            isinstance(entry, dict)
            and all(isinstance(entry.get(part), dict) for part in parts)
        ):
            raise _unreadable(path, f"signatures[{name!r}]: {parts}", repr(entry)[:100])


def _unreadable(path: Path, expected: str, received: str) -> ValueError:
    return ValueError(
        f"{path.name} cannot be read. Expected: {expected}. Received: {received}, "
        f"in {path}"
    )
