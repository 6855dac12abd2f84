import keras
import numpy as np
import pytest
from contracts.kinds import relative_error, to_numpy, weights_that_are_copies
from oracle import drawn

import keras_attention as ka

SOURCE = np.array([[5, 3, 8, 1, 9], [2, 7, 1, 0, 0]])
SOURCE_MASK = drawn("1 1 1 1 1\n1 1 1 . .")
TARGET = np.array([[1, 4, 6, 11, 2, 7, 3], [1, 9, 12, 5, 8, 2, 10]])

KINDS = {
    "original": {},
    "bart": {
        "positions": "learned",
        "position_offset": 2,
        "scale_embedding": False,
        "normalize_embedding": True,
        "use_logits_bias": True,
        "max_sequence_length": 7,
        "decoder": {"num_layers": 1, "num_heads": 3},
    },
    "marian-pre": {"positions": "concatenated", "norm": "pre"},
}
every_kind = pytest.mark.parametrize(
    "settings",
    [
        pytest.param(settings, id=name, marks=[pytest.mark.slow] * (name != "bart"))
        for name, settings in KINDS.items()
    ],
)


def with_drawn_weights(model):
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        if len(weight.shape) > 1 or "logits_bias" in weight.path:
            weight.assign(rng.normal(scale=0.4, size=weight.shape))
    return model


def seq2seq(**kwargs):
    return with_drawn_weights(ka.Seq2SeqTransformer(13, 2, 2, 6, 11, **kwargs))


def whole(model, target=TARGET):
    return to_numpy(model(SOURCE, SOURCE_MASK, target))


@every_kind
def test_outputs_have_their_shapes_and_names(settings):
    outputs = whole(seq2seq(**settings))
    shapes = {name: x.shape for name, x in outputs.items()}
    assert shapes == {
        "encoder_sequence_output": (2, 5, 6),
        "sequence_output": (2, 7, 6),
        "logits": (2, 7, 13),
    }


@every_kind
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        pytest.param(ka.KVCache, {}, id="growing"),
        pytest.param(
            ka.FixedKVCache, {"capacity": 7}, id="fixed", marks=pytest.mark.slow
        ),
    ],
)
def test_steps_through_caches_are_the_whole(settings, kind, sizes):
    model = seq2seq(**settings)
    expected = whole(model)["logits"]
    cache = model.empty_cache(model.encode(SOURCE, SOURCE_MASK), kind, **sizes)
    assert len(cache) == len(model.decoder_blocks)
    parts = []
    for part in np.split(TARGET, [3, 4, 5], axis=1):
        outputs = model(decoder_token_ids=part, cache=cache)
        cache = outputs["cache"]
        parts.append(to_numpy(outputs["logits"]))
    assert relative_error(np.concatenate(parts, axis=1), expected) <= 1e-5
    assert to_numpy(cache[0].lengths).tolist() == [7, 7]


def test_a_step_does_not_project_the_encoders_keys_again():
    model = seq2seq()
    cache = model.empty_cache(model.encode(SOURCE, SOURCE_MASK))
    before = to_numpy(model.decode(TARGET[:, :1], cache=cache)["logits"])
    for block in model.decoder_blocks:
        for name in ("key", "value"):
            kernel = getattr(block.cross_attention, f"{name}_projection").kernel
            kernel.assign(kernel * np.nan)
    after = to_numpy(model.decode(TARGET[:, :1], cache=cache)["logits"])
    assert np.array_equal(before, after)


def test_caches_are_reordered_and_cropped_with_both_their_parts():
    model = seq2seq()
    cache = model.empty_cache(model.encode(SOURCE, SOURCE_MASK))
    cache = model.decode(TARGET[:, :5], cache=cache)["cache"]
    swapped = [one.reorder([1, 0]).crop(3) for one in cache]
    step = model.decode(TARGET[::-1, 3:4], cache=swapped)["logits"]
    expected = whole(model)["logits"][::-1, 3:4]
    assert relative_error(to_numpy(step), expected) <= 1e-5


@every_kind
def test_padding_of_both_sides_changes_nothing(settings):
    model = seq2seq(**settings)
    mask = drawn("1 1 1 1 1 1 1\n1 1 1 1 . . .")
    for filler in (0, 12):
        source = np.where(SOURCE_MASK, SOURCE, filler)
        target = np.where(mask, TARGET, filler)
        padded = to_numpy(model(source, SOURCE_MASK, target, mask)["logits"])
        alone = to_numpy(model(SOURCE[1:, :3], None, TARGET[1:, :4])["logits"])
        assert relative_error(padded[1:, :4], alone) <= 1e-5


def test_a_token_sees_no_later_one():
    model, changed = seq2seq(), TARGET.copy()
    changed[:, 4:] = 12
    before, after = whole(model)["logits"], whole(model, changed)["logits"]
    assert np.array_equal(before[:, :4], after[:, :4])
    assert not np.array_equal(before[:, 4:], after[:, 4:])


def test_the_head_is_the_transposed_table_and_its_bias():
    model = seq2seq(use_logits_bias=True)
    outputs = whole(model)
    table = to_numpy(model.token_embedding.embeddings)
    expected = outputs["sequence_output"] @ table.T + to_numpy(model.logits_bias)
    assert relative_error(outputs["logits"], expected) <= 1e-6


@pytest.mark.parametrize(
    ("inputs", "name"),
    [
        ({"encoder_token_ids": SOURCE}, "decoder_token_ids"),
        ({"token_ids": SOURCE, "decoder_token_ids": TARGET}, "encoder_token_ids"),
        ({"decoder_token_ids": TARGET}, "encoder_token_ids"),
    ],
)
def test_wrong_inputs_are_refused(inputs, name):
    with pytest.raises(ValueError, match=rf"(?s){name}.*Received: "):
        seq2seq()(inputs)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"decoder": {"hidden_dim": 3}}, "decoder"),
        ({"positions": "learned"}, "max_sequence_length"),
        ({"positions": "rotary"}, "positions"),
        ({"decoder": {"num_heads": 5}}, "num_heads"),
    ],
)
def test_wrong_arguments_are_refused(settings, name):
    with pytest.raises(ValueError, match=rf"{name}.*Received: "):
        seq2seq(**settings)


@every_kind
def test_saving_and_loading_changes_no_bit(settings, tmp_path):
    model = seq2seq(**settings)
    expected = whole(model)["logits"]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(whole(loaded)["logits"], expected)
    assert loaded.get_config() == model.get_config()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_functional_model_of_it_trains():
    inputs = {
        "encoder_token_ids": keras.Input(
            (None,), dtype="int32", name="encoder_token_ids"
        ),
        "encoder_padding_mask": keras.Input(
            (None,), dtype="bool", name="encoder_padding_mask"
        ),
        "decoder_token_ids": keras.Input(
            (None,), dtype="int32", name="decoder_token_ids"
        ),
    }
    inner = ka.Seq2SeqTransformer(13, 1, 2, 6, 11, dropout=0.0)
    model = keras.Model(inputs, inner(inputs)["logits"])
    data = {
        "encoder_token_ids": SOURCE,
        "encoder_padding_mask": SOURCE_MASK,
        "decoder_token_ids": TARGET[:, :-1],
    }
    assert relative_error(model(data), inner(data)["logits"]) <= 1e-6
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    history = model.fit(data, TARGET[:, 1:], epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_half_precision_stays_close():
    outputs = whole(seq2seq(dtype="mixed_bfloat16"))
    exact = whole(seq2seq())["sequence_output"]
    half = keras.ops.cast(outputs["sequence_output"], "float32")
    assert relative_error(half, exact) <= 4e-2


def test_no_weight_starts_as_a_copy_of_another():
    assert weights_that_are_copies(ka.Seq2SeqTransformer(13, 2, 2, 6, 11)) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_learns_to_write_backwards():
    rng = np.random.default_rng(1)
    source = rng.integers(2, 13, (512, 5))
    reverse = source[:, ::-1]
    target = np.concatenate([np.ones((512, 1), int), reverse[:, :-1]], axis=1)
    model = ka.Seq2SeqTransformer(13, 1, 2, 32, 64, dropout=0.0)
    ids = {
        "encoder_token_ids": keras.Input((5,), dtype="int32", name="encoder_token_ids"),
        "decoder_token_ids": keras.Input((5,), dtype="int32", name="decoder_token_ids"),
    }
    trained = keras.Model(ids, model(ids)["logits"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(3e-3), loss)
    data = {"encoder_token_ids": source, "decoder_token_ids": target}
    history = trained.fit(data, reverse, epochs=60, batch_size=64, verbose=0)
    assert history.history["loss"][-1] < 0.1
