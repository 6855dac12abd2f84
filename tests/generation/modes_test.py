"""Groups of beams and contrastive search, compared with plain loops in Python."""

import itertools

import numpy as np
import pytest
from backends import to_numpy
from generation.generate_test import decoder, lists

import keras_attention as ka

Settings = ka.GenerationSettings
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8]]


@pytest.fixture(scope="module")
def model():
    return ka.CausalLM(decoder(), compiled=False)


def outputs_of(model, ids):
    outputs = model.decoder(np.array([ids]))
    return (
        to_numpy(outputs["logits"])[0, -1].astype("float64"),
        to_numpy(outputs["sequence_output"])[0].astype("float64"),
    )


def log_softmax(logits):
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def searched_in_groups(model, prompt, *, steps, groups, beams, penalty, end):
    """Diverse beam search with lists; returns all `(tokens, score)`, the best first."""
    start = len(prompt)
    running = [[(list(prompt), 0.0)] for _ in range(groups)]
    ended = [[] for _ in range(groups)]
    done = [False] * groups
    for step in range(1, steps + 1):
        chosen = np.zeros(13)
        for group in range(groups):
            found = []
            for ids, score in running[group]:
                log_p = log_softmax(outputs_of(model, ids)[0]) - penalty * chosen
                found += [([*ids, t], score + log_p[t]) for t in range(13)]
            found = sorted(found, key=lambda one: -one[1])[: 2 * beams]
            if not done[group]:
                for ids, score in found[:beams]:
                    if ids[-1] == end or step == steps:
                        ended[group].append((ids[start:], score / step))
                ended[group].sort(key=lambda one: -one[1])
                del ended[group][beams:]
            running[group] = [one for one in found if one[0][-1] != end][:beams]
            if not done[group]:
                for ids, _ in running[group]:
                    chosen[ids[-1]] += 1
            best, full = running[group][0][1] / step, len(ended[group]) == beams
            done[group] |= full and best <= ended[group][-1][1]
        if all(done):
            break
    return sorted(itertools.chain(*ended), key=lambda one: -one[1])


@pytest.mark.parametrize(
    ("groups", "end", "penalty"),
    [(2, None, 0.7), pytest.param(3, 4, 1.9, marks=pytest.mark.slow), (2, 9, 0.4)],
)
def test_groups_of_beams_are_those_of_a_loop_of_lists(model, groups, end, penalty):
    sizes = {"groups": groups, "beams": 2, "penalty": penalty, "end": end}
    ask = Settings(
        max_new_tokens=4,
        num_beams=2 * groups,
        num_beam_groups=groups,
        diversity_penalty=penalty,
        num_return_sequences=2 * groups,
        stop_token_ids=[] if end is None else [end],
    )
    found = model.generate(PROMPTS, ask, return_details=True)
    rows, scores = lists(found.token_ids), found.scores
    for prompt in PROMPTS:
        expected = searched_in_groups(model, prompt, steps=4, **sizes)
        assert len(expected) == 2 * groups
        assert rows[: 2 * groups] == [ids for ids, _ in expected]
        assert scores[: 2 * groups] == pytest.approx(
            [score for _, score in expected], rel=1e-4
        )
        rows, scores = rows[2 * groups :], scores[2 * groups :]


def test_groups_begin_with_different_tokens(model):
    def first_tokens(**more):
        ask = Settings(max_new_tokens=3, num_beams=4, num_return_sequences=4, **more)
        return {row[0] for row in lists(model.generate(PROMPTS[:1], ask))}

    many = first_tokens(num_beam_groups=4, diversity_penalty=50.0)
    assert len(many) == 4 > len(first_tokens())


def searched_by_contrast(model, prompt, *, steps, alpha, top_k, end=None):
    """Contrastive search that computes everything again for each candidate."""
    ids = list(prompt)
    for _ in range(steps):
        logits, before = outputs_of(model, ids)
        weights = np.exp(log_softmax(logits))
        scores = {}
        for token in np.argsort(-weights)[:top_k]:
            vector = outputs_of(model, [*ids, int(token)])[1][-1]
            norms = np.linalg.norm(before, axis=-1) * np.linalg.norm(vector)
            nearest = (before @ vector / norms).max()
            scores[int(token)] = (1 - alpha) * weights[token] - alpha * nearest
        ids.append(max(scores, key=lambda token: scores[token]))
        if ids[-1] == end:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize(
    ("alpha", "top_k", "end"),
    [
        (0.3, 3, 7),
        pytest.param(0.6, 4, None, marks=pytest.mark.slow),
        pytest.param(0.0, 5, None, marks=pytest.mark.slow),
    ],
)
def test_contrastive_tokens_are_those_of_full_recomputation(model, alpha, top_k, end):
    ask = Settings(
        max_new_tokens=5,
        penalty_alpha=alpha,
        top_k=top_k,
        stop_token_ids=[] if end is None else [end],
    )
    prompts = [*PROMPTS, [9]]
    sizes = {"steps": 5, "alpha": alpha, "top_k": top_k, "end": end}
    expected = [searched_by_contrast(model, prompt, **sizes) for prompt in prompts]
    assert lists(model.generate(prompts, ask)) == expected
    if alpha == 0.6:
        assert expected != lists(model.generate(prompts, max_new_tokens=5))
        single = lists(model.generate([[9]], ask))
        assert single == expected[2:]


def test_contrastive_search_uses_processors_and_streams(model):
    ask = Settings(max_new_tokens=5, penalty_alpha=0.6, top_k=4)
    free = lists(model.generate(PROMPTS[:1], ask))[0]
    assert list(model.stream(PROMPTS[0], ask)) == free
    suppressed = Settings(
        max_new_tokens=5, penalty_alpha=0.6, top_k=4, suppress_tokens=[free[0]]
    )
    assert free[0] not in lists(model.generate(PROMPTS[:1], suppressed))[0]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_modes_give_the_same(model):
    compiled = ka.CausalLM(model.decoder)
    for mode in (
        {"penalty_alpha": 0.6, "top_k": 4},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7},
    ):
        ask = Settings(max_new_tokens=6, stop_token_ids=[9], **mode)
        expected = lists(model.generate(PROMPTS, ask))
        assert lists(compiled.generate(PROMPTS, ask)) == expected


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_beam_groups": 2}, "a divisor of num_beams=1"),
        ({"num_beams": 4, "num_beam_groups": 3}, "a divisor of num_beams=4"),
        ({"num_beams": 4, "num_beam_groups": 2}, "`diversity_penalty` must be above"),
        ({"num_beams": 4, "diversity_penalty": 1.0}, "`diversity_penalty` must be"),
        ({"penalty_alpha": 0.6}, "`top_k` must be 2 or more"),
        ({"penalty_alpha": 1.6, "top_k": 4}, "from 0 to 1"),
        ({"penalty_alpha": 0.6, "top_k": 4, "num_beams": 2}, "a separate mode"),
        ({"penalty_alpha": 0.6, "top_k": 4, "do_sample": True}, "a separate mode"),
    ],
)
def test_modes_that_contradict_each_other_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        Settings(**settings)
