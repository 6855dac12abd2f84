"""Attention to chosen blocks, and the random choice of blocks."""

import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import to_numpy

from keras_attention.ops import masks
from keras_attention.ops.attend import dot_product_attention
from keras_attention.ops.heads import HeadSettings
from keras_attention.ops.positions import first_positions
from keras_attention.ops.shuffle import shuffled
from keras_attention.ops.sparse.block_sparse import block_sparse_attention
from keras_attention.ops.sparse.inputs import SelfAttentionInputs


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("block_mask", "num_visible_blocks"),
    [
        (masks.window(1, 0), 2),
        (masks.dilated(3), 5),
        (masks.blocks(2), 4),  # more than there are to see
        (~masks.window(99, 99), 1),  # nothing
    ],
    ids=repr,
)
def test_any_mask_of_blocks_works(block_mask, num_visible_blocks):
    random = np.random.default_rng(0)
    x = tf.constant(random.standard_normal((2, 41, 6)), "float32")
    key_mask = tf.constant(random.random((2, 41)) < 0.7)
    common = {"query": x, "key": x, "value": x, "heads": HeadSettings(num_heads=2)}
    blocks = first_positions(41) // 3
    mask = block_mask.build(blocks, blocks) & key_mask[:, None, None, :]
    expected, _ = dot_product_attention(mask=mask, **common)
    result = block_sparse_attention(
        SelfAttentionInputs(**common, key_mask=key_mask),
        block_mask=block_mask,
        block_size=3,
        num_visible_blocks=num_visible_blocks,
    )
    np.testing.assert_allclose(result, expected, atol=1e-6)


def choice(mask, blocks, keys=None):
    """Which blocks see which, `[blocks, blocks]`; `keys` is `True` where one exists."""
    positions = np.arange(blocks)
    keys = positions if keys is None else np.where(keys, positions, -1)
    return to_numpy(mask.visible(positions, keys))


def test_the_requested_number_of_blocks_is_drawn():
    seen = choice(masks.big_bird(1, 3, 3, 2, seed=5), 31)
    assert seen[:2].all()
    assert (seen[3:-1].sum(axis=1) == 2 + 3 + 3).all()
    assert seen[:, :2].all()


@pytest.mark.tensorflow
def test_the_draw_of_a_seed_never_changes():
    """Models are trained with a draw: another draw would be another model."""
    assert masks.big_bird(1, 1, 1, 1, seed=0).draw(8) == (
        "1 1 1 1 1 1 1 1\n"
        "1 1 . . . 1 . .\n"
        "1 1 1 . . . . .\n"
        "1 . . 1 1 . . .\n"
        "1 . . . 1 1 . .\n"
        "1 . . . 1 1 . .\n"
        "1 . 1 . . . 1 .\n"
        "1 . . . 1 . . 1"
    )
    # From Python's own integers, which cannot overflow.
    columns = np.arange(4, dtype="int32")
    order = to_numpy(shuffled(np.full(1, 2, "int32"), columns, 7))
    assert order.tolist() == [20673, 6317, 10430, 15205]
    order = to_numpy(shuffled(tf.constant(100_000), tf.constant(columns), -3))
    assert order.tolist() == [22410, 35957, 4110, 33552]


def test_only_existing_keys_are_drawn():
    keys = np.arange(23) % 3 != 1
    keys[17:] = False
    rule = masks.big_bird(1, 2, 1, 1, seed=3)
    assert np.array_equal(choice(rule, 17, keys[:17]), choice(rule, 23, keys)[:17, :17])
    drawn = choice(rule, 23, keys)
    np.fill_diagonal(drawn, False)
    assert not drawn[:, ~keys].any()
    assert (drawn[1:17].sum(axis=1) == 3).all()


def test_later_keys_change_no_causal_draw():
    rule = masks.causal & masks.big_bird(1, 2, 1, 0, seed=3, causal=True)
    assert np.array_equal(choice(rule, 13), choice(rule, 29)[:13, :13])
    assert (choice(rule, 29).sum(axis=1) == np.minimum(np.arange(29), 2) + 1).all()


def test_every_key_is_drawn_about_equally_often():
    count, places = np.zeros((16, 16)), np.arange(16, dtype="int32")
    for seed in range(500):
        order = shuffled(places[:, None], places, seed)
        count += order >= np.sort(order)[:, -3:-2]
    expected = 500 * 3 / 16
    deviation = (count - expected) / np.sqrt(expected * 13 / 16)
    assert abs(deviation).max() < 4.5
    assert 0.8 < deviation.std() < 1.2


def test_a_mask_built_in_pieces_equals_the_mask_built_at_once():
    positions = np.arange(29)
    mask = masks.causal & ~masks.big_bird(3, 2, 1, 1) | masks.blocks(4)
    whole = to_numpy(mask.build(positions, positions))
    restricted = mask.restrict_to(positions)

    def build(*some):
        return to_numpy(restricted.build(*some))

    pieces = [
        np.concatenate(
            [
                build(positions[t : t + 7], positions[s : s + 5])
                for s in range(0, 29, 5)
            ],
            axis=1,
        )
        for t in range(0, 29, 7)
    ]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_the_columns_of_a_row_are_shuffled_without_repetition():
    columns = np.arange(46337, dtype="int32")
    for row in (0, 1, 2**31 - 46338):
        order = to_numpy(shuffled(np.int32(row), columns, seed=-3))
        assert np.array_equal(np.sort(order), columns)
        assert abs(np.corrcoef(order, columns)[0, 1]) < 0.02
