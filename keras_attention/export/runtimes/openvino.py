"""Runs ONNX files in OpenVINO, in float32 by default."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_attention.export.artifact.description import (
    ANY_SHAPE,
    SignatureInfo,
    TensorInfo,
)
from keras_attention.export.runtimes.base import Runner, not_installed

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoRunner(Runner):
    """One ONNX file in OpenVINO on the CPU. Its signature has the name of the file.

    Args:
        file: The `.onnx` file.
        intra_op_threads: int, optional. Threads of one call; default: all cores.
        precision: The precision of the computation. OpenVINO's own default is bfloat16
            where the processor has it; here the default is float32.
    """

    runtime = "OpenVINO"

    def __init__(
        self, file: Path, *, intra_op_threads: int = 0, precision: str = "float32"
    ) -> None:
        try:
            import openvino
        except ImportError as error:
            extra = '"keras-attention-layers[openvino]"'
            what = ("an ONNX file in OpenVINO", "openvino", extra)
            raise not_installed(*what, error) from error
        if precision not in PRECISIONS:
            raise ValueError(
                f"`precision` must be one of {', '.join(PRECISIONS)}. "
                f"Received: precision={precision!r}"
            )
        if precision != "float32":
            self.runtime = f"OpenVINO {precision}"
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision]}
        if intra_op_threads:
            settings["INFERENCE_NUM_THREADS"] = intra_op_threads
        # Where openvino is not installed, pyright takes this file for it.
        core = openvino.Core()  # pyright: ignore[reportAttributeAccessIssue]
        self._model: Any = core.compile_model(
            core.read_model(str(file)), "CPU", settings
        )
        self.signatures = {
            Path(file).stem: SignatureInfo(
                {x.get_any_name(): _info(x) for x in self._model.inputs},
                {x.get_any_name(): _info(x) for x in self._model.outputs},
            )
        }

    def _run(
        self, signature_name: str, arrays: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        request = self._model.create_infer_request()  # threads may share this runner
        results = request.infer(arrays)
        return {
            name: np.array(results[self._model.output(name)])
            for name in self.signatures[signature_name].outputs
        }

    def close(self) -> None:
        """Drop the compiled model."""
        self._model = None


def _info(port: Any) -> TensorInfo:
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        return TensorInfo(_dtype(port), ANY_SHAPE)
    axes = (None if axis.is_dynamic else axis.get_length() for axis in shape)
    return TensorInfo(_dtype(port), tuple(axes))


def _dtype(port: Any) -> str:
    return np.dtype(port.element_type.to_dtype()).name
