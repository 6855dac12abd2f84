r"""The mask algebra: which keys each query can attend to, built from positions.

A mask is a value. Masks combine with `&`, `|` and `~`. They become a bool tensor
(`True` = visible) only when positions are known, so the same mask is correct for a full
sequence, one cached step and a left-padded batch:

>>> masks.causal & masks.window(2, 0)
(causal & window(behind=2, ahead=0))
>>> (masks.causal & masks.window(2, 0)).draw(5)
'1 . . . .\n1 1 . . .\n1 1 1 . .\n. 1 1 1 .\n. . 1 1 1'

Building blocks: `causal`, `window`, `dilated`, `blocks`, `prefix`, `segments`,
`padding`, `queries`, `global_tokens`, `big_bird`, `dense`, `full`.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.ops.backend.shapes import describe, largest
from keras_attention.ops.mask_algebra import FAR, Mask, register
from keras_attention.ops.shuffle import shuffled


def _distance(query_positions: Any, key_positions: Any) -> Any:
    """The key's position minus the query's, `[(B,) T, S]`: negative is behind."""
    # Not `[..., None]`: the export to ONNX loses the shape of an ellipsis.
    return ops.expand_dims(key_positions, -2) - ops.expand_dims(query_positions, -1)


@register
class _Causal(Mask):
    @property
    def reach(self):
        return FAR, 0

    def build(self, query_positions, key_positions):
        return _distance(query_positions, key_positions) <= 0


@register
class _Full(Mask):
    def build(self, query_positions, key_positions):
        return ops.ones_like(_distance(query_positions, key_positions), dtype="bool")


@register
class _Window(Mask):
    def __init__(self, behind: int, ahead: int):
        self.behind, self.ahead = behind, ahead

    def build(self, query_positions, key_positions):
        distance = _distance(query_positions, key_positions)
        return (distance >= -self.behind) & (distance <= self.ahead)

    @property
    def reach(self):
        return self.behind, self.ahead

    def get_config(self):
        return {"behind": self.behind, "ahead": self.ahead}


@register
class _Dilated(Mask):
    def __init__(self, step: int):
        self.step = step

    def build(self, query_positions, key_positions):
        return _distance(query_positions, key_positions) % self.step == 0

    def get_config(self):
        return {"step": self.step}


@register
class _Blocks(Mask):
    def __init__(self, size: int):
        self.size = size

    def build(self, query_positions, key_positions):
        query_blocks = query_positions // self.size
        return _distance(query_blocks, key_positions // self.size) == 0

    @property
    def reach(self):
        return self.size - 1, self.size - 1

    def get_config(self):
        return {"size": self.size}


@register
class _GlobalTokens(Mask):
    def __init__(self, positions: tuple[int, ...]):
        self.positions = tuple(int(position) for position in positions)

    def build(self, query_positions, key_positions):
        listed = ops.convert_to_tensor(np.array(self.positions, "int32"))
        queries, keys = (
            ops.any(ops.expand_dims(ops.cast(x, "int32"), -1) == listed, axis=-1)
            for x in (query_positions, key_positions)
        )
        return ops.expand_dims(queries, -1) | ops.expand_dims(keys, -2)

    def get_config(self):
        return {"positions": list(self.positions)}


@register
class _BigBird(Mask):
    def __init__(
        self,
        *,
        block_size: int,
        num_random_blocks: int,
        num_window_blocks: int,
        num_global_blocks: int,
        seed: int,
        causal: bool,
    ):
        self.block_size = block_size
        self.num_random_blocks = num_random_blocks
        self.num_window_blocks = num_window_blocks
        self.num_global_blocks = num_global_blocks
        self.seed = seed
        self.causal = causal

    @property
    def of_positions(self):
        return False  # the draw depends on all keys

    def build(self, query_positions, key_positions):
        return self.restrict_to(key_positions).build(query_positions, key_positions)

    def restrict_to(self, key_positions):
        return _DrawnBigBird(self, ops.convert_to_tensor(key_positions, dtype="int32"))

    def always(self, query_blocks, key_blocks):
        """Bool `[(B,) T, S]`: keys of the window and of global blocks."""
        reach = self.num_window_blocks // 2
        near = ops.abs(_distance(query_blocks, key_blocks)) <= reach
        queries = ops.expand_dims(query_blocks < self.num_global_blocks, -1)
        keys = ops.expand_dims(key_blocks < self.num_global_blocks, -2)
        return near | queries | keys

    def priorities(self, query_blocks, key_blocks):
        """Int32 `[(B,) T, S]`: the largest are drawn first, 0 is never drawn."""
        rows = ops.expand_dims(query_blocks, -1)
        columns = ops.expand_dims(key_blocks, -2)
        free = (columns >= 0) & ~self.always(query_blocks, key_blocks)
        if self.causal:
            free = free & (columns < rows)
        return ops.where(free, 1 + shuffled(rows, columns, self.seed), 0)

    def get_config(self):
        return vars(self).copy()


class _OfTensors(Mask):
    """A mask that holds tensors: it belongs to one batch and cannot be saved."""

    @property
    def of_positions(self):
        return False

    def get_config(self):
        raise ValueError(
            f"A mask made from tensors ({type(self).__name__.strip('_').lower()}) "
            "belongs to one batch and cannot be saved with a model. Pass padding as "
            "`value_mask=` (or let Keras masks carry it), and other tensors as a "
            f"`[B, T, S]` `attention_mask=`. Received: {self!r}"
        )

    def __repr__(self):
        tensors = ", ".join(describe(tensor) for tensor in vars(self).values())
        return f"{type(self).__name__.strip('_').lower()}({tensors})"


class _Prefix(_OfTensors):
    @property
    def of_positions(self):
        return True  # it holds one length per row, no tensor of slots

    def __init__(self, lengths):
        self.lengths = lengths

    def build(self, query_positions, key_positions):
        distance = _distance(query_positions, key_positions)
        visible_to_all = ops.less(key_positions, self.lengths[:, None])[:, None, :]
        return ops.logical_or(distance <= 0, visible_to_all)


class _Segments(_OfTensors):
    def __init__(self, query_ids, key_ids):
        self.query_ids, self.key_ids = query_ids, key_ids

    def build(self, query_positions, key_positions):
        return _distance(self.query_ids, self.key_ids) == 0  # [B, T, S]


class _Padding(_OfTensors):
    def __init__(self, key_mask):
        self.key_mask = key_mask

    def build(self, query_positions, key_positions):
        visible = _Full().build(query_positions, key_positions)
        return visible & self.key_mask[:, None, :]  # [B, T, S]


class _Queries(_OfTensors):
    def __init__(self, query_mask):
        self.query_mask = query_mask

    def build(self, query_positions, key_positions):
        visible = _Full().build(query_positions, key_positions)
        return visible & self.query_mask[:, :, None]  # [B, T, S]


class _Dense(_OfTensors):
    def __init__(self, array):
        self.array = array

    def build(self, query_positions, key_positions):
        return self.array


class _DrawnBigBird(_OfTensors):
    """`_BigBird` with the keys from which it draws."""

    def __init__(self, rule: _BigBird, key_positions: Any):
        self.rule, self.all_keys = rule, key_positions

    def build(self, query_positions, key_positions):
        rule = self.rule
        query_blocks, key_blocks, all_blocks = (
            ops.cast(ops.convert_to_tensor(x), "int32") // rule.block_size
            for x in (query_positions, key_positions, self.all_keys)
        )
        visible = rule.always(query_blocks, key_blocks)
        if not rule.num_random_blocks:
            return visible
        remaining = least = rule.priorities(query_blocks, all_blocks)
        for _ in range(rule.num_random_blocks):
            least = largest(remaining, -1, least=0, keepdims=True)
            remaining = ops.where(remaining == least, 0, remaining)
        here = rule.priorities(query_blocks, key_blocks)
        return visible | ((here > 0) & (here >= least))

    def restrict_to(self, key_positions):
        return self.rule.restrict_to(key_positions)


causal = _Causal()
"""Keys at the query's own position and before it."""

full = _Full()
"""Every key."""


def window(behind: int, ahead: int) -> Mask:
    """Keys at most `behind` positions before and `ahead` after the query."""
    if behind < 0 or ahead < 0:
        raise ValueError(
            "`behind` and `ahead` count positions and must be 0 or more. "
            f"Received: behind={behind}, ahead={ahead}"
        )
    return _Window(int(behind), int(ahead))


def dilated(step: int) -> Mask:
    """Every `step`-th key, counted from the query in both directions."""
    return _Dilated(_require_positive(step, "step"))


def blocks(size: int) -> Mask:
    """Keys in the query's own block of `size` positions."""
    return _Blocks(_require_positive(size, "size"))


def global_tokens(positions: Any) -> Mask:
    """The listed positions see all keys, and all queries see them."""
    return _GlobalTokens(tuple(np.atleast_1d(np.asarray(positions)).tolist()))


def big_bird(
    block_size: int = 64,
    num_random_blocks: int = 3,
    num_window_blocks: int = 3,
    num_global_blocks: int = 2,
    seed: int = 0,
    *,
    causal: bool = False,
) -> Mask:
    """Blocks around the query's own, the first blocks, and random blocks.

    The first `num_global_blocks` blocks see all blocks, and all blocks see them. The
    random blocks are drawn without replacement from the blocks that hold a key and are
    not visible already. A hash of `seed` and the numbers of the two blocks decides, so
    the draw is the same on every backend and does not depend on other rows. Keys that
    must not be drawn, such as padding, have position -1 (see `Mask.restrict_to`).

    Args:
        block_size: The number of positions in a block.
        num_random_blocks: The number of blocks drawn for each block of queries.
        num_window_blocks: The number of blocks around and with the query's own; odd.
        num_global_blocks: The number of global blocks at the start.
        seed: The draw's seed.
        causal: Whether blocks are drawn only before the query's own, so that later keys
            do not change the draw; combine with `masks.causal` to hide later keys.

    Reference: Zaheer et al., "Big Bird", 2020 (arXiv:2007.14062).
    """
    counts = {
        "num_random_blocks": num_random_blocks,
        "num_global_blocks": num_global_blocks,
    }
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"`{name}` must be 0 or more. Received: {name}={count}")
    if _require_positive(num_window_blocks, "num_window_blocks") % 2 == 0:
        raise ValueError(
            "`num_window_blocks` must be odd: it counts the query's own block, and as "
            f"many on either side. Received: num_window_blocks={num_window_blocks}"
        )
    return _BigBird(
        block_size=_require_positive(block_size, "block_size"),
        num_random_blocks=int(num_random_blocks),
        num_window_blocks=int(num_window_blocks),
        num_global_blocks=int(num_global_blocks),
        seed=int(seed),
        causal=causal,
    )


def prefix(lengths: Any) -> Mask:
    """Causal, but a row's first `lengths[b]` keys are always visible (prefix LM)."""
    return _Prefix(ops.convert_to_tensor(lengths, dtype="int32"))


def segments(query_ids: Any, key_ids: Any = None) -> Mask:
    """Keys with the segment id of the query (packed documents); ids are `[B, T]`."""
    query_ids = ops.convert_to_tensor(query_ids)
    key_ids = query_ids if key_ids is None else ops.convert_to_tensor(key_ids)
    return _Segments(query_ids, key_ids)


def padding(keep: Any) -> Mask:
    """Keys at non-padding tokens, where `keep`, bool `[B, S]`, is `True`."""
    return _Padding(require_bool(keep, "keep", rank=2, shape="[B, S]"))


def queries(keep: Any) -> Mask:
    """All keys for queries where `keep`, bool `[B, T]`, is `True`; none for others."""
    return _Queries(require_bool(keep, "keep", rank=2, shape="[B, T]"))


def dense(array: Any) -> Mask:
    """A bool array as it is: `[T, S]`, `[B, T, S]` or `[B, N, T, S]`."""
    return _Dense(require_bool(array, "array"))


def require_bool(
    mask: Any, name: str, *, rank: int | None = None, shape: str = ""
) -> Any:
    """Returns `mask` as a bool tensor, or raises an error that explains how to pass it.

    Args:
        mask: The user's mask.
        name: The name of the argument, for the message.
        rank: The rank that the mask must have, or `None` for any.
        shape: The shape of that rank, for the message.
    """
    if isinstance(mask, list | tuple):
        mask = np.asarray(mask)
    dtype = keras.backend.standardize_dtype(mask.dtype)
    if dtype != "bool":
        raise ValueError(
            f"`{name}` must be bool, True where a key is visible. To add numbers to "
            "the scores (such as 0 / -1e9 masks), pass them as `attention_bias=`; a "
            f"0 / 1 mask becomes bool with `{name} != 0`. "
            f"Received: {name}={describe(mask)}"
        )
    mask = ops.convert_to_tensor(mask)
    if rank is not None and len(mask.shape) != rank:
        raise ValueError(
            f"`{name}` must have shape {shape}. Received: {name}={describe(mask)}"
        )
    return mask


def _require_positive(value: int, name: str) -> int:
    if not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )
    return int(value)
