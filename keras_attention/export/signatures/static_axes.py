"""Signatures with a size for every axis, for runtimes that have no dynamic axes.

A client pads an input that is shorter. So a static signature is verified on rows with
many, few and no non-padding tokens within the fixed length.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_attention.export.cases.grid import random_values
from keras_attention.export.signatures.signature import Signature, TensorInfo

DEFAULT_SIZES = {"batch": 1}
UNPADDED_LENGTHS = (1, 7)


def with_sizes(
    signatures: Sequence[Signature], static_axes: Mapping[str, int] | None
) -> list[Signature]:
    """Returns the same signatures with a size for each axis.

    Args:
        signatures: Signatures with named axes.
        static_axes: The name of each axis, mapped to its size. The batch is 1 by
            default.

    Raises:
        ValueError: If an axis has no size, or a size that is not possible.
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
    if axis not in sizes:  # the size of an axis of outputs depends on the values
        raise ValueError(
            f"An output of signature '{signature.name}' has an axis that no input "
            "has, so its size is not known before it runs. Expected a size for it in "
            f"`static_axes`. Received: no size for {axis}"
        )
    return sizes[axis]


def _examples(signature: Signature) -> Iterator[tuple[str, dict, dict | None]]:
    """Yields the cases of a static signature: its examples that fit, or a grid."""
    if signature.examples is not None:
        examples = [one for one in signature.examples() if _fits(signature, one[1])]
        if not examples:
            raise ValueError(
                f"Signature '{signature.name}' has examples of its own, and none has "
                "the sizes of `static_axes`. Expected at least one, on which the "
                f"artifact can be verified. Received: {_shapes(signature)}"
            )
        yield from examples
        return
    for seed, (name, length, side) in enumerate(_paddings(signature)):
        random = np.random.default_rng(seed)
        inputs = {}
        for key, info in signature.inputs.items():
            inputs[key] = random_values(
                key,
                info,
                signature=signature,
                sizes={},
                padding_mask=_padding_mask(info.shape, length, side),
                random=random,
            )
        yield name, inputs, None


def _fits(signature: Signature, inputs: Mapping[str, Any]) -> bool:
    shapes = _shapes(signature)
    return {key: np.shape(value) for key, value in inputs.items()} == shapes


def _shapes(signature: Signature) -> dict[str, tuple[int | str, ...]]:
    return {key: info.shape for key, info in signature.inputs.items()}


def _paddings(signature: Signature) -> Iterator[tuple[str, int | None, str]]:
    """Yields `(name, non-padding tokens of the first row, side of the padding)`.

    `None` tokens: no row has padding. -1: the second row is all padding.
    """
    lengths = [
        info.shape[1]
        for name, info in signature.inputs.items()
        if len(info.shape) == 2
        and (info.dtype == "bool" or name in signature.limits)
        and isinstance(info.shape[1], int)
    ]
    if not lengths:  # nothing can be padded: only the values differ
        for number in (1, 2, 3):
            yield f"values {number} of 3", None, "no"
        return
    longest = max(lengths)
    yield f"length {longest}, no padding", None, "no"
    for length in sorted({*UNPADDED_LENGTHS, longest - longest // 3}):
        for side in ("right", "left") if length < longest else ():
            yield f"length {length} of {longest}, {side} padding", length, side
    batches = {info.shape[0] for info in signature.inputs.values()}
    if batches != {1}:
        yield "one row is all padding", -1, "right"
    yield "every row is all padding", 0, "right"


def _padding_mask(shape: Sequence[Any], length: int | None, side: str) -> np.ndarray:
    """Bool `[batch, width]` of an input; each row has about a quarter fewer tokens."""
    if len(shape) != 2:
        return np.ones((), bool)
    batch, width = shape
    mask = np.ones((batch, width), bool)
    if length is None:
        return mask
    for row in range(batch):
        if length < 0:  # the second row is empty, the others have no padding
            tokens = 0 if row == 1 else width
        else:
            tokens = min(length, width)
            tokens = max(min(tokens, 1), tokens - row * tokens // 4)
        mask[row, tokens:] = False
    return mask[:, ::-1].copy() if side == "left" else mask
