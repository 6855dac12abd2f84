"""What an artifact takes and returns, and whether a request fits it.

`TensorInfo` describes one input or output, `SignatureInfo` a whole signature. The
writers, the runners, the server and the manifest use these two, so that one mistake
has one answer in every format. Needs neither TensorFlow nor Keras; NumPy only to check
arrays.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

ANY_SHAPE = (...,)
"""The shape of a tensor of which a runtime does not even know the rank."""
_PARTS = ("inputs", "outputs", "limits", "max_lengths")


@dataclass(frozen=True)
class TensorInfo:
    """The description of one input or output, without its name.

    Attributes:
        dtype: E.g. `"int32"`, `"bool"`, `"float32"`, `"string"`.
        shape: One entry per axis: its size, or the name of a free axis such as
            `"batch"` or `"sequence"`, or `None` for a free axis without a name. Axes
            of one name have one size. `ANY_SHAPE` if even the rank is free.
    """

    dtype: str
    shape: tuple[Any, ...]

    def __str__(self) -> str:
        if self.shape == ANY_SHAPE:
            return f"{self.dtype} of any shape"
        axes = ", ".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"{self.dtype} [{axes}]"

    @property
    def spec_shape(self) -> list[int | None]:
        """The shape as TensorFlow writes it: `None` for a free axis."""
        return [axis if isinstance(axis, int) else None for axis in self.shape]

    def to_json(self) -> dict[str, Any]:
        """The tensor's entry in the manifest."""
        return {"dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: Any) -> "TensorInfo":
        """Read what `to_json` returned; a ValueError says what is wrong with it."""
        shape = data.get("shape") if isinstance(data, dict) else None
        if not (
            isinstance(shape, list)
            and all(type(axis) in (int, str) for axis in shape)
            and isinstance(data.get("dtype"), str)
        ):
            raise ValueError(
                "A tensor is described by a dtype and a shape. Expected: a shape of "
                f"sizes and names of axes. Received: {data!r:.100}"
            )
        return cls(data["dtype"], tuple(shape))

    def fit(self, name: str, value: Any, *, exact: bool = False) -> "np.ndarray":
        """Return the value as an array that fits.

        Args:
            name: The input's name, for the error.
            value: An array, a list or a scalar.
            exact: Whether the value must be an array of exactly this dtype already, as
                servers require. Otherwise integers of another width are cast if they
                fit, floats are cast, and a single string is a batch of one.

        Raises:
            ValueError: If the value does not fit. The error names the input.
        """
        import numpy as np

        if exact:
            array = np.asarray(value)
            dtype = "string" if array.dtype.kind in "OSU" else array.dtype.name
            if dtype != self.dtype:
                raise self.misfit(name, f"dtype {dtype}, shape {array.shape}")
        elif self.dtype == "string":
            array = self._strings(name, value)
        else:
            array = self._numbers(name, value)
        if not self._has_shape(array.shape):
            raise self.misfit(name, f"shape {array.shape}")
        return array

    def misfit(self, name: str, received: str) -> ValueError:
        """The error of a value that does not fit.

        Args:
            name: The input's name.
            received: A description of the value.
        """
        return ValueError(
            f"Input '{name}' does not fit. Expected: {self}. Received: {received}"
        )

    def _has_shape(self, shape: tuple[int, ...]) -> bool:
        if self.shape == ANY_SHAPE:
            return True
        return len(shape) == len(self.shape) and all(
            not isinstance(want, int) or want == got
            for want, got in zip(self.shape, shape, strict=True)
        )

    def _strings(self, name: str, value: Any) -> "np.ndarray":
        import numpy as np

        one_axis = len(self.shape) == 1 and self.shape != ANY_SHAPE
        if isinstance(value, str | bytes) and one_axis:
            value = [value]
        try:
            array = np.asarray(value, dtype=object)
            return text_array([_text(item) for item in array.flat], array.shape)
        except ValueError as error:
            raise self.misfit(name, f"{value!r:.200} ({error})") from error

    def _numbers(self, name: str, value: Any) -> "np.ndarray":
        import numpy as np

        try:
            array = np.asarray(value)
        except ValueError as error:  # rows of different lengths
            raise self.misfit(name, f"{value!r:.200} ({error})") from error
        dtype = np.dtype(self.dtype)
        if array.size == 0 and isinstance(value, list | tuple):
            return array.astype(dtype)  # NumPy makes [] a float array
        if array.dtype == dtype:
            return array
        if array.dtype.kind in "iu" and dtype.kind in "iu":
            limits = np.iinfo(dtype)
            if array.size and not (
                limits.min <= int(array.min()) and int(array.max()) <= limits.max
            ):
                raise self.misfit(name, f"values {array.min()} to {array.max()}")
            return array.astype(dtype)
        # Python's own floats are float64: between floats only precision is lost.
        if array.dtype.kind == "f" and dtype.kind in "fV":
            return array.astype(dtype)
        raise self.misfit(name, f"dtype {array.dtype}, shape {array.shape}")


def text_array(items: list[str], shape: tuple[int, ...]) -> "np.ndarray":
    """Texts as an array of objects: NumPy's own strings lose NULs at the end.

    Args:
        items: The texts.
        shape: The array's shape.
    """
    import numpy as np

    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)


def _text(item: Any) -> str:
    if not isinstance(item, str | bytes):
        raise ValueError(f"{item!r:.100} is of type {type(item).__name__}")
    # The runtimes take str; bytes are what a client that reads files has.
    return item.decode() if isinstance(item, bytes) else item


class Numbers(NamedTuple):
    """How to read the numbers that rules compare, in NumPy or in a graph.

    Attributes:
        size: From an array and the number of an axis to its size.
        lowest: From an array to its lowest value.
        highest: From an array to its highest value.
    """

    size: Callable[[Any, int], Any]
    lowest: Callable[[Any], Any]
    highest: Callable[[Any], Any]


class Rule(NamedTuple):
    """A condition on the sizes or values of a request's inputs.

    It can be checked on arrays, and be written into a graph.

    Attributes:
        name: The rule's name, unique in its signature.
        numbers: From the inputs and a `Numbers` to the numbers that are compared.
        holds: From these numbers to whether the rule holds. On tensors of a graph it
            returns a tensor.
        words: The error's text before each of the numbers. It has no apostrophe, which
            TensorFlow would escape.
    """

    name: str
    numbers: Callable[[Mapping[str, Any], Numbers], tuple[Any, ...]]
    holds: Callable[..., Any]
    words: tuple[str, ...]


@dataclass(frozen=True)
class SignatureInfo:
    """What one signature takes and returns.

    Attributes:
        inputs: Name to description.
        outputs: Name to description.
        limits: Name of an integer input to the exclusive upper bound of its values
            (ids of a vocabulary). The lower bound is 0.
        max_lengths: Name of a free axis to its largest size.
    """

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    limits: dict[str, int] = field(default_factory=dict)
    max_lengths: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The signature's entry in the manifest."""
        return {
            "inputs": {key: info.to_json() for key, info in self.inputs.items()},
            "outputs": {key: info.to_json() for key, info in self.outputs.items()},
            "limits": dict(self.limits),
            "max_lengths": dict(self.max_lengths),
        }

    @classmethod
    def from_json(cls, data: Any) -> "SignatureInfo":
        """Read what `to_json` returned; a ValueError says what is wrong with it."""
        parts = data if isinstance(data, dict) else {}
        if not all(isinstance(parts.get(part), dict) for part in _PARTS):
            raise ValueError(
                f"A signature is described by {', '.join(_PARTS)}. Expected: each a "
                f"JSON object. Received: {data!r:.100}"
            )
        for part in ("limits", "max_lengths"):
            if not all(type(number) is int for number in parts[part].values()):
                raise ValueError(
                    f"The {part} of a signature are whole numbers. "
                    f"Received: {parts[part]!r:.100}"
                )
        inputs, outputs = (
            {key: TensorInfo.from_json(info) for key, info in parts[side].items()}
            for side in ("inputs", "outputs")
        )
        return cls(inputs, outputs, dict(parts["limits"]), dict(parts["max_lengths"]))

    @property
    def free_axes(self) -> dict[str, list[tuple[str, int]]]:
        """Each named axis of the inputs, with the inputs and positions that have it."""
        axes: dict[str, list[tuple[str, int]]] = {}
        for key, info in self.inputs.items():
            for position, axis in enumerate(info.shape):
                if isinstance(axis, str):
                    axes.setdefault(axis, []).append((key, position))
        return axes

    def is_about_the_same(self, other: "SignatureInfo") -> bool:
        """Whether both have the same names, dtypes and ranks."""
        sides = ((self.inputs, other.inputs), (self.outputs, other.outputs))
        return all(
            ours.keys() == theirs.keys()
            and all(_alike(ours[key], theirs[key]) for key in ours)
            for ours, theirs in sides
        )

    def fit(
        self, name: str, arrays: Mapping[str, Any], *, exact: bool = False
    ) -> dict[str, "np.ndarray"]:
        """Return the arrays of a whole request as the signature takes them.

        Args:
            name: The signature's name, for the error.
            arrays: Name of an input to its value.
            exact: See `TensorInfo.fit`.

        Raises:
            ValueError: If an input is missing, unknown or does not fit.
        """
        self.check_names(name, arrays)
        fitted = {
            key: info.fit(key, arrays[key], exact=exact)
            for key, info in self.inputs.items()
        }
        for rule in self.rules():
            numbers = rule.numbers(fitted, _OF_ARRAYS)
            if not rule.holds(*numbers):
                pairs = zip(rule.words, numbers, strict=True)
                raise ValueError(" ".join(f"{word} {number}" for word, number in pairs))
        return fitted

    def check_names(self, name: str, given: Mapping[str, Any]) -> None:
        """Refuse a request with an input that is missing or unknown.

        Args:
            name: The signature's name.
            given: Name of an input to its value.
        """
        wrong = [f"input '{key}' is missing" for key in self.inputs if key not in given]
        wrong += [
            f"input '{key}' is unknown" for key in given if key not in self.inputs
        ]
        if wrong:
            expected = ", ".join(f"{key}: {info}" for key, info in self.inputs.items())
            raise ValueError(
                f"The inputs do not fit signature '{name}': {'; '.join(wrong)}. "
                f"Expected: {expected}. Received: {sorted(map(str, given))}"
            )

    def rules(self) -> Iterator[Rule]:
        """The conditions on sizes and values, the one easiest to understand first."""
        axes = self.free_axes
        for axis, places in axes.items():
            if axis in self.max_lengths:
                yield _at_most(axis, places[0], self.max_lengths[axis])
        for axis, (first, *others) in axes.items():
            for other in others:
                yield _equal_sizes(axis, first, other)
        for key, limit in self.limits.items():
            yield _within(key, limit)


def _alike(one: TensorInfo, other: TensorInfo) -> bool:
    ranks = {len(info.shape) for info in (one, other) if info.shape != ANY_SHAPE}
    return one.dtype == other.dtype and len(ranks) < 2


def _equal_sizes(axis: str, first: tuple[str, int], other: tuple[str, int]) -> Rule:
    (key, _), (other_key, _) = first, other
    return Rule(
        f"check_{axis}_of_{other_key}_{other[1]}",
        lambda inputs, read: (
            read.size(inputs[key], first[1]),
            read.size(inputs[other_key], other[1]),
        ),
        lambda size, other_size: size == other_size,
        (f"{key} and {other_key} must have the same {axis} size. Received:", "and"),
    )


def _at_most(axis: str, place: tuple[str, int], limit: int) -> Rule:
    key, position = place
    return Rule(
        f"check_length_of_{axis}",
        lambda inputs, read: (read.size(inputs[key], position),),
        lambda size: size <= limit,
        (
            f"The {axis} length of {key} is over the {limit} positions of this model: "
            f"shorten the input to at most {limit}. Received:",
        ),
    )


def _within(key: str, limit: int) -> Rule:
    return Rule(
        f"check_values_of_{key}",
        lambda inputs, read: (read.lowest(inputs[key]), read.highest(inputs[key])),
        lambda lowest, highest: (lowest >= 0) & (highest < limit),
        (
            f"{key} must be in [0, {limit}): ids of the vocabulary of this model. "
            "Received: ids from",
            "to",
        ),
    )


_OF_ARRAYS = Numbers(
    size=lambda array, axis: array.shape[axis],
    # An empty array has no ids that could be wrong.
    lowest=lambda array: int(array.min()) if array.size else 0,
    highest=lambda array: int(array.max()) if array.size else -1,
)
