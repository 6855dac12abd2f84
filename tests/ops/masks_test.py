import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import to_numpy
from oracle import drawn

from keras_attention.ops import masks

DRAWINGS = {
    "causal": (masks.causal, "1 . . .\n1 1 . .\n1 1 1 .\n1 1 1 1"),
    "full": (masks.full, "1 1 1 1\n1 1 1 1\n1 1 1 1\n1 1 1 1"),
    "window": (masks.window(1, 0), "1 . . .\n1 1 . .\n. 1 1 .\n. . 1 1"),
    "window ahead": (masks.window(0, 2), "1 1 1 .\n. 1 1 1\n. . 1 1\n. . . 1"),
    "dilated": (masks.dilated(2), "1 . 1 .\n. 1 . 1\n1 . 1 .\n. 1 . 1"),
    "blocks": (masks.blocks(3), "1 1 1 .\n1 1 1 .\n1 1 1 .\n. . . 1"),
    "global": (masks.global_tokens([2]), ". . 1 .\n. . 1 .\n1 1 1 1\n. . 1 ."),
    "big bird": (masks.big_bird(1, 1, 1, 1), "1 1 1 1\n1 1 1 .\n1 1 1 .\n1 1 . 1"),
    "no globals": (masks.global_tokens([]), ". . . .\n. . . .\n. . . .\n. . . ."),
    "prefix": (masks.prefix([2]), "1 1 . .\n1 1 . .\n1 1 1 .\n1 1 1 1"),
    "segments": (masks.segments([[5, 5, 7, 5]]), "1 1 . 1\n1 1 . 1\n. . 1 .\n1 1 . 1"),
    "padding": (
        masks.padding([[True, True, False, True]]),
        "1 1 . 1\n1 1 . 1\n1 1 . 1\n1 1 . 1",
    ),
    "queries": (
        masks.queries([[True, False, True, True]]),
        "1 1 1 1\n. . . .\n1 1 1 1\n1 1 1 1",
    ),
    "dense": (masks.dense(np.eye(4) > 0), "1 . . .\n. 1 . .\n. . 1 .\n. . . 1"),
    "and": (
        masks.causal & masks.window(1, 1),
        "1 . . .\n1 1 . .\n. 1 1 .\n. . 1 1",
    ),
    "or": (
        masks.window(0, 0) | masks.global_tokens(0),
        "1 1 1 1\n1 1 . .\n1 . 1 .\n1 . . 1",
    ),
    "not": (~masks.causal, ". 1 1 1\n. . 1 1\n. . . 1\n. . . ."),
    "longformer": (
        (masks.window(1, 1) | masks.global_tokens([0])) & ~masks.dilated(3),
        ". 1 1 .\n1 . 1 .\n1 1 . 1\n. . 1 .",
    ),
}


@pytest.mark.parametrize(("mask", "drawing"), DRAWINGS.values(), ids=DRAWINGS)
def test_a_mask_draws_itself(mask, drawing):
    assert mask.draw(4) == drawing


def test_rows_of_a_batch_are_drawn_one_after_the_other():
    assert masks.padding([[True, False], [False, True]]).draw(1, 2) == "1 .\n\n. 1"


def test_masks_combine_like_booleans():
    def tensor(mask):
        return to_numpy(mask.build(np.arange(5), np.arange(5)))

    left, right = masks.causal, masks.dilated(2)
    assert np.array_equal(tensor(~(left & right)), tensor(~left | ~right))
    assert np.array_equal(tensor(left & right), tensor(left) & tensor(right))
    assert np.array_equal(tensor(~~left), tensor(left))


CACHED = [
    masks.causal,
    masks.window(2, 1),
    masks.dilated(2),
    masks.blocks(3),
    masks.global_tokens([4]),
    masks.prefix([3]),
    masks.big_bird(2, 1, 1, 1),
    (masks.causal & masks.window(3, 0)) | ~masks.blocks(2),
]


@pytest.mark.parametrize("mask", CACHED, ids=repr)
def test_a_later_step_equals_its_row_of_the_whole_mask(mask):
    whole = np.broadcast_to(mask.build(np.arange(6), np.arange(6)), (1, 6, 6))
    for t in range(6):
        step = np.broadcast_to(mask.build(np.array([t]), np.arange(6)), (1, 1, 6))
        assert np.array_equal(step, whole[:, t : t + 1])


@pytest.mark.parametrize("mask", [*CACHED, masks.full, ~masks.causal], ids=repr)
def test_an_empty_slot_is_hidden_from_every_query(mask):
    keys = np.array([[-1, 0, -1, 1], [0, 1, 2, -1]])
    seen = to_numpy(mask.visible(np.array([[1, 2], [0, 3]]), keys))
    seen = np.broadcast_to(seen, (2, 2, 4))
    assert not seen.swapaxes(1, 2)[keys == -1].any()


def test_rows_with_their_own_positions_are_left_padded_prompts():
    positions = np.array([[-1, 0, 1], [0, 1, 2]])
    first, second = to_numpy(masks.causal.visible(positions, positions))
    assert np.array_equal(first, drawn(". . .\n. 1 .\n. 1 1"))
    assert np.array_equal(second, drawn("1 . .\n1 1 .\n1 1 1"))


SAVED = [
    masks.causal,
    masks.full,
    masks.window(2, 1),
    masks.dilated(3),
    masks.blocks(2),
    masks.global_tokens([0, 3]),
    masks.big_bird(1, 1, 3, 0, seed=5, causal=True),
    ~((masks.causal & masks.window(3, 0)) | masks.global_tokens(1)),
]


@pytest.mark.parametrize("mask", SAVED, ids=repr)
def test_a_mask_survives_json(mask):
    text = json.dumps(keras.saving.serialize_keras_object(mask))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert repr(again) == repr(mask)
    assert again.draw(5) == mask.draw(5)


@pytest.mark.parametrize(
    "mask",
    [
        masks.padding([[True]]),
        masks.queries([[True]]),
        masks.segments([[1]]),
        masks.prefix([1]),
        masks.dense([[True]]),
    ],
    ids=repr,
)
def test_saving_a_mask_of_tensors_is_an_error(mask):
    for unsavable in (mask, masks.causal & mask, ~mask):
        with pytest.raises(ValueError, match=r"cannot be saved.*Received: "):
            keras.saving.serialize_keras_object(unsavable)


@pytest.mark.tensorflow
def test_a_mask_works_in_a_graph_of_unknown_lengths():
    mask = (masks.causal & masks.window(2, 0)) | masks.global_tokens([0])

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32)])
    def graph(positions):
        return mask.visible(positions, positions)

    positions = np.array([[0, 1, 2, 3, -1]], "int32")
    assert np.array_equal(graph(positions), mask.visible(positions, positions))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: masks.window(-1, 0), "`behind` and `ahead`"),
        (lambda: masks.dilated(0), "`step`"),
        (lambda: masks.blocks(2.5), "`size`"),
        (lambda: masks.big_bird(0), "`block_size`"),
        (lambda: masks.big_bird(num_random_blocks=-1), "`num_random_blocks`"),
        (lambda: masks.big_bird(num_window_blocks=2), "`num_window_blocks`"),
        (lambda: masks.big_bird(num_global_blocks=-1), "`num_global_blocks`"),
        (lambda: masks.padding(np.ones((2, 3))), "`keep`"),
        (lambda: masks.padding(np.ones((2, 3), int)), "`keep`"),
        (lambda: masks.padding(np.ones(3, bool)), "`keep`"),
        (lambda: masks.queries(np.ones((1, 2, 3), bool)), "`keep`"),
        (lambda: masks.dense([[0.0, -1e9]]), "`array`"),
    ],
)
def test_a_wrong_argument_is_named(make, name):
    with pytest.raises(ValueError, match=rf"{name}.*Received: "):
        make()


@pytest.mark.parametrize("array", [np.ones((2, 3), bool), True, None])
def test_an_array_does_not_combine_with_a_mask(array):
    for combine in (lambda: masks.causal & array, lambda: masks.causal | array):
        with pytest.raises(TypeError, match=r"masks\.padding\(keep\).*Received: "):
            combine()


def test_counts_can_come_from_numpy():
    assert masks.blocks(np.int64(2)).draw(3) == masks.blocks(2).draw(3)
    text = json.dumps(keras.saving.serialize_keras_object(masks.window(np.int64(1), 0)))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert again.draw(3) == masks.window(1, 0).draw(3)
