"""Opens artifacts, whatever their format, in one of the runtimes.

`RUNTIMES` is the list of them. No runner needs Keras or the library's layers, and this
module loads no runtime before an artifact is opened.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from keras_attention.export.artifact.folders import artifact_folder
from keras_attention.export.artifact.manifest import Manifest
from keras_attention.export.runtimes.base import Runner
from keras_attention.export.scanning.scan import checked_copy
from keras_attention.untrusted import printable

SAVED_MODEL = ""


def _tensorflow(path: Path, threads: int, time_limit: float | None = None) -> Runner:
    from keras_attention.export.runtimes.tensorflow_session import SessionRunner

    return SessionRunner(path, intra_op_threads=threads, time_limit=time_limit)


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
    open: Callable[..., Runner]


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
    allow_unverified: bool = False,
    max_tensor_bytes: int | None = None,
    time_limit: float | None = None,
) -> Runner:
    """Open an artifact that has a manifest and that `scan_artifact` does not refuse.

    The files that are loaded are a private copy of the artifact's, and this copy is
    what is compared with the manifest and scanned. It is removed after loading.

    Args:
        path: The artifact's folder, a base folder (its highest version is opened), or
            one of the artifact's files.
        signature: str, optional. A signature that it must have; of several files, the
            one to open.
        intra_op_threads: int, optional. Threads of one operation; default: all cores.
        runtime: str, optional. `"tensorflow"` for a SavedModel; for ONNX
            `"onnxruntime"`, the default, `"openvino"`, in float32, or
            `"openvino-bfloat16"`, which is fast where the processor has it;
            `"litert"` for LiteRT.
        allow_unverified: Whether to open files without a manifest, such as a bare
            `.onnx` file or a SavedModel of Keras. They are scanned all the same.
        max_tensor_bytes: See `scan_artifact`.
        time_limit: For a SavedModel: the seconds after which a call ends with a
            TimeoutError. Its loops need not end. Default: no limit.
    """
    file = _file_to_open(Path(path), signature)
    chosen = _runtime_for(file, runtime)
    if time_limit is not None and chosen != "tensorflow":
        raise ValueError(
            "`time_limit` is for SavedModels: other runtimes cannot be stopped in a "
            f"call. Received: time_limit={time_limit!r} for {printable(path)}"
        )
    more = {} if time_limit is None else {"time_limit": time_limit}
    with checked_copy(
        file, allow_unverified=allow_unverified, max_tensor_bytes=max_tensor_bytes
    ) as (copy, manifest):
        runner = RUNTIMES[chosen].open(copy, intra_op_threads, **more)
        _describe(runner, manifest, signature)
    return runner


def open_signatures(
    copy: Path, manifest: Manifest, *, runtime: str | None = None
) -> dict[str, Runner]:
    """Open every signature of an artifact that `whole_copy` checked and copied.

    Args:
        copy: The private copy.
        manifest: Its manifest.
        runtime: See `open_artifact`.

    Returns:
        Signature to runner. Signatures of one file have the same runner.
    """
    runners: dict[str, Runner] = {}
    try:
        for name in manifest.signatures:
            if name not in runners:
                runner = open_copy(copy, name, manifest=manifest, runtime=runtime)
                runners |= dict.fromkeys(runner.signatures, runner)
    except BaseException:
        for runner in runners.values():
            runner.close()
        raise
    return runners


def open_copy(
    copy: Path,
    signature: str | None,
    *,
    manifest: Manifest | None = None,
    runtime: str | None = None,
) -> Runner:
    """Open a signature of files that were scanned, and that nobody else can change.

    Args:
        copy: The private copy.
        signature: See `open_artifact`.
        manifest: Its manifest, if it describes the signatures.
        runtime: See `open_artifact`.
    """
    file = _file_to_open(copy, signature)
    runner = RUNTIMES[_runtime_for(file, runtime)].open(file, 0)
    _describe(runner, manifest, signature)
    return runner


def _runtime_for(file: Path, runtime: str | None) -> str:
    known = runtimes_of(SAVED_MODEL if file.is_dir() else file.suffix)
    chosen = runtime or known[0]
    if chosen not in known:
        raise ValueError(
            f"This artifact is opened by {' or '.join(known)}. "
            f"Received: runtime={runtime!r} for {printable(file)}"
        )
    return chosen


def _describe(runner: Runner, manifest: Manifest | None, signature: str | None) -> None:
    """Describe a runner as the manifest does; close it if a signature is missing."""
    try:
        if manifest is not None:
            runner.add_descriptions(manifest.signatures)
        if signature is not None and signature not in runner.signatures:
            raise runner.no_signature(signature)
    except BaseException:
        runner.close()
        raise


def _file_to_open(path: Path, signature: str | None) -> Path:
    """Return the folder of a SavedModel, or the one file that is meant."""
    if path.is_file():
        return _single_file(path, signature)
    folder = artifact_folder(path)
    if (folder / "saved_model.pb").is_file():
        return folder
    return _single_file(folder, signature)


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
