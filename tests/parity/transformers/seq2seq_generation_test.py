"""Encoder-decoders generate the tokens of `transformers.generate`."""

import numpy as np
import pytest
from generation.originals import PAD
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import keras_attention as ka

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
transformers = pytest.importorskip("transformers")
pytest.importorskip("torch")

from parity.transformers.compare import (  # noqa: E402
    check_saving,
    loaded,
    randomized,
)

VOCABULARY = PAD + 1
SHARED = {
    "vocab_size": VOCABULARY,
    "d_model": 12,
    "pad_token_id": PAD,
    "attn_implementation": "eager",
}
PAIRS = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 19,
    "decoder_ffn_dim": 23,
    "max_position_embeddings": 41,
}


def bart():
    config = transformers.BartConfig(
        **SHARED,
        **PAIRS,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
    )
    return transformers.BartForConditionalGeneration(config)


def marian():
    config = transformers.MarianConfig(
        **SHARED,
        **PAIRS,
        eos_token_id=0,
        forced_eos_token_id=0,
        decoder_start_token_id=PAD,
        bad_words_ids=[[PAD]],
    )
    model = transformers.MarianMTModel(config)
    model.generation_config.bad_words_ids = [[PAD]]
    return model


def t5():
    config = transformers.T5Config(
        **{**SHARED, "pad_token_id": PAD},
        d_kv=5,
        d_ff=19,
        num_layers=2,
        num_heads=3,
        eos_token_id=1,
        decoder_start_token_id=PAD,
    )
    return transformers.T5ForConditionalGeneration(config)


def pair_of(make, folder):
    """Returns `(theirs, ours)`: their random model, and the task loaded from it."""
    theirs = randomized(make(), seed=3)
    return theirs, loaded(theirs, folder)


@pytest.fixture(scope="module", params=[bart, marian, t5], ids=lambda f: f.__name__)
def pair(request, tmp_path_factory):
    theirs, ours = pair_of(request.param, tmp_path_factory.mktemp("model") / "theirs")
    assert type(ours) is ka.Seq2SeqLM
    ours.compiled = False
    return theirs, ours


def their_tokens(model, sources, settings, ends):
    """Returns the new tokens of `transformers.generate`, with each row's end token."""
    import torch

    width = max(map(len, sources))
    ids = [list(s) + [PAD] * (width - len(s)) for s in sources]
    mask = [[1] * len(s) + [0] * (width - len(s)) for s in sources]
    found = model.generate(
        torch.tensor(ids), attention_mask=torch.tensor(mask), **settings
    )
    rows = []
    for row in found[:, 1:].tolist():
        stops = [i for i, token in enumerate(row) if token in ends]
        unpadded = [token for token in row if token not in (PAD, -1)]
        rows.append(row[: stops[0] + 1] if stops else unpadded)
    return rows


tokens = st.integers(3, VOCABULARY - 2)
drawn_sources = st.lists(
    st.lists(tokens, min_size=1, max_size=7), min_size=1, max_size=3
)
CHOICES = st.fixed_dictionaries(
    {
        "max_new_tokens": st.integers(1, 9),
        "repetition_penalty": st.sampled_from([0.8, 1.0, 1.5]),
        "no_repeat_ngram_size": st.integers(0, 3),
        "min_new_tokens": st.integers(0, 3),
    }
)
BEAMS = st.just({}) | st.fixed_dictionaries(
    {
        "num_beams": st.integers(2, 4),
        "length_penalty": st.sampled_from([-1.0, 0.0, 0.6, 1.0, 2.0]),
        "early_stopping": st.sampled_from([True, False, "never"]),
    }
)


def test_tokens_are_those_of_transformers(pair, record_property):
    theirs, ours = pair
    count = 0

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(sources=drawn_sources, drawn=CHOICES, mode=BEAMS, rows=st.integers(1, 3))
    def check(*, sources, drawn, mode, rows):
        nonlocal count
        drawn = {**drawn, **mode}
        drawn["min_new_tokens"] = min(drawn["min_new_tokens"], drawn["max_new_tokens"])
        drawn["num_return_sequences"] = min(rows, mode.get("num_beams", 1))
        ask = ka.GenerationSettings(**drawn, suppress_tokens=[PAD])
        expected = their_tokens(
            theirs, sources, {**drawn, "suppress_tokens": [PAD]}, [ours.end_token_id]
        )
        found = [row.tolist() for row in ours.generate(sources, ask)]
        assert found == expected
        count += 1

    check()
    name = type(theirs).__name__
    record_property("summary", f"{name}: {count} settings, tokens of transformers")


def test_sampled_tokens_have_their_processed_probabilities(pair):
    """A chi-square test of the first token of many rows."""
    import torch

    theirs, ours = pair
    ours.forced_first_token = None
    source, total = [5, 9, 4], 8009
    more = {"do_sample": True, "temperature": 1.5, "top_k": 7, "top_p": 0.9}
    ask = ka.GenerationSettings(
        max_new_tokens=2, num_return_sequences=total, suppress_tokens=[PAD], **more
    )
    drawn = [int(row[0]) for row in ours.generate([source], ask)]
    found = theirs.generate(
        torch.tensor([source]),
        max_new_tokens=2,
        forced_bos_token_id=None,
        suppress_tokens=[PAD],
        output_scores=True,
        return_dict_in_generate=True,
        **more,
    )
    weights = torch.softmax(found.scores[0][0].double(), -1).numpy()
    expected, counts = weights * total, np.bincount(drawn, minlength=VOCABULARY)
    there = expected > 0
    assert not counts[~there].any()
    assert 2 <= there.sum() <= 7
    statistic = ((counts - expected)[there] ** 2 / expected[there]).sum()
    degrees = there.sum() - 1
    assert statistic < degrees + 3.72 * np.sqrt(2 * degrees) + 5


@pytest.mark.parametrize("make", [bart, marian, t5], ids=lambda f: f.__name__)
def test_the_saved_task_generates_the_same_in_transformers(make, tmp_path):
    theirs, ours = pair_of(make, tmp_path / "theirs")
    again = check_saving(ours, theirs, tmp_path)
    source = [[5, 9, 4, 6], [7, 3]]
    ends = [ours.end_token_id]
    settings = {"max_new_tokens": 7, "num_beams": 3}
    before = their_tokens(theirs, source, settings, ends)
    assert their_tokens(again, source, settings, ends) == before
    ours.compiled = False
    found = ours.generate(source, ka.GenerationSettings(**settings))
    assert [row.tolist() for row in found] == before
