"""Compilation, which Keras has no common word for: one helper for all backends.

TensorFlow, JAX and torch are imported here inside the function of each alone.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
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

    # XLA reads a kernel of three axes at a fifth of the speed of a matrix: what is a
    # matrix to its layer is handed over as one.
    folded = [v for v in variables if getattr(v, "matrix_shape", None) is not None]

    @tf.function(jit_compile=True, autograph=False)
    def compiled(matrices, inputs):
        given = dict(zip(map(id, folded), matrices, strict=True))
        with _Matrices(given), _under_xla():
            return function(*inputs)

    def called(*inputs):
        return compiled([tf.reshape(v.value, v.matrix_shape) for v in folded], inputs)

    return tf.function(called, autograph=False)


_UNDER_XLA: ContextVar[bool] = ContextVar("under_xla", default=False)


@contextlib.contextmanager
def _under_xla() -> Iterator[None]:
    token = _UNDER_XLA.set(True)
    try:
        yield
    finally:
        _UNDER_XLA.reset(token)


def is_under_xla() -> bool:
    """Whether this is compiled by `Compiled` for XLA in TensorFlow."""
    return _UNDER_XLA.get()


def optimization_barrier(x: Any) -> Any:
    """A value that no compiler puts together with what is done to it next.

    XLA computes a product of one row on one core where a bias is added to it, and on
    all of them where nothing is. Outside of `Compiled` on TensorFlow it is `x`.

    Args:
        x: A tensor.
    """
    if not is_under_xla():
        return x
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    return gen_xla_ops.xla_optimization_barrier([x])[0]


class _Matrices(keras.StatelessScope):
    """Variables are read from matrices, in their own shape.

    Reshaped where it is read, in the body of a loop too, XLA takes the reshape and that
    of the layer for none.
    """

    def __init__(self, matrices):
        super().__init__()
        self._matrices = matrices

    def get_current_value(self, variable):
        """The value of a variable, or `None` for its own."""
        matrix = self._matrices.get(id(variable))
        return None if matrix is None else keras.ops.reshape(matrix, variable.shape)


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
