"""What no writer can export: one check and one error for each mistake."""

from typing import Any

import tensorflow as tf

from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.signatures.signature import Signature


class ExportError(ValueError):
    """A signature that cannot be exported, or that does not describe its function."""


def check_bounds(signature: Signature) -> None:
    """Refuse limits and lengths of inputs and axes that are not there.

    Args:
        signature: The signature to be written.
    """
    axes = signature.info.free_axes
    unknown = {*signature.max_lengths} - {*axes}
    unknown |= {*signature.limits} - {*signature.inputs}
    if unknown:
        raise ExportError(
            f"Signature '{signature.name}' bounds something it does not have. Expected "
            "`max_lengths` to name free axes of inputs and `limits` to name inputs. "
            f"Received: {sorted(unknown)}, axes {sorted(axes)}, "
            f"inputs {sorted(signature.inputs)}"
        )


def check_outputs(signature: Signature, outputs: Any) -> None:
    """Refuse outputs that are not those that the signature declares.

    Args:
        signature: The signature.
        outputs: What its function returned, while it was traced.
    """
    if not isinstance(outputs, dict) or outputs.keys() != signature.outputs.keys():
        received = sorted(outputs) if isinstance(outputs, dict) else type(outputs)
        raise ExportError(
            f"The function of signature '{signature.name}' must return a dict with "
            f"exactly the declared outputs. Expected: {sorted(signature.outputs)}: "
            f"correct the function or the declaration. Received: {received}"
        )
    for name, info in signature.outputs.items():
        value = tf.convert_to_tensor(outputs[name])
        shape = value.shape
        if value.dtype.name != info.dtype or not shape.is_compatible_with(
            info.spec_shape
        ):
            received = f"{value.dtype.name} {shape}"
            if shape.rank is not None:
                received = str(TensorInfo(value.dtype.name, tuple(shape.as_list())))
            raise ExportError(
                f"Output '{name}' of signature '{signature.name}' is not as declared. "
                f"Expected: {info}: correct the function or the declaration. "
                f"Received: {received}"
            )


def refuse_text(signature: Signature, title: str) -> None:
    """Refuse a signature that takes text, for formats without tokenizers.

    Args:
        signature: The signature to be written.
        title: The name of the format in a text.
    """
    texts = [name for name, info in signature.inputs.items() if info.dtype == "string"]
    if texts:
        raise ExportError(
            f"Signature '{signature.name}' takes text, and {title} has no tokenizers. "
            "Expected a signature that takes token ids: tokenize before the runtime, "
            "or export a SavedModel, which does both. "
            f"Received: string inputs {texts}"
        )
