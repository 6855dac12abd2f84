"""Tokens are those of `transformers.generate`, for settings drawn at random."""

import numpy as np
import pytest
from backends import to_numpy
from contracts.kinds import relative_error
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import keras_attention as ka

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
pytest.importorskip("torch")
pytest.importorskip("transformers")

from generation.originals import PAD, VOCABULARY, gpt2_pair, their_tokens  # noqa: E402

tokens = st.integers(0, VOCABULARY - 2)
prompts = st.lists(st.lists(tokens, min_size=1, max_size=7), min_size=1, max_size=3)
# Our name -> their name, the values.
SHARED = {
    "max_new_tokens": ("max_new_tokens", st.integers(1, 11)),
    "repetition_penalty": ("repetition_penalty", st.sampled_from([0.7, 1.0, 1.7])),
    "no_repeat_ngram_size": ("no_repeat_ngram_size", st.integers(0, 3)),
    "bad_words": (
        "bad_words_ids",
        st.lists(st.lists(tokens, min_size=1, max_size=3), max_size=3),
    ),
    "logit_bias": (
        "sequence_bias",
        st.dictionaries(
            st.lists(tokens, min_size=1, max_size=2).map(tuple),
            st.sampled_from([-2.7, 1.3, 3.1]),
            max_size=3,
        ),
    ),
    "forced_last_token": ("forced_eos_token_id", st.none() | tokens),
}
greedy = st.just({})
beams = st.fixed_dictionaries(
    {
        "num_beams": st.integers(2, 5),
        "length_penalty": st.sampled_from([-1.0, 0.0, 0.6, 1.0, 2.0]),
        "early_stopping": st.sampled_from([True, False, "never"]),
    }
)


@pytest.fixture(scope="module")
def pair():
    theirs, ours = gpt2_pair()
    return theirs, ka.CausalLM(ours, compiled=False)


def test_the_copied_model_has_the_logits_of_the_original():
    import torch

    theirs, ours = gpt2_pair()
    ids = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    assert relative_error(to_numpy(ours(ids)["logits"]), expected) <= 1e-5


@pytest.mark.parametrize(
    ("mode", "examples"), [(greedy, 300), (beams, 250)], ids=["greedy", "beams"]
)
def test_tokens_are_those_of_transformers(pair, mode, examples, record_property):
    theirs, ours = pair
    count = 0

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],  # shrinking takes hours at a second per call
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(
        prompts=prompts,
        drawn=st.fixed_dictionaries({n: values for n, (_, values) in SHARED.items()}),
        mode=mode,
        ends=st.lists(tokens, max_size=2, unique=True),
        least=st.integers(0, 4),
        rows=st.integers(1, 5),
    )
    def check(*, prompts, drawn, mode, ends, least, rows):
        nonlocal count
        drawn = {**drawn, "min_new_tokens": min(least, drawn["max_new_tokens"])}
        drawn["num_return_sequences"] = min(rows, mode.get("num_beams", 1))
        ask = ka.GenerationSettings(
            **drawn, **mode, stop_token_ids=ends, suppress_tokens=[PAD]
        )
        names = {ours: theirs for ours, (theirs, _) in SHARED.items()}
        wanted = {names.get(n, n): v for n, v in drawn.items() if v not in ([], {})}
        expected = their_tokens(
            theirs, prompts, {**wanted, **mode, "suppress_tokens": [PAD]}, ends=ends
        )
        found = [row.tolist() for row in ours.generate(prompts, ask)]
        assert found == expected
        count += 1

    check()
    record_property("summary", f"transformers: {count} settings, tokens equal")
