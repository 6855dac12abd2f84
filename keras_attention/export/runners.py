"""Asks artefacts, whatever their format: named arrays in, named arrays out.

`SessionRunner` loads a SavedModel the way TF Serving and the C API do, `OnnxRunner` an
ONNX file with onnxruntime. Neither needs Keras or the library's layers. A call that
does not fit the signature is refused here, before the runtime sees it.
"""

import contextlib
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from keras_attention.export.scan import refuse_unsafe


@dataclass(frozen=True)
class TensorDescription:
    """One input or output of an artefact.

    Attributes:
        dtype: E.g. `"int32"`, `"float32"`, `"string"`.
        shape: One entry an axis: its size, its name where the format keeps names, or
            `None`. `None` for the whole shape where even the rank is open.
    """

    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of any shape"
        axes = ", ".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"{self.dtype} [{axes}]"


class SignatureDescription(NamedTuple):
    """What one signature takes and gives."""

    inputs: dict[str, TensorDescription]
    outputs: dict[str, TensorDescription]


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
        _check_names(signature_name, inputs, arrays)
        fed = {name: _as_array(name, arrays[name], inputs[name]) for name in inputs}
        _check_shared_axes(inputs, fed)
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


def open_artifact(
    path: Path, signature: str | None = None, *, intra_op_threads: int = 0
) -> Runner:
    """Open a SavedModel or ONNX; one with a manifest only if `scan_artifact` passes.

    Args:
        path: The artefact.
        signature: str, optional. One that must be there; which of several files.
        intra_op_threads: int, optional. Threads of one operation; default: all cores.
    """
    refuse_unsafe(path := Path(path))
    if (path / "saved_model.pb").is_file():
        runner: Runner = SessionRunner(path, intra_op_threads=intra_op_threads)
    else:
        file = _single_onnx_file(path, signature)
        runner = OnnxRunner(file, intra_op_threads=intra_op_threads)
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


def _check_names(
    signature_name: str, inputs: dict[str, TensorDescription], arrays: dict[str, Any]
) -> None:
    missing = [name for name in inputs if name not in arrays]
    unknown = [name for name in arrays if name not in inputs]
    if missing or unknown:
        wrong = [f"'{name}' is missing" for name in missing]
        wrong += [f"'{name}' is unknown" for name in unknown]
        expected = ", ".join(f"{name}: {info}" for name, info in inputs.items())
        raise ValueError(
            f"The inputs do not fit signature '{signature_name}': {', '.join(wrong)}. "
            f"Expected: {expected}. Received: {sorted(arrays)}"
        )


def _as_array(name: str, value: Any, expected: TensorDescription) -> np.ndarray:
    """The value as the array the runtime takes, or an error that names the input."""
    if expected.dtype == "string":
        array = _strings(name, value, expected)
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:  # rows of different lengths
            raise _misfit(name, expected, f"{value!r:.200} ({error})") from error
        if array.size == 0 and isinstance(value, list | tuple):
            array = array.astype(expected.dtype)  # NumPy makes [] a float array
        array = _cast(name, array, expected)
    fits = expected.shape is None or (
        array.ndim == len(expected.shape)
        and all(
            not isinstance(want, int) or want == got
            for want, got in zip(expected.shape, array.shape, strict=True)
        )
    )
    if not fits:
        raise _misfit(name, expected, f"shape {array.shape}")
    return array


def _strings(name: str, value: Any, expected: TensorDescription) -> np.ndarray:
    if isinstance(value, str | bytes) and expected.shape and len(expected.shape) == 1:
        value = [value]
    try:
        array = np.asarray(value, dtype=object)
        return _objects([_text(item) for item in array.flat], array.shape)
    except ValueError as error:
        raise _misfit(name, expected, f"{value!r:.200} ({error})") from error


def _text(item: Any) -> str:
    if not isinstance(item, str | bytes):
        raise ValueError(f"{item!r:.100} is of type {type(item).__name__}")
    # Both runtimes take str; bytes are what a client that reads files has.
    return item.decode() if isinstance(item, bytes) else item


def _objects(items: list[str], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)


def _cast(name: str, array: np.ndarray, expected: TensorDescription) -> np.ndarray:
    dtype = np.dtype(expected.dtype)
    if array.dtype == dtype:
        return array
    if array.dtype.kind in "iu" and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if array.size and not (
            limits.min <= int(array.min()) and int(array.max()) <= limits.max
        ):
            raise _misfit(name, expected, f"values {array.min()} to {array.max()}")
        return array.astype(dtype)
    # Python's own floats are float64: between floats only precision is lost.
    if array.dtype.kind == "f" and dtype.kind in "fV":
        return array.astype(dtype)
    raise _misfit(name, expected, f"dtype {array.dtype}, shape {array.shape}")


def _check_shared_axes(
    inputs: dict[str, TensorDescription], arrays: dict[str, np.ndarray]
) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for name, info in inputs.items():
        for axis, size in zip(info.shape or (), arrays[name].shape, strict=False):
            if not isinstance(axis, str):
                continue
            first, other = sizes.setdefault(axis, (size, name))
            if first != size:
                raise ValueError(
                    f"{other} and {name} must have the same {axis} size. "
                    f"Received: {first} {size}"
                )


def _misfit(name: str, expected: TensorDescription, received: str) -> ValueError:
    return ValueError(
        f"Input '{name}' does not fit. Expected: {expected}. Received: {received}"
    )


def _decoded(value: Any) -> np.ndarray:
    """Text as `str`, as onnxruntime gives it; other arrays as they are."""
    array = np.asarray(value)
    if array.dtype != object:
        return array
    # Lossless also where a text was cut in the middle of a character.
    texts = [item.decode("utf-8", "surrogateescape") for item in array.flat]
    return _objects(texts, array.shape)
