"""Every processor, compared with that of transformers and with known numbers."""

import numpy as np
import pytest
from backends import to_numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_attention.generation import processors as p
from keras_attention.ops.attend import BLOCKED

VOCABULARY = 13


def logits_of(rows):
    return np.array(rows, "float32")


def allowed(logits):
    """The tokens of each row that are not forbidden."""
    return [np.flatnonzero(row > BLOCKED / 2).tolist() for row in to_numpy(logits)]


def history(rows=((1, 2, 1),), **settings):
    return p.history_of(np.array(rows), **settings)


ONE = logits_of([[0.5, 2.0, -1.0, 1.0, 0.0]])


def test_penalties_count_the_tokens_that_their_names_say():
    seen = history([[1, 2, 1, 3, 3]], prompt_lengths=np.array([3]))
    repeated = to_numpy(p.RepetitionPenalty(2.0)(seen, ONE))
    assert repeated.tolist() == [[0.5, 1.0, -2.0, 0.5, 0.0]]
    frequent = to_numpy(p.FrequencyPenalty(0.25)(seen, ONE))
    assert frequent.tolist() == [[0.5, 2.0, -1.0, 0.5, 0.0]]
    present = to_numpy(p.PresencePenalty(0.25)(seen, ONE))
    assert present.tolist() == [[0.5, 2.0, -1.0, 0.75, 0.0]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_no_processor_sees_padding(side):
    ids = {"left": [[4, 4, 1, 2]], "right": [[1, 2, 4, 4]]}[side]
    padded = p.history_of(np.array(ids), np.array(ids) != 4)
    whole = history([[1, 2]])
    for processor in (
        p.RepetitionPenalty(2.0),
        p.NoRepeatNGram(1),
        p.NoRepeatNGram(2),
        p.BadWords([[2, 3]]),
        p.AllowedSequences([[3, 4]], 0),
    ):
        expected = to_numpy(processor(whole, ONE))
        assert to_numpy(processor(padded, ONE)).tolist() == expected.tolist()


def test_forced_tokens_are_the_first_and_the_last():
    for new, processor in ((0, p.ForcedFirstToken(4)), (2, p.ForcedLastToken(4))):
        for count in range(4):
            seen = history(
                [[1, 2, 1, 3, 3]],
                prompt_lengths=np.array([5 - count]),
                max_new_tokens=3,
            )
            found = allowed(processor(seen, ONE))
            assert found == ([[4]] if count == new else [[0, 1, 2, 3, 4]])


def test_the_end_is_forbidden_before_the_least_length():
    for count in range(3):
        seen = history([[1, 2, 1]], prompt_lengths=np.array([3 - count]))
        found = allowed(p.MinNewTokens(2, [0, 3])(seen, ONE))
        assert found == ([[1, 2, 4]] if count < 2 else [[0, 1, 2, 3, 4]])


def test_a_trie_allows_what_continues_its_sequences():
    trie = p.AllowedSequences([[1, 2], [1, 3, 4], [2]], 0)
    following = {
        (): [1, 2],
        (1,): [2, 3],
        (1, 3): [4],
        (1, 3, 4): [0],
        (2,): [0],
        (1, 2): [0],
    }
    for new, expected in following.items():
        seen = history([[4, *new]], prompt_lengths=np.array([1]))
        assert allowed(trie(seen, ONE)) == [expected], new


def test_a_function_returns_the_tokens_that_may_follow():
    calls = []

    def grammar(row, tokens):
        calls.append((row, tokens))
        return [row, 3]

    two = np.concatenate([ONE, ONE])
    found = p.AllowedTokens(grammar)(history([[1, 2], [3, 1]]), two)
    assert allowed(found) == [[0, 3], [1, 3]]
    assert calls == [(0, [1, 2]), (1, [3, 1])]
    with pytest.raises(ValueError, match="Received: none for row 0"):
        p.AllowedTokens(lambda row, tokens: [])(history(), ONE)


def test_settings_may_differ_from_row_to_row():
    rows = np.repeat(ONE, 3, axis=0)
    seen = history([[1]] * 3)
    each = {p.TopK: [1, 2, 5], p.TopP: [0.3, 0.8, 0.99], p.MinP: [0.9, 0.2, 0.01]}
    each[p.Temperature] = [0.5, 1.0, 3.0]
    for kind, values in each.items():
        dtype = "int32" if kind is p.TopK else "float32"
        together = to_numpy(kind(np.array(values, dtype))(seen, rows))
        for row, value in enumerate(values):
            alone = to_numpy(kind(value)(history([[1]]), ONE))
            np.testing.assert_allclose(together[row], alone[0], rtol=1e-6)


def test_a_token_outside_the_vocabulary_is_refused():
    for processor in (p.SuppressTokens([5]), p.LogitBias({(1, 5): 1.0})):
        with pytest.raises(ValueError, match=r"from 0 to 4.*Received: 5"):
            processor(history(), ONE)


def pairs(torch_module):
    """Returns name to a function of drawn numbers that returns `(ours, theirs)`."""
    t = torch_module
    return {
        "temperature": lambda x, k: (
            p.Temperature(x + 0.1),
            t.TemperatureLogitsWarper(x + 0.1),
        ),
        "top_k": lambda x, k: (
            p.TopK(k, 2),
            t.TopKLogitsWarper(k, min_tokens_to_keep=2),
        ),
        "top_p": lambda x, k: (p.TopP(x), t.TopPLogitsWarper(x)),
        "top_p keeping some": lambda x, k: (
            p.TopP(x, k),
            t.TopPLogitsWarper(x, min_tokens_to_keep=k),
        ),
        "min_p": lambda x, k: (
            p.MinP(x, k),
            t.MinPLogitsWarper(x, min_tokens_to_keep=k),
        ),
        "typical": lambda x, k: (
            p.TypicalP(x, k),
            t.TypicalLogitsWarper(x, min_tokens_to_keep=k),
        ),
        "repetition": lambda x, k: (
            p.RepetitionPenalty(x + 0.5),
            t.RepetitionPenaltyLogitsProcessor(x + 0.5),
        ),
        "n-gram": lambda x, k: (p.NoRepeatNGram(k), t.NoRepeatNGramLogitsProcessor(k)),
        "bias": lambda x, k: (
            p.LogitBias({k: x, (k, 1): -x, (2, 1, 3): 2.5}),
            t.SequenceBiasLogitsProcessor({(k,): x, (k, 1): -x, (2, 1, 3): 2.5}),
        ),
        "bad words": lambda x, k: (
            p.BadWords([[k], [1, 2], [k, 1, 3]]),
            t.NoBadWordsLogitsProcessor([[k], [1, 2], [k, 1, 3]]),
        ),
        "suppressed": lambda x, k: (
            p.SuppressTokens([k, 0]),
            t.SuppressTokensLogitsProcessor([k, 0]),
        ),
        "least length": lambda x, k: (
            p.MinNewTokens(k, [2, 5]),
            t.MinNewTokensLengthLogitsProcessor(3, k, [2, 5]),
        ),
        "allowed": lambda x, k: (
            p.AllowedTokens(lambda row, tokens: [row, k, tokens[-1]]),
            t.PrefixConstrainedLogitsProcessor(
                lambda row, tokens: [row, k, int(tokens[-1])], 1
            ),
        ),
        "forced last": lambda x, k: (
            p.ForcedLastToken(k),
            t.ForcedEOSTokenLogitsProcessor(7, k),
        ),
    }


NAMES = list(pairs(type("Names", (), {"__getattr__": lambda *_: None})()))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_processor_is_the_one_of_transformers(name):
    torch = pytest.importorskip("torch")
    theirs_of = pytest.importorskip("transformers").generation.logits_process

    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    @given(
        seed=st.integers(0, 10**6),
        x=st.floats(0.05, 0.95),
        k=st.integers(1, VOCABULARY - 1),
        length=st.integers(3, 11),
    )
    def check(seed, x, k, length):
        generator = np.random.default_rng(seed)
        ids = generator.integers(0, 5, (3, length))
        logits = generator.normal(scale=3, size=(3, VOCABULARY)).astype("float32")
        logits[generator.random((3, VOCABULARY)) < 0.1] = BLOCKED
        ours, theirs = pairs(theirs_of)[name](x, k)
        start = np.full(3, 3)
        seen = p.history_of(ids, prompt_lengths=start, max_new_tokens=4)
        found = to_numpy(p.process([ours], seen, logits))
        infinite = np.where(logits < BLOCKED / 2, -np.inf, logits)
        given = torch.tensor(ids), torch.tensor(infinite)
        expected = theirs(*given).numpy()
        found = np.where(found < BLOCKED / 2, -np.inf, found)
        np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    check()
