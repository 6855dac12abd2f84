"""The contract of all attention layers. The kinds are listed in contracts/kinds.py."""

import inspect
import itertools
import json
from functools import partial

import keras
import ml_dtypes
import numpy as np
import oracle
import pytest
import tensorflow as tf
from backends import derivatives, gradients
from contracts.kinds import (
    BY_NAME,
    CALL_PATHS,
    KEY,
    KINDS,
    QUERY,
    UNITS,
    VALUE,
    B,
    S,
    T,
    costly,
    relative_error,
    to_numpy,
    weights_of,
    weights_that_are_copies,
)
from keras import ops
from oracle import drawn

import keras_attention as ka
from keras_attention.layers._scores import SCORES
from keras_attention.layers.base import AttentionLayer

MASK = np.stack(
    [
        drawn("""
            1 . 1 1 .
            . . . . .
            1 1 1 1 1
        """),
        drawn("""
            . 1 . 1 .
            . . . 1 1
            1 1 1 . .
        """),
    ]
)
QUERY_MASK = drawn("""
    1 1 1
    1 1 .
""")
KEY_MASK = drawn("""
    1 1 1 1 1
    1 1 1 . .
""")
MASKS = {"attention_mask": MASK, "query_mask": QUERY_MASK, "value_mask": KEY_MASK}
SEEN = MASK & QUERY_MASK[..., None] & KEY_MASK[:, None, :]
BLIND = ~SEEN.any(axis=-1)  # [B, T]: queries that can attend to nothing

HAS_KERNEL = keras.backend.backend() == "torch"
XLA = keras.backend.backend() != "torch"  # there a compiler of its own, not measured
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
# Where another test asks every kind the same, or what is tested is shared code.
each_first_kind = pytest.mark.parametrize(
    "kind", [pytest.param(k, id=k.name, marks=costly(k)) for k in KINDS]
)
every_call_path = pytest.mark.parametrize(
    "kind", CALL_PATHS, ids=lambda kind: kind.name
)


def expected_of(kind, layer, inputs):
    return kind.oracle(
        layer, *inputs, mask=MASK, query_mask=QUERY_MASK, key_mask=KEY_MASK
    )


def observed(kind, layer, inputs, **kwargs):
    """Output and weights as numpy."""
    return to_numpy(kind.call(layer, *inputs, return_attention_scores=True, **kwargs))


def without_heads(weights):
    """Weights `[B, T, S]`, those of all heads one after the other."""
    return weights.reshape(-1, *weights.shape[-2:]) if weights.ndim == 4 else weights


def per_head(seen, weights):
    """`seen` in the shape of weights with or without heads."""
    return np.broadcast_to(seen[:, None] if weights.ndim == 4 else seen, weights.shape)


def context_free(layer, query):
    """The output of a query whose context is 0."""
    weights = weights_of(layer)
    if "combine/kernel" in weights:
        kernel = weights["combine/kernel"][VALUE:]
        return np.tanh(np.asarray(query, "float64") @ kernel)
    bias = weights.get("attention_output/bias")
    return np.zeros((1, 1)) if bias is None else bias[None, None]


def are_equal(actual, expected):
    """To the last bit; tensors may be on a GPU."""
    return np.array_equal(*to_numpy((actual, expected)))


def same(actual, expected):
    """Equal; up to rounding where a kernel (`ops/backend`) has another order."""
    if HAS_KERNEL:
        return relative_error(actual, expected) <= 1e-6
    return are_equal(actual, expected)


# --- the numbers ---------------------------------------------------------------


@every_kind
def test_output_and_weights_are_those_of_the_paper(kind):
    layer, inputs = kind.shared(), kind.inputs()
    output, weights = expected_of(kind, layer, inputs)
    actual, actual_weights = observed(kind, layer, inputs, **MASKS)
    assert relative_error(actual, output) <= 1e-6
    assert relative_error(actual_weights, weights) <= 1e-6


@every_kind
def test_without_any_mask_they_are_too(kind):
    layer, inputs = kind.shared(), kind.inputs()
    output, weights = kind.oracle(layer, *inputs, mask=np.ones((1, 1, 1), bool))
    actual, actual_weights = observed(kind, layer, inputs)
    assert relative_error(actual, output) <= 1e-6
    assert relative_error(actual_weights, weights) <= 1e-6


@pytest.mark.tensorflow  # elsewhere Keras computes float64 in float32
@every_kind
def test_in_float64_they_are_exact_to_float64(kind):
    layer, inputs = kind.built(dtype="float64"), kind.inputs(dtype="float64")
    output, weights = expected_of(kind, layer, inputs)
    actual, actual_weights = observed(kind, layer, inputs, **MASKS)
    assert actual.dtype == "float64"
    assert relative_error(actual, output) <= 1e-13
    assert relative_error(actual_weights, weights) <= 1e-13


HALVES = {"mixed_float16": "float16", "mixed_bfloat16": ml_dtypes.bfloat16}
# The error of computing, and not of storing, in half precision. Measured were 9.5e-4
# and, because projections round their results, 7.6e-3 on a CPU with bfloat16
# instructions and 1.05e-2 on one without.
COMPUTING = {"mixed_float16": 1.5e-3, "mixed_bfloat16": 1.2e-2}


@pytest.mark.parametrize("policy", HALVES)
@every_kind
def test_in_half_precision_they_are_as_exact_as_it_allows(kind, policy):
    layer, inputs = kind.built(dtype=policy), kind.inputs()
    masks = {"mask": MASK, "query_mask": QUERY_MASK, "key_mask": KEY_MASK}
    exact, _ = kind.oracle(layer, *inputs, **masks)
    stored, _ = kind.oracle(layer, *inputs, stored_as=HALVES[policy], **masks)
    actual = kind.call(layer, *inputs, **MASKS)
    assert keras.backend.standardize_dtype(actual.dtype) == layer.compute_dtype
    actual = to_numpy(actual)
    assert relative_error(actual, stored) <= COMPUTING[policy]
    # Twice the error of storing inputs, weights and the result in that dtype.
    unavoidable = relative_error(stored, exact) + ml_dtypes.finfo(HALVES[policy]).eps
    assert relative_error(actual, exact) <= 2 * unavoidable


@pytest.mark.parametrize("policy", HALVES)
@every_kind
def test_huge_inputs_stay_finite_in_half_precision(kind, policy):
    layer = kind.make(dtype=policy)
    query, value, key = kind.inputs()
    output, weights = observed(kind, layer, [query * 900, value, key * 900], **MASKS)
    assert np.isfinite(output.astype("float32")).all()
    assert np.isfinite(weights).all()
    assert (weights[~per_head(SEEN, weights)] == 0).all()


@every_kind
def test_weights_of_a_query_sum_to_one_or_are_all_zero(kind):
    _, weights = observed(kind, kind.shared(), kind.inputs(), **MASKS)
    seen, sums = per_head(SEEN, weights), weights.sum(axis=-1)
    assert kind.mixed or (weights >= 0).all()
    assert (weights[~seen] == 0).all()
    if kind.sums_to_one and "window" not in kind.name and "local" not in kind.name:
        assert np.allclose(sums, seen.any(axis=-1), atol=1e-6)
    elif kind.sums_to_one:  # a window may leave nothing to see
        assert np.logical_or(abs(sums - 1) <= 1e-6, sums == 0).all()
    assert kind.mixed or (sums <= 1 + 1e-6).all()
    assert abs(sums).max() > 0.1


@every_kind
def test_bias_multiplies_weights_by_its_exponential(kind):
    layer, inputs = kind.shared(), kind.inputs()
    bias = np.random.default_rng(3).normal(size=(B, T, S)).astype("float32")
    _, weights = observed(kind, layer, inputs, **MASKS)
    _, biased = observed(kind, layer, inputs, attention_bias=bias, **MASKS)
    factor = np.exp(bias)
    if weights.ndim == 4:
        factor = factor[:, None]
    expected = weights * factor
    assert relative_error(biased, weights) > 0.01
    if not kind.sums_to_one:  # the Gaussian, or the mixing, comes after the softmax
        assert are_equal(biased != 0, weights != 0)
        return
    total = expected.sum(axis=-1, keepdims=True)
    expected = np.divide(expected, total, where=total > 0, out=np.zeros_like(expected))
    assert relative_error(biased, expected) <= 1e-5


# Except on TensorFlow, Keras computes float64 in float32, so the step is longer.
EXACT = keras.backend.backend() == "tensorflow"


@every_kind
def test_gradients_are_those_of_finite_differences(kind):
    dtype, step, near = ("float64", 1e-6, 1e-7) if EXACT else ("float32", 3e-3, 2e-2)
    if not EXACT and "predictive" in kind.name:
        step = 3e-4  # a longer one moves keys across the edge of a window
    layer, inputs = kind.built(dtype=dtype), kind.inputs(dtype=dtype)
    rng = np.random.default_rng(5)
    weights = layer.trainable_weights
    target = rng.normal(size=kind.call(layer, *inputs, **MASKS).shape).astype(dtype)

    def loss(*tensors):
        output = kind.call(layer, *tensors, **MASKS)
        return ops.sum(output * ops.convert_to_tensor(target))

    found = gradients(loss, inputs, weights)
    directions = [rng.normal(size=x.shape).astype(dtype) for x in found]
    slope = sum(np.sum(g * d) for g, d in zip(found, directions, strict=True))
    start = [*inputs, *map(np.array, weights)]
    ends = []
    for sign in (1, -1):
        moved = [x + sign * step * d for x, d in zip(start, directions, strict=True)]
        for w, x in zip(weights, moved[len(inputs) :], strict=True):
            w.assign(x)
        ends.append(float(loss(*map(ops.convert_to_tensor, moved[: len(inputs)]))))
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=near, abs=near)


# --- nothing to see, nothing leaks -------------------------------------------------


@every_kind
def test_a_query_that_can_attend_to_nothing_has_context_zero_on_every_path(kind):
    inputs = kind.inputs()
    plain, dropping = kind.shared(), kind.built(dropout=0.5)
    assert BLIND.sum() == 3
    output, weights = observed(kind, plain, inputs, **MASKS)
    assert (weights[~per_head(~BLIND[..., None], weights)] == 0).all()
    query = np.where(QUERY_MASK[..., None], inputs[0], 0)
    expected = np.broadcast_to(context_free(plain, query), output.shape)
    assert abs(output[BLIND] - expected[BLIND]).max() <= 1e-6
    if "combine/kernel" not in weights_of(plain):
        assert are_equal(output[BLIND], expected[BLIND])
    for layer, return_scores in itertools.product((plain, dropping), (False, True)):
        for training in (None, False):
            again = kind.call(
                layer,
                *inputs,
                return_attention_scores=return_scores,
                training=training,
                **MASKS,
            )
            again = to_numpy(again[0] if return_scores else again)
            assert are_equal(again[BLIND], output[BLIND])
            assert same(again, output)


@every_kind
def test_values_at_padding_never_leak(kind):
    layer, inputs = kind.shared(), kind.inputs()
    clean, clean_weights = observed(kind, layer, inputs, **MASKS)
    keep = [QUERY_MASK, KEY_MASK, KEY_MASK]
    for poison in (np.nan, np.inf, -np.inf, 3e38, 17.0):
        poisoned = [
            np.where(k[..., None], x, poison).astype("float32")
            for k, x in zip(keep, inputs, strict=True)
        ]
        output, weights = observed(kind, layer, poisoned, **MASKS)
        assert are_equal(output, clean)
        assert are_equal(weights, clean_weights)


@every_kind
def test_gradients_do_not_leak_into_or_out_of_padding(kind):
    layer, inputs = kind.shared(), kind.inputs()
    keep = [QUERY_MASK, KEY_MASK, KEY_MASK]

    def found(poison):
        tensors = [
            np.where(k[..., None], x, poison).astype("float32")
            for k, x in zip(keep, inputs, strict=True)
        ]
        return gradients(
            lambda *x: ops.sum(ops.square(kind.call(layer, *x, **MASKS))),
            tensors,
            layer.trainable_weights,
        )

    clean, poisoned = found(0.0), found(np.nan)
    for left, right in zip(clean, poisoned, strict=True):
        assert are_equal(left, right)
    for gradient, k in zip(poisoned, keep, strict=False):
        assert (gradient[~k] == 0).all()
    assert abs(poisoned[1]).max() > 0


@every_kind
def test_a_key_that_is_hidden_from_all_queries_gets_gradient_zero(kind):
    layer = kind.shared()
    hidden = MASK & (np.arange(S) != 2)

    def loss(*tensors):
        return ops.sum(ops.square(kind.call(layer, *tensors, attention_mask=hidden)))

    _, value, key = gradients(loss, kind.inputs())
    assert (value[:, 2] == 0).all()
    assert (key[:, 2] == 0).all()
    assert abs(value).max() > 0


@every_kind
def test_a_causal_mask_hides_the_future(kind):
    layer, inputs = kind.shared(), kind.inputs(queries=S)
    output = to_numpy(kind.call(layer, *inputs, use_causal_mask=True))
    lower = np.tril(np.ones((1, S, S), bool))
    explicit = to_numpy(kind.call(layer, *inputs, attention_mask=lower))
    assert are_equal(output, explicit)
    changed = [x.copy() for x in inputs]
    for x in changed:
        x[:, 3:] += 5.0
    moved = to_numpy(kind.call(layer, *changed, use_causal_mask=True))
    if "predictive" in kind.name:  # S * sigmoid(...) knows how long the source is
        assert are_equal(moved[:, :3], output[:, :3])
    assert relative_error(moved[:, :3], output[:, :3]) <= 1e-6
    assert relative_error(moved[:, 3:], output[:, 3:]) > 1e-3


@every_kind
def test_no_weight_starts_as_a_copy_of_another(kind):
    layer = kind.make()
    layer.build((B, T, QUERY), (B, S, VALUE), (B, S, kind.key_size))
    assert weights_that_are_copies(layer) == []


# --- dropout -----------------------------------------------------------------------


@each_first_kind
def test_dropout_works_in_training_only_and_is_seeded(kind):
    inputs = kind.inputs()
    still = to_numpy(kind.call(kind.shared(), *inputs))
    runs = []
    for seed in (11, 11, 12):
        layer = kind.built(dropout=0.5, seed=seed)
        runs.append(to_numpy(kind.call(layer, *inputs, training=True)))
        assert are_equal(kind.call(layer, *inputs), still)
    assert are_equal(runs[0], runs[1])
    assert not are_equal(runs[0], runs[2])
    assert not are_equal(runs[0], still)


@every_kind
def test_returned_weights_are_those_before_dropout(kind):
    inputs = kind.inputs()
    _, still = observed(kind, kind.shared(), inputs)
    _, weights = observed(kind, kind.built(dropout=0.5), inputs, training=True)
    assert np.allclose(weights, still, atol=1e-7)


# --- ways to call ------------------------------------------------------------------


@every_call_path
def test_a_list_of_tensors_is_the_same_call(kind):
    layer, inputs = kind.shared(), kind.inputs()
    extra = {"positions": np.arange(T)} if kind.needs_positions else {}
    masks = {**MASKS, "key_mask": KEY_MASK}
    expected = to_numpy(kind.call(layer, *inputs, **masks))
    listed = layer(list(inputs), **extra, **masks)
    assert are_equal(listed, expected)
    in_list = layer(
        list(inputs),
        query_mask=[QUERY_MASK, KEY_MASK, KEY_MASK],
        attention_mask=MASK,
        **extra,
    )
    assert are_equal(in_list, expected)


@every_call_path
def test_two_tensors_use_the_value_as_key(kind):
    rng = np.random.default_rng(1)
    query, value = rng.normal(size=(B, T, 7)), rng.normal(size=(B, S, 7))
    layer = kind.make()
    expected = to_numpy(kind.call(layer, query, value, value, value_mask=KEY_MASK))
    extra = {"positions": np.arange(T)} if kind.needs_positions else {}
    assert are_equal(layer(query, value, value_mask=KEY_MASK, **extra), expected)
    assert are_equal(layer([query, value], value_mask=KEY_MASK, **extra), expected)


def embedded(size):
    """Tensors that carry a Keras mask: id 0 is padding."""
    query_ids = np.where(QUERY_MASK, [[3, 1, 4], [1, 5, 9]], 0)
    value_ids = np.where(KEY_MASK, [[2, 7, 1, 8, 2], [8, 1, 8, 2, 8]], 0)
    embedding = keras.layers.Embedding(10, size, mask_zero=True)
    return embedding(query_ids), embedding(value_ids)


@every_call_path
def test_masks_that_keras_carries_are_used_and_passed_on(kind):
    query, value = embedded(QUERY)
    layer = kind.make()
    bare = to_numpy([query, value, value])
    extra = {"positions": np.arange(T)} if kind.needs_positions else {}
    expected = to_numpy(
        layer(*bare, query_mask=QUERY_MASK, value_mask=KEY_MASK, **extra)
    )
    output = layer(query, value, **extra)
    assert are_equal(output, expected)
    assert are_equal(output._keras_mask, QUERY_MASK)
    listed = layer([query, value], **extra)
    assert are_equal(listed, expected)
    assert are_equal(listed._keras_mask, QUERY_MASK)
    output, _ = layer(query, value, return_attention_scores=True, **extra)
    assert same(output, expected)
    assert are_equal(output._keras_mask, QUERY_MASK)
    assert not are_equal(layer(*bare, **extra), expected)


@every_call_path
def test_masks_that_keras_carries_combine_with_explicit_ones(kind):
    query, value = embedded(QUERY)
    layer = kind.make()
    more_query, more_key = drawn("1 . 1\n1 1 1"), drawn("1 1 . 1 1\n. 1 1 1 1")
    extra = {"positions": np.arange(T)} if kind.needs_positions else {}
    expected = to_numpy(
        layer(
            *to_numpy([query, value]),
            query_mask=QUERY_MASK & more_query,
            value_mask=KEY_MASK & more_key,
            attention_mask=MASK,
            **extra,
        )
    )
    explicit = {"query_mask": more_query, "attention_mask": MASK, **extra}
    for name in ("value_mask", "key_mask"):
        output = layer(query, value, **{name: more_key}, **explicit)
        assert are_equal(output, expected)


@pytest.mark.tensorflow
@each_first_kind
def test_a_graph_of_unknown_sizes_gives_the_same_numbers(kind):
    layer, inputs = kind.shared(), kind.inputs()
    output, weights = observed(kind, layer, inputs, **MASKS)
    unknown = [tf.TensorSpec((None, None, x.shape[-1])) for x in inputs]
    if kind.needs_positions:  # a window has to know that T is not S
        unknown = [tf.TensorSpec((None, *x.shape[1:])) for x in inputs]
    unknown += [tf.TensorSpec((None, None, None), tf.bool)]
    unknown += [tf.TensorSpec((None, None), tf.bool)] * 2

    @tf.function(input_signature=unknown)
    def graph(*tensors):
        extra = {"positions": tf.range(T)} if kind.needs_positions else {}
        masks = dict(zip(MASKS, tensors[3:], strict=True))
        return layer(*tensors[:3], return_attention_scores=True, **masks, **extra)

    actual, actual_weights = graph(*inputs, *MASKS.values())
    assert relative_error(actual, output) <= 1e-6
    assert relative_error(actual_weights, weights) <= 1e-6


# --- shapes ------------------------------------------------------------------------


def functional(kind, layer, *, scores=False):
    """A model whose inputs are query, value, key and mask."""
    inputs = [
        keras.Input((T, QUERY)),
        keras.Input((S, VALUE)),
        keras.Input((S, kind.key_size)),
        keras.Input((T, S), dtype="bool"),
    ]
    outputs = kind.call(
        layer, *inputs[:3], attention_mask=inputs[3], return_attention_scores=scores
    )
    return keras.Model(inputs, outputs)


@each_first_kind
def test_symbolic_shapes_are_the_real_ones_in_cross_attention(kind):
    model = functional(kind, kind.make(), scores=True)
    real = model([*kind.inputs(), MASK])
    for tensor, symbol in zip(real, model.outputs, strict=True):
        assert (None, *tensor.shape[1:]) == tuple(symbol.shape)
        assert keras.backend.standardize_dtype(tensor.dtype) == symbol.dtype
    assert tuple(real[0].shape) == (B, T, kind.size or VALUE)
    assert tuple(real[1].shape[-2:]) == (T, S)


@every_kind
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (1, 1, S), (B, T, 1), (0, T, S), (B, 0, S), (B, T, 0)], ids=str
)
def test_sizes_of_one_and_zero_work(kind, sizes):
    batch, queries, keys = sizes
    layer = kind.shared()
    inputs = kind.inputs(batch=batch, queries=queries, keys=keys)
    expected, expected_weights = kind.oracle(
        layer, *inputs, mask=np.ones((1, 1, 1)) > 0
    )
    output, weights = observed(kind, layer, inputs)
    assert relative_error(output, expected) <= 1e-6
    assert relative_error(weights, expected_weights) <= 1e-6
    keep = np.zeros((batch, keys), bool)
    _, weights = observed(kind, layer, inputs, value_mask=keep)
    assert (weights == 0).all()


@each_first_kind
def test_rows_of_a_batch_are_independent(kind):
    layer, inputs = kind.shared(), kind.inputs(batch=5)
    whole = to_numpy(kind.call(layer, *inputs))
    for row in range(5):
        alone = kind.call(layer, *(x[row : row + 1] for x in inputs))
        assert relative_error(alone, whole[row : row + 1]) <= 1e-6


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k.by_content], ids=lambda kind: kind.name
)
def test_the_order_of_keys_does_not_matter(kind):
    layer, (query, value, key) = kind.shared(), kind.inputs()
    order = np.array([3, 0, 4, 1, 2])
    output, weights = observed(kind, layer, (query, value, key), attention_mask=MASK)
    moved, moved_weights = observed(
        kind,
        layer,
        (query, value[:, order], key[:, order]),
        attention_mask=MASK[:, :, order],
    )
    assert relative_error(moved, output) <= 1e-6
    assert relative_error(moved_weights, weights[..., order]) <= 1e-6


# --- saving and training --------------------------------------------------------------


@every_kind
def test_the_config_holds_every_constructor_argument_through_json(kind):
    layer = kind.make(dropout=0.25, seed=3, name="mine", dtype="mixed_bfloat16")
    config = layer.get_config()
    arguments = set(inspect.signature(type(layer)).parameters) - {"kwargs"}
    assert arguments <= set(config)
    through = json.loads(json.dumps(config))
    again = type(layer).from_config(through)
    assert json.dumps(again.get_config()) == json.dumps(config)
    made_with = {**kind.make.keywords, "dropout": 0.25, "seed": 3, "name": "mine"}
    for name, value in made_with.items():
        size = value if isinstance(value, tuple) else (value,)  # of `output_shape`
        assert config[name] in (value, size)
    assert again.dtype_policy.name == "mixed_bfloat16"


@each_first_kind
def test_saving_and_loading_changes_no_bit(kind, tmp_path):
    layer, data = kind.built(dropout=0.5), [*kind.inputs(), MASK]
    model = functional(kind, layer, scores=True)
    expected = to_numpy(model(data))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for actual, wanted in zip(to_numpy(loaded(data)), expected, strict=True):
        assert are_equal(actual, wanted)
    rebuilt = [x for x in loaded.layers if isinstance(x, type(layer))]
    configs = [json.loads(json.dumps(x.get_config())) for x in (rebuilt[0], layer)]
    assert configs[0] == configs[1]


@pytest.mark.slow
@each_first_kind
def test_compiled_by_xla_outputs_and_gradients_are_the_same(kind):
    layer = kind.shared()

    def forward(*tensors):
        output = kind.call(layer, *tensors, **MASKS)
        return ops.sum(output**2), output

    run = partial(derivatives, forward, kind.inputs(), layer.trainable_weights)
    output, found = run()
    compiled, compiled_gradients = run(compiled=True)
    assert relative_error(compiled, output) <= 1e-6
    largest = max(abs(gradient).max() for gradient in found)
    for actual, expected in zip(compiled_gradients, found, strict=True):
        assert abs(actual - expected).max() <= 2e-6 * largest


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dot", "global", "local", "additive", "multi"])
def test_every_weight_learns_in_a_fit_compiled_by_xla(family):
    kinds = [kind for kind in KINDS if kind.name.startswith(family)]
    layers = [kind.make(name=kind.name) for kind in kinds]
    inputs = [keras.Input((T, QUERY)), keras.Input((S, VALUE))]
    inputs += [keras.Input((S, QUERY)), keras.Input((S, KEY))]
    mask = keras.Input((T, S), dtype="bool")
    outputs = [
        kind.call(
            layer, *inputs[:2], inputs[2 + (not kind.same_size)], attention_mask=mask
        )
        for kind, layer in zip(kinds, layers, strict=True)
    ]
    model = keras.Model([*inputs, mask], keras.layers.Concatenate()(outputs))
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=XLA)
    rng = np.random.default_rng(1)
    data = [rng.normal(size=(B, *x.shape[1:])).astype("float32") for x in inputs]
    target = rng.normal(size=(B, *model.output_shape[1:]))
    old = [np.array(w) for w in model.trainable_weights]
    history = model.fit([*data, MASK], target, batch_size=B, epochs=2, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]
    for weight, was in zip(model.trainable_weights, old, strict=True):
        assert np.isfinite(np.array(weight)).all()
        # softmax(x + c) = softmax(x): a bias on all keys has no gradient
        learns = not weight.path.endswith("key/bias")
        assert not learns or not are_equal(weight, was), weight.path


def test_the_list_holds_every_public_kind_and_score():
    layers = [getattr(ka, n) for n, m in ka._DEFINED_IN.items() if "layers." in m]
    kinds = {each for each in layers if isinstance(each, type)}
    kinds = {each for each in kinds if issubclass(each, AttentionLayer)}
    kinds -= {AttentionLayer}
    assert {type(kind.make()) for kind in KINDS} == kinds
    assert set(oracle.SCORES) == set(SCORES)
    assert len(BY_NAME) == len(KINDS)
    sizes = (B, T, S, QUERY, KEY, VALUE, UNITS)
    assert len(set(sizes)) == len(sizes)
    assert ops.shape(KINDS[0].inputs()[0]) == (B, T, QUERY)
