r"""The mask algebra: who may look at what, built from positions.

A mask is a value. Masks combine with `&`, `|` and `~`, and become a bool tensor
(`True` = may look) only when positions are known, so the same mask is right for
a full sequence, one cached step and a left-padded batch:

>>> masks.causal & masks.window(2, 0)
(causal & window(behind=2, ahead=0))
>>> (masks.causal & masks.window(2, 0)).draw(5)
'1 . . . .\n1 1 . . .\n1 1 1 . .\n. 1 1 1 .\n. . 1 1 1'

Building blocks: `causal`, `window`, `dilated`, `blocks`, `prefix`, `segments`,
`padding`, `queries`, `global_tokens`, `dense`, `full`.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.ops.positions import EMPTY, first_positions
from keras_attention.ops.shapes import describe


class Mask:
    """Who may look at what. Combine with `&`, `|`, `~`; show with `draw()`."""

    def build(self, query_positions: Any, key_positions: Any) -> Any:
        """The mask as a tensor.

        Args:
            query_positions: Int `[T]` or `[B, T]`.
            key_positions: Int `[S]` or `[B, S]`. A key at position -1 is an
                empty slot: `visible` hides it from every query.

        Returns:
            Bool, broadcastable to `[B, T, S]`; `True` = may look.
        """
        raise NotImplementedError

    def visible(self, query_positions: Any, key_positions: Any) -> Any:
        """`build`, with keys at position -1 (empty slots) hidden."""
        seen = self.build(query_positions, key_positions)
        return seen & (key_positions != EMPTY)[..., None, :]  # [(B,) T, S]

    def __and__(self, other: "Mask") -> "Mask":
        return _All(self, _require_mask(other, "&"))

    def __or__(self, other: "Mask") -> "Mask":
        return _Any(self, _require_mask(other, "|"))

    def __invert__(self) -> "Mask":
        return _Not(self)

    def draw(self, query_length: int, key_length: int | None = None) -> str:
        """The mask as text: one line a query, `1` = may look, `.` = may not.

        Args:
            query_length: Number of queries, at positions 0, 1, 2, …
            key_length: Number of keys; as many as queries when `None`.

        Returns:
            The drawing; rows of a batch are separated by an empty line.
        """
        key_length = query_length if key_length is None else key_length
        seen = self.build(first_positions(query_length), first_positions(key_length))
        seen = ops.convert_to_numpy(seen)
        batch = seen.shape[0] if seen.ndim == 3 else 1
        seen = np.broadcast_to(seen, (batch, query_length, key_length))
        rows = (["1" if key else "." for key in row] for one in seen for row in one)
        lines = [" ".join(row) for row in rows]
        starts = range(0, len(lines), query_length)
        return "\n\n".join("\n".join(lines[s : s + query_length]) for s in starts)

    def get_config(self) -> dict:
        """The constructor's arguments, for saving models that hold a mask."""
        return {}

    @classmethod
    def from_config(cls, config: dict) -> "Mask":
        """Rebuilds a mask from `get_config()`."""
        return cls(**keras.saving.deserialize_keras_object(config))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        name = type(self).__name__.strip("_").lower()
        return f"{name}({arguments})" if arguments else name


def _require_mask(other: Any, operator: str) -> Mask:
    if not isinstance(other, Mask):
        raise TypeError(
            f"`mask {operator} other` needs a mask on both sides. Wrap an array with "
            "`masks.padding(keep)` if it is `[B, S]`, with `masks.dense(array)` if it "
            f"is `[B, T, S]`. Received: {describe(other)}"
        )
    return other


_register = keras.saving.register_keras_serializable("keras_attention")


@_register
class _All(Mask):
    def __init__(self, left: Mask, right: Mask):
        self.left, self.right = left, right

    def build(self, query_positions, key_positions):
        left = self.left.build(query_positions, key_positions)
        return left & self.right.build(query_positions, key_positions)

    def get_config(self):
        return _serialize_sides(self)

    def __repr__(self):
        return f"({self.left!r} & {self.right!r})"


@_register
class _Any(Mask):
    def __init__(self, left: Mask, right: Mask):
        self.left, self.right = left, right

    def build(self, query_positions, key_positions):
        left = self.left.build(query_positions, key_positions)
        return left | self.right.build(query_positions, key_positions)

    def get_config(self):
        return _serialize_sides(self)

    def __repr__(self):
        return f"({self.left!r} | {self.right!r})"


@_register
class _Not(Mask):
    def __init__(self, mask: Mask):
        self.mask = mask

    def build(self, query_positions, key_positions):
        return ~self.mask.build(query_positions, key_positions)

    def get_config(self):
        return {"mask": keras.saving.serialize_keras_object(self.mask)}

    def __repr__(self):
        return f"~{self.mask!r}"


def _serialize_sides(mask: Any) -> dict:
    serialize = keras.saving.serialize_keras_object
    return {"left": serialize(mask.left), "right": serialize(mask.right)}


def _distance(query_positions: Any, key_positions: Any) -> Any:
    """Key position minus query position, `[(B,) T, S]`: negative is behind."""
    return key_positions[..., None, :] - query_positions[..., :, None]


@_register
class _Causal(Mask):
    def build(self, query_positions, key_positions):
        return _distance(query_positions, key_positions) <= 0


@_register
class _Full(Mask):
    def build(self, query_positions, key_positions):
        return ops.ones_like(_distance(query_positions, key_positions), dtype="bool")


@_register
class _Window(Mask):
    def __init__(self, behind: int, ahead: int):
        self.behind, self.ahead = behind, ahead

    def build(self, query_positions, key_positions):
        distance = _distance(query_positions, key_positions)
        return (distance >= -self.behind) & (distance <= self.ahead)

    def get_config(self):
        return {"behind": self.behind, "ahead": self.ahead}


@_register
class _Dilated(Mask):
    def __init__(self, step: int):
        self.step = step

    def build(self, query_positions, key_positions):
        return _distance(query_positions, key_positions) % self.step == 0

    def get_config(self):
        return {"step": self.step}


@_register
class _Blocks(Mask):
    def __init__(self, size: int):
        self.size = size

    def build(self, query_positions, key_positions):
        query_blocks = query_positions // self.size
        return _distance(query_blocks, key_positions // self.size) == 0

    def get_config(self):
        return {"size": self.size}


@_register
class _GlobalTokens(Mask):
    def __init__(self, positions: tuple[int, ...]):
        self.positions = tuple(int(position) for position in positions)

    def build(self, query_positions, key_positions):
        listed = ops.convert_to_tensor(np.array(self.positions, "int32"))
        queries = ops.any(query_positions[..., :, None, None] == listed, axis=-1)
        keys = ops.any(key_positions[..., None, :, None] == listed, axis=-1)
        return queries | keys

    def get_config(self):
        return {"positions": list(self.positions)}


class _OfTensors(Mask):
    """A mask that holds tensors: it belongs to one batch and cannot be saved."""

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
    def __init__(self, lengths):
        self.lengths = lengths

    def build(self, query_positions, key_positions):
        distance = _distance(query_positions, key_positions)
        return (distance <= 0) | (key_positions < self.lengths[:, None])[:, None, :]


class _Segments(_OfTensors):
    def __init__(self, query_ids, key_ids):
        self.query_ids, self.key_ids = query_ids, key_ids

    def build(self, query_positions, key_positions):
        return _distance(self.query_ids, self.key_ids) == 0  # [B, T, S]


class _Padding(_OfTensors):
    def __init__(self, keep):
        self.keep = keep

    def build(self, query_positions, key_positions):
        seen = _Full().build(query_positions, key_positions)
        return seen & self.keep[:, None, :]  # [B, T, S]


class _Queries(_OfTensors):
    def __init__(self, keep):
        self.keep = keep

    def build(self, query_positions, key_positions):
        seen = _Full().build(query_positions, key_positions)
        return seen & self.keep[:, :, None]  # [B, T, S]


class _Dense(_OfTensors):
    def __init__(self, array):
        self.array = array

    def build(self, query_positions, key_positions):
        return self.array


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
    """Listed positions look at everything and are seen by everything."""
    return _GlobalTokens(tuple(np.atleast_1d(np.asarray(positions)).tolist()))


def prefix(lengths: Any) -> Mask:
    """Causal, but a row's first `lengths[b]` keys are visible to all (prefix LM)."""
    return _Prefix(ops.convert_to_tensor(lengths, dtype="int32"))


def segments(query_ids: Any, key_ids: Any = None) -> Mask:
    """Keys with the query's own segment id (packed documents); ids `[B, T]`."""
    query_ids = ops.convert_to_tensor(query_ids)
    key_ids = query_ids if key_ids is None else ops.convert_to_tensor(key_ids)
    return _Segments(query_ids, key_ids)


def padding(keep: Any) -> Mask:
    """Keys at real tokens; `keep` is bool `[B, S]`, `True` at real tokens."""
    return _Padding(require_bool(keep, "keep", rank=2, shape="[B, S]"))


def queries(keep: Any) -> Mask:
    """Rows of real queries; `keep` is bool `[B, T]`. Other rows see nothing."""
    return _Queries(require_bool(keep, "keep", rank=2, shape="[B, T]"))


def dense(array: Any) -> Mask:
    """A bool array as it is: `[T, S]`, `[B, T, S]` or `[B, N, T, S]`."""
    return _Dense(require_bool(array, "array"))


def require_bool(
    mask: Any, name: str, *, rank: int | None = None, shape: str = ""
) -> Any:
    """Returns `mask` as a bool tensor, or says how to pass it right.

    Args:
        mask: What the user gave.
        name: The argument it was given as, for the message.
        rank: The rank it must have, if any.
        shape: That shape in words.
    """
    if isinstance(mask, list | tuple):
        mask = np.asarray(mask)
    dtype = keras.backend.standardize_dtype(mask.dtype)
    if dtype != "bool":
        raise ValueError(
            f"`{name}` must be bool, True where a query may look. To add numbers to "
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
