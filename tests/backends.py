"""Gradients and compilation, which Keras does not offer, on each backend."""

import keras
import numpy as np


def to_numpy(x):
    """Convert a tensor, or a structure of tensors, to numpy."""
    return keras.tree.map_structure(keras.ops.convert_to_numpy, x)


def gradients(loss, tensors, variables=()):
    """Gradients of `loss(*tensors)` as numpy; 0 if it does not depend on a tensor.

    Args:
        loss: A function that returns a scalar.
        tensors: Float arrays.
        variables: The Keras variables that `loss` uses.

    Returns:
        The gradients with respect to the tensors, then to the variables.
    """
    return derivatives(lambda *x: (loss(*x), ()), tensors, variables)[1]


def derivatives(function, tensors, variables=(), *, compiled=False):
    """Outputs and gradients of a function that returns `(loss, outputs)`.

    Args:
        function: A function of the tensors.
        tensors: Float arrays.
        variables: The Keras variables that `function` uses.
        compiled: Whether XLA compiles everything. torch is always eager.

    Returns:
        `(outputs, gradients)` as numpy.
    """
    derive = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    derive = derive[keras.backend.backend()]
    return to_numpy(derive(function, list(tensors), list(variables), compiled))


def _tensorflow(function, tensors, variables, compiled):
    import tensorflow as tf

    tensors = [tf.convert_to_tensor(x) for x in tensors]

    def run():
        sources = [*tensors, *(w.value for w in variables)]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            loss, outputs = function(*tensors)
        found = tape.gradient(loss, sources, unconnected_gradients="zero")
        return outputs, [tf.convert_to_tensor(gradient) for gradient in found]

    return (tf.function(run, jit_compile=True) if compiled else run)()


def _jax(function, tensors, variables, compiled):
    import jax

    def run(sources):
        tensors, values = sources
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return function(*tensors)

    derive = jax.grad(run, has_aux=True)
    tensors = [jax.numpy.asarray(x) for x in tensors]
    sources = tensors, [w.value for w in variables]
    found, outputs = (jax.jit(derive) if compiled else derive)(sources)
    return outputs, [*found[0], *found[1]]


def _torch(function, tensors, variables, compiled):
    import torch

    with torch.enable_grad():
        # A copy on the device of Keras, a leaf of the graph.
        tensors = [keras.ops.array(np.asarray(x)).detach() for x in tensors]
        tensors = [x.requires_grad_() for x in tensors]
        loss, outputs = function(*tensors)
        sources = [*tensors, *(w.value for w in variables)]
        return outputs, list(torch.autograd.grad(loss, sources, materialize_grads=True))
