"""Signatures: the named functions of an artifact, from named tensors to tensors."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import tensorflow as tf

from keras_attention.export.artifact.description import SignatureInfo, TensorInfo


@dataclass(frozen=True, eq=False)
class Steps:
    """A signature's function in three steps; the middle one is the model.

    The steps around it, such as tokenizers, cannot be compiled by XLA.

    Attributes:
        before: Called with the signature's inputs; returns the inputs of `middle`, and
            a value for `after`.
        middle: Called with tensors; returns a dict of tensors.
        after: Called with the outputs of `middle` and the value from `before`; returns
            the signature's outputs.
        inputs: The inputs of `middle`, name to description.
        outputs: The outputs of `middle`, name to description.
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
        limits: Name of an integer input to the exclusive upper bound of its values
            (ids of a vocabulary). The lower bound is 0.
        max_lengths: Name of a free axis to its largest size, e.g. `{"sequence": 512}`.
        lengths: Name of a free axis to sizes that the function accepts, in increasing
            order: what the verification chooses from. By default it accepts all.
        drawn_below: Name of an integer input without a limit to the exclusive upper
            bound of the values that the verification draws, 2 by default.
        samples: Inputs of the user, which the verification runs besides the grid.
        exact_zeros: Outputs whose zeros have a meaning (weights of hidden keys): they
            must be exactly 0 in every artifact.
        formats: The formats it can be exported to.
        on_request: Whether it is exported only if it is named.
        examples: Returns the cases that it is verified on instead of the grid: tuples
            of a name, the inputs, and the answer, or `None` for the answer of
            `function`.
    """

    name: str
    function: Callable[..., dict[str, Any]]
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    limits: dict[str, int] = field(default_factory=dict)
    max_lengths: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, tuple[int, ...]] = field(default_factory=dict)
    drawn_below: dict[str, int] = field(default_factory=dict)
    samples: tuple[dict[str, Any], ...] = ()
    exact_zeros: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("saved_model", "onnx", "litert")
    on_request: bool = False
    examples: Callable[[], Iterable[tuple[str, dict, dict | None]]] | None = None

    @property
    def info(self) -> SignatureInfo:
        """The description of what it takes and returns, as the manifest has it."""
        return SignatureInfo(self.inputs, self.outputs, self.limits, self.max_lengths)

    @property
    def of_model(self) -> "Signature | Steps":
        """The part with the inputs and outputs of the model, without tokenizers."""
        return self.function if isinstance(self.function, Steps) else self

    def wrapped(self, wrap: Callable[[Callable], Callable]) -> "Signature":
        """The same signature with a wrapper around the function of the model."""
        function = self.function
        if isinstance(function, Steps):
            return replace(
                self, function=replace(function, middle=wrap(function.middle))
            )
        return replace(self, function=wrap(function))

    @property
    def takes_text(self) -> bool:
        """Whether any input is a string. Only a SavedModel can take strings."""
        return any(info.dtype == "string" for info in self.inputs.values())

    def tensor_specs(self) -> dict[str, tf.TensorSpec]:
        """The inputs as `tf.TensorSpec`s."""
        return {
            name: tf.TensorSpec(info.spec_shape, info.dtype, name=name)
            for name, info in self.inputs.items()
        }
