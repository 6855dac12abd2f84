"""Checks of constructor arguments, which every layer, block and model uses."""

import math
import numbers
from typing import Any

import keras


def check_sizes(**sizes: Any) -> None:
    """Refuses what is not a whole number of 1 or more.

    Args:
        **sizes: The arguments by name.
    """
    for name, size in sizes.items():
        if not _is_whole(size) or size < 1:
            raise ValueError(
                f"`{name}` must be a whole number of 1 or more. "
                f"Received: {name}={size!r}"
            )


def check_optional_sizes(**sizes: Any) -> None:
    """Refuses what is neither `None` nor a whole number of 1 or more.

    Args:
        **sizes: The arguments by name.
    """
    for name, size in sizes.items():
        if size is not None and (not _is_whole(size) or size < 1):
            raise ValueError(
                f"`{name}` must be a whole number of 1 or more, or `None`. "
                f"Received: {name}={size!r}"
            )


def check_positive(**values: Any) -> None:
    """Refuses what is not a finite number above 0.

    Args:
        **values: The arguments by name.
    """
    for name, value in values.items():
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or value <= 0:
            raise ValueError(
                f"`{name}` must be a finite number above 0. Received: {name}={value!r}"
            )


def check_layers(**layers: Any) -> None:
    """Refuses what is not a Keras layer.

    Args:
        **layers: The arguments by name.
    """
    for name, layer in layers.items():
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(
                f"`{name}` must be a Keras layer, such as "
                f"`ka.MultiHeadAttention(8, 64)`. Received: {name}={layer!r}"
            )


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
