"""What an artifact can be asked: named functions from named tensors to tensors."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class TensorInfo:
    """Name-free description of one input or output.

    Attributes:
        dtype: E.g. `"int32"`, `"bool"`, `"float32"`, `"string"`.
        shape: One entry an axis: an int, or the name of a dynamic axis such as
            `"batch"` or `"sequence"`. Axes of one name have one size.
    """

    dtype: str
    shape: tuple[int | str, ...]

    @property
    def spec_shape(self) -> list[int | None]:
        """The shape as TensorFlow writes it: `None` for a dynamic axis."""
        return [axis if isinstance(axis, int) else None for axis in self.shape]


@dataclass(frozen=True, eq=False)
class Steps:
    """A signature's function in three steps, where the model is the one in the middle.

    What stands around it, tokenizers say, cannot be compiled by XLA.

    Attributes:
        before: From the inputs of the signature to those of `middle`, and anything.
        middle: From tensors to a dict of tensors.
        after: From the answers of `middle`, and the anything, to the outputs.
        inputs: Of `middle`, name to description.
        outputs: Of `middle`, name to description.
    """

    before: Callable[..., tuple[dict[str, Any], Any]]
    middle: Callable[..., dict[str, Any]]
    after: Callable[[dict[str, Any], Any], dict[str, Any]]
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        given, rest = self.before(**inputs)
        return self.after(self.middle(**given), rest)


@dataclass(frozen=True)
class Signature:
    """One callable of an artifact.

    Attributes:
        name: E.g. `"serving_default"`.
        function: Called with the inputs as keyword arguments (tensors); returns a
            dict of tensors with exactly the names of `outputs`. Written in
            TensorFlow or Keras ops, so that it can be traced.
        inputs: Name to description.
        outputs: Name to description.
        limits: For integer inputs: name to the exclusive upper bound of its
            values (ids of a vocabulary). Lower bound 0.
        max_lengths: Name of a dynamic axis to its largest size, e.g.
            `{"sequence": 512}`.
        exact_zeros: Outputs whose zeros mean something (weights of hidden keys): they
            must be exactly 0 in every artifact.
        formats: Those it can be exported to.
        examples: Gives what it is verified on in place of the grid: tuples of a name,
            the inputs, and the answer, or `None` for that of `function`.
    """

    name: str
    function: Callable[..., dict[str, Any]]
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    limits: dict[str, int] = field(default_factory=dict)
    max_lengths: dict[str, int] = field(default_factory=dict)
    exact_zeros: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("saved_model", "onnx", "litert")
    examples: Callable[[], Iterable[tuple[str, dict, dict | None]]] | None = None

    @property
    def of_model(self) -> "Signature | Steps":
        """What has the inputs and outputs of the model: tokenizers left outside."""
        return self.function if isinstance(self.function, Steps) else self

    def wrapped(self, wrap: Callable[[Callable], Callable]) -> "Signature":
        """The same with something around what the model computes."""
        function = self.function
        if isinstance(function, Steps):
            return replace(
                self, function=replace(function, middle=wrap(function.middle))
            )
        return replace(self, function=wrap(function))

    @property
    def takes_text(self) -> bool:
        """Whether any input is a string: then only a SavedModel can be written."""
        return any(info.dtype == "string" for info in self.inputs.values())

    def tensor_specs(self) -> dict[str, tf.TensorSpec]:
        """The inputs as `tf.TensorSpec`s."""
        return {
            name: tf.TensorSpec(info.spec_shape, info.dtype, name=name)
            for name, info in self.inputs.items()
        }
