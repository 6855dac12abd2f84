import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import to_numpy
from oracle import drawn

from keras_attention.ops.positions import (
    check_even,
    check_layout,
    positions_of_tokens,
    sinusoids,
    standardize_positions,
)


def exact(positions, size, layout, max_wavelength=10000.0):
    """Vaswani 2017, section 3.5, one number at a time."""
    table = np.zeros((len(positions), size))
    for row, position in enumerate(positions):
        for i in range(size // 2):
            angle = float(position) / max_wavelength ** (2 * i / size)
            even, odd = (2 * i, 2 * i + 1)
            if layout == "concatenated":
                even, odd = (i, size // 2 + i)
            table[row, even], table[row, odd] = np.sin(angle), np.cos(angle)
    return table


def timing_signal(length, channels, min_timescale=1.0, max_timescale=1.0e4):
    """The signal of Tensor2Tensor's code by its formulas, in float64."""
    count = channels // 2
    step = np.log(max_timescale / min_timescale) / max(count - 1, 1)
    scales = min_timescale * np.exp(np.arange(count) * -step)
    scaled = np.arange(length, dtype="float64")[:, None] * scales[None]
    return np.concatenate([np.sin(scaled), np.cos(scaled)], axis=1)


@pytest.mark.parametrize("size", [2, 4, 22, 512])
def test_the_layout_of_tensor2tensor_is_its_timing_signal(size, record_property):
    ours = to_numpy(sinusoids(np.arange(300), size, layout="tensor2tensor"))
    worst = abs(ours - timing_signal(300, size)).max()
    record_property("summary", f"Tensor2Tensor's signal, {size}: {worst:.1e}")
    assert worst <= 4e-7  # float32 angles
    if size > 4:
        other = to_numpy(sinusoids(np.arange(300), size, layout="concatenated"))
        assert abs(other - ours).max() > 0.1


@pytest.mark.parametrize("layout", ["interleaved", "concatenated"])
@pytest.mark.parametrize("max_wavelength", [10000.0, 500.0, 1e6])
def test_sinusoids_are_exact_at_large_positions(layout, max_wavelength):
    rng = np.random.default_rng(1)
    positions = np.r_[0:1024, rng.integers(0, 100_000, 200), 99_999, 100_000]
    actual = sinusoids(positions, 22, max_wavelength=max_wavelength, layout=layout)
    assert keras.backend.standardize_dtype(actual.dtype) == "float32"
    expected = exact(positions, 22, layout, max_wavelength)
    assert abs(to_numpy(actual) - expected).max() <= 2e-6


def test_sinusoids_are_exact_to_the_last_position():
    positions = np.array([2**20, 2**24 + 1, 2**30 + 7, 2**31 - 1])
    actual = sinusoids(positions, 22, layout="interleaved")
    assert abs(to_numpy(actual) - exact(positions, 22, "interleaved")).max() <= 2e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_position_stays_distinct_in_half_precision(dtype):
    table = sinusoids(np.arange(20_000), 64)
    half = to_numpy(keras.ops.cast(keras.ops.cast(table, dtype), "float32"))
    assert len(np.unique(half, axis=0)) == 20_000


@pytest.mark.tensorflow
def test_sinusoids_are_the_same_compiled():
    positions = np.array([0, 5, 99_999], "int32")
    compiled = tf.function(lambda x: sinusoids(x, 22), jit_compile=True)
    assert abs(compiled(positions) - sinusoids(positions, 22)).numpy().max() <= 2e-6


def test_positions_count_non_padding_tokens_on_either_side_of_padding():
    padding_mask = drawn("1 1 1 .\n. . 1 1\n. 1 . 1\n. . . .")
    expected = [[0, 1, 2, -1], [-1, -1, 0, 1], [-1, 0, -1, 1], [-1, -1, -1, -1]]
    assert to_numpy(positions_of_tokens(padding_mask)).tolist() == expected


def test_explicit_positions_become_int32():
    assert to_numpy(standardize_positions(None, length=3)).tolist() == [0, 1, 2]
    given = standardize_positions(np.array([[5, 7]]), length=2)
    assert keras.backend.standardize_dtype(given.dtype) == "int32"
    assert to_numpy(given).tolist() == [[5, 7]]


@pytest.mark.parametrize(
    "wrong", [np.array([0.5]), np.zeros((1, 2, 3), int), np.int32(3)]
)
def test_wrong_positions_are_refused(wrong):
    with pytest.raises(ValueError, match=r"`positions`.*Received: "):
        standardize_positions(wrong, length=1)


def test_wrong_sizes_and_layouts_are_refused():
    for size in (7, None):
        with pytest.raises(ValueError, match=f"Received: size={size}"):
            check_even(size, "layer")
    with pytest.raises(ValueError, match="Received: layout='paper'"):
        check_layout("paper")
