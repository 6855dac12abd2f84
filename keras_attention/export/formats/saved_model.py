"""Writes signatures as one SavedModel that every loader of TensorFlow can serve.

What the session loaders (TF Serving, the C, Java and Go APIs) need is stricter than
what `tf.saved_model.load` needs: Keras layers on the exported module give a file that
Python reads and they do not. So the module tracks nothing but raw `tf.Variable`s.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_attention.export.signatures.signature import Signature


def write_saved_model(
    signatures: Sequence[Signature],
    folder: Path,
    *,
    variables: Sequence[keras.Variable],
    assets_and_resources: Sequence[tf.Module] = (),
) -> None:
    """Write a SavedModel whose signatures are the given ones.

    Each weight is stored once. Every signature first checks its inputs (ids within
    the vocabulary, lengths within the positions, axes that must agree), in the graph,
    so that each loader and each language gives the same error.

    Args:
        signatures: What the SavedModel can be asked; names must differ.
        folder: Written to as it stands; `publish.staging` makes it appear at once.
        variables: The weights the signatures read. A tied weight may stand twice.
        assets_and_resources: Other objects the signatures read: tokenizers, tables.
    """
    module = tf.Module(name="keras_attention")
    module.weights = _raw_variables(variables)
    module.resources = _without_layers(assets_and_resources)
    names = [signature.name for signature in signatures]
    if not names or len(set(names)) != len(names):
        raise ValueError(
            "A SavedModel is written from one or more signatures. Expected names that "
            f"differ: name each signature once. Received: names={names}"
        )
    functions = {}
    for signature in signatures:
        functions[signature.name] = _trace(signature)
        _check_variables_are_saved(signature, functions[signature.name], module)
    try:
        tf.saved_model.save(module, str(folder), signatures=functions)
    except AssertionError as error:
        if "untracked" not in str(error):
            raise
        raise ValueError(
            "A signature reads something that would not be in the SavedModel, a "
            "lookup table or a tokenizer. Expected every such object, or the tf.Module "
            "that holds it, in `assets_and_resources`. "
            f"Received: assets_and_resources={list(assets_and_resources)}, and from "
            f"TensorFlow: {str(error).splitlines()[0]}"
        ) from error


def op_libraries(folder: Path) -> list[str]:
    """The libraries of tensorflow-text that a SavedModel needs, as file names.

    Loaders other than Python's must be given them: `TF_LoadLibrary` in C.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(
        (Path(folder) / "saved_model.pb").read_bytes()
    )
    used = {
        op.name for op in saved.meta_graphs[0].meta_info_def.stripped_op_list.op
    } - set(dir(tf.raw_ops))
    if not used:
        return []
    try:
        import tensorflow_text
    except ImportError as error:
        raise ImportError(
            "This SavedModel uses operations that TensorFlow itself does not have. "
            'Expected tensorflow-text: pip install "keras-attention[text]". '
            f"Received: operations {sorted(used)}"
        ) from error
    libraries = Path(tensorflow_text.__path__[0], "python", "ops").glob("*.so")
    # A library names its operations in plain text; asking it in another way would
    # load it, and with it the other libraries' registrations.
    return sorted(
        library.name
        for library in libraries
        if any(name.encode() in library.read_bytes() for name in used)
    )


def _raw_variables(variables: Sequence[keras.Variable]) -> list[tf.Variable]:
    """The `tf.Variable`s behind Keras' variables; TensorFlow stores each once."""
    raw = []
    for variable in variables:
        value = getattr(variable, "value", None)
        if not isinstance(value, tf.Variable):
            raise TypeError(
                "Only built Keras variables on the TensorFlow backend can be saved. "
                "Expected `model.variables` of a built model, with KERAS_BACKEND="
                f"tensorflow. Received: {variable!r} with a value of type "
                f"{type(value).__name__}"
            )
        raw.append(value)
    return raw


def _without_layers(resources: Sequence[tf.Module]) -> list[Any]:
    """Refuse Keras layers: with one on the module, session loaders fail at a call."""
    for resource in resources:
        if isinstance(resource, keras.Layer):
            raise TypeError(
                "A Keras layer cannot be a resource of a SavedModel: TF Serving and "
                "the C API then do not find its variables. Expected its weights in "
                "`variables` and its tables or tokenizer, a tf.Module, here. "
                f"Received: {resource!r}"
            )
    return list(resources)


def _trace(signature: Signature) -> Any:
    """The concrete function of a signature: guards, then its own function."""

    def guarded(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        # Without the dependency an embedding could fail first, in its own words.
        with tf.control_dependencies(list(_guards(signature, inputs))):
            checked = {name: tf.identity(value) for name, value in inputs.items()}
        outputs = signature.function(**checked)
        _check_outputs(signature, outputs)
        return {name: tf.identity(value, name=name) for name, value in outputs.items()}

    # No autograph: what is traced is what is written, and errors keep their lines.
    function = tf.function(guarded, autograph=False)
    return function.get_concrete_function(**signature.tensor_specs())


def _guards(
    signature: Signature, inputs: dict[str, tf.Tensor]
) -> Iterator[tf.Operation]:
    """The assertions on the inputs of a signature, cheapest to understand first."""
    for name, axes in _dynamic_axes(signature).items():
        sizes = [tf.shape(inputs[key], name=f"{key}_shape")[at] for key, at in axes]
        for (key, _), size in zip(axes[1:], sizes[1:], strict=True):
            yield _assert(
                tf.equal(sizes[0], size),
                [
                    f"{axes[0][0]} and {key} must have the same {name} size. Received:",
                    sizes[0],
                    size,
                ],
                f"check_{name}_of_{key}",
            )
        if name in signature.max_lengths:
            limit = signature.max_lengths[name]
            yield _assert(
                sizes[0] <= limit,
                [
                    f"{name} length is over the {limit} positions of this model: "
                    f"shorten the input to at most {limit}. Received:",
                    sizes[0],
                ],
                f"check_length_of_{name}",
            )
    for name, limit in signature.limits.items():
        ids = inputs[name]
        lowest, highest = tf.reduce_min(ids), tf.reduce_max(ids)
        yield _assert(
            (lowest >= 0) & (highest < limit),
            [
                # TensorFlow would escape an apostrophe.
                f"{name} must be in [0, {limit}): ids of the vocabulary of this model. "
                "Received ids from, to:",
                lowest,
                highest,
            ],
            f"check_values_of_{name}",
        )


def _assert(condition: tf.Tensor, data: list[Any], name: str) -> tf.Operation:
    return tf.debugging.Assert(condition, data, name=re.sub(r"\W", "_", name))


def _dynamic_axes(signature: Signature) -> dict[str, list[tuple[str, int]]]:
    """Where each named axis stands: name -> [(input, position)]."""
    axes: dict[str, list[tuple[str, int]]] = {}
    for key, info in signature.inputs.items():
        for position, axis in enumerate(info.shape):
            if isinstance(axis, str):
                axes.setdefault(axis, []).append((key, position))
    unknown = {*signature.max_lengths} - {*axes}
    unknown |= {*signature.limits} - {*signature.inputs}
    if unknown:
        raise ValueError(
            f"Signature '{signature.name}' bounds something it does not have. Expected "
            "`max_lengths` to name dynamic axes and `limits` to name inputs. "
            f"Received: {sorted(unknown)}, axes {sorted(axes)}, "
            f"inputs {sorted(signature.inputs)}"
        )
    return axes


def _check_outputs(signature: Signature, outputs: Any) -> None:
    """A wrong name or dtype here would be a wrong contract in the artifact."""
    if not isinstance(outputs, dict) or outputs.keys() != signature.outputs.keys():
        received = sorted(outputs) if isinstance(outputs, dict) else type(outputs)
        raise ValueError(
            f"The function of signature '{signature.name}' must return a dict with "
            f"exactly its outputs. Expected: {sorted(signature.outputs)}. "
            f"Received: {received}"
        )
    for name, info in signature.outputs.items():
        value = tf.convert_to_tensor(outputs[name])
        if value.dtype.name != info.dtype or not value.shape.is_compatible_with(
            info.spec_shape
        ):
            raise ValueError(
                f"Output '{name}' of signature '{signature.name}' is not as described. "
                f"Expected: {info.dtype} {info.shape}: correct the function or the "
                f"description. Received: {value.dtype.name} {value.shape}"
            )


def _check_variables_are_saved(
    signature: Signature, function: Any, module: tf.Module
) -> None:
    """A variable that is read but not tracked would make a file that cannot run."""
    saved = {id(variable) for variable in module.weights}
    for resource in module.resources:
        saved |= {id(variable) for variable in getattr(resource, "variables", ())}
    missing = [v.name for v in function.graph.variables if id(v) not in saved]
    if missing:
        raise ValueError(
            f"Signature '{signature.name}' reads variables that would not be in the "
            "SavedModel. Expected each of them in `variables`: pass "
            "`model.variables`, the non-trainable ones too. "
            f"Received: {len(saved)} variables, without {', '.join(sorted(missing))}"
        )
