"""Layers that are computed a second time in the backward pass, to save memory.

Keras has `keras.RematScope`, which raises in `fit` on TensorFlow (keras#21207).
TensorFlow, JAX and torch are imported inside the functions that need them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops


def recomputed(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
    """Calls a built layer, and keeps only its inputs for the backward pass.

    The backward pass computes the layer again. The seeds are handed in, so that dropout
    draws the same numbers in both passes.

    Reference: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016
    (arXiv:1604.06174).

    Args:
        layer: The layer. It must be built, and change no variables but its seeds.
        *args: The arguments of its call.
        **kwargs: Further arguments of its call.

    Returns:
        What the layer returns: one tensor.
    """
    leaves = keras.tree.flatten((args, kwargs))
    if any(isinstance(leaf, keras.KerasTensor) for leaf in leaves):
        return layer(*args, **kwargs)
    places = [index for index, leaf in enumerate(leaves) if _is_float(leaf)]
    trained = layer.trainable_variables
    weights = {id(variable) for variable in layer.weights}
    # `weights` are all variables but the states of the random generators.
    seeds = [v for v in layer.variables if id(v) not in weights]
    rest = [v for v in layer.weights if not any(v is one for one in trained)]
    fixed = [(v, _value(v)) for v in (*rest, *seeds)]

    def compute(*tensors):
        given = list(leaves)
        for place, tensor in zip(places, tensors, strict=False):
            given[place] = tensor
        values = zip(trained, tensors[len(places) :], strict=True)
        new_args, new_kwargs = keras.tree.pack_sequence_as((args, kwargs), given)
        with keras.StatelessScope(
            [*values, *fixed], initialize_variables=False
        ) as scope:
            output = layer(*new_args, **new_kwargs)
        return output, [scope.get_current_value(seed) for seed in seeds]

    tensors = [*(leaves[place] for place in places), *map(_value, trained)]
    run = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    output, states = run[keras.backend.backend()](compute, tensors, len(places))
    for seed, state in zip(seeds, states, strict=True):
        seed.assign(state)
    return output


def _is_float(leaf: Any) -> bool:
    if not ops.is_tensor(leaf):
        return False
    return "float" in keras.backend.standardize_dtype(leaf.dtype)


def _value(variable: Any) -> Any:
    """Returns the value of a variable as it is stored, not cast to another dtype."""
    with keras.StatelessScope(initialize_variables=False) as inner:
        outer = inner.original_scope
    value = None if outer is None else outer.get_current_value(variable)
    value = variable._value if value is None else value
    if keras.backend.backend() == "tensorflow":  # Keras would leave it a variable
        import tensorflow as tf

        value = tf.convert_to_tensor(value)
    # A seed is changed in place before its value is used again.
    return value * 1 if "int" in str(variable.dtype) else value


def _tensorflow(compute: Callable, tensors: Sequence[Any], num_inputs: int) -> Any:
    import tensorflow as tf

    states = []

    @tf.custom_gradient
    def run(*tensors):
        output, new = compute(*tensors)
        states[:] = new

        def gradient(upstream):
            inputs = tensors[:num_inputs]
            if not tf.executing_eagerly():
                # Without a dependency on the gradient, TensorFlow would take the first
                # result instead of computing it again, or compute it too early.
                first = tf.reshape(upstream, [-1])[:1]
                first = tf.where(tf.math.is_finite(first), tf.abs(first), 0)
                zero = tf.reduce_sum(tf.minimum(first, 0))
                inputs = [x + tf.cast(zero, x.dtype) for x in inputs]
            watched = [*inputs, *tensors[num_inputs:]]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(watched)
                again, _ = compute(*watched)
            found = tape.gradient(again, watched, upstream)
            return [None if x is None else tf.convert_to_tensor(x) for x in found]

        return output, gradient

    return run(*tensors), states


def _jax(compute: Callable, tensors: Sequence[Any], num_inputs: int) -> Any:
    import jax

    return jax.checkpoint(compute)(*tensors)


def _torch(compute: Callable, tensors: Sequence[Any], num_inputs: int) -> Any:
    from torch.utils.checkpoint import checkpoint

    # Keras' dropout on torch draws from torch's own generator, whose state is kept.
    return checkpoint(compute, *tensors, use_reentrant=False)
