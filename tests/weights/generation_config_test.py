"""generation_config.json: each entry is applied, without effect, or refused by name."""

import json

import pytest
from small_models import with_random_weights

import keras_attention as ka
from keras_attention.weights import generation_hf

SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
LLAMA = {
    "position": "rotary",
    "normalization": "rms",
    "activation": "silu",
    "gated": True,
    "use_bias": False,
}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({}, {}),
        ({"eos_token_id": [5, 7]}, {"stop_token_ids": [5, 7]}),
        (
            {"eos_token_id": 5, "max_new_tokens": 9},
            {"stop_token_ids": [5], "max_new_tokens": 9},
        ),
        # What only sampling or only beams use has no effect without it.
        ({"temperature": 0.6, "top_p": 0.9, "length_penalty": 2.0}, {}),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 50},
        ),
        ({"do_sample": True, "top_k": 0}, {"do_sample": True}),
        (
            {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
            {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
        ),
        ({"num_beams": 1, "repetition_penalty": 1.0, "guidance_scale": 1.0}, {}),
        ({"penalty_alpha": 0.6, "top_k": 4}, {"penalty_alpha": 0.6, "top_k": 4}),
        ({"stop_strings": "END"}, {"stop_strings": ["END"]}),
        ({"min_length": 3, "max_length": 8}, {"min_length": 3, "max_length": 8}),
        ({"use_cache": False, "output_scores": True, "chat_format": "x"}, {}),
        ({"top_h": 0.4}, {}),  # only sampling reads it
        ({"sequence_bias": [[[3, 4], -2.0]]}, {"logit_bias": [[[3, 4], -2.0]]}),
    ],
    ids=str,
)
def test_entries_have_the_meaning_of_transformers(entries, expected):
    assert generation_hf.defaults_of(entries) == expected


@pytest.mark.parametrize(
    "entry",
    [
        {"guidance_scale": 3.0},
        {"encoder_repetition_penalty": 1.5},
        {"begin_suppress_tokens": [1]},
        {"max_time": 2.0},
        {"exponential_decay_length_penalty": [3, 1.1]},
        {"watermarking_config": {"bias": 2.0}},
        {"do_sample": True, "top_h": 0.4},
        {"do_sample": True, "num_beams": 3},
        {"temperature": "hot"},
        {"eos_token_id": 2, "no_repeat_ngram_size": -1},
        {"stop_strings": [3]},
    ],
    ids=str,
)
def test_what_is_not_computed_is_refused_by_name(entry):
    name = [*entry][-1] if "num_beams" not in entry else "do_sample"
    with pytest.raises(ValueError, match=rf"{name}.*Received: .*{name}="):
        generation_hf.defaults_of(entry)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("generation") / "lm"
    decoder = with_random_weights(ka.GPTDecoder(31, **SIZES, **LLAMA))
    ka.save_pretrained(ka.CausalLM(decoder, compiled=False), path)
    return path


def loaded_with(folder, **entries):
    (folder / "generation_config.json").write_text(json.dumps(entries))
    model = ka.from_pretrained(folder)
    model.compiled = False
    return model


def test_each_token_of_a_list_ends_an_answer(folder, tmp_path):
    free = loaded_with(folder).generate([[3, 4, 5]], max_new_tokens=12)[0].tolist()
    ends = [free[4], 30]
    first = next(i for i, token in enumerate(free) if token in ends)
    model = loaded_with(folder, eos_token_id=ends)
    assert model.generate([[3, 4, 5]])[0].tolist() == free[: first + 1]
    settings = ka.GenerationSettings(max_new_tokens=12)
    assert model.generate([[3, 4, 5]], settings)[0].tolist() == free[: first + 1]
    # The list survives both ways of saving.
    ka.save_pretrained(model, tmp_path / "again")
    written = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert written["eos_token_id"] == ends
    model.save(tmp_path / "model.keras")
    again = ka.load_model(tmp_path / "model.keras")
    assert again.generate([[3, 4, 5]])[0].tolist() == free[: first + 1]


def test_a_list_in_config_json_ends_an_answer_too(folder, tmp_path):
    free = loaded_with(folder).generate([[3, 4, 5]], max_new_tokens=12)[0].tolist()
    config = json.loads((folder / "config.json").read_text())
    (folder / "generation_config.json").unlink()
    ends = {"eos_token_id": [30, free[4]]}
    (folder / "config.json").write_text(json.dumps({**config, **ends}))
    model = ka.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    model.compiled = False
    first = next(i for i, token in enumerate(free) if token in ends["eos_token_id"])
    assert model.generate([[3, 4, 5]])[0].tolist() == free[: first + 1]


def test_lengths_count_the_prompt(folder):
    model = loaded_with(folder, max_length=9)
    assert len(model.generate([[3, 4, 5, 6]])[0]) == 5
    assert [len(row) for row in model.generate([[3, 4, 5, 6], [3]])] == [5, 5]
    assert len(model.generate([[3, 4, 5, 6]], max_new_tokens=2)[0]) == 2
    with pytest.raises(ValueError, match=r"`max_length` of 9 .*prompt of 9 tokens"):
        model.generate([[3] * 9])
    end = model.generate([[3, 4]])[0].tolist()[1]
    least = loaded_with(folder, min_length=6, max_length=9, eos_token_id=end)
    assert end not in least.generate([[3, 4]])[0].tolist()[:4]


def test_sampling_is_the_default_of_a_folder_that_asks_for_it(folder):
    model = loaded_with(folder, do_sample=True, temperature=5.0, max_new_tokens=20)
    drawn = model.generate([[3, 4]])[0].tolist()
    wanted = ka.GenerationSettings(
        do_sample=True, temperature=5.0, top_k=50, max_new_tokens=20
    )
    plain = ka.CausalLM(model.decoder, compiled=False)
    assert drawn == plain.generate([[3, 4]], wanted)[0].tolist()
    greedy = model.generate([[3, 4]], ka.GenerationSettings(max_new_tokens=20))
    assert drawn != greedy[0].tolist()
