"""Six loops give the same tokens: Keras, sessions, ONNX, onnxruntime-genai."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from language_models import SHAPES, controls, language_model, padded

import keras_attention as ka
from keras_attention.export.signatures.generation import generation_signature

pytest.importorskip("tf2onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROMPTS = [[5, 17, 33, 40], [7], [41, 42, 43, 44, 45, 46, 47], [100, 3]]
COUNT = 24
DRAWN = {"temperature": 1.25, "top_k": 40, "top_p": 0.875, "seed": 11}
CLIENT = Path(__file__).parents[2] / "export" / "clients"


def stories():
    """The trained model of llama2.c; skips with the reason if it is missing."""
    named = os.environ.get("KERAS_ATTENTION_STORIES260K", "")
    if not Path(named).is_file():
        pytest.skip("KERAS_ATTENTION_STORIES260K must name stories260K.bin")
    return ka.CausalLM(ka.from_pretrained(named, task="backbone"))


@pytest.fixture(scope="module", params=[*SHAPES, "stories260K"])
def model(request):
    if request.param == "stories260K":
        return stories()
    return language_model(request.param, compiled=True)


@pytest.fixture(scope="module")
def prompts(model):
    """The prompts, with a start token if the model was trained with one."""
    return [[1, *row] if model.tokenizer is None else row for row in PROMPTS]


@pytest.fixture(scope="module")
def greedy(model, prompts):
    return [row.tolist() for row in model.generate(prompts, max_new_tokens=COUNT)]


@pytest.fixture(scope="module")
def drawn(model, prompts):
    """The draws of each prompt alone: a row must not depend on other rows."""
    settings = ka.GenerationSettings(max_new_tokens=COUNT, do_sample=True, **DRAWN)
    return [model.generate([row], settings)[0].tolist() for row in prompts]


@pytest.fixture(scope="module")
def beams(model, prompts):
    return [row.tolist() for row in model.generate(prompts, _beams())]


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    signatures = [
        generation_signature(model, name="generate_ids", from_text=False),
        generation_signature(model, _beams(), name="beams", from_text=False),
    ]
    base = tmp_path_factory.mktemp("saved")
    with ka.open_artifact(ka.export_model(model, base, signatures=signatures)) as one:
        yield one


@pytest.fixture(scope="module")
def whole_loops(model, tmp_path_factory):
    signatures = [
        generation_signature(model, name="generate_ids", from_text=False),
        generation_signature(model, _beams(), name="beams", from_text=False),
    ]
    folder = tmp_path_factory.mktemp("onnx") / "loops"
    return ka.export_model(model, folder, "onnx", signatures=signatures)


@pytest.fixture(scope="module", params=[23, 18])
def decoder(model, request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "decoder"
    return ka.export_model(model, folder, "onnx", opset=request.param)


def _beams():
    return ka.GenerationSettings(num_beams=3, max_new_tokens=COUNT, length_penalty=0.5)


def rows_of(answers):
    both = zip(answers["generated_ids"], answers["generated_mask"], strict=True)
    return [ids[mask].tolist() for ids, mask in both]


def asked(runner, prompts, **choices):
    chosen = controls(len(prompts), max_new_tokens=COUNT, **choices)
    return rows_of(runner.run("generate_ids", **padded(prompts), **chosen))


@pytest.mark.tensorflow
def test_the_keras_loop_equals_the_model_run_for_each_token(model, prompts, greedy):
    for prompt, expected in zip(prompts, greedy, strict=True):
        ids = list(prompt)
        for token in expected:
            logits = model.decoder(np.array([ids]))["logits"][0, -1]
            assert int(tf.argmax(logits)) == token
            ids.append(token)


def test_the_keras_loop_equals_a_loop_over_single_steps(model, prompts, greedy):
    states = model.generator.iterate(
        prompts, model._settings(ka.GenerationSettings(max_new_tokens=COUNT), None)
    )
    *_, state = states
    starts, ends = state.history.prompt_lengths, state.history.lengths
    rows = zip(state.history.token_ids, starts, ends, strict=True)
    assert [row[start:end].numpy().tolist() for row, start, end in rows] == greedy


def test_the_loop_in_a_saved_model_is_the_keras_loop(
    saved, prompts, greedy, drawn, beams
):
    assert asked(saved, prompts) == greedy
    assert asked(saved, prompts, **DRAWN) == drawn
    assert rows_of(saved.run("beams", **padded(prompts, "left"))) == beams


def test_the_loop_in_an_onnx_file_is_the_keras_loop(
    whole_loops, prompts, greedy, drawn, beams
):
    with ka.open_artifact(whole_loops, "generate_ids") as runner:
        assert asked(runner, prompts) == greedy
        assert asked(runner, prompts, **DRAWN) == drawn
    with ka.open_artifact(whole_loops, "beams") as runner:
        assert rows_of(runner.run("beams", **padded(prompts, "left"))) == beams


def test_the_client_on_numpy_is_the_keras_loop(
    decoder, prompts, greedy, drawn, monkeypatch
):
    monkeypatch.syspath_prepend(str(CLIENT))
    from text_generation import Choices, TextGenerator

    generator = TextGenerator(decoder)
    *_, rows = generator.tokens(prompts, Choices(max_new_tokens=COUNT))
    assert rows == greedy
    choices = Choices(max_new_tokens=COUNT, **DRAWN)
    for prompt, expected in zip(prompts, drawn, strict=True):
        *_, (row,) = generator.tokens([prompt], choices)
        assert row == expected


def test_onnxruntime_genai_opens_the_folder_and_agrees(decoder, prompts, greedy, model):
    genai = pytest.importorskip("onnxruntime_genai")
    opened = genai.Model(str(decoder))
    for prompt, expected in zip(prompts, greedy, strict=True):
        settings = genai.GeneratorParams(opened)
        settings.set_search_options(max_length=len(prompt) + COUNT)
        generator = genai.Generator(opened, settings)
        generator.append_tokens(np.array([prompt], "int32"))
        while not generator.is_done():
            generator.generate_next_token()
        got = generator.get_sequence(0)[len(prompt) :].tolist()
        assert got == expected
    if model.tokenizer is None:
        return
    words = "Über the cat"
    tokenizer = genai.Tokenizer(opened)
    ids = np.array(model.tokenizer.encode_whole([words])["token_ids"])[0]
    assert tokenizer.encode(words).tolist() == ids.tolist()
    config = json.loads((decoder / "genai_config.json").read_text())
    assert config["model"]["eos_token_id"] == model.tokenizer.eos_token_id
