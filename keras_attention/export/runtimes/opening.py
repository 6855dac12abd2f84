"""Opens artifacts, whatever their format, in the runtime asked for.

`SessionRunner` loads a SavedModel the way TF Serving and the C API do, the others a
file of ONNX or LiteRT. None needs Keras or the library's layers.
"""

from pathlib import Path
from typing import Any

from keras_attention.export.runtimes.base import Runner
from keras_attention.export.runtimes.litert import LiteRtRunner
from keras_attention.export.runtimes.onnxruntime import OnnxRunner
from keras_attention.export.runtimes.openvino import OpenVinoRunner
from keras_attention.export.runtimes.tensorflow_session import SessionRunner
from keras_attention.export.scanning.scan import refuse_unsafe

_ONNX_RUNTIMES = ("onnxruntime", "openvino", "openvino-bfloat16")
_RUNTIMES_OF = {"": ("tensorflow",), ".onnx": _ONNX_RUNTIMES, ".tflite": ("litert",)}


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
        signature: str, optional. One that must be there; which of several files.
        intra_op_threads: int, optional. Threads of one operation; default: all cores.
        runtime: str, optional. `"tensorflow"` for a SavedModel; for ONNX
            `"onnxruntime"`, the default, `"openvino"`, in float32, or
            `"openvino-bfloat16"`, which is fast where the processor has it;
            `"litert"` for LiteRT.
    """
    refuse_unsafe(path := Path(path))
    saved_model = (path / "saved_model.pb").is_file()
    file = path if saved_model else _single_file(path, signature)
    known = _RUNTIMES_OF["" if saved_model else file.suffix]
    if runtime not in (None, *known):
        raise ValueError(
            f"This artifact is opened by {' or '.join(known)}. "
            f"Received: runtime={runtime!r} for {path}"
        )
    if saved_model:
        runner: Runner = SessionRunner(path, intra_op_threads=intra_op_threads)
    else:
        threads: dict[str, Any] = {"intra_op_threads": intra_op_threads}
        name, _, precision = (runtime or "").partition("-")
        if file.suffix == ".tflite":
            runner = LiteRtRunner(file, **threads)
        elif name == "openvino":
            precision = precision or "float32"
            runner = OpenVinoRunner(file, precision=precision, **threads)
        else:
            runner = OnnxRunner(file, **threads)
    if signature is not None and signature not in runner.signatures:
        runner.close()
        raise ValueError(
            f"The artifact has no signature '{signature}'. Expected one of "
            f"{sorted(runner.signatures)}. Received: {signature!r}"
        )
    return runner


def _single_file(path: Path, signature: str | None) -> Path:
    suffixes = (".onnx", ".tflite")
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
        f".onnx or .tflite file or a folder with some. Received: {path}"
    )
