"""Quantised artifacts: which weights change, the error, and what is refused."""

import json

import keras
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import keras_attention as ka
from keras_attention.cli.main import app
from keras_attention.export.artifact.manifest import read_manifest
from keras_attention.export.verification.agreement import agreement, worst_cosine
from keras_attention.export.verification.verify import VerificationError

pytest.importorskip("tf2onnx")
pytest.importorskip("onnxruntime")

WORDS = ["the", "a", "film", "of", "rare", "warmth", "and", "wit", "two", "hours"]
WORDS += ["that", "felt", "like", "whole", "week"]
TEXTS = [
    " ".join(WORDS[start : start + size])
    for start in range(0, 12, 2)
    for size in (1, 2, 3, 5)
]
SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 64, "intermediate_dim": 128}


@pytest.fixture(scope="module")
def tokenizer():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return ka.WordPieceTokenizer([*special, *WORDS], max_length=16)


@pytest.fixture(scope="module")
def model(tokenizer):
    keras.utils.set_random_seed(4)
    encoder = ka.BertEncoder(tokenizer.vocabulary_size, **SIZES)
    rng = np.random.default_rng(0)
    for weight in encoder.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(rng.normal(scale=0.2, size=weight.shape))
    return ka.SentenceEncoder(encoder, tokenizer)


@pytest.fixture(scope="module")
def source(model, tmp_path_factory):
    return ka.export_model(model, tmp_path_factory.mktemp("float32") / "onnx", "onnx")


@pytest.fixture(scope="module")
def feeds(source, tokenizer):
    with ka.open_artifact(source) as runner:
        inputs = runner.signatures["embed_ids"].inputs
    return ka.feeds_of_texts(TEXTS, tokenizer, inputs, batch_size=8)


def answers(folder, feeds):
    with ka.open_artifact(folder) as runner:
        return [runner.run("embed_ids", **feed) for feed in feeds]


def operators(folder):
    nodes = onnx.load(next(folder.glob("*.onnx"))).graph.node
    return [node.op_type for node in nodes]


@pytest.fixture(scope="module")
def int8(source, tmp_path_factory):
    return ka.quantize_artifact(source, tmp_path_factory.mktemp("less") / "int8")


def test_every_product_with_a_weight_is_in_blocks_and_nothing_else(source, int8, feeds):
    assert operators(source).count("MatMul") == 2 * 6
    assert operators(int8).count("MatMulNBits") == 2 * 6
    assert "MatMul" not in operators(int8)
    assert operators(int8).count("Attention") == 2
    cosine = worst_cosine(answers(source, feeds), answers(int8, feeds))
    assert 0.999 < cosine < 1
    before, after = read_manifest(source), read_manifest(int8)
    assert after.weights_bytes < 0.6 * before.weights_bytes
    assert after.quantization["kind"] == "int8"
    assert after.quantization["source"] == before.files


def test_the_manifest_holds_the_distance_and_verify_takes_it(int8):
    allowed = read_manifest(int8).verification[0]["tolerance"]
    report = ka.verify_artifact(int8)
    assert report.passed, str(report)
    worst = max(one.max_abs_error for one in report.results)
    assert 1e-5 < worst <= allowed < 0.1
    assert not ka.verify_artifact(int8, tolerance=1e-5).passed


@pytest.mark.parametrize(
    ("kind", "operator"), [("dynamic_int8", "MatMulInteger"), ("int8", "MatMulNBits")]
)
def test_patterns_are_left_in_float32(source, tmp_path, feeds, kind, operator):
    folder = ka.quantize_artifact(
        source, tmp_path / "new", kind, keep=["*/block_0/*", "*/query/*"]
    )
    assert operators(folder).count(operator) == 5
    in_float32 = read_manifest(folder).quantization["float32"]
    assert sum("block_0" in path for path in in_float32) == 6
    assert len(in_float32) == 7
    assert worst_cosine(answers(source, feeds), answers(folder, feeds)) > 0.99


def test_the_most_sensitive_weights_are_left_until_texts_agree(source, tmp_path, feeds):
    plain = ka.quantize_artifact(source, tmp_path / "plain")
    before = worst_cosine(answers(source, feeds), answers(plain, feeds))
    wanted = (1 + before) / 2
    folder = ka.quantize_artifact(
        source, tmp_path / "searched", "int8", feeds=feeds, min_cosine=wanted
    )
    found = worst_cosine(answers(source, feeds), answers(folder, feeds))
    assert before < wanted <= found < 1
    assert 0 < len(read_manifest(folder).quantization["float32"]) < 12
    with pytest.raises(ValueError, match="No weight can be quantised to int8"):
        ka.quantize_artifact(
            source, tmp_path / "never", "int8", feeds=feeds, min_cosine=1 - 1e-12
        )
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
def test_a_tied_table_is_quantised_where_it_is_a_product(tmp_path):
    model = ka.CausalLM(ka.GPTDecoder(71, **SIZES))
    source = ka.export_model(model, tmp_path / "onnx", "onnx", signatures=["decoder"])
    graph = onnx.load(source / "decoder.onnx").graph
    tables = [one for one in graph.initializer if sorted(one.dims) == [64, 71]]
    assert len(tables) == 1  # once, for ids and for logits
    folder = ka.quantize_artifact(source, tmp_path / "int8")
    assert operators(folder).count("MatMulNBits") == 2 * 6 + 1
    others = {"genai_config.json", "verification.npz", "manifest.json"}
    assert others <= {file.name for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "int3"}, "one of int8, int4, dynamic_int8"),
        ({"keep": ["*/block_9/*"]}, "(?s)Nothing in .*block_0.*Received: .*block_9"),
        ({"min_cosine": 0.99}, "pass `feeds` as well"),
    ],
    ids=str,
)
def test_bad_requests_are_refused(source, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        ka.quantize_artifact(source, tmp_path / "new", **options)
    assert not list(tmp_path.iterdir())


def test_an_artifact_that_is_too_far_or_not_float32_is_refused(source, int8, tmp_path):
    with pytest.raises(VerificationError, match=r"(?s)too far.*off by"):
        ka.quantize_artifact(source, tmp_path / "new", tolerance=1e-6)
    with pytest.raises(ValueError, match=r"Only a float32 ONNX artifact.*quantised"):
        ka.quantize_artifact(int8, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_artifacts_are_compared_on_texts(source, int8, tokenizer):
    found = ka.compare_artifacts(
        [source, int8, source], TEXTS, tokenizer, batch_size=8, rounds=2
    )
    assert [one.name for one in found.candidates] == [str(source), str(int8)]
    (same,), (close,) = (one.agreements for one in found.candidates)
    assert same.worst_cosine == pytest.approx(1, abs=1e-12)
    assert (same.same, same.decision) == (1, "neighbour")
    assert 0.999 < close.worst_cosine < 1
    assert found.recommended in found.candidates
    with pytest.raises(ValueError, match="takes ids, not texts"):
        ka.compare_artifacts([source], TEXTS)
    with pytest.raises(ValueError, match="nothing to compare"):
        ka.compare_artifacts([source], [], tokenizer)


def test_the_commands(source, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    real = ["--texts", tmp_path / "texts.txt", "--tokenizer", tmp_path / "tokenizer"]
    out = tmp_path / "int4"
    done = run("quantize", source, out, "-k", "int4", "--min-cosine", 0.9, *real)
    assert done.exit_code == 0, done.output
    assert "MB, 0." in done.output
    done = run("compare", source, out, *real, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output[done.output.index("{") :])
    assert [one["name"] for one in found["candidates"]] == [str(source), str(out)]
    assert found["candidates"][0]["close"]
    done = run("quantize", source, tmp_path / "x", "--min-cosine", 0.9)
    assert done.exit_code == 1
    assert "--texts and --tokenizer" in done.output


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_agreement_of_labels_and_of_next_tokens():
    expected = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.25], [1.0, 0.0]])
    got = np.array([[1.0, 0.5], [0.5, 0.25], [0.5, 0.25], [1.0, 0.0]])
    found = agreement("scores", [expected[:3], expected[3:]], [got[:3], got[3:]])
    assert (found.same, found.decision) == (0.75, "label")
    assert found.worst_cosine == pytest.approx(0.25 / np.hypot(0.5, 0.25))
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [1, 0.5, 1]]]))
    ids, mask = np.array([[0, 0, 1]]), np.array([[True, True, True]])
    found = agreement("logits", [logits], [logits[..., ::-1]], [ids], [mask])
    assert found.decision == "next token"
    assert found.reference_perplexity == pytest.approx(1 / np.sqrt(0.5 * 0.5))
    assert found.perplexity == pytest.approx(1 / np.sqrt(0.25 * 0.5))


@pytest.mark.slow
def test_a_model_in_bfloat16_becomes_a_saved_model_that_answers_in_float32(
    tokenizer, tmp_path
):
    encoder = ka.BertEncoder(tokenizer.vocabulary_size, **SIZES, dtype="mixed_bfloat16")
    model = ka.SentenceEncoder(encoder, tokenizer, dtype="mixed_bfloat16")
    folder = ka.export_model(model, tmp_path / "saved", signatures=["serving_default"])
    assert read_manifest(folder).verification[0]["tolerance"] == 5e-2
    with ka.open_artifact(folder) as runner:
        got = runner.run("serving_default", text=TEXTS)["sentence_embedding"]
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    with pytest.raises(ValueError, match=r"written in float32.*bfloat16"):
        ka.export_model(model, tmp_path / "onnx", "onnx")
