"""Compilation, which Keras has no common word for: one helper for all backends.

TensorFlow, JAX and torch are imported here inside the function of each alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras


class Compiled:
    """A function of tensors, compiled once for each set of shapes.

    On TensorFlow by `tf.function` under XLA, on JAX by `jax.jit`; on torch it runs as
    it is, without gradients.

    Args:
        function: Of structures of tensors; returns one.
        variables: Keras variables that it reads.

    Attributes:
        num_traces: How often the function was traced, that is compiled anew.

    Example:
    >>> double = Compiled(lambda x: x * 2)
    >>> [float(double(ops.ones(()) * n)) for n in (1.0, 2.0)], double.num_traces
    ([2.0, 4.0], 1)
    """

    def __init__(self, function: Callable, variables: Sequence[Any] = ()):
        self.num_traces = 0
        self._variables = list(variables)

        def traced(*inputs):
            self.num_traces += 1
            return function(*inputs)

        make = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
        self._call = make[keras.backend.backend()](traced, self._variables)

    def __call__(self, *inputs: Any) -> Any:
        return self._call(*inputs)


def _tensorflow(function, variables):
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def _jax(function, variables):
    import jax

    def stateless(values, inputs):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return function(*inputs)

    jitted = jax.jit(stateless)
    return lambda *inputs: jitted([v.value for v in variables], inputs)


def _torch(function, variables):
    import torch

    return torch.no_grad()(function)
