"""Multi-head attention's options against loops, and layers made from layers."""

import keras
import numpy as np
import pytest
from contracts.kinds import relative_error, to_numpy, weights_of
from oracle import softmax_row

import keras_attention as ka

B, T, S, E, V = 2, 3, 5, 7, 11
N, H = 4, 3


def random(*shape, seed=2):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def built(**settings):
    """A layer with random weights, biases and mixing matrices too."""
    layer = ka.MultiHeadAttention(**{"num_heads": N, "key_dim": H, **settings})
    layer.build((B, T, E), (B, S, V))
    rng = np.random.default_rng(7)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(scale=0.5, size=weight.shape))
    return layer


def project(x, w, name, head):
    y = x @ w[f"{name}/kernel"][:, head]
    return y + w[f"{name}/bias"][head] if f"{name}/bias" in w else y


def expected(layer, query, value, seen, head_mask=None):
    """The papers' equations in float64, a head, a query and a key at a time.

    Talking heads: Shazeer 2020, section 3; gate: Qiu 2025, equation 5 on the output of
    each head; soft cap: Gemma 2, section 2.
    """
    w = weights_of(layer)
    groups = w["key/kernel"].shape[1]
    shared = [n // (N // groups) for n in range(N)]
    scores = np.zeros((B, N, T, S))
    for b in range(B):
        for n in range(N):
            q = project(query[b], w, "query", n)
            k = project(value[b], w, "key", shared[n])
            for t in range(T):
                for s in range(S):
                    scores[b, n, t, s] = q[t] @ k[s] / np.sqrt(H)
    cap = layer.logits_soft_cap
    scores = scores if cap is None else cap * np.tanh(scores / cap)
    identity = np.eye(N)
    scores = mixed(scores, w.get("mix_scores", identity))
    weights = np.zeros_like(scores)
    for b, n, t in np.ndindex(B, N, T):
        weights[b, n, t] = softmax_row(scores[b, n, t], seen[b, t])
    weights = mixed(weights, w.get("mix_weights", identity)) * seen[:, None]
    if head_mask is not None:
        weights = weights * np.broadcast_to(head_mask, (B, N))[:, :, None, None]
    output = np.zeros((B, T, w["attention_output/kernel"].shape[-1]))
    for b, n, t in np.ndindex(B, N, T):
        context = weights[b, n, t] @ project(value[b], w, "value", shared[n])
        if layer.use_gate:
            context = context / (1 + np.exp(-project(query[b, t], w, "gate", n)))
        output[b, t] += context @ w["attention_output/kernel"][n]
    return output + w.get("attention_output/bias", 0.0), weights


def mixed(x, matrix):
    """Head m of the result is the sum of all heads n times matrix[n, m]."""
    result = np.zeros_like(x)
    for n, m in np.ndindex(N, N):
        result[:, m] += x[:, n] * matrix[n, m]
    return result


OPTIONS = {
    "nothing": {},
    "talking": {"talking_heads": True},
    "gate": {"use_gate": True},
    "cap": {"logits_soft_cap": 0.7},
    "talking-gate": {"talking_heads": True, "use_gate": True},
    "talking-cap": {"talking_heads": True, "logits_soft_cap": 0.7},
    "gate-cap": {"use_gate": True, "logits_soft_cap": 0.7},
    "all": {"talking_heads": True, "use_gate": True, "logits_soft_cap": 0.7},
    "all-grouped": {
        "talking_heads": True,
        "use_gate": True,
        "logits_soft_cap": 0.7,
        "num_key_value_heads": 2,
        "value_dim": 5,
        "use_bias": False,
    },
}
options = pytest.mark.parametrize("settings", OPTIONS.values(), ids=list(OPTIONS))
HEAD_MASKS = {"none": None, "heads": (N,), "rows": (B, N)}


@options
@pytest.mark.parametrize("head_mask", HEAD_MASKS.values(), ids=list(HEAD_MASKS))
def test_options_are_the_equations_of_their_papers(settings, head_mask):
    layer = built(**settings)
    query, value = random(B, T, E), random(B, S, V, seed=3)
    seen = np.random.default_rng(5).random((B, T, S)) < 0.6
    seen[0, 1] = False  # a query that sees nothing
    call = {}
    if head_mask is not None:
        head_mask = call["head_mask"] = abs(random(*head_mask, seed=4))
        head_mask[..., 2] = 0.0
    for mask in (np.ones_like(seen), seen):
        call["attention_mask"] = mask
        wanted = expected(layer, query, value, mask, head_mask)
        output, weights = layer(query, value, return_attention_scores=True, **call)
        assert relative_error(output, wanted[0]) <= 1e-6
        assert relative_error(weights, wanted[1]) <= 1e-6
        assert relative_error(layer(query, value, **call), wanted[0]) <= 1e-6
    weights = to_numpy(weights)
    assert (weights[np.broadcast_to(~seen[:, None], weights.shape)] == 0).all()


def test_talking_heads_start_without_mixing():
    query, value = random(B, T, E), random(B, S, V, seed=3)
    plain = built()
    talking = ka.MultiHeadAttention(N, H, talking_heads=True)
    talking.build((B, T, E), (B, S, V))
    shared = {weight.path.split("/", 1)[1]: weight for weight in plain.weights}
    for weight in talking.weights:
        name = weight.path.split("/", 1)[1]
        if name in shared:
            weight.assign(shared[name])
    assert relative_error(talking(query, value), plain(query, value)) <= 1e-6


def test_a_head_that_is_off_is_a_head_without_output_kernel():
    layer, without = built(use_gate=True), built(use_gate=True)
    query, value = random(B, T, E), random(B, S, V, seed=3)
    kernel = np.array(without.output_projection.kernel)
    kernel[[0, 2]] = 0.0
    without.output_projection.kernel.assign(kernel)
    off = np.array([0.0, 1.0, 0.0, 1.0], "float32")
    wanted = without(query, value)
    assert relative_error(layer(query, value, head_mask=off), wanted) <= 1e-6
    assert np.array_equal(
        layer(query, value, head_mask=off > 0), layer(query, value, head_mask=off)
    )
    rows = np.stack([np.ones(N, "float32"), off])
    output, weights = layer(query, value, head_mask=rows, return_attention_scores=True)
    assert relative_error(output[0], layer(query, value)[0]) <= 1e-6
    assert relative_error(output[1], wanted[1]) <= 1e-6
    assert (to_numpy(weights)[1, [0, 2]] == 0).all()
    assert (to_numpy(weights)[0] > 0).all()


def test_a_head_mask_of_images_is_one_for_each_image():
    image = random(B, 3, 5, E)
    layer = ka.MultiHeadAttention(N, H, attention_axes=(2,))
    rows = np.array([[1, 0, 1, 1], [0, 1, 1, 0.5]], "float32")
    call = {"return_attention_scores": True}
    output, weights = layer(image, image, head_mask=rows, **call)
    for b in range(B):
        alone = layer(image[b : b + 1], image[b : b + 1], head_mask=rows[b], **call)
        assert relative_error(output[b : b + 1], alone[0]) <= 1e-6
        assert relative_error(weights[b : b + 1], alone[1]) <= 1e-6


@pytest.mark.parametrize("shape", [(), (3,), (B, 3), (1, 1, N)], ids=str)
def test_a_head_mask_of_another_shape_is_refused(shape):
    x = random(B, T, E)
    with pytest.raises(ValueError, match=r"`head_mask`.*Received: head_mask="):
        ka.MultiHeadAttention(N, H)(x, x, head_mask=np.ones(shape, "float32"))


# --- grouped from full ---------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("use_bias", [True, False])
def test_grouped_heads_are_means_of_the_heads_they_replace(groups, use_bias):
    full = built(use_bias=use_bias, value_dim=5)
    before = {name: np.array(value) for name, value in weights_of(full).items()}
    after = weights_of(full.to_grouped(groups))
    assert after.keys() == before.keys()
    for name, value in before.items():
        wanted = value
        if name.split("/")[0] in ("key", "value"):
            heads = np.moveaxis(value, -2, 0)  # [N, ..., H]
            size = N // groups
            wanted = np.stack(
                [sum(heads[g * size : (g + 1) * size]) / size for g in range(groups)],
                axis=-2,
            )
        assert relative_error(after[name], wanted) <= 1e-7
    for name, value in weights_of(full).items():
        assert np.array_equal(value, before[name])  # the layer itself is left alone


def test_if_the_heads_of_a_group_are_equal_the_output_is_the_same():
    settings = {"use_gate": True, "talking_heads": True, "logits_soft_cap": 3.0}
    full = built(**settings)
    for projection in (full.key_projection, full.value_projection):
        for weight in projection.weights:
            value = np.array(weight)
            value[..., 1, :], value[..., 3, :] = value[..., 0, :], value[..., 2, :]
            weight.assign(value)
    grouped = full.to_grouped(2)
    query, value = random(B, T, E), random(B, S, V, seed=3)
    call = {"return_attention_scores": True}
    for actual, wanted in zip(
        grouped(query, value, **call), full(query, value, **call), strict=True
    ):
        assert relative_error(actual, wanted) <= 1e-6


def test_grouping_changes_nothing_else_in_the_config():
    full = built(
        value_dim=5,
        sliding_window=(2, 0),
        dropout=0.3,
        seed=3,
        use_gate=True,
        output_shape=(2, 13),
        kernel_regularizer="l2",
        name="heads",
    )
    grouped = full.to_grouped(2)
    wanted = {**full.get_config(), "num_key_value_heads": 2}
    assert grouped.get_config() == wanted
    assert grouped.to_grouped(1).num_key_value_heads == 1
    position = ka.MultiHeadAttention(N, 4, position=scheme())
    position.build((B, T, E), (B, T, E))
    learned = position.position.weights
    for weight in learned:
        weight.assign(random(*weight.shape))
    copied = position.to_grouped(2).position.weights
    assert len(learned) == len(copied) > 0
    for new, old in zip(copied, learned, strict=True):
        assert new is not old
        assert np.array_equal(new, old)


def scheme():
    from keras_attention.layers.relative_position_bias import RelativePositionBias

    return RelativePositionBias(num_buckets=8, max_distance=16)


@pytest.mark.parametrize("groups", [0, 3, 8, -1])
def test_groups_that_do_not_fit_are_refused(groups):
    with pytest.raises(ValueError, match=f"Received: num_key_value_heads={groups}"):
        built().to_grouped(groups)
    with pytest.raises(ValueError, match="Received: num_key_value_heads=4"):
        built(num_key_value_heads=2).to_grouped(4)


def test_a_layer_that_is_not_built_or_has_lora_is_not_grouped():
    with pytest.raises(ValueError, match="Received: built=False"):
        ka.MultiHeadAttention(N, H).to_grouped(2)
    layer = built()
    layer.key_projection.enable_lora(2)
    with pytest.raises(ValueError, match="before `enable_lora` and `quantize`"):
        layer.to_grouped(2)
    layer = built()
    layer.key_projection.quantize("int8")
    with pytest.raises(ValueError, match="quantization_mode='int8'"):
        layer.to_grouped(2)


# --- saving --------------------------------------------------------------------------

SAVED = {
    **OPTIONS,
    "axes": {"attention_axes": (1, 2), "output_shape": (2, 13)},
    "an-axis": {"attention_axes": -2},
    "regularizers": {
        "kernel_regularizer": keras.regularizers.L1L2(0.1, 0.2),
        "bias_regularizer": "l2",
        "activity_regularizer": keras.regularizers.L2(0.3),
        "kernel_constraint": keras.constraints.MaxNorm(0.5),
        "bias_constraint": "non_neg",
    },
}


@pytest.mark.parametrize("settings", SAVED.values(), ids=list(SAVED))
def test_a_model_with_these_options_survives_saving(settings, tmp_path):
    layer = ka.MultiHeadAttention(N, H, **settings)
    sizes = (3, 5) if "attention_axes" in settings else (5,)
    inputs = keras.Input((*sizes, E)), keras.Input((N,))
    outputs = layer(
        inputs[0], inputs[0], head_mask=inputs[1], return_attention_scores=True
    )
    model = keras.Model(inputs, outputs)
    for weight in layer.weights:
        weight.assign(random(*weight.shape))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = next(each for each in loaded.layers if each.name == layer.name)
    assert again.get_config() == layer.get_config()
    assert again.attention_axes == layer.attention_axes
    assert type(again.projection_regularizer) is type(layer.projection_regularizer)
    data = [random(B, *sizes, E), random(B, N)]
    for actual, wanted in zip(loaded(data), model(data), strict=True):
        assert np.array_equal(actual, wanted)


@pytest.mark.parametrize("score", ["dot", "scaled_dot", "general"])
def test_a_learned_scale_survives_saving(score, tmp_path):
    x = keras.Input((S, E))
    layer = ka.DotProductAttention(score, use_scale=True, logits_soft_cap=3.0)
    model = keras.Model(x, layer([x, x]))
    for weight in layer.weights:
        weight.assign(random(*weight.shape))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[-1].get_config() == layer.get_config()
    assert layer.get_config()["use_scale"] is True
    assert np.array_equal(loaded(random(B, S, E)), model(random(B, S, E)))
