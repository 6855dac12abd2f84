"""The signature of a user's own Keras model: functional, Sequential or subclassed."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.signatures.input_facts import InputFacts, Said, facts_of
from keras_attention.export.signatures.signature import Signature

NAME = "serving_default"
# Attributes of layers, Keras' and KerasHub's too, that hold the size of a table.
_POSITIONS = ("max_sequence_length", "sequence_length")
_TABLES = ("input_dim", "vocabulary_size", "num_segments", *_POSITIONS)


@dataclass(frozen=True)
class Description:
    """What the caller of `export_model` says about a user's model.

    Attributes:
        axes: Name of an input to one entry per axis: a name for a free axis, or a size.
            Axes of one name have one size.
        limits: Name of an integer input to the exclusive upper bound of its values.
        max_lengths: Name of a free axis to its largest size.
        sample_inputs: Inputs as the model takes them; also asked by the verification.
        input_signature: `keras.InputSpec`s or `tf.TensorSpec`s in the structure of the
            inputs, for a subclassed model; `None` in a shape is a free axis.
    """

    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    max_lengths: Mapping[str, int] = field(default_factory=dict)
    sample_inputs: Any = None
    input_signature: Any = None

    def refuse_for(self, model: keras.Model) -> None:
        """Refuse any description of a model that describes itself.

        Args:
            model: A model of this library.
        """
        given = [
            name
            for name, value in vars(self).items()
            if value is not None and value != {}
        ]
        if given:
            raise ValueError(
                "The models of this library describe their own inputs. Expected none "
                "of `axes`, `limits`, `max_lengths`, `sample_inputs` and "
                "`input_signature`: omit them, or pass your own "
                "`signatures=[ka.Signature(...)]`. "
                f"Received: {', '.join(given)} for {model!r}"
            )


def keras_model_signature(model: keras.Model, said: Description) -> Signature:
    """Return the signature of a user's model, found by running the model.

    Args:
        model: A built Keras model.
        said: What is known about its inputs.

    Raises:
        ValueError: If what the model takes cannot be found out, with the remedy.
    """
    structure = _structure_of(model, said)
    names = _names_of(structure)
    flat = dict(zip(names, keras.tree.flatten(structure), strict=True))
    inputs = {name: TensorInfo(one.dtype, one.shape) for name, one in flat.items()}
    _check_names(said, inputs)
    inputs = _with_axes(inputs, said.axes)

    def predict(**tensors):
        given = [keras.ops.convert_to_tensor(tensors[name]) for name in names]
        arranged = keras.tree.pack_sequence_as(structure, given)
        return _named_outputs(model, model(arranged, training=False))

    tables = _sizes_named(model, _TABLES), _sizes_named(model, _POSITIONS)
    known = Said(said.axes, said.limits, said.max_lengths, *tables)
    inner = _inner_outputs(model)

    def probe(arrays):
        predict(**arrays)
        _refuse_empty(inner, [arrays[name] for name in names])

    facts = facts_of(probe, inputs, known)
    return Signature(
        NAME,
        predict,
        facts.inputs,
        _outputs(predict, facts),
        limits=facts.limits,
        max_lengths=facts.max_lengths,
        lengths=facts.lengths,
        drawn_below=_drawn_below(facts),
        samples=_samples(names, said.sample_inputs),
    )


# Below this length pooling and strides may leave nothing of a sequence.
_SHORT = 9


def _inner_outputs(model: keras.Model) -> keras.Model | None:
    """A model that returns what every layer returns, if it is functional."""
    functional = getattr(model, "_functional", None) or model
    inputs = getattr(functional, "inputs", None)
    if not inputs or not getattr(functional, "outputs", None):
        return None
    try:
        found = [
            tensor
            for layer in functional.layers
            for tensor in keras.tree.flatten(layer.output)
        ]
        return keras.Model(inputs, found)
    except (AttributeError, ValueError, KeyError):
        return None  # a layer that is shared, or without one output


def _refuse_empty(inner: keras.Model | None, arrays: list[np.ndarray]) -> None:
    """Refuses lengths of which a layer leaves nothing.

    TensorFlow goes on with an empty sequence. ONNX Runtime pools one entry where less
    than a window is left, so that no format could be proven for such lengths.
    """
    if inner is None or all(min(x.shape[1:], default=_SHORT) >= _SHORT for x in arrays):
        return
    if any(hasattr(layer, "strides") for layer in inner._flatten_layers()):
        # TensorFlow makes any number of a negative size when it computes, and an error
        # when it only builds, which takes longer.
        specs = [keras.KerasTensor(x.shape, x.dtype) for x in arrays]
        try:
            inner.compute_output_spec(specs)
        except ValueError as error:
            if "negative" in str(error).lower():
                raise
    given = [keras.ops.convert_to_tensor(x) for x in arrays]
    if any(0 in tuple(one.shape) for one in keras.tree.flatten(inner(given))):
        raise ValueError("A layer leaves nothing of a sequence as short as this one.")


def _drawn_below(facts: InputFacts) -> dict[str, int]:
    """Integers without a limit: a mask has 0 and 1, other inputs have any numbers."""
    return {
        name: 2 if "mask" in name else 100
        for name, info in facts.inputs.items()
        if "int" in info.dtype and name not in facts.limits
    }


@dataclass(frozen=True)
class _Leaf:
    """One input: its dtype, its shape with `None` for free axes, and its own name."""

    dtype: str
    shape: tuple[int | None, ...]
    name: str | None = None


def _structure_of(model: keras.Model, said: Description) -> Any:
    """The inputs of a model as it takes them, with a `_Leaf` for each tensor."""
    if said.input_signature is not None:
        return keras.tree.map_structure(_leaf, said.input_signature)
    functional = getattr(model, "_functional", None) or model  # of a Sequential
    if getattr(functional, "inputs", None) and getattr(functional, "outputs", None):
        return keras.tree.map_structure(_leaf, functional.input)
    if said.sample_inputs is not None:
        return keras.tree.map_structure(_leaf_of_sample, said.sample_inputs)
    what = "has no inputs yet: call it once, or begin it with a `keras.Input`"
    if not isinstance(model, keras.Sequential):
        what = (
            "is a subclass, which does not say what it takes: pass `sample_inputs=`, "
            "arrays as `model.predict` takes them, or `input_signature=`"
        )
    raise ValueError(
        f"The inputs of this model are not known. The model {what}; or pass your own "
        f"`signatures=[ka.Signature(...)]`. Received: model={model!r}"
    )


def _leaf(spec: Any) -> _Leaf:
    dtype = keras.backend.standardize_dtype(spec.dtype or "float32")
    if spec.shape is None:
        raise ValueError(
            "Each entry of `input_signature` must have a shape, with `None` for free "
            f"axes. Received: {spec!r}"
        )
    shape = tuple(None if size is None else int(size) for size in spec.shape)
    return _Leaf(dtype, shape, getattr(spec, "name", None))


def _leaf_of_sample(array: Any) -> _Leaf:
    array = np.asarray(array)
    dtype = "string" if array.dtype.kind in "OSU" else array.dtype.name
    if array.ndim == 0:
        raise ValueError(
            "Each of `sample_inputs` must be a batch: its first axis is the batch's. "
            f"Received: {array!r}"
        )
    dtype = {"float64": "float32", "int64": "int32"}.get(dtype, dtype)
    return _Leaf(dtype, (None, *array.shape[1:]))


def _names_of(structure: Any) -> list[str]:
    """One name per input: its key in a dict, else its own, else its place."""
    paths = keras.tree.flatten_with_path(structure)
    names: list[str] = []
    for path, leaf in paths:
        keys = [str(key) for key in path if not isinstance(key, int)]
        own = leaf.name.split(":")[0] if leaf.name else ""
        places = "_".join(str(key) for key in path)
        name = "_".join(keys) or own or (f"input_{places}" if places else "inputs")
        name = re.sub(r"\W", "_", name)
        names.append(name if name not in names else f"{name}_{len(names)}")
    return names


def _check_names(said: Description, inputs: Mapping[str, TensorInfo]) -> None:
    for argument in ("axes", "limits"):
        unknown = sorted({*getattr(said, argument)} - {*inputs})
        if unknown:
            raise ValueError(
                f"`{argument}` names inputs of the model. Expected: some of "
                f"{', '.join(inputs)}. Received: {argument} of {', '.join(unknown)}"
            )
    for name, axes in said.axes.items():
        if len(axes) != len(inputs[name].shape):
            raise ValueError(
                f"`axes` gives one entry per axis. Expected: {len(inputs[name].shape)} "
                f"entries for {name}, as its shape is {inputs[name].shape}. "
                f"Received: {tuple(axes)}"
            )


def _with_axes(
    inputs: Mapping[str, TensorInfo], axes: Mapping[str, Sequence[Any]]
) -> dict[str, TensorInfo]:
    """Inputs with the sizes that the user fixed, and free where there is a name."""
    changed = dict(inputs)
    for name, given in axes.items():
        shape = tuple(axis if isinstance(axis, int) else None for axis in given)
        changed[name] = TensorInfo(inputs[name].dtype, shape)
    return changed


def _sizes_named(model: keras.Model, names: Sequence[str]) -> tuple[int, ...]:
    """The sizes that layers of the model have under some names of attributes."""
    sizes = {
        getattr(layer, name, None)
        for layer in model._flatten_layers()
        for name in names
    }
    return tuple(sorted(size for size in sizes if type(size) is int and size > 0))


def _outputs(run: Callable, facts: InputFacts) -> dict[str, TensorInfo]:
    """The outputs, whose free axes are found by running the model on two sizes."""
    first, sizes = _run_with(run, facts, 0, batch=2)
    second, other_sizes = _run_with(run, facts, -1, batch=3)
    described = {}
    for name, tensor in first.items():
        shape: list[int | str] = []
        for position, pair in enumerate(
            zip(tensor.shape, second[name].shape, strict=True)
        ):
            same = [a for a in sizes if (sizes[a], other_sizes[a]) == pair]
            if pair[0] == pair[1] and not same:
                shape.append(int(pair[0]))
            else:
                shape.append(same[0] if same else f"{name}_axis_{position}")
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        described[name] = TensorInfo(dtype, tuple(shape))
    return described


def _run_with(run: Callable, facts: InputFacts, end: int, batch: int) -> tuple:
    """Outputs and sizes of one run: with the smallest or the largest lengths."""
    sizes = {"batch": batch}
    for number, (name, lengths) in enumerate(facts.lengths.items()):
        few = [size for size in lengths if size <= 40] or [lengths[0]]
        place = (number if end == 0 else len(few) - 1 - number) % len(few)
        sizes[name] = few[place]
    arrays = {}
    for name, info in facts.inputs.items():
        shape = tuple(sizes[a] if isinstance(a, str) else a for a in info.shape)
        if info.dtype == "string":
            arrays[name] = np.full(shape, "a word", object)
        elif "int" in info.dtype:
            arrays[name] = np.zeros(shape, info.dtype)
        else:
            arrays[name] = np.ones(shape, "bool" if info.dtype == "bool" else "float32")
    return run(**arrays), sizes


def _named_outputs(model: keras.Model, outputs: Any) -> dict[str, Any]:
    """Outputs by the keys of their dict, else by the layers they come from."""
    paths = keras.tree.flatten_with_path(outputs)
    names = [
        "_".join(str(key) for key in path if not isinstance(key, int))
        for path, _ in paths
    ]
    functional = getattr(model, "_functional", None) or model
    if not all(names) and getattr(functional, "outputs", None):
        names = [tensor._keras_history.operation.name for tensor in functional.outputs]
    elif not all(names):
        one = len(paths) == 1
        names = ["output" if one else f"output_{place}" for place in range(len(paths))]
    repeated = [name for name in names if names.count(name) > 1]
    names = [
        re.sub(r"\W", "_", f"{name}_{index}" if name in repeated else name)
        for index, name in enumerate(names)
    ]
    return dict(zip(names, [tensor for _, tensor in paths], strict=True))


def _samples(names: Sequence[str], sample_inputs: Any) -> tuple[dict[str, Any], ...]:
    """The user's own inputs as a case of the verification."""
    if sample_inputs is None:
        return ()
    flat = keras.tree.flatten(sample_inputs)
    return (dict(zip(names, map(np.asarray, flat), strict=True)),)
