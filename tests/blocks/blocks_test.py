import json
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from contracts.kinds import BY_NAME, relative_error, to_numpy
from oracle import drawn

import keras_attention as ka
from keras_attention.blocks.heads import FirstTokenPooler, mean_of_tokens
from keras_attention.blocks.residual import Residual

B, T, S, E = 2, 5, 3, 8
RNG = np.random.default_rng(1)
X = RNG.normal(size=(B, T, E)).astype("float32")
SOURCE = RNG.normal(size=(B, S, 7)).astype("float32")
KEEP = drawn("1 1 1 1 1\n1 1 1 . .")
SOURCE_KEEP = drawn("1 1 1\n1 1 .")

# Self-attention needs an output of the query's size, which is `units=None`.
KINDS = {
    "additive": lambda **kw: ka.AdditiveAttention(11, **kw),
    "dot-product": ka.DotProductAttention,
    "dot-product-general": lambda **kw: ka.DotProductAttention("general", **kw),
    "global": ka.GlobalAttention,
    "global-concat": lambda **kw: ka.GlobalAttention("concat", **kw),
    "global-location": lambda **kw: ka.GlobalAttention("location", max_length=9, **kw),
    "local-monotonic": lambda **kw: ka.LocalAttention(window=1, **kw),
    "local-predictive": lambda **kw: ka.LocalAttention("predictive", 2, **kw),
    "multi-head": lambda **kw: ka.MultiHeadAttention(2, 3, **kw),
    "multi-head-window": lambda **kw: ka.MultiHeadAttention(
        2, 3, sliding_window=2, **kw
    ),
    "longformer": lambda **kw: ka.LongformerAttention(2, 3, sliding_window=2, **kw),
    "big-bird": lambda **kw: ka.BigBirdAttention(2, 3, block_size=2, **kw),
    "monotonic": lambda **kw: ka.MonotonicAttention("dot", **kw),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def encoder(make, **kwargs):
    return ka.EncoderBlock(make(), ka.FeedForward(13), **kwargs)


def decoder(make, cross=None, **kwargs):
    return ka.DecoderBlock(make(), ka.FeedForward(13), cross, **kwargs)


@every_kind
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_an_encoder_block_is_its_parts_in_order(make, norm):
    block = encoder(make, norm=norm)
    output = to_numpy(block(X, padding_mask=KEEP))
    first = block.attention_residual.normalization
    second = block.feed_forward_residual.normalization
    masks = {"query_mask": KEEP, "value_mask": KEEP}
    given = keras.ops.convert_to_tensor(X)
    if norm == "pre":
        x = given + block.attention(first(given), first(given), **masks)
        expected = x + block.feed_forward(second(x))
    else:
        x = first(given + block.attention(given, given, **masks))
        expected = second(x + block.feed_forward(x))
    assert relative_error(output, expected) <= 1e-6


@every_kind
def test_padding_does_not_change_other_tokens(make):
    block = encoder(make)
    padded = np.where(KEEP[..., None], X, 7.0).astype("float32")
    expected = to_numpy(block(X, padding_mask=KEEP))
    output = to_numpy(block(padded, padding_mask=KEEP))
    assert np.array_equal(output[KEEP], expected[KEEP])
    short = to_numpy(block(X[1:, :3]))
    assert relative_error(expected[1:, :3], short) <= 1e-6


@every_kind
def test_the_mask_that_keras_carries_is_used_and_passed_on(make):
    ids = np.where(KEEP, [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]], 0)
    x = keras.layers.Embedding(9, E, mask_zero=True)(ids)
    block = encoder(make)
    output = block(x)
    assert np.array_equal(output, block(np.array(x), padding_mask=KEEP))
    assert np.array_equal(output._keras_mask, KEEP)
    block = decoder(make)
    output = block(x)
    assert np.array_equal(output, block(np.array(x), padding_mask=KEEP))
    assert np.array_equal(output._keras_mask, KEEP)


@every_kind
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_decoder_block_sees_no_future(make, norm):
    block = decoder(make, norm=norm)
    output = to_numpy(block(X))
    changed = X.copy()
    changed[:, 3:] += 5.0
    moved = to_numpy(block(changed))
    assert relative_error(moved[:, :3], output[:, :3]) <= 1e-6
    assert relative_error(moved[:, 3:], output[:, 3:]) > 1e-3


CROSS = ["additive", "global", "local-predictive", "multi-head"]
MORE = ["dot-product-general", "global-location", "local-monotonic"]


@pytest.mark.parametrize(
    "name", [*CROSS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
)
def test_any_kind_attends_to_an_encoder(name):
    cross = KINDS[name]()
    if name in ("additive", "dot-product-general"):  # their output has V, not E
        source = np.concatenate([SOURCE, SOURCE[..., :1]], axis=-1)
    else:
        source = SOURCE
    block = decoder(KINDS["multi-head"], cross)
    output = to_numpy(
        block(X, source, padding_mask=KEEP, encoder_padding_mask=SOURCE_KEEP)
    )
    poisoned = np.where(SOURCE_KEEP[..., None], source, np.nan).astype("float32")
    again = block(X, poisoned, padding_mask=KEEP, encoder_padding_mask=SOURCE_KEEP)
    assert np.array_equal(again, output)
    assert output.shape == X.shape
    moved = to_numpy(block(X, source + 1.0, encoder_padding_mask=SOURCE_KEEP))
    if name != "global-location":
        assert relative_error(moved, output) > 1e-4
    model_inputs = [keras.Input((T, E)), keras.Input((S, source.shape[-1]))]
    model = keras.Model(model_inputs, block(*model_inputs))
    assert relative_error(model([X, source]), block(X, source)) <= 1e-6


def test_an_encoder_sequence_is_needed_by_cross_attention_only():
    with pytest.raises(ValueError, match=r"`encoder_sequence`.*Received"):
        decoder(KINDS["multi-head"])(X, SOURCE)
    with pytest.raises(ValueError, match=r"`encoder_sequence`.*Received"):
        decoder(KINDS["multi-head"], KINDS["multi-head"]())(X)


def test_padding_queries_do_not_attend_to_the_encoder():
    cross = ka.MultiHeadAttention(2, 3, name="cross")
    block = decoder(KINDS["multi-head"], cross)
    maps = ka.attention_maps(block, X, encoder_sequence=SOURCE, padding_mask=KEEP)
    seen = np.broadcast_to(KEEP[:, None, :, None], maps["cross"].shape)
    assert np.array_equal(maps["cross"] > 0, seen)


def test_steps_through_a_decoder_block_are_the_whole():
    block = decoder(KINDS["multi-head"], KINDS["multi-head"]())
    whole = to_numpy(block(X, SOURCE))
    cache = ka.KVCache.empty(batch_size=B, key_size=6, value_size=6)
    steps = []
    for t in range(T):
        step, cache = block(X[:, t : t + 1], SOURCE, cache=cache)
        steps.append(step)
    assert relative_error(np.concatenate(steps, axis=1), whole) <= 1e-6


def without_builds(config):
    """As JSON has it, without the shapes that layers inside layers were built with."""
    text = json.dumps(config)
    return json.loads(text, object_hook=lambda x: {**x, "build_config": None})


@pytest.mark.slow
@every_kind
def test_saving_and_loading_a_block_changes_no_bit(make, tmp_path):
    inputs = keras.Input((T, E))
    x = encoder(lambda: make(dropout=0.1), norm="pre", dropout=0.1, seed=1)(inputs)
    x = decoder(lambda: make(dropout=0.1), epsilon=0.3, norm="post")(x)
    model = keras.Model(inputs, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded(X), model(X))
    for after, before in zip(loaded.layers, model.layers, strict=True):
        assert without_builds(after.get_config()) == without_builds(before.get_config())


@pytest.mark.slow
def test_another_process_loads_it_by_importing_the_package(tmp_path):
    inputs, source = keras.Input((T, E)), keras.Input((S, 7))
    x = ka.SinusoidalEncoding()(inputs)
    x = encoder(KINDS["multi-head-window"])(x)
    x = decoder(KINDS["additive"], KINDS["global"]())(x, source)
    model = keras.Model([inputs, source], x)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=X, source=SOURCE, expected=model([X, SOURCE]))
    code = """
        import sys, keras, numpy as np
        import keras_attention as ka
        [getattr(ka, name) for name in ka.__all__ if name[0].isupper()]
        model = keras.models.load_model(sys.argv[1] + "/model.keras")
        data = np.load(sys.argv[1] + "/data.npz")
        output = model([data["x"], data["source"]])
        assert np.array_equal(output, data["expected"])
        print("the same")
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.endswith("the same\n"), result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["additive", "global", "local-predictive", "multi-head"]
)
def test_a_block_trains_in_mixed_precision(name):
    make = KINDS[name]
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([encoder(make, dropout=0.1), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(X, np.ones((B, T, 1)), verbose=0)
    assert model.layers[0].compute_dtype == "float16"
    for weight in model.trainable_weights:
        assert np.isfinite(np.array(weight)).all()


def test_dropout_of_a_block_is_for_training():
    block = encoder(KINDS["multi-head"], dropout=0.5, seed=1)
    still = to_numpy(block(X))
    assert np.array_equal(block(X, training=False), still)
    assert relative_error(block(X, training=True), still) > 0.01


def test_layers_that_are_built_keep_their_weights():
    attention = ka.MultiHeadAttention(2, 3)
    attention.build((None, None, E), (None, None, E))
    weights = attention.get_weights()
    block = ka.EncoderBlock(attention, ka.FeedForward(13))
    block(X)
    for before, after in zip(weights, attention.get_weights(), strict=True):
        assert np.array_equal(before, after)


def test_residual_refuses_another_norm():
    with pytest.raises(ValueError, match="Received: norm='sandwich'"):
        Residual(norm="sandwich")


def test_the_mean_of_tokens_omits_padding_and_is_zero_without_tokens():
    keep = drawn("1 . 1 . .\n. . . . .")
    poisoned = np.where(keep[..., None], X, np.nan)
    mean = to_numpy(mean_of_tokens(poisoned, keep))
    assert np.allclose(mean[0], X[0, [0, 2]].mean(0), atol=1e-6)
    assert (mean[1] == 0).all()
    assert np.allclose(mean_of_tokens(X), X.mean(1), atol=1e-6)


def test_the_pooler_uses_the_first_token_only():
    pooler = FirstTokenPooler()
    output = to_numpy(pooler(X))
    kernel, bias = (np.array(w, "float64") for w in pooler.weights)
    assert relative_error(output, np.tanh(X[:, 0] @ kernel + bias)) <= 1e-6


def test_every_layer_of_the_contracts_is_tested_in_a_block():
    families = {"-".join(name.split("-")[:2]) for name in BY_NAME}
    families = {name.split("-")[0] for name in families}
    assert families == {name.split("-")[0] for name in KINDS}
