"""Compilation, which Keras does not offer: one helper for all backends.

TensorFlow, JAX and torch are imported inside the functions that need them.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import keras


class Compiled:
    """A function of tensors that is compiled once for each set of shapes.

    TensorFlow compiles it by `tf.function` with XLA, JAX by `jax.jit`. On torch it is
    not compiled, and runs without gradients.

    Args:
        function: A function from structures of tensors to a structure of tensors.
        variables: The Keras variables that it reads.

    Attributes:
        num_traces: How often the function was traced, and so compiled.

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

    # XLA reads a kernel of three axes at a fifth of the speed of a matrix. So a kernel
    # that its layer uses as a matrix is passed as a matrix.
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
    """Whether `Compiled` is tracing a function for XLA in TensorFlow."""
    return _UNDER_XLA.get()


def optimization_barrier(x: Any) -> Any:
    """Returns `x` such that XLA does not fuse it with the operations that follow.

    XLA computes the product of one row and a matrix on one core if a bias is added to
    it, and on all cores if not. Outside of `Compiled` on TensorFlow this returns `x`
    itself.

    Args:
        x: A tensor.
    """
    if not is_under_xla():
        return x
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    return gen_xla_ops.xla_optimization_barrier([x])[0]


class _Matrices(keras.StatelessScope):
    """A scope in which the values of variables come from matrices.

    A matrix is reshaped where the variable is read, also inside the body of a loop. XLA
    then removes this reshape together with the layer's own.
    """

    def __init__(self, matrices):
        super().__init__()
        self._matrices = matrices

    def get_current_value(self, variable):
        """The value of a variable, or `None` if it is not replaced."""
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
