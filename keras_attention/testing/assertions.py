"""Assertions that a model is causal, and that padding does not change its outputs.

Both are tested by trying: part of the input is changed, and the outputs that must not
depend on it are compared. Any callable can be tested, of this library or not.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.ops.backend.shapes import describe


def assert_causal(
    model: Callable,
    inputs: Any,
    *,
    atol: float = 1e-5,
    seed: int = 0,
) -> None:
    """Raises if an output at one position depends on inputs at later ones.

    For each position, the inputs after it are changed, and all outputs up to it are
    compared. Integers are replaced by others from the same inputs, so that ids stay
    within the vocabulary. Floats are replaced by random numbers. Bool inputs (masks)
    stay.

    Args:
        model: A Keras model or layer, or any function of `inputs`.
        inputs: An array `[B, T, ...]`, or a list or dict of them.
        atol: The largest change that is allowed, relative to the largest output (or
            to 1, if that is larger).
        seed: The seed of the random changes.

    Raises:
        AssertionError: If an output depends on later inputs, with the output's name
            and the two positions; or if no output ever changed, so that nothing is
            proved.
        ValueError: If an input or output has no position axis.

    Example:
    >>> layer = ka.MultiHeadAttention(num_heads=2, key_dim=4)
    >>> x = np.random.rand(2, 5, 8).astype("float32")
    >>> assert_causal(lambda x: layer(x, x, use_causal_mask=True), x)
    >>> assert_causal(lambda x: layer(x, x), x)
    Traceback (most recent call last):
    AssertionError: The model looks ahead: ...
    """
    call = _without_training(model)
    inputs = _to_numpy(inputs)
    length = _length(inputs)
    rng = np.random.default_rng(seed)
    before = _named(_to_numpy(call(inputs)))
    for name, output in before:
        _require_positions(output, length, f"output {name}")
    largest_change = 0.0
    for last in reversed(range(length - 1)):  # the nearest leak is found first
        changed = keras.tree.map_structure(
            lambda x, last=last: _changed_after(x, last, rng), inputs
        )
        after = _named(_to_numpy(call(changed)))
        for (name, old), (_, new) in zip(before, after, strict=True):
            change = _change(old, new)  # [B, T]
            later = change[:, last + 1 :].max(initial=0.0)
            largest_change = max(largest_change, later)
            leaks = np.argwhere(~(change[:, : last + 1] <= atol))  # NaN leaks too
            if len(leaks):
                row, position = leaks[-1]
                raise AssertionError(
                    f"The model looks ahead: output {name} at position {position} "
                    f"changed by {change[row, position]:.2g} of the largest output "
                    f"when only inputs after position {last} changed. Is a causal "
                    "mask missing (`use_causal_mask=True`), or does a layer mix "
                    f"positions? Received: model={model!r}"
                )
    if length > 1 and largest_change == 0.0:
        raise AssertionError(
            "No output changed when the inputs changed, so this proves nothing about "
            "looking ahead. Pass inputs that differ from position to position and "
            f"that the outputs depend on. Received: model={model!r}"
        )


def assert_padding_invariant(
    model: Callable,
    inputs: Any,
    *,
    padding_mask: str | None = "padding_mask",
    padding_value: int | float | None = None,
    sides: tuple[str, ...] = ("right",),
    amount: int = 3,
    atol: float = 1e-5,
    seed: int = 0,
) -> None:
    """Raises if padding changes the outputs at the non-padding tokens.

    The inputs are padded with tokens that the mask marks as padding, twice with
    different content. The outputs are compared with the outputs without padding: at
    the non-padding tokens, or as a whole if an output has no position axis.

    Args:
        model: A Keras model or layer, or any function of `inputs`.
        inputs: An array `[B, T, ...]`, or a list or dict of them, without padding.
        padding_mask: The key of the mask in a dict of inputs (bool or 0 / 1, 1 at
            non-padding tokens; it is added if it is missing). `None` if the model
            recognises padding by its value, as
            `keras.layers.Embedding(mask_zero=True)` does; pass `padding_value` then.
        padding_value: The value of padding tokens. By default they are drawn from the
            inputs.
        sides: `"right"`, `"left"` or both. Models with learned absolute positions
            that are counted from the first slot are not invariant to padding on the
            left.
        amount: The number of padding tokens that are added to each side.
        atol: The largest change that is allowed, relative to the largest output (or
            to 1, if that is larger).
        seed: The seed of the random content.

    Raises:
        AssertionError: If padding changes an output, with its name, side and place.
        ValueError: If the inputs do not fit the arguments.

    Example:
    >>> model = ka.BertEncoder(50, 1, 2, 8, 16, max_sequence_length=16)
    >>> ids = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    >>> assert_padding_invariant(model, {"token_ids": ids})
    """
    call = _without_training(model)
    inputs = _to_numpy(inputs)
    length = _length(inputs)
    inputs = _with_mask(inputs, padding_mask, padding_value)
    rng = np.random.default_rng(seed)
    expected = _named(_to_numpy(call(inputs)))
    for side in sides:
        is_left = _require_side(side) == "left"
        unpadded = slice(amount, None) if is_left else slice(length)
        for _ in range(1 if padding_value is not None else 2):
            content = padding_value, rng
            padded = _padded(inputs, padding_mask, side, amount, content)
            actual = _named(_to_numpy(call(padded)))
            for (name, old), (_, new) in zip(expected, actual, strict=True):
                change = _change(old, _at_tokens(new, old, unpadded, name))
                if not (change <= atol).all():  # NaN is a change too
                    place = np.unravel_index(np.argmax(~(change <= atol)), change.shape)
                    raise AssertionError(
                        f"Padding on the {side} changes output {name}: by "
                        f"{change[place]:.2g} of the largest output, first at row and "
                        f"position {tuple(map(int, place))}. Does every attention get "
                        "the padding mask, and does pooling ignore padding? "
                        f"Received: model={model!r}"
                    )


def _without_training(model):
    if isinstance(model, keras.layers.Layer):
        return lambda inputs: model(inputs, training=False)
    return model


def _to_numpy(structure):
    return keras.tree.map_structure(
        lambda x: np.asarray(ops.convert_to_numpy(x)), structure
    )


def _named(structure) -> list[tuple[str, np.ndarray]]:
    """Returns leaves with readable names: `logits`, `0`, `cache/0/key`."""
    return [
        ("/".join(map(str, path)) or "of the model", leaf)
        for path, leaf in keras.tree.flatten_with_path(structure)
    ]


def _length(inputs) -> int:
    leaves = _named(inputs)
    length = leaves[0][1].shape[1] if leaves and leaves[0][1].ndim > 1 else 0
    for name, leaf in leaves:
        _require_positions(leaf, length, f"input {name}")
    return length


def _require_positions(leaf, length, what):
    if leaf.ndim < 2 or leaf.shape[1] != length:
        raise ValueError(
            f"Every input and output must have a position axis of one length, "
            f"[batch, length, ...]. Wrap the model in a function that returns only "
            f"such outputs. Received: {what}={describe(leaf)}, length={length}"
        )


def _change(old, new) -> np.ndarray:
    """The largest change over the features, relative to the largest output."""
    old, new = np.asarray(old, "float64"), np.asarray(new, "float64")
    scale = max(1.0, abs(old).max(initial=0.0))
    change = abs(new - old) / scale
    features = tuple(range(2, change.ndim))
    return change.max(axis=features, initial=0.0) if features else change


def _changed_after(x, last, rng):
    if x.dtype == bool:
        return x
    tail = x[:, last + 1 :]
    return np.concatenate([x[:, : last + 1], _other_content(x, tail.shape, rng)], 1)


def _other_content(x, shape, rng):
    """Draws content like that of `x`: its integers, or random numbers of its size."""
    if np.issubdtype(x.dtype, np.integer):
        return rng.choice(x.ravel(), size=shape).astype(x.dtype)
    return (rng.normal(size=shape) * (1.0 + abs(x).max(initial=0.0))).astype(x.dtype)


def _with_mask(inputs, padding_mask, padding_value) -> Any:
    if padding_mask is None:
        if padding_value is None:
            raise ValueError(
                "Without a padding mask the model must recognise padding by its value: "
                "pass `padding_value`. Received: padding_mask=None, padding_value=None"
            )
        return inputs
    if not isinstance(inputs, dict):
        raise ValueError(
            "To pass a padding mask, `inputs` must be a dict; wrap a model that takes "
            "arrays: `lambda inputs: model(inputs['x'], mask=inputs['padding_mask'])`. "
            "For a model that recognises padding by its value, pass "
            "`padding_mask=None`. "
            f"Received: inputs of type {type(inputs).__name__}"
        )
    if padding_mask in inputs:
        if not inputs[padding_mask].all():
            raise ValueError(
                "`inputs` must not be padded: padding is added here. Received: "
                f"{padding_mask} with {int((~inputs[padding_mask].astype(bool)).sum())}"
                " padding tokens"
            )
        return inputs
    first = next(iter(inputs.values()))
    return {**inputs, padding_mask: np.ones(first.shape[:2], bool)}


def _require_side(side):
    if side not in ("left", "right"):
        raise ValueError(f"`sides` may have 'left' and 'right'. Received: {side!r}")
    return side


def _padded(inputs, padding_mask, side, amount, content):
    """Returns the inputs with padding on one side."""
    padding_value, rng = content

    def pad(x, is_mask):
        shape = (len(x), amount, *x.shape[2:])
        if is_mask or x.dtype == bool:
            extra = np.zeros(shape, x.dtype)
        elif padding_value is not None:
            extra = np.full(shape, padding_value, x.dtype)
        else:
            extra = _other_content(x, shape, rng)
        return np.concatenate([x, extra] if side == "right" else [extra, x], axis=1)

    if isinstance(inputs, dict):
        return {name: pad(x, name == padding_mask) for name, x in inputs.items()}
    return keras.tree.map_structure(lambda x: pad(x, False), inputs)


def _at_tokens(new, old, unpadded, name):
    """Returns the part of an output that belongs to the non-padding tokens."""
    if new.shape == old.shape:
        return new
    if new.ndim < 2 or new[:, unpadded].shape != old.shape:
        raise ValueError(
            f"An output must have the inputs' positions as its second axis, or none. "
            f"Received: output {name}={describe(old)} without padding, "
            f"{describe(new)} with"
        )
    return new[:, unpadded]
