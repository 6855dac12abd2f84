"""The layers that carry positions into attention."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import relative_error, to_numpy

from keras_attention.layers.alibi_bias import AlibiBias
from keras_attention.layers.position_embedding import PositionEmbedding
from keras_attention.layers.position_scheme import PositionScheme
from keras_attention.layers.relative_position_bias import RelativePositionBias
from keras_attention.layers.relative_position_representation import (
    RelativePositionRepresentation,
)
from keras_attention.layers.rotary_embedding import RotaryEmbedding
from keras_attention.layers.sinusoidal_encoding import SinusoidalEncoding
from keras_attention.layers.sinusoidal_encoding_2d import SinusoidalEncoding2D

B, T, S, N, H, V = 2, 3, 5, 7, 4, 6
RNG = np.random.default_rng(1)
QUERY = RNG.normal(size=(B, T, N, H)).astype("float32")
QUERY_POSITIONS = np.array([[4, 0, 70], [1, 3, -1]], "int32")
KEY_POSITIONS = np.array([[0, 1, 4, 7, 900], [-1, -1, 0, 1, 2]], "int32")
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 512,
    "beta_fast": 16.0,
}
DYNAMIC = {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 16}

BIASES = {
    "alibi": AlibiBias,
    "alibi-symmetric": lambda **kw: AlibiBias(symmetric=True, max_bias=4.0, **kw),
    "t5": RelativePositionBias,
    "t5-causal": lambda **kw: RelativePositionBias(
        16, 64, False, initializer="he_normal", **kw
    ),
    "shaw": lambda **kw: RelativePositionRepresentation(2, value_dim=V, **kw),
    "shaw-keys": lambda **kw: RelativePositionRepresentation(
        3, False, initializer="he_normal", **kw
    ),
}
ROTARY = {
    "rotary": RotaryEmbedding,
    "rotary-interleaved": lambda **kw: RotaryEmbedding(
        500.0, layout="interleaved", rotary_dim=2, **kw
    ),
    "rotary-yarn": lambda **kw: RotaryEmbedding(scaling=YARN, **kw),
    "rotary-dynamic": lambda **kw: RotaryEmbedding(scaling=DYNAMIC, **kw),
}
GRID = {
    "2d": SinusoidalEncoding2D,
    "2d-concatenated": lambda **kw: SinusoidalEncoding2D(500.0, "concatenated", **kw),
}
SCHEMES = {**BIASES, **ROTARY}
EVERY = {**SCHEMES, **GRID}


def merge(heads):
    return keras.ops.reshape(heads, (B, T, N * H))


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_a_layer_is_rebuilt_from_its_config(make):
    layer = make(name="position")
    config = json.loads(json.dumps(layer.get_config()))
    again = type(layer).from_config(config)
    assert again.get_config() == layer.get_config()
    for each in (layer, again):
        each.build(QUERY.shape)
    again.set_weights(layer.get_weights())
    assert np.array_equal(again(QUERY), layer(QUERY))


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_saving_and_loading_changes_no_bit(make, tmp_path):
    inputs = keras.Input((T, N, H))
    model = keras.Model(inputs, make()(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded(QUERY), model(QUERY))


@pytest.mark.tensorflow
@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_symbolic_shapes_are_the_real_ones_and_every_key_table_gets_gradient(make):
    layer = make()
    symbol = layer(keras.Input((None, N, H)))
    with tf.GradientTape() as tape:
        output = layer(QUERY)
        loss = tf.reduce_sum(output**2)
    for size, real in zip(symbol.shape, output.shape, strict=True):
        assert size in (None, real)
    used = [w for w in layer.trainable_weights if "value" not in w.path]
    for rows in tape.gradient(loss, [w.value for w in used]):
        gradient = to_numpy(tf.convert_to_tensor(rows))
        assert np.isfinite(gradient).all()
        assert abs(gradient).max() > 0


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_every_dtype_gives_the_same_up_to_its_precision(make, policy):
    exact, layer = make(dtype="float64"), make(dtype=policy)
    for each in (exact, layer):
        each.build(QUERY.shape)
    layer.set_weights(exact.get_weights())
    output = layer(QUERY.astype("float64") if policy == "float64" else QUERY)
    is_bias = isinstance(layer, PositionScheme) and not isinstance(
        layer, RotaryEmbedding
    )
    half = policy != "float64"
    dtype = "float32" if is_bias and half else layer.compute_dtype
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    expected = exact(QUERY.astype("float64"))
    error = relative_error(keras.ops.cast(output, "float64"), to_numpy(expected))
    assert error <= {"mixed_float16": 2e-3, "mixed_bfloat16": 1.6e-2}.get(policy, 0.0)


@pytest.mark.tensorflow
@pytest.mark.parametrize("make", BIASES.values(), ids=BIASES)
def test_a_bias_is_the_same_in_a_graph_of_unknown_length(make):
    layer = make()
    layer.build((None, None, N, H))
    specs = [
        tf.TensorSpec((None, None, N, H)),
        tf.TensorSpec((None, None), "int32"),
        tf.TensorSpec((None, None), "int32"),
    ]
    graph = tf.function(layer.__call__, input_signature=specs)
    given = (QUERY, QUERY_POSITIONS, KEY_POSITIONS)
    assert graph(*given).shape == (B, N, T, S)
    assert relative_error(graph(*given), to_numpy(layer(*given))) <= 1e-6


@pytest.mark.parametrize("make", BIASES.values(), ids=BIASES)
def test_a_bias_depends_on_the_difference_of_positions_only(make):
    layer = make()
    near = to_numpy(layer(QUERY, QUERY_POSITIONS, KEY_POSITIONS))
    far = to_numpy(layer(QUERY, QUERY_POSITIONS + 99_000, KEY_POSITIONS + 99_000))
    assert np.array_equal(near, far)
    moved = to_numpy(layer(QUERY, QUERY_POSITIONS, KEY_POSITIONS + 1))
    assert not np.array_equal(near, moved)
    assert np.isfinite(near).all()


@pytest.mark.parametrize("make", BIASES.values(), ids=BIASES)
def test_positions_are_0_1_2_and_those_of_the_queries_when_not_given(make):
    layer = make()
    default = to_numpy(layer(QUERY))
    assert default.shape[1:] == (N, T, T)
    assert np.array_equal(default, layer(QUERY, np.arange(T), np.arange(T)))
    assert np.array_equal(layer(QUERY, np.arange(T)), default)


@pytest.mark.parametrize("name", ["alibi", "t5"])
def test_a_bias_that_does_not_look_at_the_query_needs_none(name):
    layer = BIASES[name]()
    layer.build((None, None, N, H))
    assert not layer.looks_at_query
    alone = layer.bias(None, np.arange(T), np.arange(S))
    assert np.array_equal(alone, layer(QUERY, np.arange(T), np.arange(S)))
    assert tuple(alone.shape) == (1, N, T, S)


def test_alibi_is_0_ahead_unless_it_is_symmetric():
    causal, both = to_numpy(AlibiBias()(QUERY)), AlibiBias(symmetric=True)(QUERY)
    behind = np.tril(np.ones((T, T), bool))
    assert np.array_equal(causal[..., behind], to_numpy(both)[..., behind])
    assert not causal[..., ~behind].any()
    assert np.array_equal(both, np.swapaxes(both, 2, 3))


def test_t5_reads_the_row_of_the_bucket():
    layer = RelativePositionBias()
    bias = to_numpy(layer(QUERY, QUERY_POSITIONS, KEY_POSITIONS))
    table = to_numpy(layer.embeddings)
    assert table.shape == (32, N)
    # Row 0: keys 4 and 3 behind the query at 4, at its position, 3 ahead, far ahead.
    assert np.array_equal(bias[0, :, 0].T, table[[4, 3, 0, 16 + 3, 31]])
    assert np.array_equal(bias[0, :, 2].T, table[[14, 14, 14, 13, 31]])


@pytest.mark.parametrize("name", ["t5", "shaw"])
def test_learned_tables_are_not_rounded_in_half_precision(name):
    half, full = BIASES[name](dtype="mixed_bfloat16"), BIASES[name]()
    rounded = keras.ops.cast(keras.ops.cast(QUERY, "bfloat16"), "float32")
    expected = full(rounded)
    half.build(QUERY.shape)
    half.set_weights(full.get_weights())
    assert relative_error(half(QUERY), to_numpy(expected)) <= 1e-6


def test_shaw_adds_to_scores_and_values():
    layer = RelativePositionRepresentation(2, value_dim=V)
    scores = to_numpy(layer(QUERY, QUERY_POSITIONS, KEY_POSITIONS))
    weights = RNG.dirichlet(np.ones(S), (B, N, T)).astype("float32")
    context = layer.context(weights, QUERY_POSITIONS, KEY_POSITIONS)
    keys, values = map(to_numpy, (layer.key_embeddings, layer.value_embeddings))
    assert keys.shape == (5, H)
    assert values.shape == (5, V)
    assert np.corrcoef(keys.ravel(), values.ravel()[: keys.size])[0, 1] < 0.99
    for b, n, t in np.ndindex(B, N, T):
        rows = np.clip(KEY_POSITIONS[b] - QUERY_POSITIONS[b, t], -2, 2) + 2
        assert np.allclose(scores[b, n, t], keys[rows] @ QUERY[b, t, n], atol=1e-6)
        expected = weights[b, n, t] @ values[rows]
        mine = to_numpy(context)[b, t, n * V : (n + 1) * V]
        assert np.allclose(mine, expected, atol=1e-6)


@pytest.mark.tensorflow
def test_gradients_reach_the_values_of_shaw():
    layer = RelativePositionRepresentation(2)
    layer.build(QUERY.shape)
    weights = np.full((B, N, T, S), 0.2, "float32")
    with tf.GradientTape() as tape:
        context = layer.context(weights, np.arange(T), np.arange(S))
        loss = tf.reduce_sum(tf.square(context))
    gradient = tape.gradient(loss, layer.value_embeddings.value)
    assert abs(to_numpy(gradient)).max() > 0


def test_the_properties_of_a_scheme():
    facts = {
        name: (layer.needs_weights, layer.looks_at_query, layer.depends_on_length)
        for name, layer in ((name, make()) for name, make in EVERY.items())
        if isinstance(layer, PositionScheme)
    }
    assert {name: fact for name, fact in facts.items() if any(fact)} == {
        "shaw": (True, True, False),
        "shaw-keys": (False, True, False),
        "rotary-dynamic": (False, False, True),
    }


def test_a_scheme_does_nothing_by_default():
    scheme = PositionScheme()
    scheme.build((None, None, N, H))
    heads = merge(QUERY)
    assert scheme.rotate(heads, np.arange(T)) is heads
    assert scheme.bias(heads, np.arange(T), np.arange(T)) is None
    assert scheme.context(None, np.arange(T), np.arange(T)) is None
    keys_only = RelativePositionRepresentation(2, use_values=False)
    keys_only.build(QUERY.shape)
    assert keys_only.context(None, np.arange(T), np.arange(T)) is None


@pytest.mark.parametrize("make", SCHEMES.values(), ids=SCHEMES)
def test_a_scheme_can_be_shared_by_layers_of_the_same_heads(make):
    layer = make()
    layer.build((None, None, N, H))
    weights = layer.get_weights()
    layer.build((None, None, N, H))
    assert len(layer.weights) == len(weights)
    for before, after in zip(weights, layer.get_weights(), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("make", BIASES.values(), ids=BIASES)
def test_layers_of_other_heads_cannot_share(make):
    layer = make()
    layer.build((None, None, N, H))
    with pytest.raises(ValueError, match=f"{N} heads of size {H}.*Received: heads_"):
        layer.build((None, None, N + 1, H))
    with pytest.raises(ValueError, match=r"`position=`. Received: heads_shape=\(2"):
        make()(np.zeros((2, 3, 4), "float32"))


@pytest.mark.parametrize("make", ROTARY.values(), ids=ROTARY)
def test_rotary_rotates_heads_together_and_one_by_one(make):
    layer = make()
    apart = to_numpy(layer(QUERY, positions=QUERY_POSITIONS))
    together = layer.rotate(merge(QUERY), QUERY_POSITIONS)
    assert np.array_equal(apart, np.reshape(together, QUERY.shape))
    for n in range(N):
        alone = layer(QUERY[:, :, n], positions=QUERY_POSITIONS)
        assert np.array_equal(alone, apart[:, :, n])
    assert np.array_equal(layer(QUERY), layer(QUERY, positions=np.arange(T)))


def test_rotary_refuses_heads_of_another_size():
    layer = RotaryEmbedding()
    layer(QUERY)
    with pytest.raises(ValueError, match=rf"size {H}.*Received: key_dim={2 * H}"):
        layer(np.zeros((B, T, 2 * H), "float32"))
    with pytest.raises(ValueError, match=rf"size {H}.*Received: key_dim={2 * H}"):
        layer.build((None, None, N, 2 * H))
    layer.build((None, None, 1, H))  # fewer heads of the same size


def test_rotary_rotates_the_pairs_of_its_layout():
    x = np.array([[[1.0, 2.0, 3.0, 4.0]]], "float32")
    c, s = math.cos(1), math.sin(1)
    slow = [math.cos(0.01), math.sin(0.01)]
    half = to_numpy(RotaryEmbedding()(x, positions=[1]))[0, 0]
    expected = [c - 3 * s, 2 * slow[0] - 4 * slow[1], 3 * c + s]
    assert np.allclose(half, [*expected, 4 * slow[0] + 2 * slow[1]], atol=1e-6)
    layer = RotaryEmbedding(layout="interleaved", rotary_dim=2)
    assert np.allclose(layer(x, positions=[1]), [[[c - 2 * s, 2 * c + s, 3, 4]]])


def test_rotary_keeps_the_mask_that_keras_carries():
    embedded = keras.layers.Embedding(9, H, mask_zero=True)(np.array([[5, 3, 0]]))
    mask = RotaryEmbedding()(embedded)._keras_mask
    assert to_numpy(mask).tolist() == [[True, True, False]]


@pytest.mark.parametrize("layout", ["interleaved", "concatenated"])
def test_the_grid_encodes_the_row_then_the_column(layout):
    height, width, size = 3, 5, 12
    inputs = RNG.normal(size=(B, height, width, size)).astype("float32")
    encoded = to_numpy(SinusoidalEncoding2D(500.0, layout)(inputs)) - inputs
    for row, column, half in np.ndindex(height, width, 2):
        for i in range(size // 4):
            angle = (row, column)[half] / 500.0 ** (2 * i / (size // 2))
            where = [2 * i, 2 * i + 1]
            if layout == "concatenated":
                where = [i, i + size // 4]
            mine = encoded[:, row, column, half * (size // 2) :][:, where]
            assert np.allclose(mine, [math.sin(angle), math.cos(angle)], atol=1e-6)


@pytest.mark.tensorflow
def test_the_grid_is_the_same_in_a_graph_of_unknown_size():
    layer = SinusoidalEncoding2D()
    layer.build((None, None, None, H))
    specs = [tf.TensorSpec((None, None, None, H))]
    graph = tf.function(layer.__call__, input_signature=specs, jit_compile=True)
    assert np.allclose(graph(QUERY), layer(QUERY), atol=1e-6)


FAR = 100_001  # positions 0 to 1e5
ULP = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2e-6, "float64": 2e-6}
ANGLES = np.arange(FAR)[:, None] / 10000.0 ** (np.arange(0, 16, 2) / 16)
SINE, COSINE = np.sin(ANGLES), np.cos(ANGLES)


def side_by_side(first, second):
    return np.concatenate([first, second], axis=1)


def neighbours(first, second):
    return np.stack([first, second], axis=2).reshape(FAR, 16)


def distinct(rows):
    rows = np.ascontiguousarray(rows, "float32")
    return len(np.unique(rows.view("V64")))  # 16 numbers of 4 bytes


@pytest.mark.parametrize("dtype", ULP)
@pytest.mark.parametrize(
    ("layout", "join"), [("interleaved", neighbours), ("concatenated", side_by_side)]
)
def test_sinusoids_are_correct_and_distinct_to_100_000_in_every_dtype(
    layout, join, dtype
):
    layer = SinusoidalEncoding(layout=layout, dtype=dtype)
    table = layer(keras.ops.zeros((1, FAR, 16), dtype=dtype))
    assert keras.backend.standardize_dtype(table.dtype) == dtype
    rows = to_numpy(keras.ops.cast(table, "float32"))[0]
    assert abs(rows - join(SINE, COSINE)).max() <= ULP[dtype] / 4 + 2e-6
    assert distinct(rows) == FAR


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float32"])
def test_learned_positions_are_correct_to_100_000_in_every_dtype(dtype):
    layer = PositionEmbedding(FAR, dtype=dtype)
    layer.build((None, None, H))
    exact = np.stack([np.arange(FAR) % p / p for p in (97, 101, 103, 107)], axis=1)
    layer.set_weights([exact])
    rows = to_numpy(keras.ops.cast(layer(np.zeros((1, FAR, H))), "float32"))[0]
    half = dtype != "float32"
    error = ULP[dtype.removeprefix("mixed_")] / 2 if half else 1e-7
    assert abs(rows - exact).max() <= error
    far = np.array([99_999, 3, 100_000])
    picked = layer(np.zeros((1, 3, H)), positions=far)
    assert np.array_equal(keras.ops.cast(picked, "float32")[0], rows[far])


@pytest.mark.parametrize("dtype", ULP)
@pytest.mark.parametrize(
    ("layout", "join"), [("interleaved", neighbours), ("half_split", side_by_side)]
)
def test_rotations_are_correct_and_distinct_to_100_000_in_every_dtype(
    layout, join, dtype
):
    ones = keras.ops.ones((1, FAR, 16), dtype=dtype)
    rotated = RotaryEmbedding(layout=layout, dtype=dtype)(ones)
    assert keras.backend.standardize_dtype(rotated.dtype) == dtype
    rows = to_numpy(keras.ops.cast(rotated, "float64"))[0]
    # Numbers up to 1.42 are stored to half a unit.
    limit = 1e-9 if dtype == "float64" else ULP[dtype] / 2 + 2e-6
    assert abs(rows - join(COSINE - SINE, COSINE + SINE)).max() <= limit
    assert distinct(rows) == FAR


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RotaryEmbedding(layout="paper"), "Received: layout='paper'"),
        (lambda: RotaryEmbedding(1.0), "Received: max_wavelength=1.0"),
        (lambda: RotaryEmbedding(scaling={"type": "su"}), "Received: scaling="),
        (lambda: RotaryEmbedding(rotary_dim=3)(QUERY), "Received: rotary_dim=3"),
        (lambda: RotaryEmbedding(rotary_dim=6)(QUERY), "Received: rotary_dim=6"),
        (lambda: RotaryEmbedding(rotary_dim=0)(QUERY), "Received: rotary_dim=0"),
        (lambda: AlibiBias(max_bias=0), "Received: max_bias=0"),
        (lambda: RelativePositionBias(31), "Received: num_buckets=31"),
        (lambda: RelativePositionBias(2), "Received: num_buckets=2"),
        (lambda: RelativePositionBias(32, 8), "Received: max_distance=8"),
        (lambda: RelativePositionRepresentation(0), "Received: max_distance=0"),
        (lambda: SinusoidalEncoding2D(0), "Received: max_wavelength=0"),
        (lambda: SinusoidalEncoding2D(layout="x"), "Received: layout='x'"),
        (lambda: SinusoidalEncoding2D()(QUERY[..., :2]), "Received: inputs of shape"),
        (lambda: SinusoidalEncoding2D()(QUERY[0]), "Received: inputs of shape"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
