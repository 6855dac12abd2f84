"""Activation functions by name, with GELU as a region."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_attention.ops.backend.regions import region


@keras.saving.register_keras_serializable("keras_attention")
def gelu(x: Any) -> Any:
    """Exact GELU: x · Φ(x), Φ of the normal distribution (Hendrycks & Gimpel, 2016)."""
    return region("gelu", _gelu, x, approximate=False)


@keras.saving.register_keras_serializable("keras_attention")
def gelu_tanh(x: Any) -> Any:
    """GELU by the tanh approximation, as in GPT-2."""
    return region("gelu", _gelu, x, approximate=True)


def _gelu(x: Any, *, approximate: bool) -> Any:
    return ops.gelu(x, approximate=approximate)


_BY_NAME = {"gelu": gelu, "gelu_tanh": gelu_tanh}


def get_activation(name: str | Callable | None) -> Callable:
    """Returns the activation of that name; `"gelu"` is the exact one.

    Args:
        name: `"gelu"`, `"gelu_tanh"`, any name of `keras.activations`, or a
            callable.
    """
    if isinstance(name, str) and name in _BY_NAME:
        return _BY_NAME[name]
    return keras.activations.get(name)
