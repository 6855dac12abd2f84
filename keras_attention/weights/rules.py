"""One table a model family: each tensor of a checkpoint, each variable of a model.

A rule pairs a tensor's name with a variable and says how the one becomes the other;
read backwards, the same table writes the checkpoint. Nothing is skipped in silence:
a tensor or a variable that no rule accounts for is an error.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np


@dataclass(frozen=True)
class Layout:
    """How a tensor of a checkpoint is laid out, and back.

    Attributes:
        name: For the report.
        read: Checkpoint array to variable array, given the variable's shape.
        write: Variable array to checkpoint array.
    """

    name: str
    read: Callable[[np.ndarray, tuple], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


SAME = Layout("as it is", lambda x, shape: x.reshape(shape), lambda x: x)

# PyTorch's Linear keeps [outputs, inputs]; ours is [inputs, *output axes].
LINEAR = Layout(
    "transposed",
    lambda x, shape: x.T.reshape(shape),
    lambda x: np.ascontiguousarray(x.reshape(x.shape[0], -1).T),
)

# The same for a kernel of [*input axes, outputs].
LINEAR_OF_HEADS = Layout(
    "transposed",
    lambda x, shape: x.T.reshape(shape),
    lambda x: np.ascontiguousarray(x.reshape(-1, x.shape[-1]).T),
)

# A bias [*output axes], one axis in the checkpoint.
FLAT = Layout("flat", lambda x, shape: x.reshape(shape), lambda x: x.reshape(-1))


# Google's and OpenAI's kernels, [inputs, outputs], as two axes.
KERNEL = Layout(
    "as it is",
    lambda x, shape: x.reshape(shape),
    lambda x: x.reshape(x.shape[0], -1),
)
KERNEL_OF_HEADS = Layout(
    "as it is",
    lambda x, shape: x.reshape(shape),
    lambda x: x.reshape(-1, x.shape[-1]),
)


@dataclass(frozen=True)
class Rule:
    """One tensor of a checkpoint and the variable it becomes.

    Attributes:
        tensor: Name in the checkpoint.
        variable: The model's variable; or a tuple of variables that lie side by side
            in the tensor, as queries, keys and values do in GPT-2.
        layout: How one becomes the other; of each part where there are several.
        axis: Of the tensor, along which several variables lie.
    """

    tensor: str
    variable: Any
    layout: Layout = SAME
    axis: int = -1

    @property
    def variables(self) -> tuple:
        """The variables, one or several."""
        several = isinstance(self.variable, tuple)
        return self.variable if several else (self.variable,)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the tensor must have."""
        # Layouts only move numbers: one number that is repeated shows the shape.
        parts = [
            self.layout.write(np.broadcast_to(np.int8(0), tuple(variable.shape))).shape
            for variable in self.variables
        ]
        whole = list(parts[0])
        if len(parts) > 1:
            whole[self.axis] = sum(part[self.axis] for part in parts)
        return tuple(whole)

    def read(self, array: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
        """Each variable with its value out of the tensor."""
        start = 0
        for variable in self.variables:
            shape, part = tuple(variable.shape), array
            if len(self.variables) > 1:
                axis = self.axis % array.ndim
                empty = np.broadcast_to(np.int8(0), shape)
                end = start + self.layout.write(empty).shape[axis]
                part = array[(slice(None),) * axis + (slice(start, end),)]
                start = end
            yield variable, self.layout.read(part, shape)

    def write(self) -> np.ndarray:
        """The tensor of the variables' values."""
        parts = [
            self.layout.write(keras.ops.convert_to_numpy(variable))
            for variable in self.variables
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, self.axis)


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of a checkpoint.

    Attributes:
        loaded: `(tensor name, variable path, shape)` of each tensor read.
        ignored: Tensor name to the reason it holds no weight.
    """

    loaded: tuple[tuple[str, str, tuple[int, ...]], ...]
    ignored: Mapping[str, str]

    @property
    def num_parameters(self) -> int:
        """Number of parameters read."""
        return sum(int(np.prod(shape)) for _, _, shape in self.loaded)

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.ignored)
        text = (
            f"{total} tensors in the checkpoint: {len(self.loaded)} read into "
            f"{len(self.loaded)} variables ({self.num_parameters:,} parameters)"
        )
        reasons = [f"{name} ({reason})" for name, reason in self.ignored.items()]
        return f"{text}, not needed: {', '.join(reasons)}" if reasons else text


def load(
    rules: Iterable[Rule],
    tensors: Mapping[str, Any],
    variables: Iterable[Any],
    *,
    ignored: Mapping[str, str],
    source: str,
) -> LoadReport:
    """Reads a checkpoint into a model, one tensor at a time.

    Names and shapes are all compared before the first tensor is read.

    Args:
        rules: The table.
        tensors: Name to something with `.shape` that `np.asarray` reads.
        variables: All weights of the model.
        ignored: Tensors that hold no weight, with the reason; a rule comes first.
        source: Where the tensors come from, for messages.

    Returns:
        What became of each tensor.

    Raises:
        ValueError: If a tensor or a variable is not accounted for or a shape is
            wrong: no variable is changed then. If a value is NaN or infinite: the
            model is then not to be used.
    """
    rules = list(rules)
    _account(rules, tensors, variables, ignored, source)
    for rule in rules:
        _check_shape(rule, tuple(tensors[rule.tensor].shape), source)
    for rule in rules:
        array = np.asarray(tensors[rule.tensor])
        _check_finite(rule, array, source)
        for variable, value in rule.read(array):
            variable.assign(value)
    loaded = tuple(
        (
            rule.tensor,
            ", ".join(variable.path for variable in rule.variables),
            rule.shape,
        )
        for rule in rules
    )
    taken = {rule.tensor for rule in rules}
    left = {k: v for k, v in ignored.items() if k in tensors and k not in taken}
    return LoadReport(loaded, left)


def dump(rules: Iterable[Rule]) -> dict[str, np.ndarray]:
    """The checkpoint of a model: the table read backwards."""
    return {rule.tensor: rule.write() for rule in rules}


def _account(rules, tensors, variables, ignored, source):
    by_tensor = {rule.tensor for rule in rules}
    missing = sorted(by_tensor - set(tensors))
    unknown = sorted(set(tensors) - by_tensor - set(ignored))
    covered = {id(variable) for rule in rules for variable in rule.variables}
    empty = sorted(v.path for v in variables if id(v) not in covered)
    problems = [
        (missing, "the model needs tensors that are not there"),
        (unknown, "there are tensors that this model has no place for"),
        (empty, "variables of the model get no tensor"),
    ]
    for names, what in problems:
        if names:
            raise ValueError(
                f"The checkpoint does not fit the model: {what}. The file may be "
                "incomplete, of another model, or its config.json of another file. "
                f"Nothing was loaded. Received: {source} with {len(names)} such: "
                f"{', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
            )


def _check_shape(rule: Rule, shape: tuple[int, ...], source: str) -> None:
    if shape != rule.shape:
        paths = ", ".join(variable.path for variable in rule.variables)
        raise ValueError(
            f"Tensor '{rule.tensor}' must have shape {rule.shape} to become "
            f"'{paths}'. Nothing was loaded. Received: shape {shape} in {source}"
        )


def _check_finite(rule: Rule, array: np.ndarray, source: str) -> None:
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):  # a whole mask would be a quarter more
        part = flat[start : start + _CHUNK]
        if not np.isfinite(part.astype("float32", copy=False)).all():
            raise ValueError(
                f"Tensor '{rule.tensor}' holds NaN or infinity: the file is damaged, "
                "or its training diverged. No model was loaded. "
                f"Received: {source}"
            )


_CHUNK = 1 << 20
