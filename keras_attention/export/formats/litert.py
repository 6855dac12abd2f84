"""Writes a signature as a LiteRT file (.tflite): built-in operators, fixed sizes."""

import dataclasses
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_attention.export.artifact.manifest import FORMATS
from keras_attention.export.formats.errors import (
    ExportError,
    check_bounds,
    refuse_text,
)
from keras_attention.export.formats.saved_model import write_saved_model
from keras_attention.export.scanning.litert import inspect_litert
from keras_attention.export.signatures.signature import Signature


def write_litert(
    signature: Signature, file: str | Path, *, variables: Sequence[keras.Variable]
) -> None:
    """Writes one signature as a LiteRT model.

    The signature in the file has the name, inputs and outputs of the given one. The
    bounds of ids are not in the graph, which cannot refuse anything. They are in the
    manifest, where `open_artifact` reads them.

    Args:
        signature: The signature to export; every axis has a size, see `with_sizes`.
        file: The path of the `.tflite` file; its folder exists.
        variables: The weights that the signature reads.

    Raises:
        ExportError: If an axis has no size, if an operator is not built into LiteRT,
            or if the signature does not describe its function.
    """
    _check_request(signature)
    # LiteRT has no assertions, and would silently drop those of the limits.
    bare = dataclasses.replace(signature, limits={})
    with tempfile.TemporaryDirectory() as folder:
        write_saved_model([bare], Path(folder), variables=variables)
        contents = _convert(signature, folder)
    file = Path(file)
    file.write_bytes(contents)
    _, problems = inspect_litert(file)
    if problems:
        file.unlink()
        raise _not_allowed(signature, problems)


def _check_request(signature: Signature) -> None:
    sides = (signature.inputs, signature.outputs)
    axes = {a for s in sides for i in s.values() for a in i.shape if isinstance(a, str)}
    if axes:
        raise ExportError(
            "A LiteRT file has a fixed size for every axis: with free axes it would "
            "need operators that only TensorFlow has. Expected `static_axes` with "
            f"{sorted(axes)}. Received: free axes in signature '{signature.name}'"
        )
    refuse_text(signature, FORMATS["litert"])
    check_bounds(signature)


def _convert(signature: Signature, folder: str) -> bytes:
    converter: Any = tf.lite.TFLiteConverter.from_saved_model(
        folder, signature_keys=[signature.name]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        return converter.convert()
    except Exception as error:  # the converter has exceptions of its own
        text = str(error)
        missing = re.findall(r"'?\b(tfl?\.\w+)'? op is neither a custom op", text)
        if missing:
            raise _not_allowed(signature, missing) from error
        lines = text.strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"LiteRT's converter cannot translate signature '{signature.name}'. "
            "Expected a function of operators with fixed sizes; as a SavedModel or "
            f"ONNX it may still be exported. Received: {lines[0][:300]}"
        ) from error


def _not_allowed(signature: Signature, names: Sequence[str]) -> ExportError:
    listed = ", ".join(sorted(set(names)))
    return ExportError(
        f"Signature '{signature.name}' needs operators no LiteRT file may have. "
        "Expected operators that are built into every LiteRT runtime and keep no "
        "state: write it without the others, or export a SavedModel or ONNX. "
        f"Received: {listed}"
    )
