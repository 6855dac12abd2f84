"""LoRA: few weights are trained, and the others stay as they were, bit for bit."""

import keras
import numpy as np
import pytest
from samples import small_bert

import keras_attention as ka
from keras_attention.export.formats.onnx.writer import write_onnx
from keras_attention.export.formats.saved_model import write_saved_model
from keras_attention.export.runtimes.onnxruntime import OnnxRunner
from keras_attention.export.runtimes.tensorflow_session import SessionRunner
from keras_attention.export.signatures.catalogue import signatures_of

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`"),
]
IDS = np.array([[3, 4, 5, 6, 7], [9, 8, 7, 1, 2], [11, 12, 3, 1, 1]])
LABELS = np.array([0, 1, 1])
SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 24}


def classifier():
    keras.utils.set_random_seed(5)
    return ka.TextClassifier(small_bert(dropout=0.0), ["a", "b"], dropout=0.0)


def seq2seq():
    backbone = ka.Seq2SeqTransformer(61, **SIZES, use_logits_bias=True)
    return ka.Seq2SeqLM(backbone, start_token_id=1)


VIT = {**SIZES, "image_size": 8, "patch_size": 4}
# name -> (task, inputs, targets, names of what is trained outside of the backbone)
TASKS = {
    "classifier": (classifier, IDS, LABELS, 2),
    "causal": (lambda: ka.CausalLM(ka.GPTDecoder(61, **SIZES)), IDS, IDS, 0),
    "pair": (seq2seq, {"encoder_token_ids": IDS, "decoder_token_ids": IDS}, IDS, 0),
    "image": (
        lambda: ka.ImageClassifier(ka.VisionTransformer(**VIT), ["a", "b"]),
        np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype("float32"),
        LABELS,
        2,
    ),
}


def train(model, inputs=IDS, targets=LABELS, epochs=3, eagerly=True):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = ka.AdamW(0.03, weight_decay=0.1)
    model.compile(optimizer, loss=loss, run_eagerly=eagerly)
    model.fit(inputs, targets, epochs=epochs, verbose=0)


def outputs_of(model, inputs=IDS):
    found = keras.tree.flatten(model(inputs, training=False))
    return np.asarray(found[-1])


def values(variables):
    """The values of variables by path, without the seeds of dropout."""
    return {v.path: np.array(v) for v in variables if "seed_gen" not in v.path}


def projection(model):
    block = getattr(model, "backbone", model).blocks[-1]
    return block.attention.query_projection


@pytest.fixture(scope="module")
def trained():
    """A classifier with trained LoRA, and its outputs."""
    model = classifier()
    ka.enable_lora(model, 3, ["query", "value", "attention_output", "output"], alpha=7)
    train(model, eagerly=False)
    return model, outputs_of(model)


@pytest.mark.parametrize("name", TASKS)
def test_only_the_matrices_and_the_head_are_trained(name):
    make, inputs, targets, in_head = TASKS[name]
    model = make()
    before, answers = values(model.variables), outputs_of(model, inputs)
    ka.enable_lora(model, 2)
    np.testing.assert_array_equal(outputs_of(model, inputs), answers)
    paths = [variable.path for variable in model.trainable_variables]
    of_lora = [path for path in paths if path.endswith(("/lora/a", "/lora/b"))]
    assert len(of_lora) >= 4
    assert len(paths) == len(set(paths)) == len(of_lora) + in_head
    train(model, inputs, targets)
    after = values(model.variables)
    for path in before.keys() - set(paths):
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    assert all(after[path].any() for path in of_lora)
    assert np.abs(outputs_of(model, inputs) - answers).max() > 1e-3


def test_the_usual_rank_trains_at_most_2_percent_of_a_small_bert():
    encoder = ka.BertEncoder(30522, 6, 12, 384, 1536)
    model = ka.TextClassifier(encoder, ["a", "b"])
    ka.enable_lora(model)
    trained = sum(np.prod(v.shape) for v in model.trainable_variables)
    assert trained == 6 * 2 * 2 * 384 * 8 + 384 * 2 + 2
    assert trained <= 0.02 * model.count_params()


def test_the_update_is_that_of_the_paper(trained):
    layer = projection(trained[0])
    x = np.random.default_rng(1).normal(size=(2, 33)).astype("float32")
    kernel, bias = np.array(layer.kernel).reshape(33, 33), np.array(layer.bias)
    a, b = np.array(layer.lora.a), np.array(layer.lora.b)
    assert (a.shape, b.shape) == ((33, 3), (3, 33))
    expected = x @ kernel + bias.reshape(-1) + 7 / 3 * (x @ a @ b)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_what_the_user_froze_or_freezes_later_stays_as_it_is():
    model = classifier()
    model.head.trainable = False
    ka.enable_lora(model, 2)
    assert len(model.trainable_variables) == 8
    model.backbone.trainable = False
    assert not model.trainable_variables


def test_a_keras_file_keeps_the_matrices_and_the_optimizer(trained, tmp_path):
    model, answers = trained
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs_of(again), answers)
    assert values(again.variables).keys() == values(model.variables).keys()
    paths = [variable.path for variable in model.trainable_variables]
    assert [variable.path for variable in again.trainable_variables] == paths
    saved = values(model.optimizer.variables)
    for path, value in values(again.optimizer.variables).items():
        np.testing.assert_array_equal(value, saved[path], err_msg=path)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(outputs_of(copy), answers)


def test_a_users_model_keeps_the_matrices_too(tmp_path):
    x = keras.Input((None, 6))
    model = keras.Model(x, ka.FeedForward(5)(x))
    ka.enable_lora(model, 2, "output", alpha=3, dropout=0.1)
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    x = np.ones((2, 3, 6), "float32")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x), model(x))
    assert again.layers[1].output_projection.lora.settings()["dropout"] == 0.1


def test_the_merged_model_is_the_same_in_keras_and_in_folders(trained, tmp_path):
    model, answers = trained
    ka.save_pretrained(model, tmp_path / "folder")
    again = ka.from_pretrained(tmp_path / "folder")
    np.testing.assert_allclose(outputs_of(again), answers, atol=1e-6)
    model = keras.models.clone_model(model)
    model.set_weights(trained[0].get_weights())
    ka.merge_lora(model)
    assert not any("lora" in variable.path for variable in model.variables)
    np.testing.assert_allclose(outputs_of(model), answers, atol=1e-6)
    with pytest.raises(ValueError, match="There is no LoRA to merge"):
        ka.merge_lora(model)
    ka.enable_lora(model, 2)  # and once more
    model.save(tmp_path / "model.keras")


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("format", ["saved_model", "onnx"])
def test_artifacts_answer_as_the_model_with_lora(trained, format, merged, tmp_path):
    pytest.importorskip("onnxruntime")
    model, answers = trained
    if merged:
        model = keras.models.clone_model(model)
        model.set_weights(trained[0].get_weights())
        ka.merge_lora(model)
    (signature,) = signatures_of(model)[:1]
    if format == "onnx":
        write_onnx(signature, tmp_path / f"{signature.name}.onnx", opset=23)
        runner = OnnxRunner(tmp_path / f"{signature.name}.onnx")
    else:
        write_saved_model([signature], tmp_path / "1", variables=model.variables)
        runner = SessionRunner(tmp_path / "1")
    inputs = {
        "token_ids": IDS.astype("int32"),
        "segment_ids": np.zeros(IDS.shape, "int32"),
        "padding_mask": np.ones(IDS.shape, bool),
    }
    with runner:
        served = runner.run(signature.name, **inputs)
    expected = keras.ops.softmax(answers)
    np.testing.assert_allclose(served["scores"], expected, atol=1e-6)


@pytest.mark.parametrize("mode", [pytest.param("int8", marks=pytest.mark.slow), "int4"])
def test_a_quantised_base_is_trained_saved_and_loaded(mode, tmp_path):
    model = classifier()
    model.quantize(mode)
    before, answers = values(model.variables), outputs_of(model)
    ka.enable_lora(model, 2, ".*(query|value|feed_forward/output)")
    np.testing.assert_array_equal(outputs_of(model), answers)
    train(model)
    assert projection(model).kernel.dtype == "int8" or mode == "int4"
    after, paths = values(model.variables), values(model.trainable_variables).keys()
    for path in before.keys() - paths:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    answers, given = outputs_of(model), answers
    assert np.abs(answers - given).max() > 1e-3
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs_of(again), answers)
    train(model, epochs=1), train(again, epochs=1)
    np.testing.assert_allclose(outputs_of(again), outputs_of(model), atol=1e-6)
    with pytest.raises(ValueError, match="cannot be merged into a quantised kernel"):
        ka.merge_lora(model)
    assert projection(model).lora is not None
    with pytest.raises(ValueError, match="cannot be written as a folder of float"):
        ka.save_pretrained(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_the_matrices_are_float32_where_the_model_is_narrower():
    encoder = small_bert(num_layers=1, dtype="bfloat16")
    before = outputs_of(encoder)
    ka.enable_lora(encoder, 2)
    assert {v.dtype for v in encoder.trainable_variables} == {"float32"}
    assert outputs_of(encoder).dtype == before.dtype


def test_wrong_calls_are_refused_before_anything_changes():
    model = classifier()
    before = [variable.trainable for variable in model.variables]
    with pytest.raises(ValueError, match="names of the projections are: attention_out"):
        ka.enable_lora(model, 2, ["quer"])
    with pytest.raises(ValueError, match="whole number of 1 or more"):
        ka.enable_lora(model, 0)
    assert [variable.trainable for variable in model.variables] == before
    ka.enable_lora(model, 2)
    with pytest.raises(ValueError, match="There is LoRA on this projection already"):
        ka.enable_lora(model, 2, ["key", "query"])
    assert model.backbone.blocks[0].attention.key_projection.lora is None
    quantized = small_bert()
    quantized.quantize("int8")
    with pytest.raises(ValueError, match="with an activation cannot have LoRA"):
        ka.enable_lora(quantized, 2, "pooler/.*")
