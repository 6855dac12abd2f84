"""Asks artefacts, whatever their format: named arrays in, named arrays out.

`SessionRunner` loads a SavedModel the way TF Serving and the C API do, `OnnxRunner` an
ONNX file with onnxruntime. Neither needs Keras or the library's layers. A call that
does not fit the signature is refused here, before the runtime sees it.
"""

import contextlib
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import numpy as np

from keras_attention.export.runner_inputs import (
    SignatureDescription,
    TensorDescription,
    as_array,
    check_names,
    check_shared_axes,
    objects,
)
from keras_attention.export.scan import refuse_unsafe


class Runner(ABC):
    """An opened artefact. Calls from several threads at once are fine.

    Attributes:
        signatures: Name to (inputs, outputs).
        runtime: Who answers, for reports.
    """

    signatures: dict[str, SignatureDescription]
    runtime: str

    def run(self, signature_name: str, /, **arrays: Any) -> dict[str, np.ndarray]:
        """Ask one signature.

        Args:
            signature_name: One of `signatures`.
            **arrays: One array, list or scalar an input, by name. Integers of another
                width are cast if they fit; a single string becomes a batch of one.

        Returns:
            dict of arrays; text as an object array of `str`.
        """
        if signature_name not in self.signatures:
            raise ValueError(
                f"The artefact has no signature '{signature_name}'. Expected one of "
                f"{sorted(self.signatures)}. Received: {signature_name!r}"
            )
        inputs = self.signatures[signature_name].inputs
        check_names(signature_name, inputs, arrays)
        fed = {name: as_array(name, arrays[name], inputs[name]) for name in inputs}
        check_shared_axes(inputs, fed)
        return self._run(signature_name, fed)

    @abstractmethod
    def _run(
        self, signature_name: str, arrays: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Ask the runtime; the arrays fit."""

    @abstractmethod
    def close(self) -> None:
        """Release the runtime. The runner cannot be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class SessionRunner(Runner):
    """A SavedModel in a TensorFlow session: the loader of TF Serving and the C API.

    Unlike `tf.saved_model.load`, which also runs what only Python can run, this is a
    test of whether the SavedModel can be served.

    Args:
        folder: The SavedModel.
        intra_op_threads: int, optional. Threads of one operation; default: all cores.
    """

    runtime = "TensorFlow session"

    def __init__(self, folder: Path, *, intra_op_threads: int = 0) -> None:
        try:
            import tensorflow as tf
        except ImportError as error:
            raise ImportError(
                "Running a SavedModel needs TensorFlow. Expected: pip install "
                f"keras-attention. Received: {error}"
            ) from error
        with contextlib.suppress(ImportError):
            import tensorflow_text  # noqa: F401 (registers its operations)
        if not (Path(folder) / "saved_model.pb").is_file():
            raise FileNotFoundError(
                "No SavedModel there. Expected a folder with a saved_model.pb, such "
                f"as my_model/1. Received: {folder}"
            )
        self._graph = tf.Graph()
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=intra_op_threads)
        self._session = tf.compat.v1.Session(graph=self._graph, config=config)
        self._errors = tf.errors
        try:
            with self._graph.as_default():
                loaded = tf.compat.v1.saved_model.load(
                    self._session, ["serve"], str(folder)
                )
        except BaseException as error:
            self._session.close()
            _explain_missing_operation(error, folder)
            raise
        self.signatures, self._calls = {}, {}
        for name, definition in loaded.signature_def.items():
            if name.startswith("__saved_model"):  # the initializer is one of them
                continue
            self.signatures[name] = SignatureDescription(
                _described(definition.inputs), _described(definition.outputs)
            )
            # Made once: `session.run` would look every tensor up by name each time.
            self._calls[name] = self._session.make_callable(
                [definition.outputs[key].name for key in self.signatures[name].outputs],
                [definition.inputs[key].name for key in self.signatures[name].inputs],
            )

    def _run(
        self, signature_name: str, arrays: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        try:
            values = self._calls[signature_name](*arrays.values())
        except self._errors.InvalidArgumentError as error:
            found = re.search(r"assertion failed: (\[.*?\])\n", error.message, re.S)
            if found is None:
                raise
            text = found[1][1:-1].replace("] [", " ")
            raise ValueError(text) from error
        names = self.signatures[signature_name].outputs
        return {n: _decoded(v) for n, v in zip(names, values, strict=True)}

    def close(self) -> None:
        """Close the session."""
        self._session.close()


class OnnxRunner(Runner):
    """One ONNX file in onnxruntime. Its single signature has the name of the file.

    Args:
        path: A `.onnx` file, or a folder with one of them.
        intra_op_threads: int, optional. Threads of one operation; default: all cores.
    """

    runtime = "ONNX Runtime"

    def __init__(self, path: Path, *, intra_op_threads: int = 0) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise ImportError(
                "Running an ONNX file needs onnxruntime. Expected: pip install "
                f'"keras-attention[onnx]". Received: {error}'
            ) from error
        file = _single_onnx_file(Path(path), None)
        options = ort.SessionOptions()
        options.intra_op_num_threads = intra_op_threads
        # Spinning threads take the cores from the other sessions of the process.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # its shape warnings come with every call
        self._session: Any = ort.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        described = SignatureDescription(
            {x.name: _of_onnx(x) for x in self._session.get_inputs()},
            {x.name: _of_onnx(x) for x in self._session.get_outputs()},
        )
        self.signatures = {file.stem: described}

    def _run(
        self, signature_name: str, arrays: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        names = list(self.signatures[signature_name].outputs)
        return dict(zip(names, self._session.run(names, arrays), strict=True))

    def close(self) -> None:
        """Drop the session."""
        self._session = None


RUNTIMES = ("tensorflow", "onnxruntime", "openvino")


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
            `"onnxruntime"`, the default, or `"openvino"`, in float32.
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
        make: Any = OnnxRunner
        if runtime == "openvino":
            from keras_attention.export.openvino_runner import OpenVinoRunner

            make = OpenVinoRunner
        runner = make(file, intra_op_threads=intra_op_threads)
    if signature is not None and signature not in runner.signatures:
        runner.close()
        raise ValueError(
            f"The artefact has no signature '{signature}'. Expected one of "
            f"{sorted(runner.signatures)}. Received: {signature!r}"
        )
    return runner


def _explain_missing_operation(error: BaseException, folder: Path) -> None:
    missing = re.search(r"Op type not registered '([^']+)'", str(error))
    if missing is not None:
        raise ValueError(
            f"The SavedModel uses the operation {missing[1]}, which nothing here has "
            "registered. Expected tensorflow-text in the version of TensorFlow: pip "
            f'install "keras-attention[text]". Received: {folder}'
        ) from error


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


def _described(tensors: Any) -> dict[str, TensorDescription]:
    """The tensors of one side of a SignatureDef."""
    from tensorflow import dtypes

    described = {}
    for name, info in sorted(tensors.items()):  # a protobuf map has no order
        shape = None
        if not info.tensor_shape.unknown_rank:
            sizes = (dim.size for dim in info.tensor_shape.dim)
            shape = tuple(None if size < 0 else size for size in sizes)
        dtype = str(dtypes.as_dtype(info.dtype).name)
        described[name] = TensorDescription(dtype, shape)
    return described


_ONNX_DTYPES = {"float": "float32", "double": "float64"}  # C++ names


def _of_onnx(value: Any) -> TensorDescription:
    dtype = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(axis if isinstance(axis, int | str) else None for axis in value.shape)
    return TensorDescription(_ONNX_DTYPES.get(dtype) or dtype, shape)


def _decoded(value: Any) -> np.ndarray:
    """Text as `str`, as onnxruntime gives it; other arrays as they are."""
    array = np.asarray(value)
    if array.dtype != object:
        return array
    # Lossless also where a text was cut in the middle of a character.
    texts = [item.decode("utf-8", "surrogateescape") for item in array.flat]
    return objects(texts, array.shape)
