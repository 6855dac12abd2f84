"""What a Keras model accepts, found by running it on small inputs.

A user's model says little about itself: which of its free axes are equal, how long an
axis may be, and how many ids a table has is hidden in its layers. So the model is run,
and what it accepts and refuses is the answer. What the user says is taken as it is.
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_attention.export.artifact.description import TensorInfo

# Sizes of different axes in one run. None divides another and none is 1, which would
# broadcast. Where a model refuses them (patches, strides), their multiples are tried.
_PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31)
_SCALES = (1, 2, 4, 8, 16, 32)
_LENGTHS = (1, 2, 3, 5, 7, 8, 16, 32, 33, 64, 128, 129)
_MOST_IDS = 2**20
_LONGEST_TRIED = 1024  # the memory of attention grows with the square
_MOST_PARTITIONED = 6  # axes; there are 203 partitions of 6

Axis = tuple[str, int]
"""An input's name and the position of one of its axes."""


@dataclass(frozen=True)
class InputFacts:
    """What is known about the inputs of a model.

    Attributes:
        inputs: Name to description; every free axis has a name.
        limits: Name of an integer input to the exclusive upper bound of its values.
        max_lengths: Name of a free axis to its largest size.
        lengths: Name of a free axis to sizes that the model accepts, in order.
    """

    inputs: dict[str, TensorInfo]
    limits: dict[str, int] = field(default_factory=dict)
    max_lengths: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Said:
    """What the user says about the inputs, and what the layers suggest.

    Attributes:
        axes: Name of an input to one entry per axis, a name or a size.
        limits: Name of an integer input to the exclusive upper bound of its values.
        max_lengths: Name of an axis to its largest size.
        table_sizes: Sizes of tables in the model: perhaps limits or largest sizes.
        position_sizes: The sizes of tables of positions among them.
    """

    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    max_lengths: Mapping[str, int] = field(default_factory=dict)
    table_sizes: tuple[int, ...] = ()
    position_sizes: tuple[int, ...] = ()


def facts_of(
    run: Callable[[dict[str, np.ndarray]], Any],
    inputs: Mapping[str, TensorInfo],
    said: Said,
) -> InputFacts:
    """Return what is known about the inputs of a model, by running it.

    Args:
        run: Runs the model on arrays by name; raises where it refuses them.
        inputs: Name to description; `None` for each free axis.
        said: What is known without running it.

    Raises:
        ValueError: If no sizes were found that the model accepts.
    """
    trials = _Trials(run, inputs)
    blocks, scale = _blocks(trials, said)
    names = _names_of(blocks, inputs, said)
    axes = dict(zip(names, blocks, strict=True))
    sizes = {n: scale * p for n, p in zip(names, _PRIMES, strict=False)}
    lengths, longest = {}, {}
    for name in names:

        def accepts(size: int, name: str = name) -> bool:
            return trials.accept(_of_axes(axes, {**sizes, name: size}))

        tried = {*_LENGTHS, sizes[name]}
        tried |= {scale * number for number in _LENGTHS if scale > 1}
        tried = {size for size in tried if size <= _LENGTHS[-1]}
        most = said.max_lengths.get(name)
        if most is None and len(names) == 1:
            most = min(
                (n for n in said.position_sizes if n > _LONGEST_TRIED), default=None
            )
        lengths[name], found = _lengths(accepts, sorted(tried), most, said.table_sizes)
        if found is not None:
            longest[name] = found
    limits = dict(said.limits)
    for name, info in inputs.items():
        if "int" in info.dtype and name not in limits and "mask" not in name:
            limit = _limit(trials, _of_axes(axes, sizes), name, said.table_sizes)
            if limit is not None:
                limits[name] = limit
    return InputFacts(_with_names(inputs, axes), limits, longest, lengths)


def _of_axes(
    axes: Mapping[str, list[Axis]], sizes: Mapping[str, int]
) -> dict[Axis, int]:
    return {place: sizes[name] for name, places in axes.items() for place in places}


class _Trials:
    """Runs of a model on inputs of chosen sizes and values."""

    def __init__(self, run: Callable, inputs: Mapping[str, TensorInfo]):
        self.run, self.inputs = run, inputs
        self.error: Exception | None = None

    @property
    def free_axes(self) -> list[Axis]:
        """The free axes behind the batch."""
        return [
            (name, position)
            for name, info in self.inputs.items()
            for position, size in enumerate(info.shape)
            if position and not isinstance(size, int)
        ]

    def accept(
        self, sizes: Mapping[Axis, int], values: Mapping[str, int] | None = None
    ) -> bool:
        """Return whether the model runs on such inputs; `error` says why not."""
        arrays = {
            name: _array(
                info.dtype,
                tuple(
                    size if isinstance(size, int) else sizes.get((name, position), 2)
                    for position, size in enumerate(info.shape)
                ),
                (values or {}).get(name, 0),
            )
            for name, info in self.inputs.items()
        }
        with _without_messages():
            try:
                self.run(arrays)
            except Exception as error:  # a user's layer may raise anything
                self.error = error
                return False
        return True


def _array(dtype: str, shape: tuple[int, ...], value: int) -> np.ndarray:
    if dtype == "string":
        return np.full(shape, "a word", object)
    if dtype == "bool":
        return np.ones(shape, bool)
    if "int" in dtype:
        return np.full(shape, value, dtype)
    numbers = np.random.default_rng(0).standard_normal(shape)
    return numbers.astype("float32" if dtype == "bfloat16" else dtype)


@contextlib.contextmanager
def _without_messages() -> Iterator[None]:
    """Keeps out what TensorFlow writes about an operation that refuses its inputs."""
    try:
        number = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # not a file, as in a notebook
        yield
        return
    sys.stderr.flush()
    kept = os.dup(number)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), number)
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


def _blocks(trials: _Trials, said: Said) -> tuple[list[list[Axis]], int]:
    """Groups of axes that must have one size, as fine as the model allows.

    Returns:
        The groups, and the scale: the model runs where group i has the size of
        prime number i times the scale.
    """
    atoms = _atoms(trials, said)
    for scale in _SCALES:
        for blocks in _coarser_and_coarser(atoms):
            sizes = [scale * prime for prime, _ in zip(_PRIMES, blocks, strict=False)]
            each = zip(blocks, sizes, strict=True)
            if trials.accept({axis: size for axes, size in each for axis in axes}):
                return blocks, scale
    raise ValueError(
        "The model runs on none of the inputs that were tried, so what it takes is not "
        "known. Expected a model that accepts a batch of 2 with small lengths: pass "
        "`axes=` (a name or a size for each axis), `limits=`, or `sample_inputs=`. "
        f"Received: {type(trials.error).__name__}: {trials.error}"
    ) from trials.error


def _atoms(trials: _Trials, said: Said) -> list[list[Axis]]:
    """Axes that the user gave one name, and the other free axes one by one."""
    named: dict[Any, list[Axis]] = {}
    for axis in trials.free_axes:
        name, position = axis
        chosen = said.axes[name][position] if name in said.axes else axis
        named.setdefault(chosen, []).append(axis)
    return list(named.values())


def _coarser_and_coarser(atoms: list[list[Axis]]) -> Iterator[list[list[Axis]]]:
    """Every way to join atoms into groups, those with the most groups first."""
    if not atoms:
        yield []
        return
    if len(atoms) > min(_MOST_PARTITIONED, len(_PRIMES)):
        if len(atoms) <= len(_PRIMES):
            yield atoms
        yield [[axis for atom in atoms for axis in atom]]
        return
    found = sorted(_partitions(len(atoms)), key=max, reverse=True)
    for numbers in found:
        blocks: list[list[Axis]] = [[] for _ in range(max(numbers) + 1)]
        for atom, number in zip(atoms, numbers, strict=True):
            blocks[number] += atom
        yield blocks


def _partitions(size: int) -> Iterator[tuple[int, ...]]:
    """Every partition, as the number of the group of each member."""
    for numbers in itertools.product(*(range(place + 1) for place in range(size))):
        if all(n <= max(numbers[:i], default=-1) + 1 for i, n in enumerate(numbers)):
            yield numbers


def _names_of(
    blocks: list[list[Axis]], inputs: Mapping[str, TensorInfo], said: Said
) -> list[str]:
    """A name for each group of axes: the user's, or one made of an input's name."""
    names = []
    for axes in blocks:
        chosen = [said.axes[n][p] for n, p in axes if n in said.axes]
        name, position = axes[0]
        alone = sum(not isinstance(size, int) for size in inputs[name].shape[1:]) == 1
        if chosen:
            names.append(str(chosen[0]))
        elif len(blocks) == 1:
            names.append("sequence")
        else:
            names.append(f"{name}_length" if alone else f"{name}_axis_{position}")
    return names


def _with_names(
    inputs: Mapping[str, TensorInfo], axes: Mapping[str, list[Axis]]
) -> dict[str, TensorInfo]:
    names = {axis: name for name, places in axes.items() for axis in places}
    named = {}
    for key, info in inputs.items():
        shape = tuple(
            size if isinstance(size, int) else names.get((key, position), "batch")
            for position, size in enumerate(info.shape)
        )
        named[key] = TensorInfo(info.dtype, shape)
    return named


def _lengths(
    accepts: Callable[[int], bool],
    tried: list[int],
    most: int | None,
    table_sizes: Iterable[int],
) -> tuple[tuple[int, ...], int | None]:
    """Sizes of an axis that the model accepts, and its largest size if it has one."""
    if most is not None:
        sizes = {size for size in tried if size < most} | {min(most, _LONGEST_TRIED)}
        return tuple(size for size in sorted(sizes) if accepts(size)), most
    accepted = [size for size in tried if accepts(size)]
    for size in sorted(table_sizes):
        if not accepted[-1] <= size <= _LONGEST_TRIED:
            continue  # too long to try, or shorter than what was accepted
        if accepts(size) and not accepts(size + 1):
            return (*(one for one in accepted if one <= size),), size
    refused = [size for size in tried if size not in accepted]
    if not refused or min(refused) < accepted[-1]:
        return tuple(accepted), None  # no end was found, or strides decide
    longest = _last_accepted(accepts, accepted[-1], min(refused))
    return tuple(sorted({*accepted, longest})), longest


def _limit(
    trials: _Trials,
    sizes: Mapping[Axis, int],
    name: str,
    table_sizes: Iterable[int],
) -> int | None:
    """The number of ids that an integer input may have; `None` if none is refused."""

    def accepts(value: int) -> bool:
        return trials.accept(sizes, {name: value})

    for size in sorted(table_sizes):
        if accepts(size - 1) and not accepts(size):
            return size
    high = 1
    while high <= _MOST_IDS and accepts(high):
        high *= 2
    return None if high > _MOST_IDS else _last_accepted(accepts, high // 2, high) + 1


def _last_accepted(accepts: Callable[[int], bool], low: int, high: int) -> int:
    """The last size that is accepted, between one that is and one that is not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accepts(middle) else (low, middle)
    return low
