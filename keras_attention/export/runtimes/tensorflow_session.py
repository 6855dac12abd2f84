"""Asks SavedModels the way TF Serving and the C API do."""

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_attention.export.runtimes.base import (
    Runner,
    SignatureDescription,
    TensorDescription,
    objects,
)


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


def _explain_missing_operation(error: BaseException, folder: Path) -> None:
    missing = re.search(r"Op type not registered '([^']+)'", str(error))
    if missing is not None:
        raise ValueError(
            f"The SavedModel uses the operation {missing[1]}, which nothing here has "
            "registered. Expected tensorflow-text in the version of TensorFlow: pip "
            f'install "keras-attention[text]". Received: {folder}'
        ) from error


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


def _decoded(value: Any) -> np.ndarray:
    """Text as `str`, as onnxruntime gives it; other arrays as they are."""
    array = np.asarray(value)
    if array.dtype != object:
        return array
    # Lossless also where a text was cut in the middle of a character.
    texts = [item.decode("utf-8", "surrogateescape") for item in array.flat]
    return objects(texts, array.shape)
