"""Rotary embedding against the formulas of the papers, one pair at a time in float64.

The scalings are those of Hugging Face's modeling_rope_utils.py (ROPE_INIT_FUNCTIONS),
written here a second time, from the papers.
"""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import relative_error, to_numpy

from keras_attention.ops.backend import regions
from keras_attention.ops.rotary import check_scaling, rotary_frequencies, rotate

B, T, N, H = 2, 5, 3, 14
BASE = 10000.0
RNG = np.random.default_rng(1)
HEADS = RNG.normal(size=(B, T, N * H)).astype("float32")

LLAMA_3_1 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
DEEPSEEK_V3 = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 0.5,
}
GPT_OSS = {
    "rope_type": "yarn",
    "factor": 32.0,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
}
QWEN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
DYNAMIC = {
    "rope_type": "dynamic",
    "factor": 2.0,
    "original_max_position_embeddings": 64,
}
SCALINGS = {
    "none": None,
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": DYNAMIC,
    "yarn": QWEN,
    "yarn-mscale": DEEPSEEK_V3,
    "yarn-not-truncated": GPT_OSS,
    "yarn-attention-factor": {**QWEN, "attention_factor": 1.5},
    "yarn-betas": {**QWEN, "beta_fast": 16, "beta_slow": 2},
    "yarn-ramp-from-0": {**QWEN, "original_max_position_embeddings": 128},
    "yarn-no-ramp": {**QWEN, "original_max_position_embeddings": 6},
    "llama3": LLAMA_3_1,
}


def angle_per_position(i, size, base, scaling, length):
    """`(angle of pair i, factor of its sine and cosine)`, by the papers."""
    scaling = scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    angle = base ** (-2 * i / size)
    s = scaling.get("factor", 1.0)
    trained = scaling.get("original_max_position_embeddings", 0)
    if kind == "linear":
        return angle / s, 1.0
    if kind == "dynamic":
        length = max(length, trained)
        stretched = base * (s * length / trained - (s - 1)) ** (size / (size - 2))
        return stretched ** (-2 * i / size), 1.0
    if kind == "llama3":
        wavelength = 2 * math.pi / angle
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        if wavelength < trained / high:
            return angle, 1.0
        if wavelength > trained / low:
            return angle / s, 1.0
        smooth = (trained / wavelength - low) / (high - low)
        return (1 - smooth) * angle / s + smooth * angle, 1.0
    if kind == "yarn":
        edges = []
        for turns in (scaling.get("beta_fast", 32), scaling.get("beta_slow", 1)):
            reach = trained / (turns * 2 * math.pi)
            edges.append(size * math.log(reach) / (2 * math.log(base)))
        if scaling.get("truncate", True):
            edges = [math.floor(edges[0]), math.ceil(edges[1])]
        low, high = max(edges[0], 0), min(edges[1], size - 1)
        high = high + 0.001 if low == high else high
        ramp = min(max((i - low) / (high - low), 0), 1)
        factor = scaling.get("attention_factor", 0.1 * math.log(s) + 1)
        if scaling.get("mscale") and scaling.get("mscale_all_dim"):
            factor = 0.1 * scaling["mscale"] * math.log(s) + 1
            factor /= 0.1 * scaling["mscale_all_dim"] * math.log(s) + 1
        return angle / s * ramp + angle * (1 - ramp), factor
    return angle, 1.0


def exact(heads, positions, *, key_dim, size, base, scaling, interleaved):
    """RoFormer, equation 34, with the first `size` features of every head."""
    heads = heads.astype("float64")
    output = heads.copy()
    for b, t in np.ndindex(heads.shape[:2]):
        row = positions if positions.ndim == 1 else positions[b]
        for i in range(size // 2):
            angle, factor = angle_per_position(i, size, base, scaling, row.max() + 1)
            cosine = math.cos(float(row[t]) * angle) * factor
            sine = math.sin(float(row[t]) * angle) * factor
            for start in range(0, heads.shape[2], key_dim):
                pair = (2 * i, 2 * i + 1) if interleaved else (i, i + size // 2)
                one, two = start + pair[0], start + pair[1]
                x, y = heads[b, t, one], heads[b, t, two]
                output[b, t, one] = x * cosine - y * sine
                output[b, t, two] = y * cosine + x * sine
    return output


def both(heads, positions, *, key_dim=H, size=H, base=BASE, scaling=None, swap=False):
    """The result of `rotate`, and the expected one."""
    frequencies = rotary_frequencies(size, max_wavelength=base, scaling=scaling)
    actual = rotate(
        keras.ops.convert_to_tensor(heads),
        keras.ops.convert_to_tensor(positions.astype("int32")),
        key_dim=key_dim,
        frequencies=frequencies,
        interleaved=swap,
    )
    expected = exact(
        heads,
        positions,
        key_dim=key_dim,
        size=size,
        base=base,
        scaling=scaling,
        interleaved=swap,
    )
    return to_numpy(actual), expected


FAR = np.array([[0, 3, 99_999, 17, 1_000_003], [63, 64, 100, 1, 2]])


# Only "dynamic" reads the length, so only there the form of the positions matters.
@pytest.mark.parametrize(
    ("name", "positions"),
    [
        *((name, FAR) for name in SCALINGS),
        *((name, at) for name in ("none", "dynamic") for at in (FAR[0], np.arange(T))),
    ],
)
def test_rotation_is_exact_near_and_far(name, positions):
    actual, expected = both(HEADS, positions, scaling=SCALINGS[name])
    assert abs(actual - expected).max() <= 2e-6 * abs(HEADS).max()


def test_the_ramp_of_yarn_ends_with_the_head():
    # Pair 4 turns 32 times in 764 positions; pair 14.6, were it there, once.
    scaling = {**QWEN, "original_max_position_embeddings": 764}
    actual, expected = both(HEADS, FAR, base=10.0, scaling=scaling)
    assert abs(actual - expected).max() <= 4e-6 * abs(HEADS).max()


@pytest.mark.parametrize("swap", [False, True], ids=["half_split", "interleaved"])
@pytest.mark.parametrize("size", [2, 6, H])
def test_pairs_layouts_and_partial_rotation(swap, size):
    actual, expected = both(HEADS, FAR, size=size, base=500.0, swap=swap)
    assert abs(actual - expected).max() <= 4e-6 * abs(HEADS).max()
    rest = actual.reshape(B, T, N, H)[..., size:]
    assert np.array_equal(rest, HEADS.reshape(B, T, N, H)[..., size:])


@pytest.mark.parametrize("size", [64, 128])
def test_scalings_at_the_sizes_of_real_heads(size):
    heads = RNG.normal(size=(1, 3, size)).astype("float32")
    positions = np.array([1, 4095, 131_071])
    for scaling in SCALINGS.values():
        for base in (1e4, 5e5):
            actual, expected = both(
                heads, positions, key_dim=size, size=size, base=base, scaling=scaling
            )
            assert abs(actual - expected).max() <= 2e-6 * abs(heads).max()


def test_published_numbers_of_yarn_and_llama_3_1():
    # DeepSeek-V3 and gpt-oss: 0.1 ln(40) + 1 over its half; 0.1 ln(32) + 1.
    assert rotary_frequencies(64, scaling=GPT_OSS).attention_factor == (
        pytest.approx(1.3465735902799727)
    )
    same = {**DEEPSEEK_V3, "mscale_all_dim": 1.0}
    assert rotary_frequencies(64, scaling=same).attention_factor == 1.0
    plain = rotary_frequencies(128, max_wavelength=5e5).turns
    scaled = rotary_frequencies(128, max_wavelength=5e5, scaling=LLAMA_3_1).turns
    ratio = plain / scaled
    # Wavelengths below 2048 stay, above 8192 are 8 times as long.
    assert np.allclose(ratio[1 / plain < 2048], 1.0, atol=1e-12)
    assert np.allclose(ratio[1 / plain > 8192], 8.0, atol=1e-12)
    between = (1 / plain > 2048) & (1 / plain < 8192)
    assert between.sum() == 6
    assert ((ratio[between] > 1.0) & (ratio[between] < 8.0)).all()


@pytest.mark.parametrize("name", ["none", "linear", "yarn", "llama3"])
def test_products_depend_on_the_difference_of_positions_only(name):
    rng = np.random.default_rng(2)
    frequencies = rotary_frequencies(H, scaling=SCALINGS[name])
    query, key = rng.normal(size=(2, 1, 1, H)).astype("float32")

    def product(m, n):
        rotated = [
            to_numpy(
                rotate(
                    keras.ops.convert_to_tensor(x),
                    keras.ops.convert_to_tensor(np.array([p], "int32")),
                    key_dim=H,
                    frequencies=frequencies,
                )
            )
            for x, p in ((query, m), (key, n))
        ]
        return float(np.sum(rotated[0] * rotated[1]))

    for difference in (0, 1, 17, 300):
        near = product(difference, 0)
        for shift in (1, 1000, 99_000):
            assert abs(product(difference + shift, shift) - near) <= 2e-5
    assert abs(product(0, 0) - product(1, 0)) > 1e-2


def test_dynamic_rotation_is_plain_within_the_trained_length_and_by_row():
    positions = np.array([[0, 1, 2, 3, 63], [0, 1, 2, 3, 64]])
    heads = np.repeat(HEADS[:1], 2, axis=0)
    plain, _ = both(heads, positions)
    dynamic, _ = both(heads, positions, scaling=DYNAMIC)
    assert relative_error(dynamic[0], plain[0]) <= 1e-6
    assert relative_error(dynamic[1, :4], plain[1, :4]) > 1e-3


@pytest.mark.parametrize("name", ["none", "dynamic", "yarn"])
def test_an_empty_slot_is_not_rotated(name):
    for positions in (np.array([[-1, 0, 1, 2, 3], [-1] * 5]), np.full(5, -1)):
        frequencies = rotary_frequencies(H, scaling=SCALINGS[name])
        rotated = rotate(
            keras.ops.convert_to_tensor(HEADS),
            keras.ops.convert_to_tensor(positions.astype("int32")),
            key_dim=H,
            frequencies=frequencies,
        )
        empty = np.broadcast_to(positions == -1, (B, T))
        factor = frequencies.attention_factor
        assert np.isfinite(to_numpy(rotated)).all()
        assert np.allclose(to_numpy(rotated)[empty], HEADS[empty] * factor, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", ["none", "dynamic", "yarn-mscale"])
def test_every_dtype_is_within_its_own_rounding(name, dtype):
    scaling = SCALINGS[name]
    rounded = keras.ops.cast(keras.ops.convert_to_tensor(HEADS), dtype)
    rotated = rotate(
        rounded,
        keras.ops.convert_to_tensor(FAR.astype("int32")),
        key_dim=H,
        frequencies=rotary_frequencies(H, scaling=scaling),
    )
    assert keras.backend.standardize_dtype(rotated.dtype) == dtype
    _, expected = both(
        to_numpy(keras.ops.cast(rounded, "float64")), FAR, scaling=scaling
    )
    error = abs(to_numpy(keras.ops.cast(rotated, "float64")) - expected)
    digits = {"float16": 11, "bfloat16": 8, "float64": 33}[dtype]
    # Half a unit of the last place, and the 2e-6 of float32 angles.
    slack = 0 if dtype == "float64" else 2e-6 * abs(HEADS).max()
    assert (error <= abs(expected) * 2.0**-digits + slack + 1e-9).all()


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["none", "dynamic"])
def test_rotation_is_the_same_compiled_with_unknown_shapes(name):
    frequencies = rotary_frequencies(6, scaling=SCALINGS[name])

    def function(heads, positions):
        return rotate(heads, positions, key_dim=H, frequencies=frequencies)

    specs = [tf.TensorSpec((None, None, N * H)), tf.TensorSpec((None, None), "int32")]
    expected = function(tf.constant(HEADS), tf.constant(FAR, "int32"))
    for settings in ({}, {"jit_compile": True}):
        graph = tf.function(function, input_signature=specs, **settings)
        actual = graph(HEADS, FAR.astype("int32"))
        assert abs(to_numpy(actual - expected)).max() <= 2e-6 * abs(HEADS).max()


def test_the_region_has_the_arguments_of_the_operator_of_onnx():
    seen = []

    def interceptor(name, function, tensors, settings):
        seen.append((name, [tuple(x.shape) for x in tensors], settings))
        return function(*tensors, **settings)

    with regions.intercepting(interceptor):
        both(HEADS, np.arange(T), size=6, swap=True)
        both(HEADS, FAR, size=6)
    settings = {"num_heads": N, "rotary_embedding_dim": 6, "interleaved": True}
    assert seen == [
        ("rotary_embedding", [(B, T, N * H), (1, T, 3), (1, T, 3)], settings),
        (
            "rotary_embedding",
            [(B, T, N * H), (B, T, 3), (B, T, 3)],
            {**settings, "interleaved": False},
        ),
    ]


def test_a_setting_that_is_null_in_the_config_is_ignored():
    given = {**QWEN, "attention_factor": None, "rope_type": "yarn"}
    assert check_scaling(given) == check_scaling(QWEN)
    assert check_scaling(None) == check_scaling({}) == ("default", {})


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "longrope"}, "'default', 'linear', 'dynamic', 'yarn', 'llama3'"),
        ({"factor": 2.0}, "must name one kind as its 'rope_type'"),
        ({"rope_type": "linear", "type": "yarn", "factor": 2.0}, "must name one kind"),
        ({"rope_type": "linear"}, "needs 'factor'"),
        ({"rope_type": "linear", "factor": None}, "needs 'factor'"),
        ({"rope_type": "dynamic", "factor": 2.0}, "needs 'original_max_position_emb"),
        (
            {k: v for k, v in LLAMA_3_1.items() if k != "low_freq_factor"},
            "needs 'low_freq_factor'",
        ),
        ({"rope_type": "default", "rope_theta": 1e6}, "has no 'rope_theta'"),
        ({"rope_type": "linear", "fctor": 2.0}, "needs 'factor' and has no 'fctor'"),
        ({"rope_type": "linear", "factor": 0.5}, "'factor' a number of 1 or more"),
        ({"rope_type": "linear", "factor": "2"}, "a 'factor' that is not possible"),
        ({**GPT_OSS, "truncate": 1}, "a 'truncate' that is not possible"),
        ({**QWEN, "beta_fast": -1}, "a 'beta_fast' that is not possible"),
        ({**LLAMA_3_1, "high_freq_factor": 1.0}, "above its 'low_freq_factor'"),
    ],
)
def test_an_unknown_scaling_is_refused_by_name(scaling, message):
    with pytest.raises(ValueError, match=message) as error:
        check_scaling(scaling)
    assert f"Received: scaling={scaling!r}" in str(error.value)


def test_dynamic_scaling_of_one_pair_is_refused():
    with pytest.raises(ValueError, match="Received: rotary_dim=2"):
        rotary_frequencies(2, scaling=DYNAMIC)
