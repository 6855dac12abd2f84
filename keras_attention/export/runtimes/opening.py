"""Opens artifacts, whatever their format, in one of the runtimes.

`RUNTIMES` is the list of them. No runner needs Keras or the library's layers, and this
module loads no runtime before an artifact is opened.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from keras_attention.export.artifact.manifest import MANIFEST_NAME, read_manifest
from keras_attention.export.runtimes.base import Runner
from keras_attention.export.scanning.scan import refuse_unsafe

SAVED_MODEL = ""


def _tensorflow(path: Path, threads: int) -> Runner:
    from keras_attention.export.runtimes.tensorflow_session import SessionRunner

    return SessionRunner(path, intra_op_threads=threads)


def _onnxruntime(path: Path, threads: int) -> Runner:
    from keras_attention.export.runtimes.onnxruntime import OnnxRunner

    return OnnxRunner(path, intra_op_threads=threads)


def _openvino(path: Path, threads: int, precision: str = "float32") -> Runner:
    from keras_attention.export.runtimes.openvino import OpenVinoRunner

    return OpenVinoRunner(path, intra_op_threads=threads, precision=precision)


def _litert(path: Path, threads: int) -> Runner:
    from keras_attention.export.runtimes.litert import LiteRtRunner

    return LiteRtRunner(path, intra_op_threads=threads)


class Runtime(NamedTuple):
    """One way to run artifacts.

    Attributes:
        suffix: The suffix of the files it opens; `SAVED_MODEL` for such a folder.
        extra: The extra of this package that installs it.
        open: From a path and a number of threads (0 for all cores) to a runner.
    """

    suffix: str
    extra: str
    open: Callable[[Path, int], Runner]


RUNTIMES = {
    "tensorflow": Runtime(SAVED_MODEL, "text", _tensorflow),
    "onnxruntime": Runtime(".onnx", "onnx", _onnxruntime),
    "openvino": Runtime(".onnx", "openvino", _openvino),
    "openvino-bfloat16": Runtime(
        ".onnx", "openvino", partial(_openvino, precision="bfloat16")
    ),
    "litert": Runtime(".tflite", "litert", _litert),
}
"""Name to runtime; the first of several for one suffix is the default."""


def runtimes_of(suffix: str) -> list[str]:
    """The names of the runtimes that open files of a suffix, the default first."""
    return [name for name, one in RUNTIMES.items() if one.suffix == suffix]


def open_artifact(
    path: Path,
    signature: str | None = None,
    *,
    intra_op_threads: int = 0,
    runtime: str | None = None,
) -> Runner:
    """Open an artifact; one with a manifest only if `scan_artifact` passes.

    Args:
        path: The artifact.
        signature: str, optional. A signature that it must have; of several files, the
            one to open.
        intra_op_threads: int, optional. Threads of one operation; default: all cores.
        runtime: str, optional. `"tensorflow"` for a SavedModel; for ONNX
            `"onnxruntime"`, the default, `"openvino"`, in float32, or
            `"openvino-bfloat16"`, which is fast where the processor has it;
            `"litert"` for LiteRT.
    """
    refuse_unsafe(path := Path(path))
    if (path / "saved_model.pb").is_file():
        file, suffix = path, SAVED_MODEL
    else:
        file = _single_file(path, signature)
        suffix = file.suffix
    known = runtimes_of(suffix)
    chosen = runtime or known[0]
    if chosen not in known:
        raise ValueError(
            f"This artifact is opened by {' or '.join(known)}. "
            f"Received: runtime={runtime!r} for {path}"
        )
    runner = RUNTIMES[chosen].open(file, intra_op_threads)
    try:
        folder = file if file.is_dir() else file.parent
        if (folder / MANIFEST_NAME).is_file():
            runner.add_descriptions(read_manifest(folder).signatures)
        if signature is not None and signature not in runner.signatures:
            raise runner.no_signature(signature)
    except BaseException:
        runner.close()
        raise
    return runner


def _single_file(path: Path, signature: str | None) -> Path:
    suffixes = {one.suffix: None for one in RUNTIMES.values() if one.suffix}
    if path.is_file() and path.suffix in suffixes:
        return path
    found = sorted(path.iterdir()) if path.is_dir() else []
    files = [file for file in found if file.suffix in suffixes]
    chosen = [f for f in files if signature is None or f.stem == signature]
    if len(chosen) == 1:
        return chosen[0]
    if files:
        raise ValueError(
            "Which of the files is meant? Expected one file, or signature= with "
            f"one of {[file.stem for file in files]}. Received: {path}, "
            f"signature={signature!r}"
        )
    raise FileNotFoundError(
        "No artifact there. Expected a SavedModel folder (with saved_model.pb), a "
        f"{' or '.join(suffixes)} file or a folder with some. Received: {path}"
    )
