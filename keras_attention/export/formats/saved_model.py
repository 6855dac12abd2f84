"""Writes signatures as one SavedModel that every loader of TensorFlow can serve.

The session loaders (TF Serving, the C, Java and Go APIs) are stricter than
`tf.saved_model.load`: a file that was written with Keras layers on the exported module
can be read by Python, and not by them. So the module tracks only raw `tf.Variable`s.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_attention.export.artifact.description import Numbers
from keras_attention.export.formats.errors import (
    ExportError,
    check_bounds,
    check_outputs,
)
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
        signatures: The signatures of the SavedModel; their names must differ.
        folder: The folder to write into. `staging` makes it appear whole.
        variables: The weights that the signatures read. A tied weight may be there
            twice.
        assets_and_resources: Other objects that the signatures read: tokenizers,
            tables.

    Raises:
        ExportError: If a signature does not describe its function, or reads something
            that would not be in the SavedModel.
    """
    module = tf.Module(name="keras_attention")
    module.weights = _raw_variables(variables)
    module.resources = _without_layers(assets_and_resources)
    names = [signature.name for signature in signatures]
    if not names or len(set(names)) != len(names):
        raise ExportError(
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
        raise ExportError(
            "A signature reads something that would not be in the SavedModel, a "
            "lookup table or a tokenizer. Expected every such object, or the tf.Module "
            "that holds it, in `assets_and_resources`. "
            f"Received: assets_and_resources={list(assets_and_resources)}, and from "
            f"TensorFlow: {str(error).splitlines()[0]}"
        ) from error


def op_libraries(folder: Path) -> list[str]:
    """Return the file names of the tensorflow-text libraries that a SavedModel needs.

    Loaders other than Python's must load them: `TF_LoadLibrary` in C.

    Args:
        folder: The SavedModel's folder.
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
            'Expected tensorflow-text: pip install "keras-attention-layers[text]". '
            f"Received: operations {sorted(used)}"
        ) from error
    libraries = Path(tensorflow_text.__path__[0], "python", "ops").glob("*.so")
    # A library has the names of its operations in plain text. To read them in another
    # way would load the library, and register what the others register again.
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
    check_bounds(signature)

    def guarded(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        # Without the dependency an embedding could fail first, in its own words.
        with tf.control_dependencies(_guards(signature, inputs)):
            checked = {name: tf.identity(value) for name, value in inputs.items()}
        outputs = signature.function(**checked)
        check_outputs(signature, outputs)
        return {name: tf.identity(value, name=name) for name, value in outputs.items()}

    # No autograph: what is traced is what is written, and errors keep their lines.
    function = tf.function(guarded, autograph=False)
    return function.get_concrete_function(**signature.tensor_specs())


_OF_TENSORS = Numbers(
    size=lambda tensor, axis: tf.shape(tensor)[axis],
    lowest=tf.reduce_min,
    highest=tf.reduce_max,
)


def _guards(signature: Signature, inputs: dict[str, tf.Tensor]) -> list[tf.Operation]:
    """The rules of the signature as assertions in the graph."""
    assertions = []
    for rule in signature.info.rules():
        numbers = rule.numbers(inputs, _OF_TENSORS)
        pairs = zip(rule.words, numbers, strict=True)
        data = [part for pair in pairs for part in pair]
        name = re.sub(r"\W", "_", rule.name)
        assertions.append(tf.debugging.Assert(rule.holds(*numbers), data, name=name))
    return assertions


def _check_variables_are_saved(
    signature: Signature, function: Any, module: tf.Module
) -> None:
    """Refuse variables that are read and not tracked: the file could not run."""
    saved = {id(variable) for variable in module.weights}
    # A variable of a distribution strategy is read through one of its copies.
    saved |= {id(copy) for one in module.weights for copy in getattr(one, "values", ())}
    for resource in module.resources:
        saved |= {id(variable) for variable in getattr(resource, "variables", ())}
    missing = [v.name for v in function.graph.variables if id(v) not in saved]
    if missing:
        raise ExportError(
            f"Signature '{signature.name}' reads variables that would not be in the "
            "SavedModel. Expected each of them in `variables`: pass "
            "`model.variables`, the non-trainable ones too. "
            f"Received: {len(saved)} variables, without {', '.join(sorted(missing))}"
        )
