"""Global tokens with heads of their own, and rows at their positions."""

import numpy as np
import pytest
import tensorflow as tf

from keras_attention.ops import masks
from keras_attention.ops.attend import dot_product_attention
from keras_attention.ops.heads import HeadSettings
from keras_attention.ops.positions import first_positions
from keras_attention.ops.sparse.global_tokens import global_token_attention, rows_at
from keras_attention.ops.sparse.inputs import SelfAttentionInputs

pytestmark = pytest.mark.tensorflow

POSITIONS = (0, 9, 40)
HEADS = HeadSettings(4, 2, scale=0.3)


def drawn(seed, length=37):
    random = np.random.default_rng(seed)
    shapes = [(2, length, size) for size in (4 * 3, 2 * 3, 2 * 5)]
    return [tf.constant(random.standard_normal(s), "float32") for s in shapes]


@pytest.mark.parametrize("causal", [False, True])
def test_global_queries_can_attend_with_heads_of_their_own(causal):
    """As in Longformer: the other queries see global keys through their own heads."""
    local, other = drawn(0), drawn(1)
    key_mask = tf.constant(np.random.default_rng(2).random((2, 37)) < 0.8)
    positions = first_positions(37)
    mask = masks.window(3, 2) | masks.global_tokens(POSITIONS)
    mask = masks.causal & mask if causal else mask
    mask = mask.build(positions, positions)[None, None] & key_mask[:, None, None]

    def dense(tensors):
        named = dict(zip(("query", "key", "value"), tensors, strict=True))
        return dot_product_attention(mask=mask, **named, heads=HEADS)[0]

    is_global = np.isin(np.arange(37), POSITIONS)[:, None]
    expected = tf.where(is_global, dense(other), dense(local))
    result = global_token_attention(
        SelfAttentionInputs(*local, HEADS, key_mask=key_mask),
        window=(3, 2),
        positions=POSITIONS,
        causal=causal,
        global_heads=(rows_at(other[0], POSITIONS), *other[1:]),
    )
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert np.abs(result - dense(local))[:, 0].max() > 0.1


def test_rows_beyond_the_end_are_0():
    x = tf.constant([[[2.0], [3.0]], [[5.0], [7.0]]])
    assert rows_at(x, (1, 2, 9)).numpy().tolist() == [[[3], [0], [0]], [[7], [0], [0]]]
    key_mask = tf.constant([[True, True]])
    assert rows_at(key_mask, (0, 4)).numpy().tolist() == [[True, False]]
    assert rows_at(x[:, :0], (0,)).numpy().tolist() == [[[0]], [[0]]]
