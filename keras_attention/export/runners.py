"""Opens artefacts, whatever their format, in the runtime asked for.

`SessionRunner` loads a SavedModel the way TF Serving and the C API do, the others an
ONNX file. None needs Keras or the library's layers.
"""

from pathlib import Path
from typing import Any

from keras_attention.export.onnx_runner import OnnxRunner
from keras_attention.export.openvino_runner import OpenVinoRunner
from keras_attention.export.runner import Runner
from keras_attention.export.scan import refuse_unsafe
from keras_attention.export.session_runner import SessionRunner

RUNTIMES = ("tensorflow", "onnxruntime", "openvino", "openvino-bfloat16")


def open_artifact(
    path: Path,
    signature: str | None = None,
    *,
    intra_op_threads: int = 0,
    runtime: str | None = None,
) -> Runner:
    """Open a SavedModel or ONNX; one with a manifest only if `scan_artifact` passes.

    Args:
        path: The artefact.
        signature: str, optional. One that must be there; which of several files.
        intra_op_threads: int, optional. Threads of one operation; default: all cores.
        runtime: str, optional. `"tensorflow"` for a SavedModel; for ONNX
            `"onnxruntime"`, the default, `"openvino"`, in float32, or
            `"openvino-bfloat16"`, which is fast where the processor has it.
    """
    refuse_unsafe(path := Path(path))
    saved_model = (path / "saved_model.pb").is_file()
    known = RUNTIMES[:1] if saved_model else RUNTIMES[1:]
    if runtime not in (None, *known):
        raise ValueError(
            f"This artefact is opened by {' or '.join(known)}. "
            f"Received: runtime={runtime!r} for {path}"
        )
    if saved_model:
        runner: Runner = SessionRunner(path, intra_op_threads=intra_op_threads)
    else:
        file = _single_onnx_file(path, signature)
        threads: dict[str, Any] = {"intra_op_threads": intra_op_threads}
        name, _, precision = (runtime or "").partition("-")
        if name == "openvino":
            precision = precision or "float32"
            runner = OpenVinoRunner(file, precision=precision, **threads)
        else:
            runner = OnnxRunner(file, **threads)
    if signature is not None and signature not in runner.signatures:
        runner.close()
        raise ValueError(
            f"The artefact has no signature '{signature}'. Expected one of "
            f"{sorted(runner.signatures)}. Received: {signature!r}"
        )
    return runner


def _single_onnx_file(path: Path, signature: str | None) -> Path:
    if path.is_file() and path.suffix == ".onnx":
        return path
    files = sorted(path.glob("*.onnx")) if path.is_dir() else []
    chosen = [f for f in files if signature is None or f.stem == signature]
    if len(chosen) == 1:
        return chosen[0]
    if files:
        raise ValueError(
            "Which of the ONNX files is meant? Expected one file, or signature= with "
            f"one of {[file.stem for file in files]}. Received: {path}, "
            f"signature={signature!r}"
        )
    raise FileNotFoundError(
        "No artefact there. Expected a SavedModel folder (with saved_model.pb), a "
        f".onnx file or a folder with .onnx files. Received: {path}"
    )
