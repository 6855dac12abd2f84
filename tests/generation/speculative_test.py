"""The proposals of a draft model change the time of generation, not the tokens."""

import numpy as np
import pytest
from generation.generate_test import chi_square, decoder, lists

import keras_attention as ka
from keras_attention.generation.speculative import Speculative
from keras_attention.tasks.causal_lm import language_model

PROMPT = [1, 2, 3]


def models():
    large = decoder(num_layers=2)
    small = decoder(num_layers=1)
    return large, small


@pytest.mark.parametrize("same", [True, False])
def test_greedy_tokens_are_those_of_the_model_alone(same):
    large, small = models()
    draft = large if same else small
    ask = ka.GenerationSettings(max_new_tokens=13, repetition_penalty=1.3)
    pair = language_model(large), language_model(draft)
    speculative = Speculative(*pair, ask.make_processors([]), compiled=False)
    expected = lists(ka.CausalLM(large, compiled=False).generate([PROMPT], ask))[0]
    assert speculative.generate(PROMPT, 13) == expected
    # The model's own proposals are all accepted: 5 tokens per step.
    assert speculative.num_steps == 3 if same else speculative.num_steps <= 13


@pytest.mark.slow
def test_a_task_with_a_draft_gives_the_tokens_it_gives_without(tmp_path):
    large, small = models()
    model = ka.CausalLM(large, draft=small, compiled=False)
    assert all(not w.trainable for w in small.weights)
    alone = ka.CausalLM(large, compiled=False)
    prompts = [PROMPT, [4, 5]]
    for ask in (
        ka.GenerationSettings(max_new_tokens=6, stop_token_ids=[8]),
        ka.GenerationSettings(max_new_tokens=2, num_beams=2),
    ):
        expected = lists(alone.generate(prompts, ask))
        assert lists(model.generate(prompts, ask)) == expected
    ask = ka.GenerationSettings(
        max_new_tokens=5, do_sample=True, num_return_sequences=2, seed=3
    )
    drawn = lists(model.generate(prompts, ask))
    assert len(drawn) == 4
    assert drawn == lists(model.generate(prompts, ask))
    assert drawn[0] != drawn[1]
    with pytest.raises(ValueError, match="at least one token"):
        model.generate([[]], max_new_tokens=2)
    model.save(tmp_path / "model.keras")
    loaded = ka.load_model(tmp_path / "model.keras")
    assert lists(loaded.generate(prompts, ask)) == drawn


def test_a_draft_with_another_vocabulary_is_refused():
    large = decoder()
    with pytest.raises(ValueError, match=r"Received: vocabularies of 13 and 17"):
        Speculative(language_model(large), language_model(decoder(vocabulary=17)))


def test_accepted_and_replaced_tokens_have_the_probabilities_of_the_model():
    large, small = models()
    pair = language_model(large), language_model(small)
    speculative = Speculative(*pair, do_sample=True, compiled=False)
    generator = np.random.default_rng(0)
    wanted = [generator.dirichlet(np.ones(5)) for _ in range(2)]
    guess = generator.dirichlet(np.ones(5))
    counts = np.zeros(5)
    for _ in range(20_011):
        proposed = [int(generator.choice(5, p=guess))]
        counts[speculative._accepted(wanted, [guess], proposed, generator)[0]] += 1
    chi_square(counts, wanted[0], counts.sum())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_drawn_tokens_have_the_probabilities_of_the_model():
    large, small = models()
    pair = language_model(large), language_model(small)
    speculative = Speculative(*pair, do_sample=True, num_proposed=2)
    count = 1009
    rows = [speculative.generate(PROMPT, 2, seed=seed) for seed in range(count)]
    logits = np.asarray(large(np.array([PROMPT]))["logits"])[0, -1]
    weights = np.exp(logits - logits.max())
    first = np.bincount([row[0] for row in rows], minlength=13)
    chi_square(first, weights / weights.sum(), count)
    # The second token's probabilities, over all first ones.
    both = np.array([[*PROMPT, token] for token in range(13)])
    logits = np.asarray(large(both)["logits"])[:, -1]
    after = np.exp(logits - logits.max(axis=-1, keepdims=True))
    after /= after.sum(axis=-1, keepdims=True)
    second = np.bincount([row[1] for row in rows], minlength=13)
    chi_square(second, weights / weights.sum() @ after, count)
