"""Conversion of Keras' attention layers to layers of this library."""

from typing import Any

import keras

from keras_attention.layers.additive_attention import AdditiveAttention
from keras_attention.layers.base import AttentionLayer
from keras_attention.layers.dot_product_attention import DotProductAttention
from keras_attention.layers.multi_head_attention import MultiHeadAttention


def from_keras(layer: Any) -> AttentionLayer:
    """Converts an attention layer of Keras; its weights are copied.

    Use it to convert a trained model layer by layer. The numbers are the same for every
    query that can attend to a key; docs/drop-in.md explains what differs, and why.

    Args:
        layer: A built `keras.layers.MultiHeadAttention`, `GroupQueryAttention`,
            `Attention` or `AdditiveAttention`.

    Returns:
        A built `MultiHeadAttention`, `DotProductAttention` or `AdditiveAttention`.

    Raises:
        ValueError: If `layer` is something else, is not built, or has options that
            this library does not have.

    Example:
    >>> theirs = keras.layers.GroupQueryAttention(8, 4, 2)
    >>> theirs.build((None, None, 32), (None, None, 32))
    >>> ours = ka.from_keras(theirs)
    >>> ours.num_heads, ours.num_key_value_heads
    (4, 2)
    """
    concat = getattr(layer, "score_mode", None) == "concat"
    kinds = {
        keras.layers.MultiHeadAttention: MultiHeadAttention,
        keras.layers.GroupQueryAttention: MultiHeadAttention,
        keras.layers.Attention: AdditiveAttention if concat else DotProductAttention,
        keras.layers.AdditiveAttention: AdditiveAttention,
    }
    kind = kinds.get(type(layer))
    if kind is None:
        names = ", ".join(f"keras.layers.{kind.__name__}" for kind in kinds)
        raise ValueError(
            f"`from_keras` converts {names}, and no subclasses, which may compute "
            f"something else. Received: layer={layer!r}"
        )
    return kind.from_keras(layer)
