"""Attention over some axes of an image or a video.

The axes that attention runs over become one length, and the others are merged with the
batch, so that the layer itself computes attention of sequences only.
"""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

from keras import ops

from keras_attention.layers._arguments import separate, unpack
from keras_attention.ops import masks
from keras_attention.ops.backend.shapes import describe, differ, refuse_ragged


def standardize_axes(attention_axes: Any) -> tuple[int, ...] | None:
    """Returns `attention_axes` as a tuple; `None` is all but batch and features."""
    if attention_axes is None:
        return None
    listed = [attention_axes] if isinstance(attention_axes, int) else attention_axes
    if not listed or not all(isinstance(axis, int) for axis in listed):
        raise ValueError(
            "`attention_axes` must be an integer or a tuple of them, or `None` for all "
            f"axes but batch and features. Received: attention_axes={attention_axes!r}"
        )
    return tuple(listed)


def resolve_axes(attention_axes: tuple[int, ...] | None, rank: int) -> tuple[int, ...]:
    """Returns the axes of an input of that rank, counted from the front.

    Args:
        attention_axes: What `standardize_axes` returned.
        rank: Number of axes of the query, including batch and features.
    """
    if attention_axes is None:
        return tuple(range(1, rank - 1))
    axes = tuple(axis + rank if axis < 0 else axis for axis in attention_axes)
    if len({*axes}) != len(axes) or not all(0 < axis < rank - 1 for axis in axes):
        raise ValueError(
            "`attention_axes` must be different axes between the batch (0) and the "
            f"features ({rank - 1}) of inputs with {rank} axes. "
            f"Received: attention_axes={attention_axes}"
        )
    return axes


class Axes:
    """Sequences `[B, T, E]`: every method returns its argument."""

    def unpack(self, query, value, key, **arguments: Any) -> tuple:
        """Returns inputs `[B, T, E]` and their padding masks `[B, T]`, see `unpack`."""
        return unpack(query, value, key, **arguments)

    def fold_mask(self, mask: Any, name: str, *, heads: bool = True) -> Any:
        """Returns a mask or bias `[B, T, S]` or `[B, N, T, S]`; or a mask of rules.

        Args:
            mask: The argument of the call.
            name: The argument's name, for error messages.
            heads: Whether the layer has heads.
        """
        return mask

    def fold_head_mask(self, head_mask: Any) -> Any:
        """Returns the head mask as `[N]` or `[B, N]`."""
        return head_mask

    def unfold(self, output: Any) -> Any:
        """Returns the output with the axes of the query."""
        return output

    def unfold_weights(self, weights: Any) -> Any:
        """Returns `[B, <other axes>, N, <axes of the query>, <axes of the key>]`.

        Weights without heads have no N.
        """
        return weights

    def check(self, *, cache: Any, positions: Any) -> None:
        """Refuses arguments that cannot be combined with these axes."""


@dataclass(frozen=True)
class FoldedAxes(Axes):
    """Images, videos: `[B, ..., E]`.

    Attributes:
        attention: Axes that attention runs over, in their order.
        others: The other axes between batch and features.
        query_sizes: The query's sizes without the features; tensors where they are not
            known statically.
        key_sizes: The key's sizes, likewise.
    """

    attention: tuple[int, ...]
    others: tuple[int, ...]
    query_sizes: tuple
    key_sizes: tuple

    def unpack(self, query, value, key, *, name: str, **padding: Any) -> tuple:
        tensors, padding_masks = separate(query, value, key, **padding)
        folded: dict[int, Any] = {id(None): None}  # the same tensor stays the same
        for tensor in tensors:
            if id(tensor) not in folded:
                folded[id(tensor)] = self._fold(tensor)
        padding_masks = {
            f"{argument}_mask": self._fold_padding(tensor, mask, argument)
            for argument, tensor, mask in zip(
                ("query", "value", "key"), tensors, padding_masks, strict=True
            )
        }
        inputs = (folded[id(tensor)] for tensor in tensors)
        return unpack(*inputs, **padding_masks, name=name)

    def fold_mask(self, mask, name, *, heads=True):
        if isinstance(mask, masks.Mask) and self.others and not mask.of_positions:
            raise ValueError(
                "A mask of `ka.masks` that holds tensors has one row for each row of "
                f"the batch, but attention over the axes {self.attention} does not run "
                f"over the axes {self.others}. Pass a bool `{name}=` [batch, other "
                f"axes, axes of the query, axes of the key]. Received: {name}={mask!r}"
            )
        if mask is None or isinstance(mask, masks.Mask):
            return mask
        mask = ops.convert_to_tensor(mask)
        received, outer = describe(mask), 1 + len(self.others)
        given = len(mask.shape) - 2 * len(self.attention)
        if not 1 <= given <= outer + heads:
            raise self._misfit(name, received)
        for _ in range(given, outer + 1):
            mask = ops.expand_dims(mask, given)  # [B, <others>, N, <T>, <S>]
        outer_sizes, rows, columns = self._sizes()
        groups = [outer_sizes, [None], rows, columns]
        for size, wanted in zip(mask.shape, chain(*groups), strict=True):
            if size != 1 and isinstance(wanted, int) and differ(size, wanted):
                raise self._misfit(name, received)
        merged = _broadcast_and_merge(mask, groups)  # [B', N, T, S]
        return merged if heads else merged[:, 0]

    def fold_head_mask(self, head_mask):
        if head_mask is None:
            return None
        head_mask = ops.convert_to_tensor(head_mask)
        if len(head_mask.shape) != 2 or head_mask.shape[0] == 1:
            return head_mask
        for _ in self.others:
            head_mask = ops.expand_dims(head_mask, 1)
        outer, *_ = self._sizes()
        return _broadcast_and_merge(head_mask, [outer, [None]])  # [B', N]

    def unfold(self, output):
        order = (0, *self.others, *self.attention)
        tail = ops.shape(output)[2:]
        output = ops.reshape(output, (*(self.query_sizes[i] for i in order), *tail))
        back = [order.index(axis) for axis in range(len(order))]
        rest = range(len(order), len(output.shape))
        return ops.transpose(output, (*back, *rest))  # [B, ..., E]

    def unfold_weights(self, weights):
        if weights is None:
            return None
        outer, rows, columns = self._sizes()
        heads = weights.shape[1:-2]
        return ops.reshape(weights, (*outer, *heads, *rows, *columns))

    def check(self, *, cache, positions):
        if cache is not None:
            raise ValueError(
                "A `cache` holds the past of one sequence [batch, length, features]. "
                "For images and videos call the layer without one. Received: "
                f"attention over the axes {self.attention} of {self._rank} axes"
            )
        if positions is None:
            return
        positions = ops.convert_to_tensor(positions)
        if len(positions.shape) != 1:
            raise ValueError(
                "`positions` of images and videos are one list for all rows of the "
                f"batch, numbered through the axes {self.attention}, the last axis "
                f"fastest. Received: positions={describe(positions)}"
            )

    @property
    def _rank(self):
        return len(self.query_sizes) + 1

    def _fold(self, tensor):
        """`[B, ..., E]` to `[B', T, E]`; `[B, ...]` to `[B', T]`."""
        rest = range(self._rank - 1, len(tensor.shape))
        tensor = ops.transpose(tensor, (0, *self.others, *self.attention, *rest))
        sizes, outer = ops.shape(tensor), 1 + len(self.others)
        inner = outer + len(self.attention)
        shape = math.prod(sizes[:outer]), math.prod(sizes[outer:inner]), *sizes[inner:]
        return ops.reshape(tensor, shape)  # [B', T, E]

    def _fold_padding(self, tensor, explicit, argument):
        """Combines the explicit mask with the one Keras carries: bool `[B', T]`."""
        implicit = getattr(tensor, "_keras_mask", None)
        if explicit is not None and explicit is not implicit:
            name, shape = f"{argument}_mask", "[batch, ...] without the features"
            rank = self._rank - 1
            explicit = masks.require_bool(explicit, name, rank=rank, shape=shape)
            if any(map(differ, explicit.shape, tensor.shape[:-1])):
                raise ValueError(
                    f"`{name}` must have the shape of `{argument}` without the "
                    f"features. Received: {name}={describe(explicit)}, "
                    f"{argument}={describe(tensor)}"
                )
        padding_mask = None
        for mask in {id(mask): mask for mask in (explicit, implicit)}.values():
            if mask is not None:
                folded = self._fold(mask)
                padding_mask = folded if padding_mask is None else padding_mask & folded
        return padding_mask

    def _sizes(self):
        """Returns sizes of the batch with the other axes, and of the attention axes."""
        outer = [self.query_sizes[axis] for axis in (0, *self.others)]
        rows = [self.query_sizes[axis] for axis in self.attention]
        columns = [self.key_sizes[axis] for axis in self.attention]
        return outer, rows, columns

    def _misfit(self, name, received):
        sizes = chain(*self._sizes())
        shape = ", ".join(str(x) if isinstance(x, int) else "?" for x in sizes)
        return ValueError(
            f"`{name}` must have shape [batch, other axes, axes of the query, axes of "
            f"the key], here [{shape}] (axes may be 1); a mask or bias per head has "
            f"the heads before the axes of the query. Received: {name}={received}"
        )


def axes_of(attention_axes: tuple[int, ...] | None, query, value, key) -> Axes:
    """Returns how inputs of this rank are folded.

    Args:
        attention_axes: What `standardize_axes` returned.
        query: `[B, ..., E]`, or the list of all inputs.
        value: `[B, ..., E']`, or `None`.
        key: `[B, ..., E'']`, or `None`.
    """
    listed = query if isinstance(query, list | tuple) else (query, value, key)
    tensors = [tensor for tensor in listed if tensor is not None]
    refuse_ragged(**dict(zip(("query", "value", "key"), tensors, strict=False)))
    ranks = {len(tensor.shape) for tensor in tensors}
    rank = max(ranks)
    if len(ranks) > 1 or rank < 3 or len(tensors) < 2:
        return Axes()  # the checks of sequences raise the error
    attention = resolve_axes(attention_axes, rank)
    if rank == 3:
        return Axes()
    others = tuple(axis for axis in range(1, rank - 1) if axis not in attention)
    for name, tensor in zip(("value", "key"), tensors[1:], strict=False):
        if any(differ(tensors[0].shape[axis], tensor.shape[axis]) for axis in others):
            raise ValueError(
                f"Attention runs over the axes {attention}; in all others query and "
                f"{name} must have the same sizes. Received: "
                f"query={describe(tensors[0])}, {name}={describe(tensor)}"
            )
    sizes = [tuple(ops.shape(tensor))[:-1] for tensor in tensors]
    return FoldedAxes(attention, others, sizes[0], sizes[-1])


def _broadcast_and_merge(x, groups):
    """Merges each group of axes into one.

    Args:
        x: A tensor with an axis for each size in `groups`; axes may be 1.
        groups: Lists of sizes. A group whose axes are all 1 stays so.
    """
    own, target, merged = ops.shape(x), [], []
    for group in groups:
        sizes = list(own[len(target) : len(target) + len(group)])
        known = [size for size in sizes if isinstance(size, int)]
        spread = len(group) > 1 and known != [1] * len(group)
        target += group if spread else sizes
        merged.append(math.prod(group if spread else sizes))
    return ops.reshape(ops.broadcast_to(x, tuple(target)), tuple(merged))
