"""Asks ONNX files in ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_attention.export.runtimes.base import (
    Runner,
    SignatureDescription,
    TensorDescription,
)


class OnnxRunner(Runner):
    """One ONNX file in onnxruntime. Its single signature has the name of the file.

    Args:
        file: The `.onnx` file.
        intra_op_threads: int, optional. Threads of one operation; default: all cores.
    """

    runtime = "ONNX Runtime"

    def __init__(self, file: Path, *, intra_op_threads: int = 0) -> None:
        self._session: Any = open_session(str(file), intra_op_threads=intra_op_threads)
        described = SignatureDescription(
            {x.name: _of_onnx(x) for x in self._session.get_inputs()},
            {x.name: _of_onnx(x) for x in self._session.get_outputs()},
        )
        self.signatures = {Path(file).stem: described}

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
    """An `onnxruntime.InferenceSession` on the CPU.

    Args:
        model: Path of a file, or its content.
        intra_op_threads: Threads of one operation; default: all cores.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise ImportError(
            "Running an ONNX file needs onnxruntime. Expected: pip install "
            f'"keras-attention[onnx]". Received: {error}'
        ) from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    # Threads that spin while a call runs halve the time of a step of decoding; spinning
    # on behind it, they would take the cores from the other sessions of the process.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # its shape warnings come with every call
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _of_onnx(value: Any) -> TensorDescription:
    dtype = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(axis if isinstance(axis, int | str) else None for axis in value.shape)
    return TensorDescription(_ONNX_DTYPES.get(dtype) or dtype, shape)
