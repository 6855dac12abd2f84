"""SavedModels for servers: compiled by XLA, lengths rounded up to a few.

XLA compiles a graph anew for every shape, and oneDNN keeps what it prepared for each.
So the model is asked with lengths that were chosen before, and its answers are cut.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_attention.export.signatures.signature import Signature, TensorInfo


def prepared(
    signature: Signature, *, jit_compile: bool, length_buckets: Sequence[int]
) -> Signature:
    """The signature with what is compiled and padded; itself if nothing can be.

    Tokenizers stay outside. Loops and steps with a cache are left as they are: the
    sizes of their answers depend on more than those of the inputs. A length is rounded
    up where padding can be told, by a mask of that axis.

    Args:
        signature: Of a SavedModel.
        jit_compile: Whether XLA compiles what comes between inputs and outputs.
        length_buckets: Lengths to round up to, in order; a longer input stays as it is.
    """
    inputs, outputs = signature.of_model.inputs, signature.of_model.outputs
    axes = _places(inputs)
    if any(info.dtype == "string" for info in inputs.values()):
        return signature  # the tokenizer is inside
    if set(_places(outputs)) - set(axes):
        return signature
    masked = {
        axis: places
        for axis, places in axes.items()
        if any(inputs[name].dtype == "bool" for name, _ in places)
    }
    if jit_compile:
        signature = signature.wrapped(
            lambda function: tf.function(function, jit_compile=True, autograph=False)
        )
    if length_buckets and masked:
        buckets = tuple(length_buckets)
        signature = signature.wrapped(
            lambda function: _rounded_up(function, inputs, outputs, masked, buckets)
        )
    return signature


def check_buckets(buckets: Sequence[int], signatures: Sequence[Signature]) -> None:
    """Whole numbers in order, none longer than a model's positions.

    Args:
        buckets: What the user gave.
        signatures: Of the model.
    """
    longest = min((n for s in signatures for n in s.max_lengths.values()), default=None)
    good = all(isinstance(n, int) and not isinstance(n, bool) for n in buckets)
    if not good or list(buckets) != sorted(set(buckets)) or min(buckets, default=1) < 1:
        raise ValueError(
            "`length_buckets` are the lengths to round up to. Expected whole numbers "
            f"from 1 on, rising: [16, 32, 64]. Received: length_buckets={buckets!r}"
        )
    if buckets and longest is not None and buckets[-1] > longest:
        raise ValueError(
            f"`length_buckets` must be within the {longest} positions of this model. "
            f"Received: length_buckets={buckets!r}"
        )


def _places(tensors: dict[str, TensorInfo]) -> dict[str, list[tuple[str, int]]]:
    """Each free axis but the batch, and where it stands."""
    found: dict[str, list[tuple[str, int]]] = {}
    for name, info in tensors.items():
        for place, axis in enumerate(info.shape):
            if isinstance(axis, str) and axis != "batch":
                found.setdefault(axis, []).append((name, place))
    return found


def _rounded_up(
    function: Callable[..., dict[str, Any]],
    inputs: dict[str, TensorInfo],
    outputs: dict[str, TensorInfo],
    axes: dict[str, list[tuple[str, int]]],
    buckets: tuple[int, ...],
) -> Callable[..., dict[str, Any]]:
    def padded(**given: tf.Tensor) -> dict[str, Any]:
        sizes: dict[int | str, Any] = {
            axis: tf.shape(given[places[0][0]])[places[0][1]]
            for axis, places in axes.items()
        }
        more = {axis: _bucket(size, buckets) - size for axis, size in sizes.items()}
        fed = {
            name: tf.pad(value, [[0, more.get(a, 0)] for a in inputs[name].shape])
            for name, value in given.items()
        }
        return {
            name: _cut(value, [sizes.get(a) for a in outputs[name].shape])
            for name, value in function(**fed).items()
        }

    return padded


def _bucket(size: Any, buckets: tuple[int, ...]) -> Any:
    at = tf.searchsorted(tf.constant(buckets), size[None], side="left")[0]
    known = tf.gather(tf.constant(buckets), tf.minimum(at, len(buckets) - 1))
    return tf.where(at < len(buckets), known, size)


def _cut(value: Any, sizes: list[Any]) -> Any:
    """The first `size` of each axis that was padded."""
    if all(size is None for size in sizes):
        return value
    shape = tf.shape(value)
    ends = [shape[i] if size is None else size for i, size in enumerate(sizes)]
    return value[tuple(slice(0, end) for end in ends)]
