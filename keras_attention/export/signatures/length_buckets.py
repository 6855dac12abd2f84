"""SavedModels for servers: compiled by XLA, lengths rounded up to a few buckets.

XLA compiles a graph again for every shape, and oneDNN keeps what it prepared for each.
So the model runs only with lengths that were chosen at export, and its outputs are cut.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_attention.export.signatures.signature import Signature, TensorInfo


def prepared(
    signature: Signature, *, jit_compile: bool, length_buckets: Sequence[int]
) -> Signature:
    """Returns the signature with its model compiled and its inputs padded.

    Tokenizers are not compiled. Loops and steps with a cache stay as they are: the
    sizes of their outputs depend on more than the sizes of the inputs. An axis is
    rounded up only if a mask can mark its padding. If nothing can be compiled or
    padded, the signature itself is returned.

    Args:
        signature: A signature of a SavedModel.
        jit_compile: Whether XLA compiles the model.
        length_buckets: Lengths to round up to, in increasing order; a longer input
            keeps its length.
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
    """Checks that buckets are increasing whole numbers within the model's positions.

    Args:
        buckets: The `length_buckets` that the user passed.
        signatures: The signatures that are exported.

    Raises:
        ValueError: If they are not.
    """
    longest = min((n for s in signatures for n in s.max_lengths.values()), default=None)
    good = all(isinstance(n, int) and not isinstance(n, bool) for n in buckets)
    if not good or list(buckets) != sorted(set(buckets)) or min(buckets, default=1) < 1:
        raise ValueError(
            "`length_buckets` are the lengths to round up to. Expected whole numbers "
            "from 1 on, in increasing order, such as [16, 32, 64]. "
            f"Received: length_buckets={buckets!r}"
        )
    if buckets and longest is not None and buckets[-1] > longest:
        raise ValueError(
            f"`length_buckets` must be within the {longest} positions of this model. "
            f"Received: length_buckets={buckets!r}"
        )


def _places(tensors: dict[str, TensorInfo]) -> dict[str, list[tuple[str, int]]]:
    """Each named axis except the batch, with its places: tensor and axis number."""
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
