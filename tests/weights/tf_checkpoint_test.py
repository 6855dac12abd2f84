"""TensorFlow checkpoints of the original authors, written here with their names."""

import json

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file
from samples import small_bert

import keras_attention as ka

IDS = np.array([[2, 5, 7, 11, 3]])


def write(folder, name, tensors):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {
            key: tf.compat.v1.get_variable(key.replace(":", "_"), initializer=array)
            for key, array in tensors.items()
        }
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(variables)
        saver.save(session, str(folder / name), write_meta_graph=False)


def saved(model, folder):
    """Returns a random model's tensors with Hugging Face's names."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(rng.normal(scale=0.3, size=weight.shape))
    ka.save_pretrained(model, folder)
    return load_file(folder / "model.safetensors")


@pytest.fixture
def bert(tmp_path):
    """A folder with Google's names: kernels [in, out], gamma and beta."""
    model = small_bert()
    stored = saved(model, tmp_path / "hf")
    tensors = {"global_step": np.array(7, "int64")}
    for name, array in stored.items():
        google = "bert/" + name.replace("encoder.layer.", "encoder.layer_")
        google = google.replace(".", "/")
        if "LayerNorm" in name:
            google = google.replace("/weight", "/gamma").replace("/bias", "/beta")
        elif "embeddings" in name:
            google = google.removesuffix("/weight")
        elif google.endswith("/weight"):
            google, array = google.replace("/weight", "/kernel"), array.T  # noqa: PLW2901
        tensors[google] = array
        tensors[f"{google}/adam_m"] = np.zeros_like(array)
    tensors["cls/predictions/output_bias"] = np.zeros(3, "float32")
    folder = tmp_path / "google"
    folder.mkdir()
    write(folder, "bert_model.ckpt", tensors)
    config = {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 33,
        "initializer_range": 0.02,
        "intermediate_size": 47,
        "max_position_embeddings": 61,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "type_vocab_size": 2,
        "vocab_size": model.vocabulary_size,
    }
    (folder / "bert_config.json").write_text(json.dumps(config))
    return model, folder


def test_the_bert_of_its_authors_is_read(bert):
    model, folder = bert
    loaded = ka.from_pretrained(folder, task="backbone")
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    assert loaded.layer_norm_epsilon == 1e-12
    reasons = set(loaded.load_report.ignored.values())
    assert "of the optimizer" in reasons
    np.testing.assert_array_equal(
        model(IDS)["pooled_output"], loaded(IDS)["pooled_output"]
    )


HEADS = {  # Google's name -> the variable of the task, and whether it is transposed
    "masked_lm": {
        "cls/predictions/transform/dense/kernel": ("transform.kernel", False),
        "cls/predictions/transform/dense/bias": ("transform.bias", False),
        "cls/predictions/transform/LayerNorm/gamma": ("normalization.gamma", False),
        "cls/predictions/transform/LayerNorm/beta": ("normalization.beta", False),
        "cls/predictions/output_bias": ("bias", False),
    },
    "next_sentence": {
        "cls/seq_relationship/output_weights": ("output_projection.kernel", True),
        "cls/seq_relationship/output_bias": ("output_projection.bias", False),
    },
}


@pytest.mark.parametrize("task", HEADS)
def test_the_heads_of_its_authors_are_read(bert, tmp_path, task):
    model, folder = bert
    reader = tf.train.load_checkpoint(str(folder / "bert_model.ckpt"))
    names = reader.get_variable_to_shape_map()
    tensors = {name: reader.get_tensor(name) for name in names}
    rng, sizes = np.random.default_rng(5), {"E": 33, "V": model.vocabulary_size, "2": 2}
    shapes = {"kernel": "EE", "output_weights": "2E", "gamma": "E", "beta": "E"}
    shapes |= {"dense/bias": "E", "predictions/output_bias": "V"}
    shapes |= {"seq_relationship/output_bias": "2"}
    for name in {name for head in HEADS.values() for name in head}:
        (letters,) = (x for end, x in shapes.items() if name.endswith(end))
        shape = [sizes[letter] for letter in letters]
        tensors[name] = rng.normal(size=shape).astype("float32")
    again = tmp_path / "with heads"
    again.mkdir()
    write(again, "bert_model.ckpt", tensors)
    (again / "bert_config.json").write_bytes((folder / "bert_config.json").read_bytes())
    loaded = ka.from_pretrained(again, task=task)
    for name, (place, transposed) in HEADS[task].items():
        variable = loaded.head
        for part in place.split("."):
            variable = getattr(variable, part)
        stored = tensors[name].T if transposed else tensors[name]
        np.testing.assert_array_equal(np.asarray(variable), stored)
    # Other heads are drawn at random, and that is said.
    with pytest.warns(UserWarning, match="no QuestionAnswering head.*at random"):
        ka.from_pretrained(again, task="question_answerer")
    assert len(str(loaded.load_report)) < 1200


@pytest.mark.tensorflow
def test_the_gpt2_of_its_authors_is_read(tmp_path):
    model = ka.GPTDecoder(13, 2, 3, 33, 132, max_sequence_length=29)
    stored = saved(model, tmp_path / "hf")
    tensors = {}
    for name, array in stored.items():
        openai = name.removeprefix("transformer.").replace("h.", "h", 1)
        openai = "model/" + openai.replace(".", "/")
        if "ln_" in name:
            openai = openai.replace("/weight", "/g").replace("/bias", "/b")
        elif "/w" in openai and "wte" not in name and "wpe" not in name:
            openai, array = openai.replace("/weight", "/w"), array[None]  # noqa: PLW2901
        else:
            openai = openai.removesuffix("/weight").replace("/bias", "/b")
        tensors[openai] = array
    folder = tmp_path / "openai"
    folder.mkdir()
    write(folder, "model.ckpt", tensors)
    hparams = {"n_vocab": 13, "n_ctx": 29, "n_embd": 33, "n_head": 3, "n_layer": 2}
    (folder / "hparams.json").write_text(json.dumps(hparams))
    loaded = ka.from_pretrained(folder, task="backbone")
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    np.testing.assert_array_equal(model(IDS)["logits"], loaded(IDS)["logits"])


def refused(folder, *words):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        ka.from_pretrained(folder, task="backbone")
    for word in (*words, "Received:"):
        assert word in str(caught.value), str(caught.value)


def test_an_incomplete_checkpoint_is_refused(bert):
    _, folder = bert
    (data,) = folder.glob("*.data-*")
    data.write_bytes(data.read_bytes()[:500])
    refused(folder, "damaged or incomplete")
    data.unlink()
    refused(folder, "data-00000-of-00001")
    index = folder / "bert_model.ckpt.index"
    index.unlink()
    refused(folder, "one TensorFlow checkpoint")


def test_a_damaged_index_is_refused(bert):
    _, folder = bert
    index = folder / "bert_model.ckpt.index"
    index.write_bytes(index.read_bytes()[:50])
    refused(folder, "damaged or incomplete")
