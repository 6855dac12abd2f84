"""One table a model family: each tensor of a checkpoint, each variable of a model.

A rule pairs a tensor's name with a variable and says how the one becomes the other;
read backwards, the same table writes the checkpoint. Nothing is skipped in silence:
a tensor or a variable that no rule accounts for is an error.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Rule:
    """One tensor of a checkpoint and the variable it becomes.

    Attributes:
        tensor: Name in the checkpoint.
        variable: The model's variable.
        layout: How one becomes the other.
    """

    tensor: str
    variable: Any
    layout: Layout = SAME


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
    """Reads a checkpoint into a model, all of it or nothing.

    Args:
        rules: The table.
        tensors: Name to something with `.shape` that `np.asarray` reads.
        variables: All weights of the model.
        ignored: Tensors that hold no weight, with the reason.
        source: Where the tensors come from, for messages.

    Returns:
        What became of each tensor.

    Raises:
        ValueError: If a tensor or a variable is not accounted for, or a shape or a
            value is wrong. No variable is changed then.
    """
    rules = list(rules)
    _account(rules, tensors, variables, ignored, source)
    arrays = [_read(rule, tensors[rule.tensor], source) for rule in rules]
    for rule, array in zip(rules, arrays, strict=True):
        rule.variable.assign(array)
    loaded = tuple(
        (rule.tensor, rule.variable.path, tuple(tensors[rule.tensor].shape))
        for rule in rules
    )
    return LoadReport(loaded, {k: v for k, v in ignored.items() if k in tensors})


def dump(rules: Iterable[Rule]) -> dict[str, np.ndarray]:
    """The checkpoint of a model: the table read backwards."""
    return {rule.tensor: rule.layout.write(np.asarray(rule.variable)) for rule in rules}


def _account(rules, tensors, variables, ignored, source):
    by_tensor = {rule.tensor for rule in rules}
    missing = sorted(by_tensor - set(tensors))
    unknown = sorted(set(tensors) - by_tensor - set(ignored))
    covered = {id(rule.variable) for rule in rules}
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


def _read(rule: Rule, tensor: Any, source: str) -> np.ndarray:
    shape = tuple(rule.variable.shape)
    array = np.asarray(tensor)
    wanted = rule.layout.write(np.empty(shape, "bool")).shape
    if array.shape != wanted:
        raise ValueError(
            f"Tensor '{rule.tensor}' must have shape {wanted} to become "
            f"'{rule.variable.path}'. Nothing was loaded. "
            f"Received: shape {array.shape} in {source}"
        )
    if not np.isfinite(array.astype("float32", copy=False)).all():
        raise ValueError(
            f"Tensor '{rule.tensor}' holds NaN or infinity: the file is damaged, or "
            f"its training diverged. Nothing was loaded. Received: {source}"
        )
    return rule.layout.read(array, shape)
