"""Runs SavedModels the way TF Serving and the C API do."""

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_attention.export.artifact.description import (
    ANY_SHAPE,
    SignatureInfo,
    TensorInfo,
    text_array,
)
from keras_attention.export.runtimes.base import Runner, not_installed


class SessionRunner(Runner):
    """A SavedModel in a TensorFlow session: the loader of TF Serving and the C API.

    `tf.saved_model.load` also runs what only Python can run. This runner opens only
    what can be served.

    Args:
        folder: The SavedModel's folder.
        intra_op_threads: int, optional. Threads of one operation; default: all cores.
        time_limit: The seconds after which loading or a call ends with a TimeoutError:
            a loop of the graph may never end. Default: no limit.
    """

    runtime = "TensorFlow session"

    def __init__(
        self,
        folder: Path,
        *,
        intra_op_threads: int = 0,
        time_limit: float | None = None,
    ) -> None:
        try:
            import tensorflow as tf
        except ImportError as error:
            what = ("a SavedModel", "TensorFlow", "keras-attention-layers")
            raise not_installed(*what, error) from error
        with contextlib.suppress(ImportError):
            import tensorflow_text  # noqa: F401 (registers its operations)
        if not (Path(folder) / "saved_model.pb").is_file():
            raise FileNotFoundError(
                "No SavedModel there. Expected a folder with a saved_model.pb, such "
                f"as my_model/1. Received: {folder}"
            )
        self._graph = tf.Graph()
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=intra_op_threads,
            operation_timeout_in_ms=int(1000 * (time_limit or 0)),
        )
        self._session = tf.compat.v1.Session(graph=self._graph, config=config)
        self._errors, self._time_limit = tf.errors, time_limit
        try:
            with self._graph.as_default():
                loaded = tf.compat.v1.saved_model.load(
                    self._session, ["serve"], str(folder)
                )
        except BaseException as error:
            self._session.close()
            _explain_missing_operation(error, folder)
            if isinstance(error, tf.errors.DeadlineExceededError):
                raise self._too_slow("Loading") from error
            raise
        self.signatures, self._calls = {}, {}
        for name, definition in loaded.signature_def.items():
            if name.startswith("__saved_model"):  # the initializer is one of them
                continue
            inputs, outputs = _infos(definition.inputs), _infos(definition.outputs)
            self.signatures[name] = SignatureInfo(inputs, outputs)
            # Made once: `session.run` would look every tensor up by name each time.
            call = self._session.make_callable(
                [definition.outputs[key].name for key in outputs],
                [definition.inputs[key].name for key in inputs],
            )
            self._calls[name] = (list(inputs), list(outputs), call)

    def _run(
        self, signature_name: str, arrays: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        inputs, outputs, call = self._calls[signature_name]
        try:
            values = call(*(arrays[name] for name in inputs))
        except self._errors.DeadlineExceededError as error:
            raise self._too_slow(f"The signature {signature_name!r}") from error
        except self._errors.InvalidArgumentError as error:
            refusal = re.search(r"assertion failed: (\[.*?\])\n", error.message, re.S)
            if refusal is None:
                raise
            text = refusal[1][1:-1].replace("] [", " ")
            raise ValueError(text) from error
        found = {n: _decoded(v) for n, v in zip(outputs, values, strict=True)}
        return {name: found[name] for name in self.signatures[signature_name].outputs}

    def _too_slow(self, what: str) -> TimeoutError:
        return TimeoutError(
            f"{what} was stopped: it took more than {self._time_limit:g} seconds. "
            "Raise `time_limit`, or send less at once. "
            f"Received: time_limit={self._time_limit}"
        )

    def close(self) -> None:
        """Close the session."""
        self._session.close()


def _explain_missing_operation(error: BaseException, folder: Path) -> None:
    missing = re.search(r"Op type not registered '([^']+)'", str(error))
    if missing is not None:
        raise ValueError(
            f"The SavedModel uses the operation {missing[1]}, which nothing here has "
            "registered. Expected tensorflow-text in the version of TensorFlow: pip "
            f'install "keras-attention-layers[text]". Received: {folder}'
        ) from error


def _infos(tensors: Any) -> dict[str, TensorInfo]:
    """The tensors of one side of a SignatureDef."""
    from tensorflow import dtypes

    infos = {}
    for name, info in sorted(tensors.items()):  # a protobuf map has no order
        shape: tuple[Any, ...] = ANY_SHAPE
        if not info.tensor_shape.unknown_rank:
            sizes = (dim.size for dim in info.tensor_shape.dim)
            shape = tuple(None if size < 0 else size for size in sizes)
        infos[name] = TensorInfo(str(dtypes.as_dtype(info.dtype).name), shape)
    return infos


def _decoded(value: Any) -> np.ndarray:
    """Text as `str`, as ONNX Runtime returns it; other arrays unchanged."""
    array = np.asarray(value)
    if array.dtype != object:
        return array
    # Nothing is lost, even if a text was cut in the middle of a character.
    texts = [item.decode("utf-8", "surrogateescape") for item in array.flat]
    return text_array(texts, array.shape)
