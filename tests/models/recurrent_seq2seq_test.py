import keras
import numpy as np
import pytest
from contracts.kinds import relative_error, to_numpy
from models.seq2seq_test import SOURCE, SOURCE_MASK, TARGET, whole

import keras_attention as ka

both_kinds = pytest.mark.parametrize(
    ("attention", "cell"), [("bahdanau", "gru"), ("luong", "lstm")]
)


def recurrent(attention="bahdanau", cell="gru", **kwargs):
    keras.utils.set_random_seed(1)
    return ka.RecurrentSeq2Seq(13, 7, 10, attention=attention, cell=cell, **kwargs)


@both_kinds
def test_steps_are_the_whole_and_padding_changes_nothing(attention, cell):
    model = recurrent(attention, cell)
    expected = whole(model)["logits"]
    assert expected.shape == (2, 7, 13)
    cache, parts = model.empty_cache(model.encode(SOURCE, SOURCE_MASK)), []
    for part in np.split(TARGET, [3, 4], axis=1):
        outputs = model(decoder_token_ids=part, cache=cache)
        cache = outputs["cache"]
        parts.append(to_numpy(outputs["logits"]))
    assert relative_error(np.concatenate(parts, axis=1), expected) <= 1e-5
    alone = to_numpy(model(SOURCE[1:, :3], None, TARGET[1:])["logits"])
    assert relative_error(expected[1:], alone) <= 1e-5


def test_its_attention_is_recorded_and_ignores_padding():
    inputs = {"encoder_token_ids": SOURCE, "encoder_padding_mask": SOURCE_MASK}
    maps = ka.attention_maps(recurrent(), {**inputs, "decoder_token_ids": TARGET})
    (weights,) = maps.values()
    assert np.allclose(weights.sum(-1), 1.0, atol=1e-6)
    seen = np.broadcast_to(SOURCE_MASK[:, None], weights.shape)
    assert np.array_equal(weights > 0, seen)


@both_kinds
def test_saving_and_loading_changes_no_bit(attention, cell, tmp_path):
    model = recurrent(attention, cell)
    expected = whole(model)["logits"]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(whole(loaded)["logits"], expected)
    assert loaded.get_config() == model.get_config()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"attention": "shaw"}, "attention"),
        ({"cell": "rnn"}, "cell"),
        ({"hidden_dim": 7}, "hidden_dim"),
    ],
)
def test_wrong_arguments_are_refused(settings, name):
    with pytest.raises(ValueError, match=rf"`{name}`.*Received: "):
        ka.RecurrentSeq2Seq(13, **settings)


@pytest.mark.slow
@pytest.mark.timeout(600)
@both_kinds
def test_it_learns_to_write_backwards(attention, cell):
    rng = np.random.default_rng(1)
    source = rng.integers(2, 13, (256, 3))
    reverse = source[:, ::-1]
    target = np.concatenate([np.ones((256, 1), int), reverse[:, :-1]], axis=1)
    keras.utils.set_random_seed(1)
    model = ka.RecurrentSeq2Seq(13, 16, 32, attention=attention, cell=cell)
    ids = {
        "encoder_token_ids": keras.Input((3,), dtype="int32", name="encoder_token_ids"),
        "decoder_token_ids": keras.Input((3,), dtype="int32", name="decoder_token_ids"),
    }
    trained = keras.Model(ids, model(ids)["logits"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(1e-2), loss)
    data = {"encoder_token_ids": source, "decoder_token_ids": target}
    history = trained.fit(data, reverse, epochs=40, batch_size=64, verbose=0)
    assert history.history["loss"][-1] < 0.1
