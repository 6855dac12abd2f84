"""Signatures with a size for every axis, for runtimes that have no free axes.

A shorter input is padded by its client: so the cases a static signature is verified on
have few real tokens, some or none within the fixed length.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_attention.export.cases.grid import random_values
from keras_attention.export.signatures.signature import Signature, TensorInfo

DEFAULT_SIZES = {"batch": 1}
REAL_LENGTHS = (1, 7)


def with_sizes(
    signatures: Sequence[Signature], static_axes: Mapping[str, int] | None
) -> list[Signature]:
    """The same signatures with a size for each axis.

    Args:
        signatures: With named axes.
        static_axes: Name of an axis to its size; the batch is 1 unless it is named.

    Raises:
        ValueError: If an axis has no size, or one that does not fit.
    """
    given = dict(static_axes or {})
    for name, size in given.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(
                "`static_axes` maps the name of an axis to its size, a whole number "
                f"from 1 on. Received: {name}={size!r}"
            )
    known = {
        axis
        for signature in signatures
        for tensors in (signature.inputs, signature.outputs)
        for axis in _axes(tensors)
    }
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ValueError(
            "`static_axes` names an axis that no chosen signature has. Expected some "
            f"of {sorted(known)}. Received: {', '.join(unknown)}"
        )
    return [
        _with_sizes(signature, {**DEFAULT_SIZES, **given}) for signature in signatures
    ]


def _axes(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """The named axes, in order."""
    shapes = [info.shape for info in tensors.values()]
    return list(dict.fromkeys(a for s in shapes for a in s if isinstance(a, str)))


def _with_sizes(signature: Signature, sizes: Mapping[str, int]) -> Signature:
    missing = [axis for axis in _axes(signature.inputs) if axis not in sizes]
    if missing:
        example = ", ".join(f'"{axis}": 128' for axis in missing)
        raise ValueError(
            f"The format has no free axes, and signature '{signature.name}' has some "
            f"without a size. Expected a size for each: static_axes={{{example}}}, or "
            f"on the command line --static-axis {missing[0]}=128. "
            f"Received: no size for {', '.join(missing)}"
        )
    for axis, longest in signature.max_lengths.items():
        if sizes[axis] > longest:
            raise ValueError(
                f"{axis} length is over the {longest} positions of this model. "
                f"Expected at most {longest} in `static_axes`. "
                f"Received: {axis}={sizes[axis]}"
            )

    def fixed(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
        return {
            name: TensorInfo(
                info.dtype, tuple(_size(signature, a, sizes) for a in info.shape)
            )
            for name, info in tensors.items()
        }

    static = dataclasses.replace(
        signature,
        inputs=fixed(signature.inputs),
        outputs=fixed(signature.outputs),
        max_lengths={},
    )
    return dataclasses.replace(static, examples=lambda: _examples(static))


def _size(signature: Signature, axis: int | str, sizes: Mapping[str, int]) -> int:
    if isinstance(axis, int):
        return axis
    if axis not in sizes:  # an axis of outputs alone depends on the values
        raise ValueError(
            f"An output of signature '{signature.name}' has an axis that no input "
            "has, so its size is not known before it is asked. Expected a size for "
            f"it in `static_axes`. Received: no size for {axis}"
        )
    return sizes[axis]


def _examples(signature: Signature) -> Iterator[tuple[str, dict, dict | None]]:
    """What a static signature is verified on: its own examples that fit, or a grid."""
    if signature.examples is not None:
        examples = [one for one in signature.examples() if _fits(signature, one[1])]
        if not examples:
            raise ValueError(
                f"Signature '{signature.name}' brings examples of its own, and none "
                "has the sizes of `static_axes`. Expected at least one to verify the "
                f"artifact on. Received: {_shapes(signature)}"
            )
        yield from examples
        return
    for seed, (name, real, side) in enumerate(_paddings(signature)):
        random = np.random.default_rng(seed)
        inputs = {}
        for key, info in signature.inputs.items():
            keep = _keep(info.shape, real, side)
            inputs[key] = random_values(
                key, info, signature=signature, sizes={}, keep=keep, random=random
            )
        yield name, inputs, None


def _fits(signature: Signature, inputs: Mapping[str, Any]) -> bool:
    shapes = _shapes(signature)
    return {key: np.shape(value) for key, value in inputs.items()} == shapes


def _shapes(signature: Signature) -> dict[str, tuple[int | str, ...]]:
    return {key: info.shape for key, info in signature.inputs.items()}


def _paddings(signature: Signature) -> Iterator[tuple[str, int | None, str]]:
    """`(name, real tokens of the first row or None for all, where the padding is)`."""
    lengths = [
        info.shape[1]
        for name, info in signature.inputs.items()
        if len(info.shape) == 2
        and (info.dtype == "bool" or name in signature.limits)
        and isinstance(info.shape[1], int)
    ]
    if not lengths:  # nothing can be hidden: only the values differ
        for number in (1, 2, 3):
            yield f"values {number} of 3", None, "no"
        return
    longest = max(lengths)
    yield f"length {longest}, no padding", None, "no"
    for real in sorted({*REAL_LENGTHS, longest - longest // 3}):
        for side in ("right", "left") if real < longest else ():
            yield f"length {real} of {longest}, {side} padding", real, side
    batches = {info.shape[0] for info in signature.inputs.values()}
    if batches != {1}:
        yield "one row is all padding", -1, "right"
    yield "every row is all padding", 0, "right"


def _keep(shape: Sequence[Any], real: int | None, side: str) -> np.ndarray:
    """Bool `[batch, length]` of one input: row b has about a quarter fewer a row."""
    if len(shape) != 2:
        return np.ones((), bool)
    batch, length = shape
    keep = np.ones((batch, length), bool)
    if real is None:
        return keep
    for row in range(batch):
        if real < 0:  # the second row is empty, the others have no padding
            kept = 0 if row == 1 else length
        else:
            kept = min(real, length)
            kept = max(min(kept, 1), kept - row * kept // 4)
        keep[row, kept:] = False
    return keep[:, ::-1].copy() if side == "left" else keep
