"""Describes and prepares the machine of a measurement; no host name, no paths."""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
from pathlib import Path

PACKAGES = (
    "keras-attention-layers",
    "keras",
    "keras-hub",
    "tensorflow",
    "tensorflow-text",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "transformers",
    "torch",
    "local-attention",
    "numpy",
)


def use_threads(threads: int) -> None:
    """Limits this process and every runtime in it, before any of them is imported."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    for name in (
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
        "OMP_NUM_THREADS",
        "RAYON_NUM_THREADS",
    ):
        os.environ[name] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["KERAS_BACKEND"] = "tensorflow"


def start_tensorflow() -> None:
    """Imports TensorFlow, after torch and triton where they are installed.

    A process that imports triton after TensorFlow crashes.
    """
    from keras_attention.cli import console

    for name in ("torch", "triton"):
        if importlib.util.find_spec(name):
            importlib.import_module(name)
    console.start_tensorflow()


def describe() -> dict:
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
    }


def cpu_slug() -> str:
    """Returns the CPU's model as a part of a file name."""
    words = re.sub(r"\(.*?\)|processor|cpu|@.*", " ", _cpu().lower())
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:40] or "cpu"


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1].strip() if found else platform.machine()


def _memory_gb() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    return round(size / 2**30, 1)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
