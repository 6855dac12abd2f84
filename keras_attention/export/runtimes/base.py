"""A runner asks an artifact, whatever its format: named arrays in, named arrays out.

A call that does not fit the signature is refused here, before the runtime sees it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np


@dataclass(frozen=True)
class TensorDescription:
    """One input or output of an artifact.

    Attributes:
        dtype: E.g. `"int32"`, `"float32"`, `"string"`.
        shape: One entry an axis: its size, its name where the format keeps names, or
            `None`. `None` for the whole shape where even the rank is open.
    """

    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of any shape"
        axes = ", ".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"{self.dtype} [{axes}]"


class SignatureDescription(NamedTuple):
    """What one signature takes and gives."""

    inputs: dict[str, TensorDescription]
    outputs: dict[str, TensorDescription]


class Runner(ABC):
    """An opened artifact. Calls from several threads at once are fine.

    Attributes:
        signatures: Name to (inputs, outputs).
        runtime: Who answers, for reports.
    """

    signatures: dict[str, SignatureDescription]
    runtime: str

    def run(self, signature_name: str, /, **arrays: Any) -> dict[str, np.ndarray]:
        """Ask one signature.

        Args:
            signature_name: One of `signatures`.
            **arrays: One array, list or scalar an input, by name. Integers of another
                width are cast if they fit; a single string becomes a batch of one.

        Returns:
            dict of arrays; text as an object array of `str`.
        """
        if signature_name not in self.signatures:
            raise ValueError(
                f"The artifact has no signature '{signature_name}'. Expected one of "
                f"{sorted(self.signatures)}. Received: {signature_name!r}"
            )
        inputs = self.signatures[signature_name].inputs
        _check_names(signature_name, inputs, arrays)
        fed = {name: _as_array(name, arrays[name], inputs[name]) for name in inputs}
        _check_shared_axes(inputs, fed)
        return self._run(signature_name, fed)

    @abstractmethod
    def _run(
        self, signature_name: str, arrays: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Ask the runtime; the arrays fit."""

    @abstractmethod
    def close(self) -> None:
        """Release the runtime. The runner cannot be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _check_names(
    signature_name: str, inputs: dict[str, TensorDescription], arrays: dict[str, Any]
) -> None:
    """Raises if the names of a call are not those of the signature."""
    missing = [name for name in inputs if name not in arrays]
    unknown = [name for name in arrays if name not in inputs]
    if missing or unknown:
        wrong = [f"'{name}' is missing" for name in missing]
        wrong += [f"'{name}' is unknown" for name in unknown]
        expected = ", ".join(f"{name}: {info}" for name, info in inputs.items())
        raise ValueError(
            f"The inputs do not fit signature '{signature_name}': {', '.join(wrong)}. "
            f"Expected: {expected}. Received: {sorted(arrays)}"
        )


def _as_array(name: str, value: Any, expected: TensorDescription) -> np.ndarray:
    """The value as the array the runtime takes, or an error that names the input."""
    if expected.dtype == "string":
        array = _strings(name, value, expected)
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:  # rows of different lengths
            raise _misfit(name, expected, f"{value!r:.200} ({error})") from error
        if array.size == 0 and isinstance(value, list | tuple):
            array = array.astype(expected.dtype)  # NumPy makes [] a float array
        array = _cast(name, array, expected)
    fits = expected.shape is None or (
        array.ndim == len(expected.shape)
        and all(
            not isinstance(want, int) or want == got
            for want, got in zip(expected.shape, array.shape, strict=True)
        )
    )
    if not fits:
        raise _misfit(name, expected, f"shape {array.shape}")
    return array


def _strings(name: str, value: Any, expected: TensorDescription) -> np.ndarray:
    if isinstance(value, str | bytes) and expected.shape and len(expected.shape) == 1:
        value = [value]
    try:
        array = np.asarray(value, dtype=object)
        return objects([_text(item) for item in array.flat], array.shape)
    except ValueError as error:
        raise _misfit(name, expected, f"{value!r:.200} ({error})") from error


def _text(item: Any) -> str:
    if not isinstance(item, str | bytes):
        raise ValueError(f"{item!r:.100} is of type {type(item).__name__}")
    # Both runtimes take str; bytes are what a client that reads files has.
    return item.decode() if isinstance(item, bytes) else item


def objects(items: list[str], shape: tuple[int, ...]) -> np.ndarray:
    """Texts as an array of objects: NumPy's own strings lose what ends in NUL."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)


def _cast(name: str, array: np.ndarray, expected: TensorDescription) -> np.ndarray:
    dtype = np.dtype(expected.dtype)
    if array.dtype == dtype:
        return array
    if array.dtype.kind in "iu" and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if array.size and not (
            limits.min <= int(array.min()) and int(array.max()) <= limits.max
        ):
            raise _misfit(name, expected, f"values {array.min()} to {array.max()}")
        return array.astype(dtype)
    # Python's own floats are float64: between floats only precision is lost.
    if array.dtype.kind == "f" and dtype.kind in "fV":
        return array.astype(dtype)
    raise _misfit(name, expected, f"dtype {array.dtype}, shape {array.shape}")


def _check_shared_axes(
    inputs: dict[str, TensorDescription], arrays: dict[str, np.ndarray]
) -> None:
    """Raises if axes of one name have several sizes."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, info in inputs.items():
        for axis, size in zip(info.shape or (), arrays[name].shape, strict=False):
            if not isinstance(axis, str):
                continue
            first, other = sizes.setdefault(axis, (size, name))
            if first != size:
                raise ValueError(
                    f"{other} and {name} must have the same {axis} size. "
                    f"Received: {first} {size}"
                )


def _misfit(name: str, expected: TensorDescription, received: str) -> ValueError:
    return ValueError(
        f"Input '{name}' does not fit. Expected: {expected}. Received: {received}"
    )
