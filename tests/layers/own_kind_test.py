"""An attention layer of a user: a subclass that implements `attend_to` and no more."""

import keras
import numpy as np
import oracle
import pytest
from backends import to_numpy
from contracts.kinds import KINDS
from keras import ops

import keras_attention as ka
from keras_attention.ops.attend import attend

B, T, S, E = 2, 3, 5, 8
RNG = np.random.default_rng(1)
TARGETS, MEMORY = (RNG.normal(size=(B, n, E)).astype("float32") for n in (T, S))
KEEP = oracle.drawn("""
    1 1 1 . .
    . 1 1 1 1
""")
ATOL = 1e-6


@keras.saving.register_keras_serializable("tests")
class Distance(ka.AttentionLayer):
    """Scores are minus a learned factor times the squared distance of query and key."""

    def build_weights(self, query_shape, value_shape, key_shape):
        self.factor = self.add_weight(name="factor", shape=(), initializer="ones")

    def attend_to(self, inputs):
        difference = inputs.query[:, :, None] - inputs.key[:, None]  # [B, T, S, E]
        scores = -self.factor * ops.sum(ops.square(difference), axis=-1)
        return attend(scores=scores, value=inputs.value, mask=inputs.mask)


@keras.saving.register_keras_serializable("tests")
class Fading(Distance):
    """Steps depend on each other: a key that was attended to is less visible after it.

    It prepares its keys, accepts a term for each and overrides `start` and `step`.
    """

    key_term_size = E

    def prepare_key(self, key):
        return 2.0 * key

    def attend_to(self, inputs):
        key = inputs.prepared_key
        key = self.prepare_key(inputs.key) if key is None else key
        scores = self.factor * ops.matmul(inputs.query, ops.swapaxes(key, 1, 2))
        return attend(scores=scores, value=inputs.value, mask=inputs.mask)

    def step(self, query, state, training=None):
        output, weights, after = super().step(query, state, training)
        value = state.value * (1.0 - weights[..., None])
        return output, weights, after._replace(value=value)


def decoder(attention, **options):
    options = {"return_attention_scores": True, **options}
    cell = ka.AttentionCell(keras.layers.GRUCell(E), attention, **options)
    return ka.AttentionRNN(cell, return_sequences=True)


def by_hand(rnn, attention, value_of_step):
    """The decoder in Luong's order, one step after the other."""
    cell, outputs, scores = rnn.cell.cell, [], []
    state, fed = np.zeros((B, E), "float32"), np.zeros((B, E), "float32")
    value = np.where(KEEP[..., None], MEMORY, 0.0)
    for t in range(T):
        state, _ = cell(np.concatenate([TARGETS[:, t], fed], axis=1), state)
        context, weights = attention(
            state[:, None],
            value,
            np.where(KEEP[..., None], MEMORY, 0.0),
            value_mask=KEEP,
            return_attention_scores=True,
        )
        fed, weights = to_numpy((context[:, 0], weights[:, 0]))
        outputs.append(np.concatenate([to_numpy(state), fed], axis=1))
        scores.append(weights)
        value = value_of_step(value, weights)
    return np.stack(outputs, axis=1), np.stack(scores, axis=1)


@pytest.mark.parametrize("kind", [Distance, Fading])
def test_a_decoder_is_its_steps_by_hand(kind):
    attention = kind()
    rnn = decoder(attention)
    found = to_numpy(rnn(TARGETS, MEMORY, memory_mask=KEEP))
    fades = kind is Fading
    wanted = by_hand(
        rnn, attention, lambda value, w: value * (1 - w[..., None] * fades)
    )
    assert np.allclose(found[0], wanted[0], atol=ATOL)
    assert np.allclose(found[1], wanted[1], atol=ATOL)


def test_scores_need_not_be_returned_and_bahdanaus_order_works():
    alone = decoder(Distance(), return_attention_scores=False)
    assert tuple(alone(TARGETS, MEMORY).shape) == (B, T, 2 * E)
    first = decoder(Distance(), attend_first=True)
    outputs, scores = first(TARGETS, MEMORY)
    assert tuple(outputs.shape) == (B, T, 2 * E)
    assert np.allclose(to_numpy(scores).sum(axis=-1), 1.0, atol=ATOL)


def test_coverage_is_for_kinds_that_accept_a_term_for_each_key():
    rnn = decoder(Fading(), coverage=True)
    assert tuple(rnn(TARGETS, MEMORY)[0].shape) == (B, T, 2 * E)
    assert tuple(rnn.cell.coverage_vector.shape) == (E,)
    with pytest.raises(ValueError, match=r"inside an additive score.*Received"):
        decoder(Distance(), coverage=True)(TARGETS, MEMORY)


def test_it_is_trained_saved_and_loaded(tmp_path):
    targets, memory = keras.Input((T, E)), keras.Input((S, E))
    outputs, _ = decoder(Distance())(targets, memory)
    model = keras.Model([targets, memory], outputs)
    model.compile("sgd", "mse", jit_compile=False)
    (factor,) = [w for w in model.trainable_weights if w.path.endswith("factor")]
    before = float(factor)
    model.fit([TARGETS, MEMORY], np.ones((B, T, 2 * E)), verbose=0)
    assert float(factor) != before
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    found, wanted = (to_numpy(each([TARGETS, MEMORY])) for each in (loaded, model))
    assert np.array_equal(found, wanted)


def test_weights_are_needed_in_a_step():
    class Silent(Distance):
        def attend_to(self, inputs):
            return super().attend_to(inputs)[0], None

    with pytest.raises(ValueError, match=r"need_weights.*Received: weights=None"):
        decoder(Silent())(TARGETS, MEMORY)


def test_every_kind_computes_attend_to_as_it_computes_a_call():
    for kind in KINDS:
        queries = S if kind.needs_positions else T  # else positions are unknown
        query, value, key = kind.inputs(queries=queries)
        mask = RNG.random((B, queries, S)) > 0.4
        bias = RNG.normal(size=(B, queries, S)).astype("float32")
        layer = kind.shared()
        tensors = map(ops.convert_to_tensor, (query, key, value, mask, bias))
        inputs = ka.AttentionInputs(*tensors, need_weights=True)
        arguments = {"attention_mask": mask, "attention_bias": bias}
        wanted = layer(query, value, key, return_attention_scores=True, **arguments)
        for found, want in zip(layer.attend_to(inputs), wanted, strict=True):
            assert np.allclose(*to_numpy((found, want)), atol=ATOL), kind.name
