"""Recurrent decoders against loops in numpy: every order, state and mask."""

import json
from typing import Any

import keras
import numpy as np
import oracle
import pytest
import tensorflow as tf
from contracts.kinds import to_numpy, weights_of

import keras_attention as ka
from keras_attention.explain.record import attention_maps
from keras_attention.layers.attention_cell import AttentionCell
from keras_attention.layers.attention_rnn import AttentionRNN
from keras_attention.layers.monotonic_attention import MonotonicAttention

B, T, S, E, V, U, UNITS, VECTOR = 2, 3, 5, 7, 11, 4, 13, 17
RNG = np.random.default_rng(1)
TARGETS, MEMORY = RNG.normal(size=(B, T, E)), RNG.normal(size=(B, S, V))
KEEP = oracle.drawn("""
    1 1 1 . .
    . 1 1 1 1
""")
STEPS = oracle.drawn("""
    1 1 .
    1 1 1
""")
EXACT: Any = {"dtype": "float64"}
RETURN_ALL: Any = {"return_sequences": True, "return_state": True}


def additive(**kwargs):
    return ka.AdditiveAttention(UNITS, name="additive_attention", **(EXACT | kwargs))


def decoder(cell=None, attention=None, *, dtype="float64", **kwargs):
    """An `AttentionRNN` whose weights, biases too, are the same random ones."""
    kwargs = {"return_attention_scores": True, **kwargs}
    cell = cell or keras.layers.GRUCell(U, name="gru_cell", dtype=dtype)
    cell = AttentionCell(
        cell, attention or additive(dtype=dtype), dtype=dtype, **kwargs
    )
    layer = AttentionRNN(cell, dtype=dtype, **RETURN_ALL)
    layer.build((B, T, E), (B, S, V))
    rng = np.random.default_rng(7)
    for w in layer.trainable_weights:
        w.assign(rng.normal(scale=0.5, size=w.shape))
    return layer


def gru(x, h, w):
    """Cho 2014 with the reset gate behind the product, as Keras and cuDNN have it."""
    from_x = x @ w["gru_cell/kernel"] + w["gru_cell/bias"][0]
    from_h = h @ w["gru_cell/recurrent_kernel"] + w["gru_cell/bias"][1]
    (xz, xr, xh), (hz, hr, hh) = np.split(from_x, 3), np.split(from_h, 3)
    z, r = 1 / (1 + np.exp(-xz - hz)), 1 / (1 + np.exp(-xr - hr))
    return z * h + (1 - z) * np.tanh(xh + r * hh)


def attend(q, memory, seen, covered, w):
    """Bahdanau 2014 with the coverage term of See 2017, equation 11."""
    scores = np.zeros(len(memory))
    own = "additive_attention/score"
    for s in np.flatnonzero(seen):
        hidden = q @ w[f"{own}/query/kernel"] + w[f"{own}/query/bias"]
        hidden = hidden + memory[s] @ w[f"{own}/key/kernel"]
        hidden = hidden + covered[s] * w.get("coverage_vector", 0.0)
        scores[s] = w[f"{own}/score_vector"] @ np.tanh(hidden)
    weights = oracle.softmax_row(scores, seen)
    return sum(weights[s] * memory[s] for s in range(len(memory))), weights


def expected(layer, *, keep=None, steps=None, first=None):
    """A whole decoder, one row and one step at a time: outputs, scores, last h."""
    cell, outputs, scores, last = layer.cell, [], [], []
    w = {name.split("/", 1)[1]: x for name, x in weights_of(layer).items()}
    for b in range(B):
        h = np.zeros(U) if first is None else first[b]
        seen = np.full(S, True) if keep is None else keep[b]
        fed, covered = np.zeros(cell.attention_vector_size or V), np.zeros(S)
        for t in np.flatnonzero(np.full(T, True) if steps is None else steps[b]):
            x = TARGETS[b, t]
            if cell.attend_first:
                context, weights = attend(h, MEMORY[b], seen, covered, w)
                h = gru(np.append(x, context), h, w)
            else:
                h = gru(np.append(x, fed) if cell.input_feeding else x, h, w)
                context, weights = attend(h, MEMORY[b], seen, covered, w)
            output, fed = np.append(h, context), context
            if cell.attention_vector_size:
                output = fed = np.tanh(np.append(context, h) @ w["combine/kernel"])
            covered = covered + weights
            outputs.append(output)
            scores.append(weights)
        last.append(h)
    return np.array(outputs), np.array(scores), np.array(last)


def flat(x, steps=None):
    """`[B, T, …]` as a list of the steps that count."""
    steps = np.ones((B, T), bool) if steps is None else steps
    return to_numpy(x)[steps]


def agree(actual, wanted, tolerance=1e-12):
    actual, wanted = (keras.tree.flatten(to_numpy(x)) for x in (actual, wanted))
    return len(actual) == len(wanted) and all(
        a.shape == w.shape and np.allclose(a, w, rtol=0, atol=tolerance)
        for a, w in zip(actual, wanted, strict=True)
    )


ORDERS = {
    "luong": {},
    "luong-without-feeding": {"input_feeding": False},
    "luong-with-a-vector": {"attention_vector_size": VECTOR},
    "luong-with-coverage": {"coverage": True},
    "bahdanau": {"attend_first": True},
    "bahdanau-with-a-vector": {"attend_first": True, "attention_vector_size": VECTOR},
    "bahdanau-with-coverage": {"attend_first": True, "coverage": True},
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_whole_decoder_follows_the_equations(order):
    layer, first = decoder(**order), RNG.normal(size=(B, U))
    outputs, scores, *states = layer(
        TARGETS, MEMORY, initial_state=[first], mask=STEPS, memory_mask=KEEP
    )
    wanted = expected(layer, keep=KEEP, steps=STEPS, first=first)
    assert agree(flat(outputs, STEPS), wanted[0])
    assert agree(flat(scores, STEPS), wanted[1])
    assert agree(states[0][0], wanted[2])
    assert not to_numpy(scores)[~np.repeat(KEEP[:, None], T, 1)].any()


def test_only_the_last_step_and_no_states_are_returned_unless_asked_for():
    layer = decoder()
    outputs, scores, *_ = layer(TARGETS, MEMORY)
    last = AttentionRNN(layer.cell, **EXACT)
    assert agree(last(TARGETS, MEMORY), (outputs[:, -1], scores[:, -1]))
    alone = decoder(return_attention_scores=False)
    alone = AttentionRNN(alone.cell, return_sequences=True, **EXACT)
    assert agree(alone(TARGETS, MEMORY), outputs)


CELLS = {
    "gru": lambda: keras.layers.GRUCell(V, **EXACT),
    "lstm": lambda: keras.layers.LSTMCell(V, **EXACT),
    "stack": lambda: keras.layers.StackedRNNCells(
        [keras.layers.LSTMCell(3, **EXACT), keras.layers.GRUCell(V, **EXACT)], **EXACT
    ),
}
KINDS = {
    "additive": additive,
    "dot": lambda: ka.DotProductAttention("dot", **EXACT),
    "cosine": lambda: ka.DotProductAttention("cosine", **EXACT),
    "general": lambda: ka.GlobalAttention("general", 6, **EXACT),
    "location": lambda: ka.GlobalAttention("location", 6, max_length=9, **EXACT),
    "local-m": lambda: ka.LocalAttention("monotonic", 1, **EXACT),
    "local-p": lambda: ka.LocalAttention("predictive", 2, **EXACT),
    "monotonic": lambda: MonotonicAttention(units=UNITS, **EXACT),
    "heads": lambda: ka.MultiHeadAttention(2, 3, **EXACT),
}
PAIRS = [("gru", kind) for kind in KINDS] + [("lstm", "additive"), ("stack", "general")]


@pytest.mark.parametrize(("cell", "kind"), PAIRS)
def test_steps_are_the_whole_and_keras_rnn_gives_the_same(cell, kind):
    layer = decoder(CELLS[cell](), KINDS[kind]())
    whole, scores, *last = layer(TARGETS, MEMORY, memory_mask=KEEP)
    states = {"memory": MEMORY, "memory_mask": KEEP}
    for t in range(T):
        step, weights, *state = layer(TARGETS[:, t : t + 1], **states)
        assert agree((step[:, 0], weights[:, 0]), (whole[:, t], scores[:, t]))
        states = {"initial_state": state}
    assert agree(state, last)
    rnn = keras.layers.RNN(layer.cell, **RETURN_ALL, **EXACT)
    start = layer.cell.initial_state(MEMORY, KEEP)
    assert len(start) == len(layer.cell.state_size)
    together, *state = rnn(TARGETS, initial_state=start)
    assert agree(layer.cell.split(together), (whole, scores))
    assert agree(state, last)


@pytest.mark.parametrize("kind", [*KINDS, "coverage"])
def test_one_step_of_attention_is_a_call_of_the_attention_layer(kind):
    """The queries of all steps at once; without feeding they are known beforehand."""
    covered = kind == "coverage"
    attention = additive() if covered else KINDS[kind]()
    cell = keras.layers.GRUCell(V, **EXACT)
    layer = decoder(cell, attention, input_feeding=False, coverage=covered)
    if covered:
        layer.cell.coverage_vector.assign(np.zeros(UNITS))
    scores = layer(TARGETS, MEMORY, memory_mask=KEEP)[1]
    queries = keras.layers.RNN(cell, return_sequences=True, **EXACT)(TARGETS)
    _, wanted = attention(
        queries, MEMORY, value_mask=KEEP, return_attention_scores=True
    )
    wanted = to_numpy(wanted)
    assert agree(scores, wanted.mean(1) if kind == "heads" else wanted)


def test_local_attention_moves_with_the_number_of_the_step():
    layer = decoder(CELLS["gru"](), KINDS["local-m"]())
    near = abs(np.arange(S)[None] - np.arange(T)[:, None]) <= 1
    assert np.array_equal(to_numpy(layer(TARGETS, MEMORY)[1]) > 0, [near] * B)
    # A padding target is no step; the window counts non-padding tokens of the memory.
    late = np.array([[False, True, True]] * B)
    scores = to_numpy(layer(TARGETS, MEMORY, mask=late, memory_mask=KEEP)[1])
    assert np.array_equal(scores[1, 1] > 0, [False, True, True, False, False])


def test_monotonic_attention_walks_on_from_the_step_before():
    layer = decoder(CELLS["gru"](), KINDS["monotonic"]())
    outputs, scores, *_ = layer(TARGETS, MEMORY)
    w = {name.split("/", 2)[2]: x for name, x in weights_of(layer).items()}
    w["score_bias"] = w.pop("score_bias")
    for b in range(B):
        previous = np.eye(S)[0]
        for t in range(T):
            h = to_numpy(outputs)[b, t, :V]
            e = np.array([oracle.additive(h, k, 0, w) for k in MEMORY[b]])
            previous = oracle.monotonic_step(
                1 / (1 + np.exp(-e - w["score_bias"])), previous
            )
            assert np.allclose(to_numpy(scores)[b, t], previous, rtol=0, atol=1e-12)


def test_padding_of_the_memory_never_matters_and_rows_are_independent():
    layer = decoder(coverage=True)
    spoiled = np.where(KEEP[..., None], MEMORY, np.nan)
    whole = layer(TARGETS, MEMORY, memory_mask=KEEP)
    assert agree(layer(TARGETS, spoiled, memory_mask=KEEP), whole, 0)
    one = layer(TARGETS[1:], MEMORY[1:, 1:])
    assert agree(
        one[:2], [x[1:, :, i:] for x, i in zip(whole[:2], (0, 1), strict=True)]
    )
    nothing = to_numpy(layer(TARGETS, MEMORY, memory_mask=np.zeros((B, S), bool))[:2])
    assert not nothing[1].any()
    assert not nothing[0][..., U:].any()
    assert np.isfinite(nothing[0]).all()


def test_masks_that_keras_carries_are_found():
    layer = decoder()
    targets, memory = (
        keras.layers.Masking(9.0, **EXACT)(np.where(keep[..., None], x, 9.0))
        for x, keep in [(TARGETS, STEPS), (MEMORY, KEEP)]
    )
    explicit = layer(TARGETS, MEMORY, mask=STEPS, memory_mask=KEEP)
    implicit = layer(targets, memory)
    assert agree(implicit[2:5], explicit[2:5])
    assert agree(flat(implicit[0], STEPS), flat(explicit[0], STEPS))
    assert np.array_equal(to_numpy(implicit[0]._keras_mask), STEPS)


@pytest.mark.tensorflow
@pytest.mark.parametrize("order", ["luong-with-coverage", "bahdanau-with-a-vector"])
def test_gradients_reach_every_weight_the_memory_and_the_targets(order):
    layer = decoder(**ORDERS[order])
    memory, targets = tf.constant(MEMORY), tf.constant(TARGETS)
    with tf.GradientTape() as tape:
        tape.watch([memory, targets])
        loss = tf.reduce_sum(layer(targets, memory)[0] ** 2)
    sources = [memory, targets, *(w.value for w in layer.trainable_weights)]
    for gradient in tape.gradient(loss, sources):
        assert np.isfinite(to_numpy(gradient)).all()
        assert abs(to_numpy(gradient)).max() > 0


@pytest.mark.tensorflow
def test_compiled_with_unknown_lengths_it_gives_the_same():
    layer = decoder(dtype="float32", coverage=True)
    arrays = TARGETS.astype("float32"), MEMORY.astype("float32"), STEPS, KEEP

    def call(targets, memory, steps, keep):
        return layer(targets, memory, mask=steps, memory_mask=keep)[:2]

    spec = [tf.TensorSpec([None, None, size]) for size in (E, V)]
    spec += [tf.TensorSpec([None, None], "bool")] * 2
    for jit in (False, True):
        traced = tf.function(call, input_signature=spec, jit_compile=jit)
        assert agree(traced(*arrays), call(*arrays), 2e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_states_are_float32_in_half_precision(policy):
    layer, exact = decoder(dtype=policy), decoder()
    layer.set_weights(exact.get_weights())
    start = layer.cell.initial_state(MEMORY.astype("float32"))
    dtypes = {
        keras.backend.standardize_dtype(x.dtype) for x in keras.tree.flatten(start)
    }
    assert dtypes == {"float32"}
    output = layer(TARGETS.astype("float32"), MEMORY.astype("float32"))[0]
    assert keras.backend.standardize_dtype(output.dtype) == layer.compute_dtype
    output = to_numpy(keras.ops.cast(output, "float64"))
    error = abs(output - to_numpy(exact(TARGETS, MEMORY)[0]))
    assert error.max() < {"mixed_float16": 5e-3, "mixed_bfloat16": 4e-2}[policy]


@pytest.mark.tensorflow
def test_dropout_of_the_wrapped_cell_draws_one_mask_per_sequence_and_call():
    cell = keras.layers.LSTMCell(U, dropout=0.5, recurrent_dropout=0.5, seed=3)
    layer = decoder(cell, additive(dtype="float32"), dtype="float32")
    call = tf.function(lambda x, m: layer(x, m, training=True)[0])
    targets, memory = TARGETS.astype("float32"), MEMORY.astype("float32")
    one, two = to_numpy(call(targets, memory)), to_numpy(call(targets, memory))
    assert not np.allclose(one, two)
    # With another batch size, masks of an earlier sequence would have a wrong shape.
    assert layer(targets[:1], memory[:1], training=True)[0].shape[0] == 1
    assert agree(layer(targets, memory), layer(targets, memory), 0)


def functional(**kwargs):
    cell = AttentionCell(
        keras.layers.StackedRNNCells(
            [keras.layers.GRUCell(3), keras.layers.LSTMCell(U)]
        ),
        ka.LocalAttention("monotonic", 2, "concat", 6),
        coverage=True,
        **kwargs,
    )
    source, target = keras.Input((None,)), keras.Input((T,))
    encoder = keras.layers.LSTM(U, return_sequences=True)
    memory = encoder(keras.layers.Embedding(9, 5, mask_zero=True)(source))
    rnn = AttentionRNN(cell, return_sequences=True)
    results = rnn(keras.layers.Embedding(9, 5, mask_zero=True)(target), memory)
    return keras.Model([source, target], results)


def test_a_functional_model_is_saved_and_loaded_bit_by_bit(tmp_path):
    model = functional(return_attention_scores=True)
    assert [tuple(x.shape) for x in model.outputs] == [(None, T, 6), (None, T, None)]
    tokens = (
        np.array([[3, 1, 4, 1, 0], [5, 8, 2, 6, 5]]),
        np.array([[1, 2, 0], [3] * 3]),
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert agree(loaded(tokens), model(tokens), 0)
    configs = [json.dumps(each.layers[-1].get_config()) for each in (loaded, model)]
    assert configs[0] == configs[1]
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    assert agree(copy(tokens), model(tokens), 0)
    assert len(copy.weights) == len(model.weights)


def test_attention_maps_have_the_weights_of_all_steps():
    model = functional(return_attention_scores=True)
    tokens = np.array([[3, 1, 4, 1, 0]]), np.array([[1, 2, 3]])
    (weights,) = attention_maps(model, tokens).values()
    assert agree(weights, model(tokens)[1], 1e-6)


def test_the_attention_vector_may_be_linear():
    """What `attention_layer_size` of tfa's AttentionWrapper computes: W [h; c]."""
    settings = {"attention_vector_size": 3, "attention_vector_activation": "linear"}
    cell = gru_cell(**settings)
    cell.build((None, E), MEMORY.shape)
    states = cell.initial_state(MEMORY)
    output, _ = cell.call(TARGETS[:, 0].astype("float32"), states)
    kernel = to_numpy(cell.combine.kernel)
    narrow = np.zeros((len(MEMORY), 3), "float32")  # what is fed at first
    h, _ = cell.cell(np.concatenate([TARGETS[:, 0], narrow], axis=1), states[0])
    context = cell.attention(to_numpy(h)[:, None], MEMORY)
    both = np.concatenate([to_numpy(context)[:, 0], to_numpy(h)], axis=1)
    np.testing.assert_allclose(to_numpy(output), both @ kernel, atol=1e-6)
    config = cell.get_config()
    assert config["attention_vector_activation"] == "linear"
    copy = AttentionCell.from_config(config)
    assert copy.attention_vector_activation is keras.activations.linear
    old = {k: v for k, v in cell.get_config().items() if "activation" not in k}
    old = AttentionCell.from_config(old)
    assert old.attention_vector_activation is keras.activations.tanh


@pytest.mark.slow
def test_a_decoder_learns_to_reverse():
    rng = np.random.default_rng(0)
    source = rng.integers(1, 7, size=(1024, 4))
    target = source[:, ::-1]
    shifted = np.pad(target[:, :-1], ((0, 0), (1, 0)))
    inputs = [keras.Input((4,)), keras.Input((4,))]
    memory, queries = (keras.layers.Embedding(7, 16)(x) for x in inputs)
    memory = ka.PositionEmbedding(4)(memory)
    cell = AttentionCell(keras.layers.GRUCell(32), ka.AdditiveAttention(32))
    decoded = AttentionRNN(cell, return_sequences=True)(queries, memory)
    model = keras.Model(inputs, keras.layers.Dense(7)(decoded))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"], jit_compile=False
    )
    model.fit([source[128:], shifted[128:]], target[128:], epochs=8, verbose=0)
    unseen = [source[:128], shifted[:128]]
    assert model.evaluate(unseen, target[:128], verbose=0)[1] > 0.95


def gru_cell(attention=None, **kwargs):
    return AttentionCell(keras.layers.GRUCell(U), attention or additive(), **kwargs)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: gru_cell(keras.layers.Attention()), "layer of keras_attention"),
        (lambda: AttentionRNN(keras.layers.GRUCell(U)), "must be an `AttentionCell`"),
        (lambda: keras.layers.RNN(gru_cell())(TARGETS), r"`AttentionRNN\(cell\)"),
        (lambda: AttentionRNN(gru_cell())(TARGETS), r"memory_shape=None"),
        (lambda: gru_cell().get_initial_state(2), "Received: batch_size=2"),
        (lambda: gru_cell().initial_state(keras.Input((S, V))), "functional model"),
        (lambda: gru_cell().initial_state(MEMORY[0]), r"\[batch, length, features\]"),
        (lambda: gru_cell().initial_state(MEMORY, KEEP * 1.0), "must be bool"),
        (
            lambda: gru_cell().initial_state(MEMORY, cell_state=TARGETS[:, 0]),
            rf"sizes \[{U}\]. Received: sizes \[{E}\]",
        ),
        (
            lambda: gru_cell(
                ka.GlobalAttention("general"), coverage=True
            ).initial_state(MEMORY),
            "inside an additive score",
        ),
        (
            lambda: gru_cell(MonotonicAttention(), coverage=True).initial_state(MEMORY),
            "inside an additive score",
        ),
        (
            lambda: gru_cell(ka.MultiHeadAttention(2, 3), coverage=True).initial_state(
                MEMORY
            ),
            "inside an additive score",
        ),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
