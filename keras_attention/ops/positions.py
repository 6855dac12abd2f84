"""Integer positions, and sines and cosines of them in float32.

Positions are explicit integers: a cached step, a left-padded prompt and a full
sequence differ in their positions only.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

LAYOUTS = ("interleaved", "concatenated", "tensor2tensor")
EMPTY = -1
"""The position of a slot that holds no token."""


def first_positions(length: Any) -> Any:
    """0, 1, 2, … `[length]` int32."""
    return ops.arange(length, dtype="int32")


def positions_of_tokens(padding_mask: Any) -> Any:
    """Numbers the non-padding tokens of each row, on whichever side the padding is.

    Args:
        padding_mask: Bool `[B, T]`, `True` at non-padding tokens.

    Returns:
        Int32 `[B, T]`: 0 at a row's first non-padding token, 1 at the next, …;
        `EMPTY` at padding.
    """
    counts = ops.cumsum(ops.cast(padding_mask, "int32"), axis=-1)
    return ops.where(padding_mask, counts - 1, EMPTY)  # [B, T]


def positions_in_documents(document_ids: Any, padding_mask: Any) -> Any:
    """Numbers the non-padding tokens of each document of a row, from 0 in each.

    Args:
        document_ids: Int `[B, T]`, the document that a token is of. The tokens of a
            document are next to each other.
        padding_mask: Bool `[B, T]`, `True` at non-padding tokens.

    Returns:
        Int32 `[B, T]`; `EMPTY` at padding.
    """
    is_token = ops.cast(padding_mask, "int32")
    before = ops.cumsum(is_token, axis=-1) - is_token  # [B, T], earlier tokens
    starts = ops.not_equal(document_ids[:, 1:], document_ids[:, :-1])
    starts = ops.where(starts, before[:, 1:], 0)  # [B, T - 1], 0 inside a document
    starts = ops.pad(starts, [(0, 0), (1, 0)])
    steps = first_positions(ops.shape(starts)[1])
    earlier = steps[None, :] <= steps[:, None]  # [T, T]
    # The latest start is the largest one: `before` never decreases along a row.
    start = ops.max(ops.where(earlier, starts[:, None, :], 0), axis=-1)  # [B, T]
    return ops.where(padding_mask, before - start, EMPTY)


def sinusoids(
    positions: Any,
    size: int,
    *,
    max_wavelength: float = 10000.0,
    layout: str = "interleaved",
    dtype: str = "float32",
) -> Any:
    """Sines and cosines of positions, wavelengths from 2π to 2π·max_wavelength.

    Args:
        positions: An integer tensor of any shape, values from 0 to 2**31 - 1.
        size: The number of features, even.
        max_wavelength: The largest wavelength, divided by 2π.
        layout: `"interleaved"` (sin, cos, sin, cos, …; the paper), `"concatenated"`
            (all sines, then all cosines; Marian) or `"tensor2tensor"` (as that, with
            wavelengths that reach the largest one in the last feature).
        dtype: The dtype of the result, `"float32"` or `"float64"`.

    Returns:
        `[..., size]`; in float32 within 1e-6 of exact at positions up to 1e5 and
        beyond.

    Reference: Vaswani et al., "Attention Is All You Need", 2017.
    """
    turns = turns_per_position(size, max_wavelength)
    if layout == "tensor2tensor":
        last = max(size // 2 - 1, 1)
        exponents = np.arange(size // 2, dtype="float64") / last
        turns = float(max_wavelength) ** -exponents / (2.0 * math.pi)
    sine, cosine = sine_and_cosine(positions, turns, dtype=dtype)
    if layout != "interleaved":
        return ops.concatenate([sine, cosine], axis=-1)  # [..., size]
    pairs = ops.stack([sine, cosine], axis=-1)  # [..., size / 2, 2]
    return ops.reshape(pairs, (*ops.shape(pairs)[:-2], size))  # [..., size]


def turns_per_position(size: int, max_wavelength: float) -> np.ndarray:
    """The turns (fractions of 2π) per position of each pair of features, in float64."""
    exponents = np.arange(0, size, 2, dtype="float64") / size
    return float(max_wavelength) ** -exponents / (2.0 * math.pi)


def sine_and_cosine(
    positions: Any, turns: Any, *, dtype: str = "float32"
) -> tuple[Any, Any]:
    """Sine and cosine of 2π · positions · turns, exact at large positions too.

    Args:
        positions: Integers of any shape; -1, an empty slot, counts as 0.
        turns: The turns per position: a float64 array `[F]`, or a float64 tensor that
            is broadcastable to `[..., F]`.
        dtype: The dtype of the result, `"float32"` or `"float64"`.

    Returns:
        Two tensors `[..., F]`.
    """
    # Runtimes differ in how they divide negative integers.
    positions = ops.maximum(ops.cast(positions, "int32"), 0)
    positions = ops.expand_dims(positions, axis=-1)  # [..., 1]
    if dtype == "float32" and isinstance(turns, np.ndarray):
        fractions = _turns_by_digits(positions, turns)  # [..., F]
    else:
        turned = ops.multiply(ops.cast(positions, "float64"), turns)  # [..., F]
        fractions = turned - ops.round(turned)
    angle = ops.cast(fractions, dtype) * (2.0 * math.pi)
    return ops.sin(angle), ops.cos(angle)


_DIGITS = 10  # a position is cut into digits of 10 bits


def _turns_by_digits(positions: Any, turns: np.ndarray) -> Any:
    """Positions · turns without whole turns, all in float32.

    One float32 product loses the fraction of a turn at large positions, and some
    runtimes have no float64. So a position is cut into digits of 10 bits. The turns of
    each digit's place are reduced modulo 1 in float64 beforehand, and each partial
    product is reduced modulo 1 before the sum.
    """
    total = 0.0
    for place in range(4):
        digit = (positions // 2 ** (_DIGITS * place)) % 2**_DIGITS
        digit = ops.cast(digit, "float32")
        step = np.mod(turns * 2.0 ** (_DIGITS * place), 1.0)
        # The step is split in two; the product of the first part and a digit is exact.
        high = np.round(step * 2**13) / 2**13
        for part in (high, step - high):
            product = digit * ops.convert_to_tensor(part.astype("float32"))
            total = total + (product - ops.round(product))
    return total - ops.round(total)  # [..., F]


def distances(query_positions: Any, key_positions: Any) -> Any:
    """The distance from each query ahead to each key; negative is behind.

    Args:
        query_positions: Int `[T]` or `[B, T]`.
        key_positions: Int `[S]` or `[B, S]`.

    Returns:
        Int32 `[B or 1, T, S]`.
    """
    queries = ops.expand_dims(ops.cast(query_positions, "int32"), axis=-1)
    keys = ops.expand_dims(ops.cast(key_positions, "int32"), axis=-2)
    ahead = keys - queries
    return ahead[None] if len(ahead.shape) == 2 else ahead  # [B or 1, T, S]


def check_layout(layout: str) -> str:
    """Returns `layout`; raises an error if it is not a layout of sinusoids."""
    if layout not in LAYOUTS:
        raise ValueError(
            f"`layout` must be one of {', '.join(map(repr, LAYOUTS))}. "
            f"Received: layout={layout!r}"
        )
    return layout


def check_even(size: int | None, layer: str) -> int:
    """Returns `size`; raises an error if it is odd or unknown."""
    if size is None or size % 2:
        raise ValueError(
            f"`{layer}` pairs sines with cosines, so the last axis must have an "
            f"even, known size. Received: size={size}"
        )
    return size


def standardize_positions(positions: Any, *, length: Any) -> Any:
    """Explicit positions as int32 `[T]` or `[B, T]`; 0, 1, 2, … when `None`."""
    if positions is None:
        return first_positions(length)
    positions = ops.convert_to_tensor(positions)
    if "int" not in keras.backend.standardize_dtype(positions.dtype):
        raise ValueError(
            "`positions` must be integers, `[T]` or `[B, T]`. "
            f"Received: positions of dtype {positions.dtype}"
        )
    if len(positions.shape) not in (1, 2):
        raise ValueError(
            "`positions` must have shape `[T]` or `[B, T]`. "
            f"Received: positions of shape {tuple(positions.shape)}"
        )
    return ops.cast(positions, "int32")
