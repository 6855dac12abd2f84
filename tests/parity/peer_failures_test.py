"""Failures of other libraries, and the correct result here.

tests/parity/keras_test.py has those that show both sides in one line. Failures of
packages that are not installed here (KerasHub, keras-self-attention and others) are
named after the failure, and show our side.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import relative_error, to_numpy
from oracle import drawn

import keras_attention as ka

B, T, S, E = 2, 3, 5, 7


def random(*shape, seed=2):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def pair(**settings):
    """Keras' multi-head attention, and ours with its weights."""
    theirs = keras.layers.MultiHeadAttention(
        **{"num_heads": 4, "key_dim": 3} | settings
    )
    theirs.build((None, None, E), (None, None, E))
    return theirs, ka.MultiHeadAttention.from_keras(theirs)


ONE_HEAD = {
    "additive": lambda **kw: ka.AdditiveAttention(11, **kw),
    "dot-product": ka.DotProductAttention,
    "multi-head": lambda **kw: ka.MultiHeadAttention(2, 3, **kw),
}
every_layer = pytest.mark.parametrize("make", ONE_HEAD.values(), ids=ONE_HEAD)

# --- masks ---------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@every_layer
def test_a_masked_row_in_half_precision_is_a_mean_in_keras_and_0_here(make, policy):
    mask = np.zeros((1, S, S), bool)
    theirs = keras.layers.Attention(dtype=policy)
    x = random(1, S, E)
    assert abs(to_numpy(theirs([x, x, x], mask=[None, mask[0, :1]]))).max() > 0
    layer = make(dtype=policy)
    output, weights = layer(x, x, attention_mask=mask, return_attention_scores=True)
    assert not np.asarray(to_numpy(output), "float32").any()
    assert not to_numpy(weights).any()


def test_a_large_logit_gives_weight_to_a_masked_key_in_keras_float16_and_none_here():
    query = np.full((1, 1, 64), 24.0, "float16")
    key = np.stack([-query[0, 0], query[0, 0]])[None]  # logits far below and above 0
    keep = np.array([[True, False]])
    theirs = keras.layers.Attention(dtype="float16")
    _, weights = theirs(
        [query, key, key], mask=[None, keep], return_attention_scores=True
    )
    assert to_numpy(weights)[0, 0, 1] > 0.5  # on the masked key
    ours = ka.DotProductAttention("dot", dtype="float16")
    _, weights = ours(query, key, value_mask=keep, return_attention_scores=True)
    assert to_numpy(weights)[0, 0].tolist() == [1.0, 0.0]


@every_layer
@pytest.mark.parametrize(
    "mask",
    [
        np.full((B, S, S), 0.3, "float32"),
        np.full((B, S, S), -1),
        np.ones((B, S, S), "int32").tolist(),
    ],
    ids=["float-0.3", "int-minus-1", "list-of-ints"],
)
def test_a_mask_of_numbers_counts_as_true_in_keras_and_is_refused_here(make, mask):
    x = random(B, S, E)
    theirs, _ = pair()
    assert to_numpy(theirs(x, x, attention_mask=np.asarray(mask))).any()
    with pytest.raises(ValueError, match=r"must be bool.*`attention_bias=`.*Received"):
        make()(x, x, attention_mask=mask)


@every_layer
def test_a_mask_of_rank_5_names_no_argument_in_keras_and_does_here(make):
    x, mask = random(B, S, E), np.ones((1, 1, 1, S, S), bool)
    theirs, _ = pair()
    with pytest.raises(Exception) as found:  # noqa: PT011
        theirs(x, x, attention_mask=mask)
    assert not isinstance(found.value, ValueError)
    with pytest.raises(ValueError, match=r"`attention_mask` must have shape.*Received"):
        make()(x, x, attention_mask=mask)


@every_layer
def test_a_padding_mask_of_length_1_is_spread_by_keras_and_refused_here(make):
    x, short = random(B, S, E), np.array([[True], [False]])
    theirs = keras.layers.Attention()
    assert to_numpy(theirs([x, x], mask=[None, short])).any()
    with pytest.raises(ValueError, match=r"`value_mask` must have the length of"):
        make()(x, x, value_mask=short)


@every_layer
def test_a_padding_mask_of_another_batch_is_refused(make):
    x = random(B, S, E)
    with pytest.raises(ValueError, match=r"`value_mask` must have the batch size of"):
        make()(x, x, value_mask=np.ones((1, S), bool))


@every_layer
def test_a_padding_mask_of_rank_3_with_causal_is_a_raw_error_in_keras_but_not_here(
    make,
):
    x, mask = random(B, S, E), np.ones((B, S, 1), bool)
    with pytest.raises(Exception) as found:  # noqa: PT011
        keras.layers.Attention()([x, x], mask=[None, mask], use_causal_mask=True)
    assert "mask" not in str(found.value).split("Arguments received")[0].lower()
    with pytest.raises(ValueError, match=r"`value_mask` must have shape"):
        make()(x, x, value_mask=mask, use_causal_mask=True)


@every_layer
def test_a_causal_mask_works_with_dropout_and_with_returned_weights(make):
    """Keras issue 23038: both once dropped the causal mask silently."""
    x = random(1, S, E)
    for settings in ({}, {"dropout": 0.4}):
        layer = make(**settings)
        _, weights = layer(x, x, use_causal_mask=True, return_attention_scores=True)
        assert not np.triu(to_numpy(weights), 1).any()
        ka.assert_causal(lambda x, layer=layer: layer(x, x, use_causal_mask=True), x)


def test_a_sliding_window_holds_in_cached_attention():
    """KerasHub's CachedMultiHeadAttention accepts `sliding_window` and ignores it."""
    layer = ka.MultiHeadAttention(2, 3, sliding_window=(1, 0))
    x = random(1, S, E)
    cache, weights = ka.KVCache.empty(batch_size=1, key_size=6, value_size=6), None
    for t in range(S):
        step = x[:, t : t + 1]
        _, weights, cache = layer(
            step, step, use_causal_mask=True, cache=cache, return_attention_scores=True
        )
    assert (to_numpy(weights)[0, :, 0] > 0).tolist() == [[False] * 3 + [True] * 2] * 2


def test_padding_is_hidden_from_other_tokens_and_not_only_from_padding():
    """keras-self-attention subtracts only between two pads; others have no mask."""
    x, keep = random(B, S, E), drawn("1 1 1 . .\n1 1 1 1 1")
    for make in ONE_HEAD.values():
        _, weights = make()(x, x, value_mask=keep, return_attention_scores=True)
        assert not to_numpy(weights)[0, ..., 3:].any()
        assert to_numpy(weights)[1, ..., 3:].all()


# --- heads, options, shapes ---------------------------------------------------------


def test_one_key_head_is_an_error_in_the_function_of_keras_and_correct_here():
    theirs = (random(1, S, 4, 3), random(1, S, 1, 3), random(1, S, 1, 3))
    with pytest.raises(Exception):  # noqa: B017, PT011
        keras.ops.dot_product_attention(*theirs)
    shared, full = ka.MultiHeadAttention(4, 3, num_key_value_heads=1), pair()[1]
    x = random(1, S, E)
    shared.build(x.shape, x.shape)
    for name in ("query", "output"):
        ours = getattr(full, f"{name}_projection")
        ours.set_weights(getattr(shared, f"{name}_projection").get_weights())
    for name in ("key", "value"):
        weights = getattr(shared, f"{name}_projection").get_weights()
        wide = [np.repeat(w, 4, axis=-2) for w in weights]
        getattr(full, f"{name}_projection").set_weights(wide)
    assert relative_error(to_numpy(shared(x, x)), to_numpy(full(x, x))) <= 1e-6


def test_no_option_is_lost_in_the_config():
    """Keras: `flash_attention` is missing from the config of two layers."""
    theirs = keras.layers.MultiHeadAttention(2, 3, flash_attention=True)
    assert "flash_attention" not in theirs.get_config()
    everything = {
        "num_heads": 4,
        "key_dim": 3,
        "num_key_value_heads": 2,
        "sliding_window": (2, 1),
        "talking_heads": True,
        "use_gate": True,
        "chunked": True,
        "dropout": 0.1,
        "logits_soft_cap": 3.0,
        "use_bias": False,
        "output_shape": (2, 3),
        "attention_axes": (1,),
        "kernel_regularizer": "l2",
        "bias_constraint": "non_neg",
        "seed": 3,
    }
    config = ka.MultiHeadAttention(**everything).get_config()
    plain = ka.MultiHeadAttention(1, 1).get_config()
    assert all(config[name] != plain[name] for name in everything)
    assert ka.MultiHeadAttention.from_config(config).get_config() == config


def test_a_batch_of_none_fails_in_the_onnx_of_keras_and_runs_in_ours(tmp_path):
    """Below opset 23, that is: ONNX Runtime's Attention operator refuses it."""
    x = keras.Input((None, E))
    attended = ka.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True)
    model = keras.Model(x, attended)
    folder = ka.export_model(model, tmp_path / "out", format="onnx", opset=22)
    with ka.open_artifact(folder) as runner:
        (name,) = runner.signatures
        (given,) = runner.signatures[name].inputs
        (output,) = runner.run(name, **{given: random(0, S, E)}).values()
    assert output.shape == (0, S, E)


def test_integers_and_float64_keep_their_precision():
    """Keras casts both silently: an integer value would cut its own mean off."""
    whole = np.array([[[1, 2], [2, 5], [4, 4]]])
    layer = ka.DotProductAttention("dot")
    expected = to_numpy(layer(whole.astype("float32"), whole.astype("float32")))
    assert relative_error(to_numpy(layer(whole, whole)), expected) <= 1e-6
    double = ka.DotProductAttention("dot", dtype="float64")
    assert double(whole * 1.0, whole * 1.0).dtype == "float64"


# --- positions ------------------------------------------------------------------------


def test_left_padding_changes_nothing_in_a_decoder():
    """KerasHub issue 571: its GPT-2 is invariant to padding on the right only."""
    model = ka.GPTDecoder(23, 2, 2, 8, 16, max_sequence_length=32)
    ids = np.random.default_rng(1).integers(1, 23, size=(B, S))
    ka.assert_padding_invariant(model, {"token_ids": ids}, sides=("left", "right"))


@pytest.mark.tensorflow
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "XLA"])
def test_positions_beyond_the_table_do_not_read_wrong_rows(compiled):
    """KerasHub: a raw error in eager code; under XLA the last row, silently."""
    layer = ka.PositionEmbedding(4)
    x, beyond = random(1, 2, E), np.array([[3, 4]])
    layer(x)
    if not compiled:
        with pytest.raises(ValueError, match=r"Received"):
            layer(x, positions=beyond)
        return
    call = tf.function(lambda x, p: layer(x, positions=p), jit_compile=True)
    output = to_numpy(call(x, beyond))
    assert np.isfinite(output[:, 0]).all()
    assert np.isnan(output[:, 1]).all()


def test_writing_past_the_end_of_a_cache_is_an_error():
    """KerasHub overwrites the last slot; an index of -1 too."""
    layer, x = ka.MultiHeadAttention(2, 3), random(1, 1, E)
    cache = ka.FixedKVCache.empty(batch_size=1, key_size=6, value_size=6, capacity=2)
    for _ in range(2):
        _, cache = layer(x, x, cache=cache, use_causal_mask=True)
    with pytest.raises(ValueError, match="Received"):
        layer(x, x, cache=cache, use_causal_mask=True)


def test_empty_slots_of_a_cache_are_hidden():
    """KerasHub attends to them unless the caller builds a mask."""
    layer, x = ka.MultiHeadAttention(2, 3), random(1, 1, E)
    cache = ka.FixedKVCache.empty(batch_size=1, key_size=6, value_size=6, capacity=5)
    _, weights, _ = layer(x, x, cache=cache, return_attention_scores=True)
    assert to_numpy(weights)[0, :, 0].tolist() == [[1.0, 0.0, 0.0, 0.0, 0.0]] * 2


# --- export -------------------------------------------------------------------------


def test_a_model_that_was_never_called_can_be_exported(tmp_path):
    """Keras' ONNX export: "The model provided has never called.\""""
    x = keras.Input((None, E))
    model = keras.Model(x, ka.AdditiveAttention(11)(x, x))
    with pytest.raises(Exception, match="never"):
        model.export(str(tmp_path / "theirs.onnx"), format="onnx", verbose=False)
    folder = ka.export_model(model, tmp_path / "ours", format="onnx")
    assert ka.verify_artifact(folder).passed


def test_exported_axes_and_outputs_have_names(tmp_path):
    """tf2onnx writes `unk__524` and `Identity:0`."""
    x = keras.Input((None, E), name="tokens")
    model = keras.Model(x, {"attended": ka.MultiHeadAttention(2, 3)(x, x)})
    folder = ka.export_model(model, tmp_path / "out", format="onnx")
    with ka.open_artifact(folder) as runner:
        (signature,) = runner.signatures.values()
    assert list(signature.inputs) == ["tokens"]
    assert list(signature.outputs) == ["attended"]
    shape = signature.outputs["attended"].shape
    assert not any(str(axis).startswith("unk") for axis in shape)


@pytest.mark.parametrize("make", [ka.KVCache.empty, ka.FixedKVCache.empty])
def test_a_cached_step_reaches_onnx(make, tmp_path):
    """A Keras cache is written with `slice_update`, which no ONNX runtime knows."""
    from keras_attention.export.formats.onnx.writer import write_onnx
    from keras_attention.export.signatures.signature import Signature, TensorInfo

    layer, x = ka.MultiHeadAttention(2, 3), random(1, S, E)
    sizes = {"batch_size": 1, "key_size": 6, "value_size": 6}
    sizes |= {"capacity": 8} if make == ka.FixedKVCache.empty else {}
    whole = to_numpy(layer(x, x, use_causal_mask=True))
    cache = make(**sizes)
    kind, slots = type(cache), 8 if "capacity" in sizes else "past"
    new_slots = slots if slots == 8 else "all"

    def step(tokens, **past):
        output, new = layer(tokens, tokens, cache=kind(**past), use_causal_mask=True)
        return {"output": output, **{f"new_{n}": t for n, t in new._asdict().items()}}

    def infos(axis, prefix=""):
        return {
            f"{prefix}{name}": TensorInfo(
                keras.backend.standardize_dtype(tensor.dtype),
                ("batch", axis, *tensor.shape[2:])[: len(tensor.shape)],
            )
            for name, tensor in cache._asdict().items()
        }

    inputs = {"tokens": TensorInfo("float32", ("batch", 1, E)), **infos(slots)}
    outputs = {"output": inputs["tokens"], **infos(new_slots, "new_")}
    write_onnx(Signature("step", step, inputs, outputs), tmp_path / "step.onnx")
    past = {name: to_numpy(tensor) for name, tensor in cache._asdict().items()}
    with ka.open_artifact(tmp_path / "step.onnx", allow_unverified=True) as runner:
        for t in range(S):
            result = runner.run("step", tokens=x[:, t : t + 1], **past)
            past = {name: result[f"new_{name}"] for name in past}
            assert relative_error(result["output"], whole[:, t : t + 1]) <= 1e-6
