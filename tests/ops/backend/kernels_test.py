"""The kernel of the backend returns the numbers of our own path, except for rounding.

On a backend without a kernel both are our own path, and only the switch is tested.
"""

import contextlib

import keras
import numpy as np
import pytest
from backends import gradients, to_numpy
from contracts.kinds import relative_error

from keras_attention.ops import attend
from keras_attention.ops.backend import kernels
from keras_attention.ops.heads import HeadSettings

B, N, T, S, H = 2, 6, 7, 11, 5
LONG = 1031  # keys: more than the kernel of torch takes at once
RNG = np.random.default_rng(1)
IS_HALF = {"float16", "bfloat16"}
# A half output is rounded once in either path, so it may differ by one step.
# Keras computes float64 in float32 on JAX and torch.
TOLERANCE = {"float64": 1e-6, "float32": 1e-6, "float16": 2e-3, "bfloat16": 1.6e-2}
ON_JAX = keras.backend.backend() == "jax"
DTYPES = [dtype for dtype in TOLERANCE if not (ON_JAX and dtype == "float64")]


def empty_rows(mask):
    mask = mask.copy()
    mask[:, :, [1, 4]] = False
    return mask


RANDOM = RNG.random((B, 1, T, S)) > 0.4
MASKS = {
    "none": None,
    "padding": np.broadcast_to(np.arange(S) < np.array([[8], [11]]), (B, S))[
        :, None, None
    ],
    "all-padding": np.array([True, False])[:, None, None, None] & np.ones(S, bool),
    "causal": np.tril(np.ones((1, 1, T, S), bool)),
    "empty-rows": empty_rows(RANDOM),
    "per-head": RNG.random((B, N, T, S)) > 0.6,
    "without-batch": RANDOM[0, 0],
    "all-empty": np.zeros((1, 1, T, S), bool),
}
BIASES = {
    "none": None,
    "per-head": RNG.normal(size=(1, N, T, S)).astype("float32"),
    "keys": RNG.normal(size=(B, 1, 1, S)).astype("float32"),
    "minus-infinity": np.where(RANDOM[:1], 0.0, -np.inf).astype("float32"),
}


def heads(num_key_value_heads, keys=S, seed=1):
    rng = np.random.default_rng(seed)
    sizes = (T, N), (keys, num_key_value_heads), (keys, num_key_value_heads)
    return [rng.normal(size=(B, length, n * H)) for length, n in sizes]


def call(query, key, value, *, mask=None, bias=None):
    return attend.dot_product_attention(
        query=query,
        key=key,
        value=value,
        heads=HeadSettings(N, key.shape[-1] // H, scale=H**-0.5),
        mask=mask,
        bias=bias,
    )[0]


@contextlib.contextmanager
def kernel_off():
    keras.config.disable_flash_attention()
    try:
        yield
    finally:
        keras.config.enable_flash_attention()


@pytest.fixture(autouse=True)
def _switched_on():
    keras.config.enable_flash_attention()
    yield
    keras.src.backend.common.global_state.set_global_attribute("flash_attention", None)


@pytest.fixture
def kernel_calls(monkeypatch):
    """One `True` for each call that a kernel computed."""
    taken, fused = [], kernels.fused_attention

    def counting(*args, **kwargs):
        output = fused(*args, **kwargs)
        taken.extend([True] * (output is not None))
        return output

    monkeypatch.setattr(kernels, "fused_attention", counting)
    return taken


def both_ways(function):
    with kernel_off():
        expected = function()
    return function(), expected


def on_a_gpu():
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "gpu"
    return False  # TensorFlow: no kernel anywhere


ON_A_GPU = on_a_gpu()
HAS_KERNEL = keras.backend.backend() == "torch" and not ON_A_GPU


# The kernel combines mask and bias, but groups of heads do not depend on either.
@pytest.mark.parametrize(
    ("mask", "bias", "shared"),
    [
        *((mask, bias, 2) for mask in MASKS for bias in BIASES),
        *((mask, "none", N) for mask in ("none", "empty-rows", "per-head")),
        *((mask, "per-head", 1) for mask in ("none", "empty-rows", "per-head")),
    ],
)
def test_outputs_and_gradients_are_those_of_our_own_path(
    mask, bias, shared, kernel_calls
):
    tensors = [x.astype("float32") for x in heads(shared)]
    if bias == "minus-infinity" and mask == "none":
        return  # -inf as a mask: the next test
    masks = {"mask": MASKS[mask], "bias": BIASES[bias]}
    target = np.random.default_rng(5).normal(size=(B, T, N * H)).astype("float32")

    def run():
        def loss(*x):
            return keras.ops.sum(
                call(*x, **masks) * keras.ops.convert_to_tensor(target)
            )

        output = to_numpy(call(*map(keras.ops.convert_to_tensor, tensors), **masks))
        return [output, *gradients(loss, tensors)]

    actual, expected = both_ways(run)
    assert kernel_calls == [True] * (1 + (bias == "none")) * HAS_KERNEL
    largest = max(abs(x).max() for x in expected[1:])
    assert relative_error(actual[0], expected[0]) <= 1e-6
    for one, other in zip(actual[1:], expected[1:], strict=True):
        assert abs(one - other).max() <= 1e-6 * max(largest, 1.0)
    if MASKS[mask] is not None:
        blind = np.broadcast_to(~MASKS[mask].any(-1)[..., None], (B, N, T, H))
        blind = blind.transpose(0, 2, 1, 3).reshape(B, T, N * H)
        assert (actual[0][blind] == 0).all()
        assert (actual[1][blind] == 0).all()


def test_a_key_hidden_from_all_queries_gets_gradient_zero():
    mask = MASKS["empty-rows"] & (np.arange(S) != 3)
    tensors = [x.astype("float32") for x in heads(2)]
    _, key, value = gradients(
        lambda *x: keras.ops.sum(call(*x, mask=mask) ** 2), tensors
    )
    assert (key[:, 3] == 0).all()
    assert (value[:, 3] == 0).all()
    assert abs(key).max() > 0


def test_a_bias_of_minus_infinity_hides_nothing():
    tensors = [keras.ops.convert_to_tensor(x.astype("float32")) for x in heads(2)]
    bias = np.full((1, 1, 1, S), -np.inf, "float32")
    actual, expected = both_ways(lambda: to_numpy(call(*tensors, bias=bias)))
    assert relative_error(actual, expected) <= 1e-6
    mask = np.arange(S) == 2  # the one key that may be seen wins, whatever its bias
    output = to_numpy(call(*tensors, bias=bias, mask=mask[None, None, None]))
    seen = to_numpy(tensors[2])[:, 2].reshape(B, 2, 1, H).repeat(N // 2, axis=2)
    assert np.allclose(output, seen.reshape(B, 1, N * H), atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [N, 2])
def test_every_dtype_is_as_exact_as_our_own_path(dtype, shared, kernel_calls):
    tensors = [keras.ops.convert_to_tensor(x, dtype) for x in heads(shared)]
    mask = MASKS["empty-rows"]
    actual, expected = both_ways(lambda: call(*tensors, mask=mask))
    if not ON_JAX:  # cuDNN supports no odd lengths
        assert kernel_calls == [True] * (dtype in IS_HALF if ON_A_GPU else HAS_KERNEL)
    assert keras.backend.standardize_dtype(actual.dtype) == dtype
    actual, expected = (
        to_numpy(keras.ops.cast(x, "float32")) for x in (actual, expected)
    )
    assert relative_error(actual, expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("bias", BIASES)
def test_float64_is_exact_to_float64(bias):
    if ON_JAX or ON_A_GPU:
        return  # Keras computes float64 in float32 there
    mask, bias = MASKS["empty-rows"], BIASES[bias]
    query, key, value = heads(N)
    output = to_numpy(
        call(
            *map(keras.ops.convert_to_tensor, (query, key, value)), mask=mask, bias=bias
        )
    )
    query, key, value = (
        x.reshape(B, -1, N, H).transpose(0, 2, 1, 3) for x in (query, key, value)
    )
    scores = query @ key.swapaxes(-1, -2) * H**-0.5
    scores = (
        scores if bias is None else scores + np.maximum(bias, -1e29, dtype="float64")
    )
    scores = np.where(mask, scores, -1e30)
    weights = np.exp(scores - scores.max(-1, keepdims=True)) * mask
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    expected = (weights @ value).transpose(0, 2, 1, 3).reshape(B, T, N * H)
    assert output.dtype == "float64"
    assert relative_error(output, expected) <= 1e-14


@pytest.mark.parametrize("dtype", sorted(IS_HALF))
def test_products_beyond_float16_stay_finite(dtype):
    tensors = [keras.ops.convert_to_tensor(x * 900, dtype) for x in heads(2)]
    actual, expected = both_ways(lambda: call(*tensors, mask=MASKS["per-head"]))
    actual, expected = (
        to_numpy(keras.ops.cast(x, "float32")) for x in (actual, expected)
    )
    assert np.isfinite(actual).all()
    assert relative_error(actual, expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("where", ["the first", "the last", "none but one"])
def test_rows_that_see_no_key_of_a_whole_block_are_correct(where):
    tensors = [x.astype("float32") for x in heads(2, keys=LONG)]
    at = np.arange(LONG)
    seen = {"the first": at >= 700, "the last": at < 300, "none but one": at == 1030}
    mask = np.ones((B, 1, T, LONG), bool)
    mask[:, :, 2] = seen[where]
    mask[0, :, 5] = False

    def run():
        return gradients(lambda *x: keras.ops.sum(call(*x, mask=mask) ** 2), tensors)

    for one, other in zip(*both_ways(run), strict=True):
        assert np.isfinite(one).all()
        assert abs(one - other).max() <= 1e-6 * max(abs(other).max(), 1.0)


def test_a_learned_bias_gets_its_gradient():
    tensors = [x.astype("float32") for x in heads(N)]
    bias, mask = BIASES["per-head"], MASKS["empty-rows"]

    def loss(*x):
        return keras.ops.sum(call(*x[:3], bias=x[3], mask=mask) ** 2)

    actual, expected = both_ways(lambda: gradients(loss, [*tensors, bias])[3])
    assert abs(actual).max() > 0
    assert abs(actual - expected).max() <= 1e-6 * abs(expected).max()


@pytest.mark.parametrize("sizes", [(0, T, S), (B, 0, S), (B, T, 0)], ids=str)
def test_sizes_of_zero_work(sizes):
    batch, queries, keys = sizes
    shapes = (batch, queries, N * H), (batch, keys, 2 * H), (batch, keys, 2 * H)
    output = call(*(keras.ops.zeros(shape) for shape in shapes))
    assert output.shape == (batch, queries, N * H)
    assert not to_numpy(output).any()


def test_values_of_another_size_use_our_own_path(kernel_calls):
    query, key, _ = (keras.ops.convert_to_tensor(x) for x in heads(2))
    value = keras.ops.ones((B, S, 2 * 3), dtype=query.dtype)
    assert to_numpy(call(query, key, value)) == pytest.approx(np.ones((B, T, N * 3)))
    assert not kernel_calls


def test_the_switch_of_keras_disables_the_kernel(kernel_calls):
    tensors = [keras.ops.convert_to_tensor(x.astype("float32")) for x in heads(2)]
    call(*tensors)
    assert kernel_calls == [True] * HAS_KERNEL
    with kernel_off():
        call(*tensors)
    assert len(kernel_calls) == HAS_KERNEL


def test_weights_dropout_and_caps_use_our_own_path(kernel_calls):
    query, key, value = (keras.ops.convert_to_tensor(x, "float32") for x in heads(N))
    plain = {"query": query, "key": key, "value": value, "heads": HeadSettings(N)}
    more: list[dict] = [{"return_weights": True}]
    more += [{"heads": HeadSettings(N, soft_cap=3.0)}]
    more += [{"dropout": lambda x: x}, {"talking": (np.eye(N), np.eye(N))}]
    for settings in more:
        attend.dot_product_attention(**(plain | settings))
    assert not kernel_calls


@pytest.mark.torch
@pytest.mark.skipif(ON_A_GPU, reason="tests the kernel for CPUs")
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shared", [N, 2, 1])
def test_torch_uses_its_flash_kernel_and_no_other(mask, shared):
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    tensors = [torch.tensor(x) for x in heads(shared)]
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        output = call(*tensors, mask=MASKS[mask])  # an error where it is not possible
    assert torch.isfinite(output).all()


@pytest.mark.skipif(not ON_A_GPU, reason="needs a GPU, and JAX or torch")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", ["none", "padding", "causal", "all-padding"])
@pytest.mark.parametrize("shared", [4, 2])
def test_a_gpu_uses_the_kernel_for_half_precision_only(
    mask, shared, dtype, kernel_calls
):
    length, size = 128, 64
    rng = np.random.default_rng(3)
    tensors = [rng.normal(size=(B, length, n * size)) for n in (4, shared, shared)]
    target = keras.ops.convert_to_tensor(rng.normal(size=tensors[0].shape), "float32")
    lengths = {"padding": [128, 77], "all-padding": [0, 128]}.get(mask, [128, 128])
    seen = np.arange(length) < np.array(lengths)[:, None, None, None]
    seen = seen & (np.tri(length, dtype=bool) if mask == "causal" else True)

    def attended(*x):
        return attend.dot_product_attention(
            query=x[0],
            key=x[1],
            value=x[2],
            heads=HeadSettings(4, shared, scale=size**-0.5),
            mask=None if mask == "none" else seen,
        )[0]

    def run():
        def loss(*x):
            output = attended(*(keras.ops.cast(one, dtype) for one in x))
            return keras.ops.sum(keras.ops.cast(output, "float32") * target)

        halves = [keras.ops.convert_to_tensor(x, dtype) for x in tensors]
        output = keras.ops.cast(attended(*halves), "float32")
        floats = [x.astype("float32") for x in tensors]
        return [to_numpy(output), *gradients(loss, floats)]

    for one, other in zip(*both_ways(run), strict=True):
        assert np.isfinite(one).all()
        assert abs(one - other).max() <= TOLERANCE[dtype] * abs(other).max()
    assert kernel_calls == [True, True] * (dtype in IS_HALF)
