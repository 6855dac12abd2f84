"""How much a graph may allocate by itself, and the numbers that its sizes come from.

A graph of a few bytes can ask for all memory: with a constant that is stored as one
repeated number, or an operator that fills a shape. The shapes that constants determine
are computed here, without running anything. Sizes that depend on inputs are not known
before a call.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

MAX_BYTES = 1 << 31
"""The largest tensor that a graph may make of constants alone, in bytes."""
ENVIRONMENT = "KERAS_ATTENTION_MAX_TENSOR_BYTES"
MAX_OPERATORS = 5_000_000
"""The largest number of operators after every function was put where it is called."""
_MOST_NUMBERS, _DEEPEST = 64, 40
_TOTAL = 8  # all fixed tensors of a graph together, in units of the largest

Find = Callable[[str], Any]
"""From the name of a tensor to its numbers, to `(operator, inputs)`, or to None."""


def max_bytes(given: int | None = None) -> int:
    """Returns the limit: the one that was given, of the environment, or the default.

    Raises:
        ValueError: If it is not a positive number.
    """
    value: Any = given
    if value is None:
        value = os.environ.get(ENVIRONMENT, str(MAX_BYTES))
    if not (str(value).isdecimal() and int(value) > 0):
        raise ValueError(
            "The largest tensor of a graph is a number of bytes, more than 0. Correct "
            f"`max_tensor_bytes` or {ENVIRONMENT}. Received: {value!r:.50}"
        )
    return int(value)


class Budget:
    """Adds up the tensors whose sizes a graph fixes.

    Args:
        most: The largest size of one tensor, in bytes.
    """

    def __init__(self, most: int) -> None:
        self._most, self._total = most, 0

    def problems(self, about: str, elements: float | None, size: int) -> list[str]:
        """Adds a tensor; returns the problem, if it is too large.

        Args:
            about: What makes the tensor.
            elements: The number of its elements, None if it is not known.
            size: The bytes of an element.
        """
        if elements is None or elements <= 0:
            return []
        needed = elements * max(1, size)
        if needed > self._most:
            return [f"{about}, which alone needs {int(needed):,} bytes of memory"]
        before, self._total = self._total, self._total + int(needed)
        if before <= _TOTAL * self._most < self._total:
            return [f"constants that together need {self._total:,} bytes of memory"]
        return []


def product(numbers: Sequence[float] | None) -> float | None:
    """Returns the elements of a shape; a negative size means that it is not known."""
    if numbers is None or any(not one >= 0 for one in numbers):
        return None
    if any(one == math.inf for one in numbers):
        return 1e25
    return math.prod(int(one) for one in numbers)


def evaluate(name: str, find: Find, depth: int = 0) -> list[float] | None:
    """Returns the numbers of a small tensor that only constants determine, or None."""
    found = find(name) if depth < _DEEPEST else None
    if found is None or isinstance(found, list):
        return found
    operator, inputs = found
    if operator not in _COMPUTED or not inputs:
        return None
    values = [evaluate(one, find, depth + 1) for one in inputs]
    if any(value is None for value in values):
        return None
    try:
        result = _COMPUTED[operator](*values)  # type: ignore[arg-type]
    except (ArithmeticError, ValueError, TypeError, IndexError):
        return None
    return result if len(result) <= _MOST_NUMBERS else None


def _elementwise(function: Callable[[float, float], float]) -> Callable:
    def apply(a: list[float], b: list[float]) -> list[float]:
        long = max(len(a), len(b))
        a, b = (x * long if len(x) == 1 else x for x in (a, b))
        return [_bounded(function(x, y)) for x, y in zip(a, b, strict=True)]

    return apply


def _bounded(value: float) -> float:
    return max(-(1e25), min(1e25, value))


def _power(a: float, b: float) -> float:
    return 1e25 if abs(a) > 1 and b > 100 else a**b


def _same(value: list[float], *_: Any) -> list[float]:
    return value


def _joined(*values: list[float]) -> list[float]:
    return [number for value in values for number in value]


def _sliced(value: list[float], start: list[float], stop: list[float], *_: Any):
    return value[int(start[0]) : int(stop[0])]


_COMPUTED: dict[str, Callable[..., list[float]]] = {
    **dict.fromkeys(("Identity", "Snapshot", "StopGradient", "Cast", "Reshape"), _same),
    **dict.fromkeys(("ExpandDims", "Squeeze", "Unsqueeze", "EnsureShape"), _same),
    **dict.fromkeys(("Pack", "Concat"), _joined),
    "ConcatV2": lambda *values: _joined(*values[:-1]),
    "StridedSlice": _sliced,
    **dict.fromkeys(("Add", "AddV2"), _elementwise(lambda a, b: a + b)),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    **dict.fromkeys(("Div", "FloorDiv", "RealDiv"), _elementwise(lambda a, b: a // b)),
    "Pow": _elementwise(_power),
    "LeftShift": _elementwise(lambda a, b: a * _power(2, b)),
    "Maximum": _elementwise(max),
    "Minimum": _elementwise(min),
    "Max": lambda value, *_: [max(value)],
    "Neg": lambda value: [-number for number in value],
    "Square": lambda value: [number * number for number in value],
    "Prod": lambda value, *_: [math.prod(value)],
    "ReduceProd": lambda value, *_: [math.prod(value)],
}

# What makes a tensor whose shape is one of its inputs, from values to elements.


def shape_in(index: int) -> Callable:
    """The input with this index is the shape."""
    return lambda values: product(values(index))


def count_in(*indices: int) -> Callable:
    """The inputs with these indices are one number each: sizes that are multiplied."""

    def elements(values: Callable) -> float | None:
        found = [values(index) for index in indices]
        return product([x[0] if x else 1 for x in found])

    return elements


def range_of(values: Callable) -> float | None:
    """From a start to a limit in steps."""
    found = [values(index) for index in range(3)]
    if any(not x for x in found) or not found[2][0]:
        return None
    return math.ceil((found[1][0] - found[0][0]) / found[2][0])


def pad_in_pairs(values: Callable) -> float | None:
    """One row per axis: before and after."""
    pads = values(1)
    return pads and product(
        [max(1, a + b) for a, b in zip(pads[::2], pads[1::2], strict=False)]
    )


def pad_in_halves(values: Callable) -> float | None:
    """First what is before each axis, then what is after."""
    pads = values(1)
    half = len(pads or ()) // 2
    return pads and product(
        [max(1, a + b) for a, b in zip(pads[:half], pads[half:], strict=False)]
    )
