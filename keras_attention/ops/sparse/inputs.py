"""The inputs that every sparse way of computing self-attention shares."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_attention.ops.heads import HeadSettings

Bias = Callable[[Any, Any], Any]
"""`(query positions [t], key positions [s]) -> [1, N, t, s]`.

It may depend on the differences of the positions only.
"""


@dataclass(frozen=True)
class SelfAttentionInputs:
    """The tensors of one self-attention, and what changes its scores and weights.

    Attributes:
        query: `[B, T, N * H]`.
        key: `[B, T, K * H]`.
        value: `[B, T, K * V]`.
        heads: The numbers of heads, the scale and the soft cap.
        key_mask: Bool `[B, T]`, `True` at non-padding tokens, or `None`.
        bias: A function whose result is added to the scores, or `None`; see `Bias`.
        dropout: A function that is called with the weights, or `None`.
    """

    query: Any
    key: Any
    value: Any
    heads: HeadSettings
    key_mask: Any = None
    bias: Bias | None = None
    dropout: Callable | None = None
