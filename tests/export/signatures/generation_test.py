"""Generation inside artifacts returns the tokens of `generate`."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from language_models import byte_pairs, controls, language_model, padded

import keras_attention as ka
from keras_attention.export.artifact.manifest import write_manifest
from keras_attention.export.cases.grid import Case, load_cases, save_cases
from keras_attention.export.formats.saved_model import write_saved_model
from keras_attention.export.signatures.cached_decoding import (
    decoder_signature,
    decoding_cases,
    step_signatures,
)
from keras_attention.export.signatures.generation import generation_signature

onnxruntime = pytest.importorskip("onnxruntime")
PROMPTS = [[5, 17, 33, 40], [7], [41, 42, 43, 44, 45, 46, 47]]
TEXTS = ["the cat", "é", "Once upon a time the"]


@pytest.fixture(
    scope="module", params=["gpt2", pytest.param("llama", marks=pytest.mark.slow)]
)
def model(request):
    return language_model(request.param)


@pytest.fixture(scope="module")
def session(model, tmp_path_factory):
    """A SavedModel with all signatures in the session loader, not verified."""
    folder = tmp_path_factory.mktemp("saved") / "1"
    signatures = [
        generation_signature(model),
        generation_signature(model, name="generate_ids", from_text=False),
        *step_signatures(model.decoder),
    ]
    resources = [model.tokenizer]
    write_saved_model(
        signatures,
        folder,
        variables=model.weights,
        assets_and_resources=resources,
    )
    write_manifest(folder, format="saved_model", signatures=signatures, weights_bytes=1)
    with ka.open_artifact(folder) as runner:  # scanned too
        yield runner


def rows_of(answers):
    both = zip(answers["generated_ids"], answers["generated_mask"], strict=True)
    return [ids[mask].tolist() for ids, mask in both]


def generated(model, prompts, **settings):
    settings = ka.GenerationSettings(**{"max_new_tokens": 8, **settings})
    return [row.tolist() for row in model.generate(prompts, settings)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_ragged_rows_get_the_tokens_of_generate(model, session, side):
    inputs = padded(PROMPTS, side)
    got = rows_of(session.run("generate_ids", **inputs, **controls(3)))
    assert got == generated(model, PROMPTS)
    assert len({tuple(row) for row in got}) == 3


def test_each_row_has_its_own_settings(model, session):
    chosen = controls(
        3,
        max_new_tokens=[8, 3, 6],
        temperature=[0.75, 0, 1.5],
        top_k=[11, 0, 0],
        top_p=[1, 1, 0.75],
        seed=[3, 0, -9],
    )
    got = rows_of(session.run("generate_ids", **padded(PROMPTS), **chosen))
    drawn = {"do_sample": True}
    settings = [
        {**drawn, "temperature": 0.75, "top_k": 11, "seed": 3},
        {"max_new_tokens": 3},
        {**drawn, "max_new_tokens": 6, "temperature": 1.5, "top_p": 0.75, "seed": -9},
    ]
    rows = zip(PROMPTS, settings, strict=True)
    assert got == [generated(model, [ids], **each)[0] for ids, each in rows]
    alone = {name: value[:1] for name, value in chosen.items()}
    alone = session.run("generate_ids", **padded(PROMPTS[:1]), **alone)
    assert rows_of(alone)[0] == got[0]


def test_the_last_new_token_needs_no_position(model, session):
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 60, count).tolist() for count in (46, 3)]
    chosen = controls(2, max_new_tokens=[8, 5])
    got = rows_of(session.run("generate_ids", **padded(prompts), **chosen))
    assert got[0] == generated(model, prompts[:1])[0]
    assert got[1] == generated(model, prompts[1:], max_new_tokens=5)[0]
    with pytest.raises(ValueError, match="The model has 53 positions"):
        session.run("generate_ids", **padded(prompts), **controls(2, max_new_tokens=9))
    with pytest.raises(ValueError, match="The model has 53 positions"):
        model.generate(prompts, max_new_tokens=9)
    # In the caller's own loop the last of the 53 positions may be used too.
    answers, steps = session.run("prefill", **padded(prompts[:1])), []
    for _ in range(8):
        steps.append(int(answers["logits"].argmax()))
        past = {
            name.replace("present", "past"): value
            for name, value in answers.items()
            if name != "logits"
        }
        if len(steps) < 8:
            answers = session.run("decode_step", **padded([steps[-1:]]), **past)
    assert steps == generated(model, prompts[:1], stop_token_ids=())[0]


def test_text_goes_in_and_text_comes_out(model, session):
    got = session.run("generate", text=TEXTS, **controls(3))["generated_text"]
    assert got.tolist() == model.generate(TEXTS, max_new_tokens=8)


@pytest.mark.parametrize("from_text", [True, False])
def test_the_artifact_returns_the_outputs_of_its_own_cases(model, session, from_text):
    name = "generate" if from_text else "generate_ids"
    signature = generation_signature(model, name=name, from_text=from_text)
    for _, inputs, answer in itertools.islice(signature.examples(), 2):
        got = session.run(name, **inputs)
        for output, values in answer.items():
            np.testing.assert_array_equal(got[output], values)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"top_p": 1.5}, "top_p must be from 0 to 1"),
        ({"temperature": -1}, "temperature must be 0 or more"),
        ({"top_k": -1}, "top_k must be 0 or more"),
        ({"max_new_tokens": 0}, "max_new_tokens must be 1 or more"),
        ({"max_new_tokens": 50}, "The model has 53 positions, too few"),
    ],
)
def test_errors_name_the_wrong_setting(session, changes, expected):
    with pytest.raises(ValueError, match=expected):
        session.run("generate_ids", **padded(PROMPTS), **controls(3, **changes))


def test_a_prompt_without_tokens_is_refused(session):
    with pytest.raises(ValueError, match="at least one token"):
        session.run("generate", text=["the", ""], **controls(2))


@pytest.mark.tensorflow
def test_logits_that_are_nan_are_refused():
    model = language_model("gpt2", num_layers=1)
    weights = model.decoder.final_normalization.weights[0]
    weights.assign(weights * float("nan"))
    signature = generation_signature(model, from_text=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="were NaN"):
        signature.function(**padded(PROMPTS), **controls(3))


def test_steps_in_a_session_are_the_tokens_of_generate(model, session):
    answers = session.run("prefill", **padded(PROMPTS))
    steps = []
    for _ in range(8):
        steps.append(answers["logits"].argmax(axis=-1))
        past = {
            name.replace("present", "past"): value
            for name, value in answers.items()
            if name != "logits"
        }
        new = padded([[token] for token in steps[-1]])
        answers = session.run("decode_step", **new, **past)
    expected = generated(model, PROMPTS, stop_token_ids=())
    assert np.transpose(steps).tolist() == expected


def test_one_onnx_file_prefills_and_steps_with_the_past_in_attention(model, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx")
    from keras_attention.export.formats.onnx.writer import write_onnx

    file = tmp_path / "decoder.onnx"
    write_onnx(decoder_signature(model.decoder), file)
    nodes = onnx.load(file).graph.node
    pasts = [list(node.input[4:6]) for node in nodes if node.op_type == "Attention"]
    assert pasts == [
        [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
        for layer in range(2)
    ]
    session = onnxruntime.InferenceSession(file)
    got = steps_in_onnx(session, PROMPTS)
    assert got == generated(model, PROMPTS, stop_token_ids=())
    # The last of the 53 positions may be used too, and one more token comes of it.
    long = [np.random.default_rng(3).integers(0, 60, 46).tolist()]
    assert steps_in_onnx(session, long) == generated(model, long, stop_token_ids=())


def steps_in_onnx(session, prompts):
    names = [output.name for output in session.get_outputs()]
    inputs = padded(prompts, "left")
    ids, mask = (inputs[name].astype("int64") for name in inputs)
    sizes = session.get_inputs()[3].shape
    none = np.zeros((len(prompts), sizes[1], 0, sizes[3]), "float32")
    pasts = [name.replace("present", "past_key_values") for name in names[1:]]
    past = dict.fromkeys(pasts, none)
    steps = []
    for _ in range(8):
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -ids.shape[1] :]
        call = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        logits, *present = session.run(names, call | past)
        ids = logits[:, -1].argmax(axis=-1)[:, None]
        steps.append(ids[:, 0])
        mask = np.pad(mask, [[0, 0], [0, 1]], constant_values=1)
        past = dict(zip(past, present, strict=True))
    return np.transpose(steps).tolist()


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ("llama", 3),
        pytest.param("llama", None, marks=pytest.mark.slow),
        pytest.param("gpt2", None, marks=pytest.mark.slow),
        pytest.param("gpt2", 3, marks=pytest.mark.slow),
    ],
)
def test_the_decoder_with_a_past_is_the_decoder_without(shape, window):
    """The outputs that ONNX is compared with are those of one call on all tokens."""
    decoder = language_model(shape, num_layers=1, sliding_window=window).decoder
    signature = decoder_signature(decoder)
    assert signature.examples is not None
    cases = zip(decoding_cases(decoder), signature.examples(), strict=True)
    for (name, (ids, padding_mask, past_length)), (same, inputs, _) in cases:
        assert name == same
        whole = decoder(ids, padding_mask=padding_mask)["logits"][:, past_length:]
        new = padding_mask[:, past_length:]
        got = signature.function(**inputs)["logits"]
        np.testing.assert_allclose(got[new], whole[new], atol=1e-5, err_msg=name)


def test_given_positions_are_used(model):
    """Learned positions change the logits; rotary ones depend on distances only."""
    signature = decoder_signature(model.decoder)
    names = [name for name in signature.inputs if name.startswith("past")]
    sizes = signature.inputs[names[0]].shape
    call = {name: np.zeros((1, sizes[1], 0, sizes[3]), "f4") for name in names}
    call |= {"input_ids": np.array([[5, 17, 33]]), "attention_mask": np.ones((1, 3))}
    first, later = (
        signature.function(**call, position_ids=np.arange(start, start + 3)[None])
        for start in (0, 11)
    )
    same = np.allclose(first["logits"], later["logits"], atol=1e-4)
    assert same is (model.decoder.position_embedding is None)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"stop_strings": ("x",)}, {}),
        ({"do_sample": True}, {}),
        ({"num_beams": 3}, {"controls": True}),
        ({"num_beams": 3, "num_return_sequences": 2}, {}),
        ({"allowed_tokens": lambda row, ids: [1]}, {}),
    ],
)
def test_what_a_graph_cannot_do_is_refused(settings, options):
    model = language_model("gpt2", num_layers=1)
    with pytest.raises(ValueError, match=r"Received: settings="):
        generation_signature(model, ka.GenerationSettings(**settings), **options)


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({"num_beam_groups": 2, "num_beams": 4}, {}, "num_beam_groups"),
        ({"penalty_alpha": 0.5, "top_k": 3}, {}, "penalty_alpha"),
        ({}, {"num_answers": 2}, "num_answers=2, num_beams=1"),
        ({"num_beams": 2}, {"num_answers": 3}, "num_answers=3, num_beams=2"),
        ({}, {"alignments": True}, "of a `Seq2SeqLM`"),
    ],
)
def test_answers_that_a_graph_does_not_have_are_refused(settings, options, words):
    model = language_model("gpt2", num_layers=1)
    with pytest.raises(ValueError, match=words):
        generation_signature(model, ka.GenerationSettings(**settings), **options)


def details(model, prompts, **settings):
    settings = ka.GenerationSettings(**{"max_new_tokens": 6, **settings})
    return [model.generate([x], settings, return_details=True) for x in prompts]


def test_an_artifact_returns_the_log_probabilities_of_generate(model):
    signature = generation_signature(model, from_text=False, scores=True)
    chosen = controls(3, max_new_tokens=6, temperature=[0, 0.75, 0], seed=[0, 3, 0])
    got = signature.function(**padded(PROMPTS), **chosen)
    greedy, drawn = {}, {"do_sample": True, "temperature": 0.75, "seed": 3}
    for row, settings in enumerate((greedy, drawn, greedy)):
        (expected,) = details(model, [PROMPTS[row]], **settings)
        mask = got["generated_mask"][row]
        found = np.asarray(got["log_probabilities"][row])
        np.testing.assert_allclose(
            found[mask], expected.log_probabilities[0], rtol=1e-5, atol=1e-5
        )
        assert not found[~mask].any()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_artifact_returns_the_best_answers_with_their_scores(model, tmp_path):
    beams = ka.GenerationSettings(max_new_tokens=6, num_beams=4)
    options = {"scores": True, "num_answers": 3}
    signatures = [
        generation_signature(model, beams, name="best", **options),
        generation_signature(model, beams, name="ids", from_text=False, **options),
    ]
    expected = details(model, PROMPTS, num_beams=4, num_return_sequences=3)
    for format in ("saved_model", "onnx"):
        folder = ka.export_model(
            model,
            tmp_path / format,
            format,
            signatures=signatures if format == "saved_model" else signatures[1:],
        )
        with ka.open_artifact(folder) as runner:
            got = runner.run("ids", **padded(PROMPTS))
            if format == "saved_model":
                texts = runner.run("best", text=TEXTS)
                answers = [model.generate([x], beams_of(3)) for x in TEXTS]
                assert texts["generated_text"].tolist() == answers
                assert texts["scores"].shape == (3, 3)
        assert got["generated_ids"].shape[:2] == got["scores"].shape == (3, 3)
        for row, found in enumerate(expected):
            np.testing.assert_allclose(got["scores"][row], found.scores, rtol=1e-5)
            for answer, ids in enumerate(found.token_ids):
                mask = got["generated_mask"][row, answer]
                assert got["generated_ids"][row, answer][mask].tolist() == ids.tolist()


def beams_of(count):
    return ka.GenerationSettings(
        max_new_tokens=6, num_beams=4, num_return_sequences=count
    )


def test_cases_keep_answers_of_text(tmp_path):
    texts = np.array(["é\0", "", "日本"], object)
    case = Case("generate", "texts", {"text": ["a", "b", "c"]}, {"out": texts})
    save_cases([case], tmp_path / "cases.npz")
    (again,) = load_cases(tmp_path / "cases.npz")
    assert again.expected["out"].tolist() == texts.tolist()
    assert again.inputs == case.inputs


SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 24}
PAIRS = {
    "bart": lambda: ka.Seq2SeqTransformer(259, **SIZES, max_sequence_length=23),
    "t5": lambda: ka.T5EncoderDecoder(259, **SIZES),
    "recurrent": lambda: ka.RecurrentSeq2Seq(259, 8, 16),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PAIRS)
def test_encoder_decoders_generate_in_artifacts(name, tmp_path):
    keras.utils.set_random_seed(3)
    backbone = PAIRS[name]()
    rng = np.random.default_rng(1)
    for weight in backbone.trainable_weights:
        weight.assign(rng.normal(scale=0.2, size=weight.shape))
    model = ka.Seq2SeqLM(backbone, byte_pairs(), start_token_id=2, compiled=False)
    folder = ka.export_model(model, tmp_path / "saved", warmup=False)
    sources = [[5, 17, 33, 40], [7], [41, 42, 43]]
    settings = ka.GenerationSettings(max_new_tokens=8)
    expected = [row.tolist() for row in model.generate(sources, settings)]
    with ka.open_artifact(folder) as runner:
        got = rows_of(runner.run("generate_ids", **padded(sources), **controls(3)))
        assert got == expected
        assert len({tuple(row) for row in got}) > 1
        texts = ["the cat", "é"]
        answer = runner.run("generate", text=texts, **controls(2))
        assert answer["generated_text"].tolist() == model.generate(texts, settings)
    if name != "recurrent":
        ids = ["generate_ids"]
        onnx = ka.export_model(model, tmp_path / "onnx", "onnx", signatures=ids)
        with ka.open_artifact(onnx) as runner:
            got = rows_of(runner.run("generate_ids", **padded(sources), **controls(3)))
            assert got == expected
    beams = ka.GenerationSettings(max_new_tokens=8, num_beams=3)
    signature = generation_signature(model, beams, name="beams", from_text=False)
    folder = ka.export_model(model, tmp_path / "beams", signatures=[signature])
    with ka.open_artifact(folder) as runner:
        got = rows_of(runner.run("beams", **padded(sources)))
    assert got == [row.tolist() for row in model.generate(sources, beams)]


def pair_of(name):
    keras.utils.set_random_seed(3)
    backbone = PAIRS[name]()
    rng = np.random.default_rng(1)
    for weight in backbone.trainable_weights:
        weight.assign(rng.normal(scale=0.2, size=weight.shape))
    return ka.Seq2SeqLM(backbone, byte_pairs(), start_token_id=2, compiled=False)


def assert_aligned(model, sources, got):
    """Each row has the weights of `align`; beyond its tokens they are 0."""
    for row, source in enumerate(sources):
        ids = got["generated_ids"][row][got["generated_mask"][row]].tolist()
        (expected,) = model.align([source], [ids])
        found = np.array(got["alignments"][row])
        np.testing.assert_allclose(
            found[: len(ids), : len(source)], expected, atol=1e-5
        )
        found[: len(ids), : len(source)] = 0
        assert not found.any()


@pytest.mark.parametrize("name", ["t5", pytest.param("bart", marks=pytest.mark.slow)])
def test_the_function_of_a_signature_aligns_as_the_model(name):
    model, sources = pair_of(name), [[5, 17, 33, 40], [7], [41, 42, 43]]
    signature = generation_signature(model, from_text=False, alignments=True)
    got = signature.function(**padded(sources), **controls(3, max_new_tokens=[8, 3, 5]))
    assert_aligned(model, sources, {name: x.numpy() for name, x in got.items()})
    with pytest.raises(ValueError, match="recurrent"):
        generation_signature(pair_of("recurrent"), alignments=True)
    with pytest.raises(ValueError, match="num_answers=2"):
        generation_signature(
            model, ka.GenerationSettings(num_beams=2), alignments=True, num_answers=2
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_artifacts_align_as_the_model(name, tmp_path):
    model, sources = pair_of(name), [[5, 17, 33, 40], [7], [41, 42, 43]]
    options = {"scores": True, "alignments": True}
    text = generation_signature(model, name="aligned_text", **options)
    ids = generation_signature(model, name="aligned", from_text=False, **options)
    saved = ka.export_model(model, tmp_path / "saved", signatures=[text, ids])
    onnx = ka.export_model(model, tmp_path / "onnx", "onnx", signatures=[ids])
    for folder in (saved, onnx):
        with ka.open_artifact(folder) as runner:
            got = runner.run("aligned", **padded(sources), **controls(3))
            assert_aligned(model, sources, got)
            if folder == saved:
                got = runner.run("aligned_text", text=["the cat", "é"], **controls(2))
                both = zip(got["source_ids"], got["source_mask"], strict=True)
                rows = [ids[mask].tolist() for ids, mask in both]
                assert_aligned(model, rows, got)
