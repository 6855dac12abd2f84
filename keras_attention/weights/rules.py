"""The rules of a model family: which tensor of a checkpoint is which variable.

A rule has a tensor's name, a variable and the conversion between both. The same rules
read a checkpoint and write it. Nothing is skipped: a tensor or a variable without a
rule is an error.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_attention import untrusted


@dataclass(frozen=True)
class Layout:
    """The conversion between a tensor of a checkpoint and a variable.

    Attributes:
        name: The layout's name.
        read: A function of the tensor and the variable's shape that returns the
            variable's value.
        write: A function of the variable's value that returns the tensor.
    """

    name: str
    read: Callable[[np.ndarray, tuple], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


SAME = Layout("as it is", lambda x, shape: x.reshape(shape), lambda x: x)

# PyTorch's Linear has [outputs, inputs]; ours has [inputs, *output axes].
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
    """A tensor of a checkpoint and its variable.

    Attributes:
        tensor: The tensor's name in the checkpoint.
        variable: The model's variable; or a tuple of variables that are concatenated
            in the tensor, such as queries, keys and values in GPT-2.
        layout: The conversion of the tensor, or of the part of each variable.
        axis: The axis of the tensor along which variables are concatenated.
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
        # Layouts only move numbers, so an array without memory shows the shape.
        parts = [
            self.layout.write(np.broadcast_to(np.int8(0), tuple(variable.shape))).shape
            for variable in self.variables
        ]
        whole = list(parts[0])
        if len(parts) > 1:
            whole[self.axis] = sum(part[self.axis] for part in parts)
        return tuple(whole)

    def read(self, array: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
        """Yields each variable with its value in the tensor."""
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
        """Returns the tensor of the variables' values."""
        parts = [self.layout.write(_merged(variable)) for variable in self.variables]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, self.axis)


def _merged(variable: Any) -> np.ndarray:
    """Returns a variable's value, with the LoRA of its projection."""
    value = keras.ops.convert_to_numpy(variable)
    update = getattr(variable, "low_rank_update", None)
    if update is None:
        return value
    added = keras.ops.convert_to_numpy(update.matrix()).reshape(value.shape)
    return (value + added).astype(value.dtype)


@dataclass(frozen=True)
class LoadReport:
    """A report on every tensor of a checkpoint.

    Attributes:
        loaded: `(tensor name, variable path, shape)` of each tensor that was read.
        ignored: A dict of a tensor's name to the reason why it holds no weight.
    """

    loaded: tuple[tuple[str, str, tuple[int, ...]], ...]
    ignored: Mapping[str, str]

    @property
    def num_parameters(self) -> int:
        """The number of parameters that were read."""
        return sum(int(np.prod(shape)) for _, _, shape in self.loaded)

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.ignored)
        text = (
            f"{total} tensors in the checkpoint: {len(self.loaded)} read into "
            f"{len(self.loaded)} variables ({self.num_parameters:,} parameters)"
        )
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.ignored.items():
            by_reason.setdefault(reason, []).append(untrusted.clip(name, 80))
        reasons = [_summary(*each) for each in by_reason.items()]
        return f"{text}, not needed: {', '.join(reasons)}" if reasons else text


_NAMED = 3  # the most tensors of one reason that a report names


def _summary(reason: str, names: list[str]) -> str:
    """Returns one line on the tensors that are not needed for one reason."""
    if len(names) <= _NAMED:
        return ", ".join(f"{name} ({reason})" for name in names)
    return f"{len(names)} such as {', '.join(names[:_NAMED])} ({reason})"


def load(
    rules: Iterable[Rule],
    tensors: Mapping[str, Any],
    variables: Iterable[Any],
    *,
    ignored: Mapping[str, str],
    source: str,
) -> LoadReport:
    """Reads a checkpoint into a model, one tensor at a time.

    All names and shapes are compared before the first tensor is read.

    Args:
        rules: The rules of the model.
        tensors: A dict of a name to an object with `.shape` that `np.asarray` reads.
        variables: All weights of the model.
        ignored: A dict of tensors that hold no weight to the reason. A tensor with a
            rule is read all the same.
        source: The path of the checkpoint, for errors.

    Returns:
        The report on every tensor.

    Raises:
        ValueError: If a tensor or a variable has no rule or a shape is wrong; then no
            variable was changed. Or if a value is NaN or infinite; then the model must
            not be used.
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
    read = {rule.tensor for rule in rules}
    not_read = {k: v for k, v in ignored.items() if k in tensors and k not in read}
    return LoadReport(loaded, not_read)


def dump(rules: Iterable[Rule]) -> dict[str, np.ndarray]:
    """Returns the tensors of a model's checkpoint by name, the inverse of `load`."""
    return {rule.tensor: rule.write() for rule in rules}


def _account(rules, tensors, variables, ignored, source):
    by_tensor = {rule.tensor for rule in rules}
    missing = sorted(by_tensor - set(tensors))
    unknown = sorted(set(tensors) - by_tensor - set(ignored))
    covered = {id(variable) for rule in rules for variable in rule.variables}
    empty = sorted(v.path for v in variables if id(v) not in covered)
    problems = [
        (missing, "the model needs tensors that are missing"),
        (unknown, "there are tensors for which this model has no variable"),
        (empty, "there are variables without a tensor"),
    ]
    for names, what in problems:
        if names:
            raise ValueError(
                f"The checkpoint does not fit the model: {what}. Fetch all files "
                "again: the weights may be incomplete, or of another model than "
                f"config.json. Nothing was loaded. Received: {untrusted.clip(source)} "
                f"with {len(names)} such: {untrusted.clip(', '.join(names[:8]), 1000)}"
                f"{', …' if len(names) > 8 else ''}"
            )


def _check_shape(rule: Rule, shape: tuple[int, ...], source: str) -> None:
    if shape != rule.shape:
        paths = ", ".join(variable.path for variable in rule.variables)
        raise ValueError(
            f"Tensor '{rule.tensor}' must have shape {rule.shape} for the variable "
            f"'{paths}'. Nothing was loaded. Received: shape {shape} in {source}"
        )


def _check_finite(rule: Rule, array: np.ndarray, source: str) -> None:
    flat = array.reshape(-1)
    for start in range(
        0, flat.size, _CHUNK
    ):  # a mask of all values would take a quarter more memory
        part = flat[start : start + _CHUNK]
        if not np.isfinite(part.astype("float32", copy=False)).all():
            raise ValueError(
                f"Tensor '{rule.tensor}' holds NaN or infinity: the file is damaged, "
                "or its training diverged. No model was loaded. "
                f"Received: {source}"
            )


_CHUNK = 1 << 20
