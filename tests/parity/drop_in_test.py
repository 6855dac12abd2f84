"""All four layers of Keras taken over: options, images and videos, `quantize`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import relative_error, to_numpy
from oracle import drawn

import keras_attention as ka
from keras_attention.layers.from_keras import from_keras

B, T, S, E, V = 2, 3, 5, 7, 11


def random(*shape, seed=2):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def taken_over(theirs, *inputs, as_list=False):
    """Keras' layer with random weights and biases, and ours made from it."""
    if not theirs.built:
        theirs(list(inputs)) if as_list else theirs(*inputs)
    rng = np.random.default_rng(1)
    for weight in theirs.trainable_weights:
        weight.assign(rng.normal(scale=0.4, size=weight.shape))
    return theirs, from_keras(theirs)


def assert_same(actual, expected, tolerance=1e-6):
    for ours, theirs in zip(to_numpy(actual), to_numpy(expected), strict=True):
        assert relative_error(ours, theirs) <= tolerance


def gradients(layer, *inputs, **call):
    """Of the sum of squares, for inputs and weights."""
    tensors = [tf.constant(x) for x in inputs]
    weights = [weight.value for weight in layer.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        loss = tf.reduce_sum(layer(*tensors, **call) ** 2)
    return tape.gradient(loss, [*tensors, *weights])


# --- images and videos ---------------------------------------------------------------

# sizes of the query, sizes of the value, attention_axes
AXES = {
    "image-both": ((3, 5), (3, 5), (1, 2)),
    "image-other-sizes": ((3, 5), (2, 7), None),
    "image-rows": ((3, 5), (7, 5), (1,)),
    "image-columns": ((3, 5), (3, 7), (2,)),
    "image-an-integer": ((3, 5), (3, 7), 2),
    "image-negative": ((3, 5), (3, 7), (-2,)),
    "video-all": ((2, 3, 5), (3, 2, 2), (1, 2, 3)),
    "video-frames": ((2, 3, 5), (2, 5, 3), (2, 3)),
    "video-time": ((2, 3, 5), (5, 3, 5), (1,)),
    "video-in-another-order": ((2, 3, 5), (2, 5, 3), (3, 2)),
}


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("case", AXES.values(), ids=AXES)
def test_attention_over_axes_is_the_same(case):
    query_sizes, value_sizes, axes = case
    query, value = random(B, *query_sizes, E), random(B, *value_sizes, V, seed=3)
    layer = keras.layers.MultiHeadAttention(4, 3, attention_axes=axes)
    layer.build(query.shape, value.shape)
    layer, ours = taken_over(layer, query, value)
    # On some processors TensorFlow's own softmax refuses scores of six axes; XLA's
    # does not.
    theirs = tf.function(layer, jit_compile=query.ndim == 5)
    call = {"return_attention_scores": True}
    expected = theirs(query, value, **call)
    assert_same(ours(query, value, **call), expected)
    assert_same([ours(query, value)], expected[:1])

    batch, attended = to_numpy(expected[1]).shape, len(layer.attention_axes)
    outer = len(batch) - 2 * attended - 1  # axes before the heads
    full = np.random.default_rng(5).random((*batch[:outer], *batch[outer + 1 :])) < 0.6
    full[(..., *[0] * attended)] = True  # everybody sees one key
    for mask in (full, full[:1], np.stack([full] * 4, axis=outer)):
        call["attention_mask"] = mask
        assert_same(ours(query, value, **call), theirs(query, value, **call))
    missing = full[(slice(None), *[0] * (outer - 1))]  # [B, T, S]: for all other axes
    call["attention_mask"] = missing
    assert_same(ours(query, value, **call), theirs(query, value, **call))


@pytest.mark.tensorflow
@pytest.mark.parametrize("axes", [(1, 2), (2,)], ids=str)
def test_gradients_over_axes_are_the_same(axes):
    x, other = random(B, 3, 5, E), random(B, 3, 5, V, seed=3)
    theirs = keras.layers.MultiHeadAttention(4, 3, attention_axes=axes, use_gate=True)
    theirs, ours = taken_over(theirs, x, other)
    found, expected = gradients(ours, x, other), gradients(theirs, x, other)
    scale = max(abs(to_numpy(gradient)).max() for gradient in expected)
    for actual, wanted in zip(to_numpy(found), to_numpy(expected), strict=True):
        assert abs(actual - wanted).max() <= 1e-6 * scale


def test_a_causal_mask_and_a_window_run_over_the_first_axis_as_in_keras():
    x = random(B, 5, 3, E)
    settings = {"attention_axes": (1,), "sliding_window": 2}
    theirs, ours = taken_over(keras.layers.MultiHeadAttention(2, 3, **settings), x, x)
    call = {"return_attention_scores": True, "use_causal_mask": True}
    expected = theirs(x, x, **call)
    assert_same(ours(x, x, **call), expected)
    assert (to_numpy(expected[1])[..., 3, 1] == 0).all()


def test_a_causal_mask_over_other_axes_is_correct_here_and_not_in_keras():
    x = random(B, 3, 5, E)
    theirs = keras.layers.MultiHeadAttention(2, 3, attention_axes=(2,))
    theirs, ours = taken_over(theirs, x, x)
    call = {"return_attention_scores": True, "use_causal_mask": True}
    with pytest.raises(Exception, match=r"(?i)shape"):
        theirs(x, x, **call)
    _, weights = to_numpy(ours(x, x, **call))  # [B, 3, N, 5, 5]
    ahead = np.triu(np.ones((5, 5), bool), 1)
    assert (weights[..., ahead] == 0).all()
    assert (weights[..., ~ahead] > 0).all()
    whole = ka.MultiHeadAttention(2, 3)
    _, weights = to_numpy(whole(x, x, **call))  # [B, N, 3, 5, 3, 5], row after row
    ahead = np.triu(np.ones((15, 15), bool), 1)
    weights = weights.reshape(B, 2, 15, 15)
    assert (weights[..., ahead] == 0).all()
    assert (weights[..., ~ahead] > 0).all()


@pytest.mark.parametrize("axes", [(1, 2), (2,), (1,)], ids=str)
def test_padding_of_an_image_is_found_and_hidden(axes):
    rng = np.random.default_rng(5)
    keep = rng.random((B, 3, 5)) < 0.7
    image = np.where(keep[..., None], random(B, 3, 5, E), 0.0).astype("float32")
    masked = keras.layers.Masking()(image)
    assert np.array_equal(masked._keras_mask, keep)
    layer = ka.MultiHeadAttention(2, 3, attention_axes=axes)
    call = {"return_attention_scores": True}
    output, weights = layer(masked, masked, **call)
    assert np.array_equal(output._keras_mask, keep)

    # [B, others, T, S], by hand
    if axes == (1, 2):
        mask = keep[:, :, :, None, None] & keep[:, None, None]
    elif axes == (2,):
        mask = keep[..., :, None] & keep[..., None, :]
    else:
        turned = keep.swapaxes(1, 2)
        mask = turned[..., :, None] & turned[..., None, :]
    expected = layer(image, image, attention_mask=mask, **call)
    assert_same((output, weights), expected)
    explicit = {"query_mask": keep, "value_mask": keep}
    assert_same(layer(image, image, **explicit, **call), expected)
    assert_same(layer([image, image], query_mask=[keep, keep], **call), expected)

    other = np.random.default_rng(6).random((B, 3, 5)) < 0.7
    both = {"query_mask": keep & other, "value_mask": keep & other}
    given = {"query_mask": other, "value_mask": other}
    assert_same(
        layer(masked, masked, **given, **call), layer(image, image, **both, **call)
    )

    if axes == (2,):  # the one case that Keras means as well
        theirs = keras.layers.MultiHeadAttention(2, 3, attention_axes=axes)
        theirs, ours = taken_over(theirs, image, image)
        ours, theirs = to_numpy([ours(masked, masked), theirs(masked, masked)])
        assert relative_error(ours[keep], theirs[keep]) <= 1e-6


def test_nan_at_padding_of_an_image_does_not_leak():
    keep = np.random.default_rng(5).random((B, 3, 5)) < 0.7
    image = random(B, 3, 5, E)
    layer = ka.MultiHeadAttention(2, 3)
    expected = layer(image, image, value_mask=keep)
    poisoned = np.where(keep[..., None], image, np.nan).astype("float32")
    assert np.array_equal(layer(image, poisoned, value_mask=keep), expected)


@pytest.mark.tensorflow
def test_sizes_of_images_may_be_unknown():
    layer = ka.MultiHeadAttention(
        2, 3, attention_axes=(-2, 1), output_shape=(2, 13), use_gate=True
    )
    call = {"return_attention_scores": True}
    inputs = keras.Input((None, None, 5, E)), keras.Input((None, None, 5, E))
    keep = keras.Input((None, None, 5), dtype="bool")
    model = keras.Model([*inputs, keep], layer(*inputs, value_mask=keep, **call))
    output, weights = model.outputs
    assert output.shape == (None, None, None, 5, 2, 13)
    assert weights.shape == (None, None, 2, 5, None, 5, None)
    sizes = [random(B, 2, 3, 5, E), random(B, 7, 3, 5, E), random(B, 7, 3, 5) > -1]
    expected = to_numpy(layer(*sizes[:2], value_mask=sizes[2], **call))
    assert expected[0].shape == (B, 2, 3, 5, 2, 13)
    assert expected[1].shape == (B, 3, 2, 5, 2, 5, 7)
    assert_same(model(sizes), expected)
    traced = tf.function(lambda q, v, k: layer(q, v, value_mask=k, **call))
    loose = [tf.TensorSpec([None] * 4 + [E])] * 2 + [tf.TensorSpec([None] * 4, "bool")]
    assert_same(
        traced.get_concrete_function(*loose)(*map(tf.constant, sizes)), expected
    )


def test_masks_with_axes_of_one_are_spread():
    x = random(B, 3, 5, E)
    layer = ka.MultiHeadAttention(2, 3, attention_axes=(2,))
    full = np.random.default_rng(5).random((B, 3, 5, 5)) < 0.6
    call = {"return_attention_scores": True}
    for narrow in (full[:, :, :1], full[..., :1], full[:, :1], full[:1, :1]):
        wide = np.broadcast_to(narrow, full.shape)
        expected = layer(x, x, attention_mask=wide, **call)
        assert_same(layer(x, x, attention_mask=narrow, **call), expected)
        bias = np.where(narrow, 0.3, -0.7).astype("float32")
        expected = layer(x, x, attention_bias=np.where(wide, 0.3, -0.7), **call)
        assert_same(layer(x, x, attention_bias=bias, **call), expected)
    both = ka.MultiHeadAttention(2, 3)
    mask = np.random.default_rng(5).random((B, 3, 5, 1, 5)) < 0.6
    wide = np.broadcast_to(mask, (B, 3, 5, 3, 5))
    expected = both(x, x, attention_mask=wide, **call)
    assert_same(both(x, x, attention_mask=mask, **call), expected)


def test_masks_of_rules_and_positions_number_the_attention_axes():
    x = random(B, 3, 5, E)
    layer = ka.MultiHeadAttention(2, 3)
    call = {"return_attention_scores": True}
    expected = layer(x, x, use_causal_mask=True, **call)
    assert_same(layer(x, x, attention_mask=ka.masks.causal, **call), expected)
    listed = list(range(15))
    last = layer(x[:, 2:], x, use_causal_mask=True, positions=listed[10:], **call)
    assert relative_error(last[0], to_numpy(expected[0])[:, 2:]) <= 1e-6
    keep = np.random.default_rng(5).random((B, 15)) < 0.7
    padded = layer(x, x, attention_mask=ka.masks.padding(keep), **call)
    assert_same(padded, layer(x, x, value_mask=keep.reshape(B, 3, 5), **call))


@pytest.mark.tensorflow
def test_images_are_compiled_by_xla():
    layer = ka.MultiHeadAttention(2, 3, attention_axes=(2,))
    x = tf.constant(random(B, 3, 5, E))
    keep = tf.constant(np.random.default_rng(5).random((B, 3, 5)) < 0.7)
    call = {"return_attention_scores": True, "use_causal_mask": True}
    expected = layer(x, x, value_mask=keep, **call)
    compiled = tf.function(
        lambda: layer(x, x, value_mask=keep, **call), jit_compile=True
    )
    assert_same(compiled(), expected)


WRONG_AXES = [
    ({"attention_axes": (0, 1)}, "between the batch"),
    ({"attention_axes": (3,)}, "between the batch"),
    ({"attention_axes": (-1,)}, "between the batch"),
    ({"attention_axes": (1, -3)}, "different axes"),
    ({"attention_axes": (1.5,)}, "integer"),
    ({"attention_axes": ()}, "integer"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG_AXES)
def test_wrong_axes_are_refused(settings, message):
    x = random(B, 3, 5, E)
    with pytest.raises(ValueError, match=rf"{message}.*Received: attention_axes="):
        ka.MultiHeadAttention(2, 3, **settings)(x, x)


def test_arguments_that_images_do_not_support_are_refused():
    x = random(B, 3, 5, E)
    layer = ka.MultiHeadAttention(2, 3, attention_axes=(2,))
    layer.build(x.shape, x.shape)
    with pytest.raises(ValueError, match=r"same sizes.*Received: query=.*value="):
        layer(x, x[:, :2])
    mask = np.ones((B, 3, 5, 4), bool)
    shape = (
        r"here \[2, 3, 5, 5\].*Received: attention_mask=bool of shape \(2, 3, 5, 4\)"
    )
    with pytest.raises(ValueError, match=shape):
        layer(x, x, attention_mask=mask)
    for rank in (mask[0, 0], mask[:, :, None, None]):
        with pytest.raises(ValueError, match="Received: attention_mask="):
            layer(x, x, attention_mask=rank)
    with pytest.raises(ValueError, match="Received: attention_bias="):
        layer(x, x, attention_bias=mask.astype("float32"))
    with pytest.raises(ValueError, match=r"`value_mask`.*Received: value_mask="):
        layer(x, x, value_mask=np.ones((B, 3, 4), bool))
    with pytest.raises(ValueError, match=r"`query_mask`.*shape.*Received: query_mask="):
        layer(x, x, query_mask=np.ones((B, 5), bool))
    with pytest.raises(ValueError, match=r"`positions`.*Received: positions="):
        layer(x, x, positions=np.zeros((B, 5), int))
    keep = ka.masks.padding(np.ones((B, 5), bool))
    with pytest.raises(ValueError, match=r"holds tensors.*Received: attention_mask="):
        layer(x, x, attention_mask=keep)
    cache = ka.KVCache.empty(batch_size=B, key_size=6, value_size=6)
    with pytest.raises(ValueError, match=r"`cache`.*Received: attention over"):
        layer(x, x, cache=cache)
    with pytest.raises(ValueError, match=r"`query`.*Received: query="):
        layer(x, x[:, 0])


# --- options of the multi-head layers ------------------------------------------------

OPTIONS = {
    "gate": {"use_gate": True},
    "gate-without-bias": {"use_gate": True, "use_bias": False, "value_dim": 5},
    "output-shape": {"output_shape": (2, 13)},
    "half": {"dtype": "mixed_bfloat16"},
    "regularizers": {
        "kernel_regularizer": keras.regularizers.L1(0.1),
        "bias_regularizer": "l2",
        "activity_regularizer": keras.regularizers.L2(0.3),
    },
    "constraints": {
        "kernel_constraint": keras.constraints.MaxNorm(0.5),
        "bias_constraint": "non_neg",
    },
    "initializers": {
        "kernel_initializer": keras.initializers.HeNormal(seed=3),
        "bias_initializer": keras.initializers.Constant(0.3),
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_option_means_what_it_means_in_keras(options):
    query, value = random(B, T, E), random(B, S, V, seed=3)
    theirs = keras.layers.MultiHeadAttention(4, 3, name="heads", **options)
    theirs, ours = taken_over(theirs, query, value)
    half = "dtype" in options
    output, expected = (
        to_numpy(keras.ops.cast(layer(query, value), "float32"))
        for layer in (ours, theirs)
    )
    assert relative_error(output, expected) <= (2e-2 if half else 1e-6)
    assert ours.compute_dtype == theirs.compute_dtype
    losses = [float(sum(layer.losses, np.float32(0))) for layer in (ours, theirs)]
    assert abs(losses[0] - losses[1]) <= 1e-5 * abs(losses[1])
    assert bool(losses[1]) == ("activity_regularizer" in options)
    mine, yours = ours.get_config(), theirs.get_config()
    for option in set(options) - {"dtype"}:
        assert keras.tree.map_structure(str, mine[option]) == keras.tree.map_structure(
            str, yours[option]
        )
    for new, old in zip(ours.trainable_weights, theirs.trainable_weights, strict=True):
        assert new.path == old.path
        assert type(new.constraint) is type(old.constraint)
        assert type(new.regularizer) is type(old.regularizer)


def test_initializers_draw_the_same_numbers():
    shapes = (None, None, E), (None, None, V)
    settings = {"kernel_initializer": keras.initializers.HeNormal(seed=3)}
    theirs = keras.layers.MultiHeadAttention(4, 3, **settings)
    ours = ka.MultiHeadAttention(4, 3, **settings)
    theirs.build(*shapes), ours.build(*shapes)
    assert_same(ours.get_weights(), theirs.get_weights(), tolerance=0)


GROUPED = {
    "grouped": {},
    "one-key-head": {"num_key_value_heads": 1},
    "gate": {"use_gate": True},
    "window": {"sliding_window": 2},
    "no-bias": {"use_bias": False, "dropout": 0.3, "seed": 3},
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("settings", GROUPED.values(), ids=GROUPED)
def test_grouped_attention_is_the_same(settings):
    settings = {"num_key_value_heads": 2, **settings}
    x = random(B, S, E)
    theirs = keras.layers.GroupQueryAttention(3, 4, **settings)
    theirs, ours = taken_over(theirs, x, x)
    assert isinstance(ours, ka.MultiHeadAttention)
    assert (ours.num_heads, ours.key_dim, ours.value_dim) == (4, 3, 3)
    assert ours.num_key_value_heads == settings["num_key_value_heads"]
    keep = drawn("1 1 1 1 1\n1 1 1 . .")
    masks = [{}, {"value_mask": keep}, {"use_causal_mask": True}]
    masks.append({"attention_mask": np.tril(np.ones((B, S, S), bool))})
    for mask in masks:
        expected = theirs(x, x, return_attention_scores=True, **mask)
        assert_same(ours(x, x, return_attention_scores=True, **mask), expected)
        assert_same([ours(x, x, **mask)], expected[:1])
    found, expected = gradients(ours, x, x), gradients(theirs, x, x)
    scale = max(abs(to_numpy(gradient)).max() for gradient in expected)
    for actual, wanted in zip(to_numpy(found), to_numpy(expected), strict=True):
        assert abs(actual - wanted).max() <= 1e-6 * scale


# --- Attention and AdditiveAttention -------------------------------------------------

ONE_HEAD = {
    "dot": (keras.layers.Attention, {}),
    "dot-scaled": (keras.layers.Attention, {"use_scale": True}),
    "concat": (keras.layers.Attention, {"score_mode": "concat"}),
    "concat-scaled": (
        keras.layers.Attention,
        {"score_mode": "concat", "use_scale": True},
    ),
    "additive": (keras.layers.AdditiveAttention, {}),
    "additive-unscaled": (keras.layers.AdditiveAttention, {"use_scale": False}),
    "dropout": (keras.layers.Attention, {"dropout": 0.3, "seed": 3}),
}
one_head = pytest.mark.parametrize(
    ("kind", "settings"), ONE_HEAD.values(), ids=list(ONE_HEAD)
)


def one_head_pair(kind, settings, *inputs):
    theirs, ours = taken_over(kind(**settings), *inputs, as_list=True)
    additive = kind is keras.layers.AdditiveAttention or "score_mode" in settings
    assert type(ours) is (ka.AdditiveAttention if additive else ka.DotProductAttention)
    assert (ours.dropout, ours.seed) == (theirs.dropout, theirs.seed)
    return theirs, ours


@one_head
def test_one_head_is_the_same_in_the_call_form_of_keras(kind, settings):
    query, value, key = (
        random(B, S, E),
        random(B, S, V, seed=3),
        random(B, S, E, seed=4),
    )
    theirs, ours = one_head_pair(kind, settings, query, value, key)
    keep_query, keep_value = (
        drawn("1 1 1 1 1\n1 1 1 1 ."),
        drawn("1 1 1 1 1\n1 1 1 . ."),
    )
    calls = [{}, {"use_causal_mask": True}]
    calls.append({"mask": [keep_query, keep_value]})
    calls.append({"mask": [None, keep_value], "use_causal_mask": True})
    calls.append({"mask": [keep_query, None], "training": False})
    for call in calls:
        call["return_attention_scores"] = True
        expected = to_numpy(theirs([query, value, key], **call))
        output, weights = to_numpy(ours([query, value, key], **call))
        assert relative_error(output, expected[0]) <= 1e-6
        seen = (
            keep_query if call.get("mask", [None])[0] is not None else keep_query > -1
        )
        assert relative_error(weights[seen], expected[1][seen]) <= 1e-6
        apart = ours(query, value, key, **call)
        assert np.array_equal(apart[0], output)
    two = theirs([key, key]), ours([key, key])
    assert relative_error(two[1], two[0]) <= 1e-6


@pytest.mark.tensorflow
@one_head
def test_gradients_of_one_head_are_the_same(kind, settings):
    query, value, key = (
        random(B, T, E),
        random(B, S, V, seed=3),
        random(B, S, E, seed=4),
    )
    theirs, ours = one_head_pair(kind, settings, query, value, key)
    found = []
    for layer in (ours, theirs):
        tensors = [tf.constant(x) for x in (query, value, key)]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            loss = tf.reduce_sum(layer(tensors) ** 2)
        found.append(to_numpy(tape.gradient(loss, tensors)))
    for actual, wanted in zip(*found, strict=True):
        assert relative_error(actual, wanted) <= 1e-5


def test_masks_of_keras_and_explicit_ones_hide_together():
    ids = np.array([[3, 5, 2, 0, 0], [3, 5, 2, 7, 1]])
    embedded = keras.layers.Embedding(11, E, mask_zero=True)(ids)
    explicit = drawn("1 1 . 1 1\n1 1 1 1 .")
    _, ours = one_head_pair(keras.layers.Attention, {}, embedded, embedded)
    call = {"return_attention_scores": True}
    output, weights = ours([embedded, embedded], mask=[None, explicit], **call)
    expected = np.broadcast_to(((ids > 0) & explicit)[:, None], (B, S, S))
    expected = expected & (ids > 0)[..., None]
    assert np.array_equal(to_numpy(weights) > 0, expected)
    assert np.array_equal(output._keras_mask, ids > 0)
    assert np.array_equal(ours([embedded, embedded])._keras_mask, ids > 0)
    output, weights = ours(embedded, embedded, mask=[explicit, explicit], **call)
    expected = expected & explicit[..., None]
    assert np.array_equal(to_numpy(weights) > 0, expected)
    plain = to_numpy(embedded)
    _, weights = ours(plain, plain, query_mask=explicit, mask=[ids > 0, None], **call)
    expected = np.repeat((explicit & (ids > 0))[..., None], S, axis=2)
    assert np.array_equal(to_numpy(weights) > 0, expected)
    kept = ours([plain, plain], mask=[explicit, None])._keras_mask
    assert np.array_equal(kept, explicit)


@pytest.mark.parametrize("mask", [np.ones((B, S), bool), [np.ones((B, S), bool)]])
def test_a_mask_that_is_no_list_of_masks_is_refused(mask):
    x = random(B, S, E)
    for layer in (ka.DotProductAttention(), ka.AdditiveAttention(3)):
        with pytest.raises(ValueError, match=r"`mask` must be a list.*Received: mask="):
            layer(x, x, mask=mask)


def test_a_second_learned_scale_is_refused():
    with pytest.raises(ValueError, match="Received: use_scale=True, score='cosine'"):
        ka.DotProductAttention("cosine", use_scale=True)


@pytest.mark.parametrize("score", ["dot", "scaled_dot", "general"])
def test_a_learned_scale_multiplies_every_product(score):
    x = random(B, S, E)
    scaled = ka.DotProductAttention(score, use_scale=True)
    plain = ka.DotProductAttention(score)
    scaled(x, x), plain(x, x)
    kernels = [weight for weight in scaled.weights if len(weight.shape)]
    for new, old in zip(plain.weights, kernels, strict=True):
        new.assign(old)
    (scale,) = (weight for weight in scaled.weights if not len(weight.shape))
    assert float(scale) == 1.0
    assert np.array_equal(scaled(x, x), plain(x, x))
    scale.assign(1.7)
    assert relative_error(scaled(x, x), plain(1.7 * x, x)) <= 1e-6
    half = ka.DotProductAttention(score, use_scale=True, dtype="mixed_float16")
    assert half(x, x).dtype == "float16"


# --- what cannot be converted --------------------------------------------------------


class Special(keras.layers.MultiHeadAttention):
    """Might compute something else."""


def test_layers_that_cannot_be_converted_are_refused():
    x = random(B, S, E)
    for unbuilt in (
        keras.layers.MultiHeadAttention(2, 3),
        keras.layers.GroupQueryAttention(3, 2, 1),
        keras.layers.Attention(),
        keras.layers.AdditiveAttention(),
    ):
        with pytest.raises(ValueError, match="Received: built=False"):
            from_keras(unbuilt)
    special = Special(2, 3)
    special(x, x)
    for other in (special, keras.layers.Dense(3), ka.DotProductAttention()):
        with pytest.raises(ValueError, match=r"no subclass.*Received: layer="):
            from_keras(other)
    with pytest.raises(ValueError, match=r"no subclass.*Received: layer="):
        ka.MultiHeadAttention.from_keras(special)
    dot, concat = keras.layers.Attention(), keras.layers.Attention(score_mode="concat")
    dot([x, x]), concat([x, x])
    with pytest.raises(ValueError, match="Received: score_mode='concat'"):
        ka.DotProductAttention.from_keras(concat)
    with pytest.raises(ValueError, match="Received: score_mode='dot'"):
        ka.AdditiveAttention.from_keras(dot)


def test_layers_with_lora_or_quantised_are_refused():
    x = random(B, S, E)
    theirs = keras.layers.MultiHeadAttention(2, 3)
    theirs(x, x)
    theirs.query_dense.enable_lora(2)
    with pytest.raises(ValueError, match="before `enable_lora` and `quantize`"):
        from_keras(theirs)


def test_options_of_a_later_keras_are_refused(monkeypatch):
    x = random(B, S, E)
    theirs = keras.layers.MultiHeadAttention(2, 3)
    theirs(x, x)
    config = {**theirs.get_config(), "use_magic": True, "unused": None}
    monkeypatch.setattr(theirs, "get_config", lambda: config)
    with pytest.raises(ValueError, match=r"Received: \{'use_magic': True"):
        from_keras(theirs)


# --- LoRA and quantisation -----------------------------------------------------------


def models(**settings):
    """A model of Keras with one attention layer, and the same of ours."""
    theirs = keras.layers.MultiHeadAttention(4, 8, use_gate=True, **settings)
    x = keras.Input((None, 32))
    theirs, ours = taken_over(theirs, x, x)
    return keras.Model(x, theirs(x, x)), keras.Model(x, ours(x, x))


def enable_lora(model):
    rng = np.random.default_rng(6)
    parts = [part for part in model._flatten_layers() if hasattr(part, "enable_lora")]
    for part in sorted(parts, key=lambda part: part.name):
        part.enable_lora(2)
        for kernel in (part.lora_kernel_a, part.lora_kernel_b):
            kernel.assign(rng.normal(scale=0.3, size=kernel.shape))
    return len(parts)


# Keras warns of every layer that has nothing to quantise, `Input` for one.
quantising = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
MODES = [("int8", False), ("int8", True), ("int4", False), ("int4", True)]
MODES.append(("float8", False))


@pytest.mark.slow
@quantising
@pytest.mark.parametrize(("mode", "lora"), MODES)
def test_a_quantised_model_is_that_of_keras_and_survives_saving(mode, lora, tmp_path):
    theirs, ours = models()
    x = random(B, S, 32)
    exact = to_numpy(ours(x))
    if lora:
        assert enable_lora(theirs) == enable_lora(ours) == 5
        assert relative_error(exact, ours(x)) > 0.1
        exact = to_numpy(ours(x))
        assert relative_error(exact, theirs(x)) <= 1e-6
    theirs.quantize(mode), ours.quantize(mode)
    output = to_numpy(ours(x))
    assert relative_error(output, theirs(x)) <= 1e-5
    assert 1e-4 < relative_error(output, exact) < 0.3

    ours.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    # Keras merges LoRA into the kernel and rounds it once more.
    tolerance = 0 if not lora else 0.3
    assert relative_error(loaded(x), output) <= tolerance
    kernels = {weight.dtype for weight in loaded.weights if weight.name == "kernel"}
    assert kernels == {"float32" if mode == "float8" else "int8"}
    loaded.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    assert np.array_equal(again(x), loaded(x))


@quantising
def test_keras_itself_cannot_load_its_quantised_attention(tmp_path):
    theirs, _ = models()
    theirs.quantize("int8")
    theirs.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="could not be loaded"):
        keras.models.load_model(tmp_path / "model.keras")


@pytest.mark.tensorflow
@quantising
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_quantised_projection_gives_gradients_and_takes_lora(mode):
    _, ours = models()
    ours.quantize(mode)
    x = tf.constant(random(B, S, 32))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(ours(x) ** 2)
    assert abs(to_numpy(tape.gradient(loss, x))).max() > 0
    before = to_numpy(ours(x))
    assert enable_lora(ours) == 5
    assert relative_error(before, ours(x)) > 0.1


@quantising
def test_a_layer_with_a_policy_per_sublayer_can_be_quantised(tmp_path):
    policies = keras.dtype_policies.DTypePolicyMap("float32")
    layer = ka.MultiHeadAttention(2, 3, name="heads", dtype=policies)
    x = keras.Input((None, E))
    model = keras.Model(x, layer(x, x))
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded(random(B, S, E)), model(random(B, S, E)))
