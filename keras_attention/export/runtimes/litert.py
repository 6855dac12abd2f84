"""Asks LiteRT files (.tflite)."""

import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from keras_attention.export.artifact.manifest import MANIFEST_NAME, read_manifest
from keras_attention.export.runtimes.base import (
    Runner,
    SignatureDescription,
    TensorDescription,
)


class LiteRtRunner(Runner):
    """One LiteRT file in its interpreter, on the CPU. One call at a time.

    In ai-edge-litert where it is installed, else in the interpreter TensorFlow has.
    The graph cannot refuse ids beyond the vocabulary: they are refused here, by the
    `limits` of the manifest beside the file, if there is one.

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
            name: SignatureDescription(
                _described(call.get_input_details()),
                _described(call.get_output_details()),
            )
            for name, call in self._calls.items()
        }
        self._limits = _limits(Path(file).parent)

    def _run(
        self, signature_name: str, arrays: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        for name, limit in self._limits.get(signature_name, {}).items():
            _check_values(name, arrays[name], limit)
        with self._one_at_a_time:  # its tensors are those of the interpreter
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
            # TensorFlow's own says that ai-edge-litert is to be preferred: it is.
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
        raise ImportError(
            "Running a LiteRT file needs ai-edge-litert. Expected: pip install "
            f'"keras-attention[litert]". Received: {error}'
        ) from error


def _described(details: dict[str, Any]) -> dict[str, TensorDescription]:
    described = {}
    for name, detail in details.items():
        sizes = detail["shape_signature"].tolist()
        shape = tuple(None if size < 0 else size for size in sizes)
        described[name] = TensorDescription(np.dtype(detail["dtype"]).name, shape)
    return described


def _limits(folder: Path) -> dict[str, dict[str, int]]:
    """Signature to the exclusive upper bounds of its ids, from the manifest."""
    if not (folder / MANIFEST_NAME).is_file():
        return {}
    signatures = read_manifest(folder).signatures
    return {name: entry["limits"] for name, entry in signatures.items()}


def _check_values(name: str, ids: np.ndarray, limit: int) -> None:
    """Raises in the words of the SavedModel's own check."""
    if ids.size and not (ids.min() >= 0 and ids.max() < limit):
        raise ValueError(
            f"{name} must be in [0, {limit}): ids of the vocabulary of this model. "
            f"Received ids from, to: {ids.min()} {ids.max()}"
        )
