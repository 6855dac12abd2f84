import keras
import numpy as np
import pytest
from contracts.kinds import relative_error, to_numpy, weights_that_are_copies
from models.seq2seq_test import SOURCE, SOURCE_MASK, TARGET, whole, with_drawn_weights

import keras_attention as ka

V11 = {"gated": True, "activation": "gelu_tanh", "tied_head": False}
V11 |= {"scale_output": False, "num_decoder_layers": 1}


def t5(**kwargs):
    sizes = {"num_buckets": 6, "max_distance": 5, "head_dim": 5}
    model = ka.T5EncoderDecoder(13, 2, 2, 6, 11, **{**sizes, **kwargs})
    return with_drawn_weights(model)


@pytest.mark.parametrize(
    "settings", [V11, pytest.param({}, marks=pytest.mark.slow)], ids=str
)
def test_steps_through_caches_are_the_whole(settings):
    model = t5(**settings)
    expected = whole(model)
    cache, parts = model.empty_cache(model.encode(SOURCE, SOURCE_MASK)), []
    for part in np.split(TARGET, [3, 4], axis=1):
        outputs = model(decoder_token_ids=part, cache=cache)
        cache = outputs["cache"]
        parts.append(to_numpy(outputs["logits"]))
    assert relative_error(np.concatenate(parts, axis=1), expected["logits"]) <= 1e-5
    assert expected["encoder_sequence_output"].shape == (2, 5, 6)


def test_each_side_has_one_table_of_positions():
    paths = [w.path for w in t5().weights if "relative_position" in w.path]
    assert len(paths) == 2


@pytest.mark.parametrize("scaled", [True, False])
def test_the_head_reads_the_decoder_scaled_or_not(scaled):
    model = t5(scale_output=scaled)
    outputs = whole(model)
    table = to_numpy(model.token_embedding.embeddings)
    expected = outputs["sequence_output"] @ table.T * (6**-0.5 if scaled else 1.0)
    assert relative_error(outputs["logits"], expected) <= 1e-6


def test_saving_and_loading_changes_no_bit(tmp_path):
    model = t5(**V11)
    expected = whole(model)["logits"]
    model.save(tmp_path / "t5.keras")
    loaded = keras.models.load_model(tmp_path / "t5.keras")
    assert np.array_equal(whole(loaded)["logits"], expected)
    assert loaded.get_config() == model.get_config()


def test_no_weight_starts_as_a_copy_of_another():
    assert weights_that_are_copies(ka.T5EncoderDecoder(13, 2, 2, 6, 11)) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_learns_to_copy():
    rng = np.random.default_rng(1)
    source = rng.integers(2, 13, (256, 3))
    target = np.concatenate([np.zeros((256, 1), int), source[:, :-1]], axis=1)
    sizes = {"head_dim": 8, "dropout": 0.0, "scale_output": False}
    model = ka.T5EncoderDecoder(13, 1, 4, 32, 64, **sizes, tied_head=False)
    ids = {
        "encoder_token_ids": keras.Input((3,), dtype="int32", name="encoder_token_ids"),
        "decoder_token_ids": keras.Input((3,), dtype="int32", name="decoder_token_ids"),
    }
    trained = keras.Model(ids, model(ids)["logits"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(5e-3), loss)
    data = {"encoder_token_ids": source, "decoder_token_ids": target}
    history = trained.fit(data, source, epochs=60, batch_size=64, verbose=0)
    assert history.history["loss"][-1] < 0.1
