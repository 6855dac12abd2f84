"""Finds the one folder that a path means: an artifact, or its highest version.

Every reader of artifacts resolves a path here, so that all of them mean the same
folder.
"""

import re
import warnings
from pathlib import Path

from keras_attention.untrusted import printable

GRAPH_NAMES = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")
GRAPH_SUFFIXES = (".onnx", ".tflite")
_MANIFEST_NAME = "manifest.json"
_VERSION = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_LARGEST = 2**63 - 1  # TF Serving's versions are int64


def artifact_folder(path: str | Path) -> Path:
    """Return the artifact at `path`: the folder itself, or its highest version.

    Raises:
        ValueError: If an artifact contains another one.
    """
    folder = Path(path)
    if not is_artifact(folder):
        versions = version_numbers(folder)
        folder = folder / str(max(versions)) if versions else folder
    _refuse_nested(folder)
    return folder


def is_artifact(folder: Path) -> bool:
    """Whether a folder has a manifest or a graph of its own."""
    if not folder.is_dir():
        return False
    return any(_is_graph(one) or one.name == _MANIFEST_NAME for one in folder.iterdir())


def version_of(name: str) -> int | None:
    """Return the version that a folder's name means, or `None`.

    Only the digits 0 to 9 without a leading zero are a version: another name of the
    same number could not be found from the number.
    """
    if len(name) > 19 or not _VERSION.fullmatch(name) or int(name) > _LARGEST:
        return None
    return int(name)


def version_numbers(base: Path) -> list[int]:
    """Return the versions in a base folder; an artifact itself has none."""
    if not base.is_dir() or is_artifact(base):
        return []
    found = []
    for one in base.iterdir():
        number = version_of(one.name)
        if number is not None and one.is_dir():
            found.append(number)
        elif one.name.isdecimal():
            kind = "not a folder" if number is not None else "not a plain number"
            warnings.warn(
                f"{printable(one)} is ignored: it is {kind}. Expected folders with "
                "names such as 1, 2 and 10.",
                stacklevel=2,
            )
    return found


def taken_numbers(base: Path) -> list[int]:
    """Return the numbers that a new version cannot have, whatever has them.

    TF Serving reads a folder `0002` as version 2.
    """
    if not base.is_dir():
        return []
    stems = (one.name.partition(".")[0] for one in base.iterdir())
    found = [int(stem) for stem in stems if stem.isdecimal() and len(stem) < 20]
    return [number for number in found if number < _LARGEST]


def _is_graph(path: Path) -> bool:
    named = path.name in GRAPH_NAMES or path.suffix in GRAPH_SUFFIXES
    return named and not path.is_dir()


def _refuse_nested(folder: Path) -> None:
    """Refuse an artifact with another one inside: which is meant is not clear."""
    if not is_artifact(folder):
        return
    nested = [
        one
        for one in sorted(folder.rglob("*"))
        if (one.parent != folder and (_is_graph(one) or one.name == _MANIFEST_NAME))
        or (one.parent == folder and one.name.isdecimal() and one.is_dir())
    ]
    if nested:
        names = [printable(one.relative_to(folder)) for one in nested[:5]]
        raise ValueError(
            "An artifact must not contain another one: a loader could take either. "
            "Expected one graph, or version folders without a graph next to them. "
            f"Received: {names}, in {printable(folder)}"
        )
