"""Runs ONNX files in ONNX Runtime."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_attention.export.artifact.description import SignatureInfo, TensorInfo
from keras_attention.export.runtimes.base import Runner, not_installed


class OnnxRunner(Runner):
    """One ONNX file in ONNX Runtime. Its single signature has the file's name.

    Args:
        file: The `.onnx` file.
        intra_op_threads: int, optional. Threads of one operation; default: all cores.
    """

    runtime = "ONNX Runtime"

    def __init__(self, file: Path, *, intra_op_threads: int = 0) -> None:
        self._session: Any = open_session(str(file), intra_op_threads=intra_op_threads)
        info = SignatureInfo(
            {x.name: _info(x) for x in self._session.get_inputs()},
            {x.name: _info(x) for x in self._session.get_outputs()},
        )
        self.signatures = {Path(file).stem: info}

    def _run(
        self, signature_name: str, arrays: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        names = list(self.signatures[signature_name].outputs)
        return dict(zip(names, self._session.run(names, arrays), strict=True))

    def close(self) -> None:
        """Drop the session."""
        self._session = None


_ONNX_DTYPES = {"float": "float32", "double": "float64"}  # C++ names


def open_session(model: str | bytes, *, intra_op_threads: int = 0) -> Any:
    """Open an `onnxruntime.InferenceSession` on the CPU.

    Args:
        model: The path of a file, or its content.
        intra_op_threads: The threads of one operation; default: all cores.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        what = ("an ONNX file", "onnxruntime", '"keras-attention-layers[onnx]"')
        raise not_installed(*what, error) from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    # Threads that spin during a call halve the time of a decoding step. After the call
    # they must stop: they would take the cores from the process's other sessions.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # it warns about shapes at every call
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_in_time(
    session: Any, names: Sequence[str], arrays: Mapping[str, Any], time_limit: float
) -> list[Any]:
    """Run a session, and stop it if it takes too long: a loop may never end.

    Args:
        session: Of `open_session`.
        names: The outputs.
        arrays: The inputs by name.
        time_limit: The seconds that it may take.

    Raises:
        TimeoutError: If it took longer.
    """
    import onnxruntime as ort

    options, late = ort.RunOptions(), threading.Event()

    def stop() -> None:
        late.set()
        options.terminate = True

    timer = threading.Timer(time_limit, stop)
    timer.daemon = True
    timer.start()
    try:
        return session.run(list(names), dict(arrays), options)
    except Exception as error:  # ONNX Runtime has a class per status
        if not late.is_set():
            raise
        raise TimeoutError(
            f"The graph was stopped: it took more than {time_limit:g} seconds. Raise "
            f"`time_limit`, or send less at once. Received: time_limit={time_limit}"
        ) from error
    finally:
        timer.cancel()


def _info(value: Any) -> TensorInfo:
    dtype = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(axis if isinstance(axis, int | str) else None for axis in value.shape)
    return TensorInfo(_ONNX_DTYPES.get(dtype) or dtype, shape)
