"""The loops: shapes, seeds, ends, streams and errors."""

import keras
import numpy as np
import pytest
from backends import to_numpy
from contracts.kinds import relative_error
from generation.tokenizers import Bytes

import keras_attention as ka
from keras_attention.generation.noise import sample, seeds_of_rows
from keras_attention.generation.streaming import TextStream

Settings = ka.GenerationSettings
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8], [3]]


def decoder(vocabulary=13, **settings):
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 6, "intermediate_dim": 11}
    sizes = {**sizes, "max_sequence_length": 211, **settings}
    model = ka.GPTDecoder(vocabulary, **sizes)
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(rng.normal(scale=0.4, size=weight.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return ka.CausalLM(decoder(), compiled=False)


@pytest.fixture(scope="module")
def speaker():
    return ka.CausalLM(decoder(vocabulary=256), Bytes(), compiled=False)


def lists(rows):
    return [row.tolist() for row in rows]


def one_by_one(model, prompt, count):
    """Greedy search that computes everything again for each token."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(
            int(np.argmax(to_numpy(model.decoder(np.array([ids]))["logits"][0, -1])))
        )
    return ids[len(prompt) :]


def test_greedy_tokens_are_those_of_full_recomputation(model):
    expected = [one_by_one(model, prompt, 5) for prompt in PROMPTS]
    assert lists(model.generate(PROMPTS, max_new_tokens=5)) == expected


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(model, side):
    width = max(map(len, PROMPTS))
    ids, mask = np.full((3, width), 9), np.zeros((3, width), bool)
    for row, prompt in enumerate(PROMPTS):
        at = slice(len(prompt)) if side == "right" else slice(width - len(prompt), None)
        ids[row, at], mask[row, at] = prompt, True
    padded = model.generate({"token_ids": ids, "padding_mask": mask}, max_new_tokens=3)
    assert lists(padded) == lists(model.generate(PROMPTS, max_new_tokens=3))


def test_log_probabilities_are_those_of_the_model(model):
    found = model.generate([[1, 2, 3]], max_new_tokens=3, return_details=True)
    ids = np.array([[1, 2, 3, *found.token_ids[0]]])
    logits = to_numpy(keras.ops.log_softmax(model.decoder(ids)["logits"], axis=-1))
    expected = np.array([logits[0, 2 + i, ids[0, 3 + i]] for i in range(3)])
    assert relative_error(found.log_probabilities[0], expected) <= 1e-5
    again = model.score(ids)["log_probabilities"][0]
    assert relative_error(again[2:], expected) <= 1e-5


def test_a_seed_gives_the_same_tokens_and_another_gives_others(model):
    def drawn(seed, **more):
        ask = Settings(max_new_tokens=7, do_sample=True, seed=seed, **more)
        return lists(model.generate(PROMPTS, ask))

    assert drawn(5) == drawn(5)
    assert drawn(5) != drawn(6)
    several = drawn(5, num_return_sequences=2)
    assert len(several) == 6
    assert several[0] != several[1]


def test_rows_end_at_a_stop_token_and_not_before_the_least_length(model):
    free = lists(model.generate(PROMPTS, max_new_tokens=7))
    token = free[1][2]
    ask = Settings(max_new_tokens=7, stop_token_ids=[token])
    ends = [row.index(token) + 1 if token in row else 7 for row in free]
    expected = [row[:end] for row, end in zip(free, ends, strict=True)]
    assert lists(model.generate(PROMPTS, ask)) == expected
    ask = Settings(max_new_tokens=7, min_new_tokens=7, stop_token_ids=[token])
    assert all(
        len(row) == 7 and token not in row[:6] for row in model.generate(PROMPTS, ask)
    )


def test_settings_may_be_arrays_and_each_is_compiled_separately(model):
    free = model.generate(PROMPTS, max_new_tokens=2)
    many = np.full(2003, 12)
    for token in {int(row[0]) for row in free}:
        many[1001] = token  # the repr of an array omits it
        ask = Settings(max_new_tokens=2, suppress_tokens=many.copy())
        found = model.generate(PROMPTS, ask)
        assert token not in np.concatenate(found)
        assert 12 not in np.concatenate(found)


def test_a_function_may_choose_the_allowed_tokens(model):
    rows = []

    def up(row, tokens):
        rows.append(row)
        return [tokens[-1] + 1]

    for beams in (1, 2):
        ask = Settings(max_new_tokens=2, allowed_tokens=up, num_beams=beams)
        assert lists(model.generate(PROMPTS, ask)) == [[4, 5], [9, 10], [4, 5]]
    assert {0, 1, 2} <= set(rows)


def test_a_callback_sees_rows_grow(model):
    seen = []
    model.generate(
        PROMPTS, max_new_tokens=3, callback=lambda rows: seen.append(len(rows[0]))
    )
    assert seen == [1, 2, 3]


def test_streamed_pieces_are_the_text(speaker):
    settings = Settings(max_new_tokens=11, do_sample=True)
    whole = speaker.generate(["ab"], settings)[0]
    assert "".join(speaker.stream("ab", settings)) == whole
    ids = list(speaker.stream([97, 98], settings))
    assert ids == list(speaker.generate([[97, 98]], settings)[0])


def test_a_split_character_is_held_back_until_it_is_complete():
    ids = list("aé€b".encode())
    stream = TextStream(Bytes())
    pieces = [list(stream.more(ids[: end + 1])) for end in range(len(ids))]
    assert pieces == [["a"], [], ["é"], [], [], ["€"], ["b"]]
    assert list(stream.end()) == []


def test_rows_end_at_a_string(speaker):
    prompts = ["ab", "q"]
    whole = speaker.generate(prompts, max_new_tokens=7)
    end = whole[0][2:4]
    texts = speaker.generate(prompts, Settings(max_new_tokens=7, stop_strings=[end]))
    assert texts[0] == whole[0][: whole[0].index(end) + 2]
    assert texts[1] == whole[1] or end in texts[1]
    never = Settings(max_new_tokens=7, stop_strings=["never met"])
    assert speaker.generate(prompts, never) == whole


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"top_k": 0}, r"`top_k` must be an int of 1 or more. Received: top_k=0"),
        ({"top_p": 1.5, "do_sample": True}, "`top_p` must be from 0 to 1"),
        ({"temperature": 0.0}, "`temperature` must be above 0"),
        ({"temperature": 0.5}, "left at its default without `do_sample=True`"),
        ({"min_new_tokens": 9, "max_new_tokens": 5}, "at most max_new_tokens=5"),
        ({"num_return_sequences": 2}, "at most `num_beams`"),
        ({"num_beams": 2, "do_sample": True}, "beams are searched"),
        ({"length_penalty": 2.0}, "without `num_beams`"),
        ({"early_stopping": "no", "num_beams": 2}, "True, False or 'never'"),
        ({"stop_strings": "end"}, "a list of texts"),
        ({"max_new_tokens": 0}, "an int of 1 or more"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        Settings(**settings)


def test_bad_prompts_are_refused(model):
    for prompts, match in (
        ([[1], []], "at least one token.*Received: prompt 1"),
        ([], "Received: no prompt"),
        ([[1] * 211], "has 211 positions.*Received: a prompt of 211"),
        ([[13]], "from 0 to 12. Received: 13"),
        (["text"], "needs a tokenizer"),
        ("text", "wrap a single one in a list"),
    ):
        with pytest.raises(ValueError, match=match):
            model.generate(prompts, max_new_tokens=2)


MODES = {
    "greedy": {},
    "drawn": {"do_sample": True, "seed": 5},
    "beams": {"num_beams": 2},
    "draft": {},
    "contrastive": {"penalty_alpha": 0.5, "top_k": 3},
}


@pytest.mark.parametrize("mode", MODES)
def test_the_last_new_token_needs_no_position_where_it_is_never_read(mode):
    long, short = decoder(), decoder(max_sequence_length=7)
    weights = [w.numpy() if hasattr(w, "numpy") else to_numpy(w) for w in long.weights]
    weights = [w[:7] if w.shape[0] == 211 else w for w in weights]
    short.set_weights(weights)
    draft = {"draft": decoder(num_layers=1)} if mode == "draft" else {}
    ask = {**MODES[mode], "max_new_tokens": 5 - (mode == "contrastive")}
    unlimited, limited = (
        ka.CausalLM(each, compiled=False, **draft) for each in (long, short)
    )
    rows = [[1, 2, 3], [4]]  # 3 and 5 new ones: the first 7 of 8 tokens are read
    expected = lists(unlimited.generate(rows, Settings(**ask)))
    assert lists(limited.generate(rows, Settings(**ask))) == expected
    assert [len(row) for row in expected] == [ask["max_new_tokens"]] * 2
    if mode in ("greedy", "draft"):
        assert expected[0] == one_by_one(limited, rows[0], 5)
    if mode == "greedy":
        assert list(limited.stream(rows[0], Settings(**ask))) == expected[0]
    ask["max_new_tokens"] += 1
    with pytest.raises(ValueError, match=r"has 7 positions.*a prompt of 3 tokens"):
        limited.generate(rows, Settings(**ask))


def test_a_draft_with_fewer_positions_is_refused_where_it_would_read_more():
    model = ka.CausalLM(
        decoder(), compiled=False, draft=decoder(num_layers=1, max_sequence_length=5)
    )
    assert len(model.generate([[1, 2, 3]], max_new_tokens=3)[0]) == 3
    with pytest.raises(ValueError, match="The draft model has 5 positions"):
        model.generate([[1, 2, 3]], max_new_tokens=4)


@pytest.mark.parametrize("beams", [1, 2])
def test_nan_logits_are_an_error(beams):
    broken = decoder()
    table = broken.token_embedding.embeddings
    table.assign(np.full(table.shape, np.nan))
    with pytest.raises(ValueError, match="logits were NaN"):
        ka.CausalLM(broken, compiled=False).generate(
            PROMPTS, Settings(max_new_tokens=3, num_beams=beams)
        )


def test_a_long_text_is_scored_in_windows(model):
    row = np.random.default_rng(0).integers(0, 13, 29)
    found = model.score([row.tolist()], window=11, stride=5)
    expected = []
    for at in range(1, 29):
        # All windows begin at multiples of the stride; a token is scored in the first.
        start = 0 if at < 11 else 5 * -(-(at - 10) // 5)
        logits = model.decoder(row[None, start:at])["logits"][0, -1]
        expected.append(to_numpy(keras.ops.log_softmax(logits))[row[at]])
    assert relative_error(found["log_probabilities"][0], np.array(expected)) <= 1e-5
    assert found["perplexity"] == pytest.approx(np.exp(-np.mean(expected)), rel=1e-5)


def test_it_trains_and_loads_from_a_file(tmp_path, speaker):
    model = ka.CausalLM(decoder())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    ids = np.array([[1, 2, 3, 4, 5]])
    losses = [model.train_on_batch(ids[:, :-1], ids[:, 1:]) for _ in range(3)]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(to_numpy(loaded(ids)), to_numpy(model(ids)))


def test_drawn_tokens_have_the_probabilities_of_the_logits():
    logits = np.array([2.0, 0.5, 0.0, -1.0, -1e30, 1.0, -3.0], "float32")
    weights = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    count = 40_009
    seeds = seeds_of_rows(3, count)
    drawn = to_numpy(sample(np.tile(logits, (count, 1)), seeds, 2))
    chi_square(np.bincount(drawn, minlength=7), weights, count)
    # And two steps of a row are independent.
    other = to_numpy(sample(np.tile(logits, (count, 1)), seeds, 3))
    both = np.outer(weights, weights).ravel()
    chi_square(np.bincount(drawn * 7 + other, minlength=49), both, count)


def chi_square(counts, weights, total):
    """Asserts that counts come from these probabilities, at a level of about 1e-4."""
    there = weights > 0
    assert not counts[~there].any()
    expected = weights[there] * total
    statistic = ((counts[there] - expected) ** 2 / expected).sum()
    degrees = there.sum() - 1
    assert statistic < degrees + 3.72 * np.sqrt(2 * degrees) + 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_compiled_again_for_other_lengths(model):
    compiled = ka.CausalLM(model.decoder)
    rng = np.random.default_rng(0)
    # All pairs of prompt width and capacity, then random lengths.
    lengths = [1, 2, 18, 33, 50, 65, 100, *rng.integers(1, 100, 100)]
    traces = []
    for length in lengths:
        prompt = rng.integers(0, 13, length).tolist()
        ask = Settings(max_new_tokens=3)
        found = compiled.generate([prompt], ask)
        traces.append(compiled.generator.num_traces)
        if length % 5 == 0:
            assert lists(found) == lists(model.generate([prompt], ask))
    assert traces[-1] == traces[6] == 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_sampling_draws_the_tokens_of_eager_sampling(model):
    compiled = ka.CausalLM(model.decoder)
    ask = Settings(
        max_new_tokens=11,
        do_sample=True,
        temperature=1.3,
        top_k=7,
        top_p=0.9,
        repetition_penalty=1.2,
        no_repeat_ngram_size=2,
        bad_words=[[3, 4]],
        stop_token_ids=[5],
        min_new_tokens=3,
    )
    assert lists(compiled.generate(PROMPTS, ask)) == lists(model.generate(PROMPTS, ask))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sampled_tokens_have_the_processed_probabilities(model):
    ask = Settings(
        max_new_tokens=1,
        do_sample=True,
        temperature=1.7,
        top_p=0.8,
        num_return_sequences=20_011,
    )
    drawn = np.concatenate(model.generate([[1, 2, 3]], ask))
    history = ka.processors.history_of(np.array([[1, 2, 3]]))
    logits = model.decoder(np.array([[1, 2, 3]]))["logits"][:, -1]
    logits = to_numpy(ka.processors.process(ask.make_processors([]), history, logits))[
        0
    ]
    weights = np.exp(logits - logits.max())
    chi_square(np.bincount(drawn, minlength=13), weights / weights.sum(), len(drawn))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rolling_cache_runs_twenty_times_its_window():
    model = decoder(max_sequence_length=300)
    cache = model.empty_cache(1, ka.RollingKVCache, window=11, num_sink_tokens=2)
    shapes, token = None, np.array([[1]])
    for _ in range(20 * 13):
        outputs = model(token, cache=cache)
        cache, token = outputs["cache"], np.argmax(outputs["logits"], axis=-1)
        now = [tuple(x.shape) for layer in cache for x in layer]
        assert shapes in (None, now)
        shapes = now
        assert np.isfinite(to_numpy(outputs["logits"])).all()
    assert to_numpy(cache[0].lengths).tolist() == [13]
