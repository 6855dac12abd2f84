"""Runs LiteRT files (.tflite)."""

import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from keras_attention.export.artifact.description import SignatureInfo, TensorInfo
from keras_attention.export.runtimes.base import Runner, not_installed


class LiteRtRunner(Runner):
    """One LiteRT file in its interpreter, on the CPU. One call at a time.

    The interpreter is that of ai-edge-litert if it is installed, otherwise
    TensorFlow's. The graph cannot refuse ids beyond the vocabulary: `open_artifact`
    reads their limits in the manifest next to the file.

    Args:
        file: The `.tflite` file; its signatures have names.
        intra_op_threads: int, optional. Threads of one call; default: all cores.
    """

    runtime = "LiteRT"

    def __init__(self, file: Path, *, intra_op_threads: int = 0) -> None:
        threads = intra_op_threads or os.cpu_count() or 1
        self._one_at_a_time = threading.Lock()
        self._interpreter: Any = _interpreter(Path(file), threads)
        self._calls: dict[str, Any] = {
            name: self._interpreter.get_signature_runner(name)
            for name in self._interpreter.get_signature_list()
        }
        if not self._calls:
            raise ValueError(
                "The LiteRT file names no signature, so its inputs cannot be given by "
                "name. Expected a file of `export_model`, or one converted from a "
                f"SavedModel. Received: {file}"
            )
        self.signatures = {
            name: SignatureInfo(
                _infos(call.get_input_details()), _infos(call.get_output_details())
            )
            for name, call in self._calls.items()
        }

    def _run(
        self, signature_name: str, arrays: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        with self._one_at_a_time:  # all calls use the interpreter's own tensors
            return dict(self._calls[signature_name](**arrays))

    def close(self) -> None:
        """Drop the interpreter."""
        with self._one_at_a_time:
            self._calls = {}
            self._interpreter = None


def _interpreter(file: Path, threads: int) -> Any:
    make = _interpreter_class()
    try:
        with warnings.catch_warnings():
            # TensorFlow's interpreter warns that ai-edge-litert replaces it.
            warnings.filterwarnings("ignore", "[\\s\\S]*tf.lite.Interpreter is deprec")
            return make(model_path=str(file), num_threads=threads)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "The file does not open in LiteRT. Expected a .tflite file with built-in "
            f"operators only: export it again. Received: {file}: {error}"
        ) from error


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        pass
    else:
        return Interpreter
    try:
        import tensorflow as tf

        return tf.lite.Interpreter
    except (ImportError, AttributeError) as error:
        what = ("a LiteRT file", "ai-edge-litert", '"keras-attention-layers[litert]"')
        raise not_installed(*what, error) from error


def _infos(details: dict[str, Any]) -> dict[str, TensorInfo]:
    infos = {}
    for name, detail in details.items():
        sizes = detail["shape_signature"].tolist()
        shape = tuple(None if size < 0 else size for size in sizes)
        infos[name] = TensorInfo(np.dtype(detail["dtype"]).name, shape)
    return infos
