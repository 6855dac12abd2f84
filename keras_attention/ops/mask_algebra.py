"""The base of all masks, which are built, drawn, saved, and combined with others."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.ops.backend.shapes import describe
from keras_attention.ops.positions import EMPTY, first_positions

FAR = 2**30
"""Farther than any position."""


class Mask:
    """Which keys each query can attend to.

    Masks combine with `&`, `|` and `~`; `draw()` shows them.
    """

    def build(self, query_positions: Any, key_positions: Any) -> Any:
        """Builds the mask as a tensor.

        Args:
            query_positions: Int `[T]` or `[B, T]`.
            key_positions: Int `[S]` or `[B, S]`. A key at position -1 is an
                empty slot: `visible` hides it from every query.

        Returns:
            Bool, broadcastable to `[B, T, S]`; `True` = visible.
        """
        raise NotImplementedError

    def visible(self, query_positions: Any, key_positions: Any) -> Any:
        """`build`, with keys at position -1 (empty slots) hidden."""
        visible = self.build(query_positions, key_positions)
        return visible & (key_positions != EMPTY)[..., None, :]  # [(B,) T, S]

    def restrict_to(self, key_positions: Any) -> "Mask":
        """The same mask, with its choice of keys restricted to these.

        Rules such as `masks.big_bird` choose some of the keys. The restricted mask
        keeps this choice when it is built for a part of the keys only.

        Args:
            key_positions: Int `[S]` or `[B, S]`, -1 in empty slots and at padding.
        """
        return self

    @property
    def of_positions(self) -> bool:
        """Whether the mask can be built for any part of the queries and keys.

        `False` for masks that hold a tensor of slots, such as `masks.padding(keep)`.
        """
        parts = (part for part in vars(self).values() if isinstance(part, Mask))
        return all(part.of_positions for part in parts)

    @property
    def reach(self) -> tuple[int, int]:
        """The largest distances of visible keys `(behind, ahead)` of a query."""
        return FAR, FAR

    def __and__(self, other: "Mask") -> "Mask":
        return _All(self, _require_mask(other, "&"))

    def __or__(self, other: "Mask") -> "Mask":
        return _Any(self, _require_mask(other, "|"))

    def __invert__(self) -> "Mask":
        return _Not(self)

    def draw(self, query_length: int, key_length: int | None = None) -> str:
        """The mask as text: one line per query, `1` = visible, `.` = hidden.

        Args:
            query_length: The number of queries, at positions 0, 1, 2, …
            key_length: The number of keys; as many as queries when `None`.

        Returns:
            The drawing; rows of a batch are separated by an empty line.
        """
        key_length = query_length if key_length is None else key_length
        mask = self.build(first_positions(query_length), first_positions(key_length))
        mask = ops.convert_to_numpy(mask)
        batch = mask.shape[0] if mask.ndim == 3 else 1
        mask = np.broadcast_to(mask, (batch, query_length, key_length))
        rows = (["1" if key else "." for key in row] for one in mask for row in one)
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


register = keras.saving.register_keras_serializable("keras_attention")
"""Registers a mask that is saved with the models that hold it."""


@register
class _All(Mask):
    def __init__(self, left: Mask, right: Mask):
        self.left, self.right = left, right

    def build(self, query_positions, key_positions):
        left = self.left.build(query_positions, key_positions)
        return left & self.right.build(query_positions, key_positions)

    def restrict_to(self, key_positions):
        left = self.left.restrict_to(key_positions)
        return _All(left, self.right.restrict_to(key_positions))

    @property
    def reach(self):
        sides = zip(self.left.reach, self.right.reach, strict=True)
        behind, ahead = (min(side) for side in sides)
        return behind, ahead

    def get_config(self):
        return _serialize_sides(self)

    def __repr__(self):
        return f"({self.left!r} & {self.right!r})"


@register
class _Any(Mask):
    def __init__(self, left: Mask, right: Mask):
        self.left, self.right = left, right

    def build(self, query_positions, key_positions):
        left = self.left.build(query_positions, key_positions)
        return left | self.right.build(query_positions, key_positions)

    def restrict_to(self, key_positions):
        left = self.left.restrict_to(key_positions)
        return _Any(left, self.right.restrict_to(key_positions))

    @property
    def reach(self):
        sides = zip(self.left.reach, self.right.reach, strict=True)
        behind, ahead = (max(side) for side in sides)
        return behind, ahead

    def get_config(self):
        return _serialize_sides(self)

    def __repr__(self):
        return f"({self.left!r} | {self.right!r})"


@register
class _Not(Mask):
    def __init__(self, mask: Mask):
        self.mask = mask

    def build(self, query_positions, key_positions):
        return ~self.mask.build(query_positions, key_positions)

    def restrict_to(self, key_positions):
        return _Not(self.mask.restrict_to(key_positions))

    def get_config(self):
        return {"mask": keras.saving.serialize_keras_object(self.mask)}

    def __repr__(self):
        return f"~{self.mask!r}"


def _serialize_sides(mask: Any) -> dict:
    serialize = keras.saving.serialize_keras_object
    return {"left": serialize(mask.left), "right": serialize(mask.right)}
