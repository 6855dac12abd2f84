import keras
import numpy as np
import pytest

from keras_attention.tasks.batches import (
    IGNORED,
    ArrayBatches,
    PaddedBatches,
    PairBatches,
    padded_length,
)
from keras_attention.tasks.common import batches_by_length, label_ids

LENGTHS = [3, 11, 5, 2, 7, 3, 13]


def rows():
    return [
        {"token_ids": np.full(n, place + 1, "int32")} for place, n in enumerate(LENGTHS)
    ]


def test_each_row_comes_once_an_epoch_with_its_target_and_its_mask():
    batches = PaddedBatches(
        rows(), np.arange(7), batch_size=3, padding={"token_ids": 99}
    )
    for _ in range(2):
        seen = []
        for index in range(batches.num_batches):
            inputs, targets = batches[index]
            masks = inputs["padding_mask"]
            assert (inputs["token_ids"][~masks] == 99).all()
            for ids, mask, target in zip(
                inputs["token_ids"], masks, targets, strict=True
            ):
                assert ids[mask].tolist() == [target + 1] * LENGTHS[target]
                seen.append(target)
        assert sorted(seen) == list(range(7))
        batches.on_epoch_end()


def test_rows_come_in_another_order_each_epoch_or_in_one():
    def order(batches):
        return [batches[i][1].tolist() for i in range(batches.num_batches)]

    shuffled = PaddedBatches(rows(), np.arange(7), batch_size=2)
    before = order(shuffled)
    shuffled.on_epoch_end()
    assert order(shuffled) != before
    ordered = PaddedBatches(rows(), np.arange(7), batch_size=2, shuffle=False)
    before = order(ordered)
    ordered.on_epoch_end()
    assert order(ordered) == before


def test_rows_of_one_shape_come_once_an_epoch_with_their_targets():
    inputs = np.arange(7 * 3).reshape(7, 3)
    batches = ArrayBatches(inputs, np.arange(7), batch_size=3)
    orders = []
    for _ in range(2):
        found = [batches[index] for index in range(batches.num_batches)]
        assert [len(targets) for _, targets in found] == [3, 3, 1]
        for rows_of_batch, targets in found:
            assert (rows_of_batch == inputs[targets]).all()
        orders.append(np.concatenate([targets for _, targets in found]).tolist())
        assert sorted(orders[-1]) == list(range(7))
        batches.on_epoch_end()
    assert orders[0] != orders[1]
    ordered = ArrayBatches(inputs, np.arange(7), batch_size=7, shuffle=False)
    ordered.on_epoch_end()
    assert ordered[0][1].tolist() == list(range(7))
    with pytest.raises(ValueError, match=r"at least one row.*Received: 0 rows"):
        ArrayBatches(inputs[:0], np.arange(0))
    with pytest.raises(ValueError, match=r"one in a batch.*batch_size=0"):
        ArrayBatches(inputs, np.arange(7), batch_size=0)


KINDS = {
    "padded": lambda seed: PaddedBatches(
        rows() * 5, np.arange(35), batch_size=2, seed=seed
    ),
    "pairs": lambda seed: PairBatches(
        rows() * 5,
        [np.arange(1, n) for n in LENGTHS] * 5,
        start_token_id=0,
        padding={"token_ids": 0},
        batch_size=2,
        seed=seed,
    ),
    "arrays": lambda seed: ArrayBatches(
        np.arange(7), np.arange(7), batch_size=2, seed=seed
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_a_function_of_seed_epoch_and_number(kind):
    def epoch_of(batches):
        arrays = keras.tree.flatten([batches[i] for i in range(batches.num_batches)])
        return [one.tolist() for one in arrays]

    batches = KINDS[kind](3)
    assert batches.epoch == 0
    epochs = []
    for number in range(4):
        assert batches.epoch == number
        epochs.append(epoch_of(batches))
        assert epoch_of(batches) == epochs[-1]  # reading draws nothing
        batches.on_epoch_end()
    assert len({str(one) for one in epochs}) == 4
    resumed = KINDS[kind](3)
    for number in (2, 0, 3):  # in any order, without the epochs between
        resumed.epoch = number
        assert epoch_of(resumed) == epochs[number]
    assert epoch_of(KINDS[kind](4)) != epochs[0]


@pytest.mark.tensorflow
def test_fit_begins_with_the_batches_of_the_epoch_that_was_set():
    class Watched(ArrayBatches):
        def __getitem__(self, index):
            seen.append((self.epoch, index))
            return super().__getitem__(index)

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    quiet = {"shuffle": False, "verbose": 0}
    for steps in (None, 4):
        seen = []
        batches = Watched(np.ones((7, 1)), np.ones((7, 1)), batch_size=2)
        batches.epoch = 5
        model.fit(batches, epochs=3, steps_per_epoch=steps, **quiet)
        assert batches.epoch == 8
        trained = [(epoch, index) for epoch in (5, 6, 7) for index in range(4)]
        assert seen[-12:] == trained  # Keras looks at some before it begins
        model.evaluate(batches, verbose=0)
        model.fit(batches, epochs=2, steps_per_epoch=steps, **quiet)
        assert batches.epoch == 11


def test_batches_have_few_lengths_that_are_little_longer_than_their_rows():
    lengths = [padded_length(n) for n in range(1, 97)]
    assert sorted({*lengths}) == [*range(4, 32, 4), *range(32, 64, 8), 64, 80, 96]
    for length in range(1, 3000):
        assert length <= padded_length(length) <= max(length + 3, 1.25 * length)
    assert [padded_length(n, 1) for n in (1, 5, 9)] == [1, 5, 9]
    assert [padded_length(n, 7) for n in (1, 7, 9)] == [7, 7, 14]


def test_an_axis_that_keras_takes_as_static_is_the_same_in_every_epoch():
    draw = np.random.default_rng(7)
    static = 0
    for _ in range(200):
        size, number = int(draw.integers(1, 5)), int(draw.integers(2, 12))
        lengths = draw.choice([3, 4, 5, 9], number, p=[0.1, 0.1, 0.4, 0.4])
        given = [{"token_ids": np.ones(n, "int32")} for n in lengths]
        batches = PaddedBatches(given, np.arange(number), batch_size=size)
        epochs = []
        for _ in range(6):
            found = [batches[i] for i in range(batches.num_batches)]
            rows_of_epoch = np.concatenate([targets for _, targets in found])
            assert sorted(rows_of_epoch) == list(range(number))
            epochs.append([inputs["token_ids"].shape[1] for inputs, _ in found])
            batches.on_epoch_end()
        assert batches.num_batches == -(-number // size) == len(epochs[0])
        for widths in epochs:
            if len({*widths[:2]}) == 1:
                static += 1
                assert {w for one in epochs for w in one} == {widths[0]}
    assert 0 < static < 6 * 200


def test_the_first_two_batches_differ_in_length_so_that_keras_sees_a_dynamic_axis():
    for seed in range(5):
        batches = PaddedBatches(rows(), np.arange(7), batch_size=2, seed=seed)
        sizes = [batches[i][0]["token_ids"].shape[1] for i in range(4)]
        assert sizes[0] == max(sizes)
        assert sizes[1] == min(sizes)


def test_targets_of_tokens_are_padded_with_a_label_that_does_not_count():
    targets = [np.arange(n) for n in LENGTHS]
    batches = PaddedBatches(rows(), targets, per_token=True, batch_size=3)
    inputs, padded = batches[0]
    mask = inputs["padding_mask"]
    assert padded.shape == mask.shape
    assert (padded[~mask] == IGNORED).all()
    assert (padded[mask] >= 0).all()


def test_rows_of_similar_length_are_computed_together():
    chosen = [list(part) for part in batches_by_length(LENGTHS, 3, False)]
    assert chosen == [[3, 0, 5], [2, 4, 1], [6]]
    with pytest.raises(ValueError, match=r"batch_size.*Received: batch_size=0"):
        list(batches_by_length(LENGTHS, 0, False))


def test_labels_are_names_or_numbers():
    assert label_ids(["b", 0, np.int64(1)], ("a", "b")).tolist() == [1, 0, 1]
    for wrong in ("c", 2, -1):
        with pytest.raises(ValueError, match="Received: "):
            label_ids([wrong], ("a", "b"))
