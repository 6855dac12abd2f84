import keras
import numpy as np
import pytest
from contracts.kinds import relative_error, to_numpy, weights_that_are_copies
from oracle import drawn

import keras_attention as ka

IDS = np.array([[5, 3, 8, 1, 9, 4], [2, 7, 1, 6, 0, 11]])


def gpt(**kwargs):
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 6, "intermediate_dim": 11}
    model = ka.GPTDecoder(13, max_sequence_length=7, **{**sizes, **kwargs})
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(rng.normal(scale=0.4, size=weight.shape))
    return model


LLAMA = {
    "num_key_value_heads": 1,
    "key_dim": 4,
    "position": {
        "max_wavelength": 500.0,
        "scaling": {"rope_type": "linear", "factor": 3},
    },
    "normalization": "rms",
    "activation": "silu",
    "gated": True,
    "use_bias": ["query_key_value"],
    "sliding_window": [None, 3],
    "head": "own",
    "attention_dropout": 0.3,
}
GROUPED = pytest.mark.parametrize(
    "settings",
    [{}, {"num_key_value_heads": 1}, LLAMA],
    ids=["gpt2", "grouped", "llama"],
)


def test_the_head_is_the_transposed_table():
    model = gpt()
    outputs = to_numpy(model(IDS))
    table = to_numpy(model.token_embedding.embeddings)
    assert (
        relative_error(outputs["logits"], outputs["sequence_output"] @ table.T) <= 1e-6
    )


def test_a_token_sees_no_later_one():
    model, changed = gpt(), IDS.copy()
    changed[:, 4:] = 12
    before, after = to_numpy(model(IDS))["logits"], to_numpy(model(changed))["logits"]
    assert np.array_equal(before[:, :4], after[:, :4])
    assert not np.array_equal(before[:, 4:], after[:, 4:])


@GROUPED
@pytest.mark.parametrize("cuts", [[1, 2, 3, 4, 5], [4], [2, 3, 5]], ids=str)
def test_steps_and_chunks_are_the_whole(settings, cuts):
    model = gpt(**settings)
    whole = to_numpy(model(IDS))
    cache, parts = model.empty_cache(2), []
    for part in np.split(IDS, cuts, axis=1):
        outputs = model(part, cache=cache)
        cache = outputs["cache"]
        parts.append(outputs)
    for name in ("logits", "sequence_output"):
        steps = np.concatenate([x[name] for x in parts], axis=1)
        assert relative_error(steps, whole[name]) <= 1e-5
    assert to_numpy(cache[0].lengths).tolist() == [6, 6]


CACHES = {
    "fixed": (ka.FixedKVCache, {"capacity": 6}),
    "rolling": (ka.RollingKVCache, {"window": 6, "num_sink_tokens": 1}),
}


@pytest.mark.parametrize(("kind", "settings"), CACHES.values(), ids=CACHES)
def test_steps_through_other_caches_are_the_whole(kind, settings):
    model = gpt(num_key_value_heads=1)
    whole = to_numpy(model(IDS)["logits"])
    for dtype, near in (("float32", 1e-5), ("int8", 0.05)):
        cache, parts = model.empty_cache(2, kind, dtype=dtype, **settings), []
        for part in np.split(IDS, [3, 4, 5], axis=1):
            outputs = model(part, cache=cache)
            cache = outputs["cache"]
            parts.append(outputs["logits"])
        assert relative_error(np.concatenate(parts, axis=1), whole) <= near


SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 3,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 3,
    },
}
POSITIONS = {
    "learned": "learned",
    "rotary": "rotary",
    "interleaved": {"layout": "interleaved", "max_wavelength": 300.0},
    **{name: {"scaling": scaling} for name, scaling in SCALINGS.items()},
}
LONGER = {
    "growing": (ka.KVCache, {}),
    "fixed": (ka.FixedKVCache, {"capacity": 12}),
    "rolling": (ka.RollingKVCache, {"window": 11, "num_sink_tokens": 1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("position", POSITIONS.values(), ids=POSITIONS)
@pytest.mark.parametrize(("kind", "settings"), LONGER.values(), ids=LONGER)
def test_every_step_is_full_recomputation(position, kind, settings):
    """Behind prompts of different lengths, in every position scheme and cache."""
    model = gpt(position=position, key_dim=4, num_key_value_heads=1)
    prompts, rng = [[5, 3, 8], [2]], np.random.default_rng(2)
    mask = drawn("1 1 1\n. . 1")
    cache = model.empty_cache(2, kind, **settings)
    outputs = model(np.array([[5, 3, 8], [0, 0, 2]]), padding_mask=mask, cache=cache)
    for _ in range(4):
        for row, prompt in enumerate(prompts):
            whole = to_numpy(model(np.array([prompt]))["logits"])[0, -1]
            last = to_numpy(outputs["logits"])[row, -1]
            assert relative_error(last, whole) <= 1e-5
        new = rng.integers(0, 13, (2, 1))
        prompts = [[*a, *b] for a, b in zip(prompts, new.tolist(), strict=True)]
        outputs = model(new, cache=outputs["cache"])


PADDINGS = {
    "left": drawn(". . 1 1 1\n1 1 1 1 1"),
    "right": drawn("1 1 1 . .\n1 1 1 1 1"),
    "between": drawn("1 . 1 . 1\n1 1 1 1 1"),
}


@pytest.mark.parametrize("mask", PADDINGS.values(), ids=PADDINGS)
@pytest.mark.parametrize("filler", [0, 12])
def test_ragged_prompts_are_those_without_padding(mask, filler):
    model = gpt()
    ids = np.full(mask.shape, filler)
    ids[0, mask[0]], ids[1] = [5, 3, 8], [2, 7, 1, 6, 0]
    prompt = model(ids, padding_mask=mask, cache=model.empty_cache(2))
    uncached = to_numpy(model(ids, padding_mask=mask))["logits"]
    assert relative_error(to_numpy(prompt["logits"])[mask], uncached[mask]) <= 1e-5
    step = to_numpy(model(np.array([[9], [10]]), cache=prompt["cache"])["logits"])
    for row, tokens in enumerate(([5, 3, 8, 9], [2, 7, 1, 6, 0, 10])):
        alone = to_numpy(model(np.array([tokens])))["logits"][0]
        assert relative_error(uncached[row][mask[row]], alone[:-1]) <= 1e-5
        assert relative_error(step[row, 0], alone[-1]) <= 1e-5


def test_sequences_beyond_the_table_are_refused():
    model = gpt()
    with pytest.raises(ValueError, match=r"from 0 to 6.*Received"):
        model(np.ones((1, 8), int))
    full = model(np.ones((1, 7), int), cache=model.empty_cache(1))
    with pytest.raises(ValueError, match=r"from 0 to 6.*Received: positions"):
        model(np.array([[1]]), cache=full["cache"])


@pytest.mark.parametrize(
    ("ids", "mask", "name"),
    [
        (np.array([[13]]), None, "token_ids"),
        (np.array([[-1]]), None, "token_ids"),
        (np.array([[0.5]]), None, "token_ids"),
        (np.array([1]), None, "token_ids"),
        (IDS, np.ones((2, 6)), "padding_mask"),
        (IDS, np.ones((2, 5), bool), "padding_mask"),
    ],
)
def test_wrong_inputs_are_refused(ids, mask, name):
    with pytest.raises(ValueError, match=rf"`{name}`.*Received: "):
        gpt()(ids, padding_mask=mask)


@GROUPED
def test_saving_and_loading_changes_no_bit(settings, tmp_path):
    model = gpt(**settings)
    expected = to_numpy(model(IDS))["logits"]
    model.save(tmp_path / "gpt.keras")
    loaded = keras.models.load_model(tmp_path / "gpt.keras")
    assert np.array_equal(loaded(IDS)["logits"], expected)
    assert loaded.get_config() == model.get_config()


def test_a_functional_model_of_it_trains():
    inputs = {
        "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
        "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
    }
    decoder = gpt()
    model = keras.Model(inputs, decoder(inputs)["logits"])
    assert tuple(model.output.shape) == (None, None, 13)
    data = {"token_ids": IDS[:, :-1], "padding_mask": np.ones((2, 5), bool)}
    assert relative_error(model(data), decoder(data)["logits"]) <= 1e-6
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    history = model.fit(data, IDS[:, 1:], epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_half_precision_caches_are_half_precision():
    model = gpt(dtype="mixed_float16")
    outputs = model(IDS, cache=model.empty_cache(2))
    assert outputs["cache"][0].key.dtype == "float16"
    expected = to_numpy(gpt()(IDS))["logits"]
    logits = keras.ops.cast(outputs["logits"], "float32")
    assert relative_error(logits, expected) <= 1e-2


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("position", "sinusoidal"),
        ("normalization", "batch"),
        ("use_bias", "query_key_value"),
        ("use_bias", ("attention_output",)),
        ("use_bias", ("query",)),
        ("sliding_window", [3]),
        ("head", "linear"),
        ("num_heads", 4),
    ],
)
def test_a_wrong_option_is_refused_by_name(argument, value):
    with pytest.raises(ValueError, match=rf"`{argument}`.*Received: "):
        gpt(**{argument: value})


@pytest.mark.parametrize("settings", [{}, LLAMA], ids=["gpt2", "llama"])
def test_no_weight_starts_as_a_copy_of_another(settings):
    model = ka.GPTDecoder(13, 2, 2, 6, 11, **settings)
    assert weights_that_are_copies(model) == []
