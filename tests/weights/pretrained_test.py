"""Folders in Hugging Face's format, written and read without transformers."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from samples import VOCABULARY, minilm_folder, small_bert

import keras_attention as ka

IDS = np.array([[2, 57, 58, 59, 3]])


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder of a small random BERT."""
    model = small_bert(activation="gelu_tanh", layer_norm_epsilon=1e-7)
    ka.save_pretrained(model, tmp_path / "bert")
    return tmp_path / "bert"


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_what_is_saved_loads_bit_equal(tmp_path):
    model = small_bert(activation="relu", attention_dropout=0.2)
    ka.save_pretrained(model, tmp_path / "bert")
    loaded = ka.from_pretrained(tmp_path / "bert")
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    assert {**loaded.get_config(), "name": ""} == {**model.get_config(), "name": ""}
    expected, got = model(IDS), loaded(IDS)
    np.testing.assert_array_equal(expected["pooled_output"], got["pooled_output"])


def test_a_linear_layer_is_transposed_and_its_heads_stay_in_order(folder):
    model = ka.from_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    kernel = np.asarray(model.blocks[1].attention.query_projection.kernel)
    stored = tensors["encoder.layer.1.attention.self.query.weight"]
    for head in range(3):
        np.testing.assert_array_equal(
            kernel[:, head], stored[head * 11 : head * 11 + 11].T
        )
    kernel = np.asarray(model.blocks[0].attention.output_projection.kernel)
    stored = tensors["encoder.layer.0.attention.output.dense.weight"]
    np.testing.assert_array_equal(kernel[2, 5], stored[:, 2 * 11 + 5])


def test_the_report_accounts_for_every_tensor(folder):
    change_tensors(
        folder,
        lambda t: t.update({"embeddings.position_ids": np.arange(61)[None]}),
    )
    model = ka.from_pretrained(folder)
    report = model.load_report
    assert len(report.loaded) == len(model.weights)
    assert report.num_parameters == model.count_params()
    assert "embeddings.position_ids" in str(report)


def test_a_checkpoint_of_a_whole_task_model_gives_its_encoder(folder):
    expected = ka.from_pretrained(folder)(IDS)["sequence_output"]
    tensors = load_file(folder / "model.safetensors")
    tensors = {f"bert.{name}": array for name, array in tensors.items()}
    tensors["classifier.weight"] = np.zeros((2, 33), "float32")
    save_file(tensors, folder / "model.safetensors")
    model = ka.from_pretrained(folder)
    np.testing.assert_array_equal(expected, model(IDS)["sequence_output"])
    assert "task head" in model.load_report.ignored["classifier.weight"]


def test_a_checkpoint_without_a_pooler_gives_a_model_without_one(folder):
    def drop(tensors):
        del tensors["pooler.dense.weight"], tensors["pooler.dense.bias"]

    change_tensors(folder, drop)
    assert "pooled_output" not in ka.from_pretrained(folder)(IDS)


def refused(folder, *words, error=ValueError):
    """Asserts that loading raises an error with these words and what was received."""
    with pytest.raises(error) as caught:
        ka.from_pretrained(folder)
    for word in (*words, "Received:"):
        assert word in str(caught.value), str(caught.value)


def test_a_missing_tensor_is_named(folder):
    change_tensors(folder, lambda t: t.pop("encoder.layer.0.output.dense.bias"))
    refused(folder, "encoder.layer.0.output.dense.bias", "are missing")


def test_a_tensor_without_a_variable_is_named(folder):
    change_tensors(
        folder, lambda t: t.update({"encoder.layer.2.x": np.zeros(3, "float32")})
    )
    refused(folder, "encoder.layer.2.x", "no variable")


def test_a_wrong_shape_is_named(folder):
    name = "embeddings.word_embeddings.weight"
    change_tensors(folder, lambda t: t.update({name: np.zeros((5, 33), "float32")}))
    refused(folder, name, "(5, 33)")


def test_a_transposed_matrix_of_the_right_size_is_refused(folder):
    name = "encoder.layer.0.intermediate.dense.weight"
    change_tensors(folder, lambda t: t.update({name: np.ascontiguousarray(t[name].T)}))
    refused(folder, name, "(33, 47)")


def test_nan_in_a_tensor_is_named(folder):
    name = "pooler.dense.bias"
    change_tensors(folder, lambda t: t[name].__setitem__(3, np.nan))
    refused(folder, name, "NaN")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(folder, share):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(folder, "damaged or incomplete")


def test_a_damaged_config_is_refused(folder):
    (folder / "config.json").write_text('{"model_type": "bert",')
    refused(folder, "not valid JSON")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named_with_the_files_of_the_folder(folder, name):
    (folder / name).unlink()
    there = {"config.json": "model.safetensors", "model.safetensors": "config.json"}
    refused(folder, name, there[name], error=FileNotFoundError)


def test_a_missing_folder_is_named_in_the_error(tmp_path):
    refused(tmp_path / "nowhere", "no such folder", error=FileNotFoundError)


def test_pickled_weights_are_refused_with_the_reason(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "can run code", error=FileNotFoundError)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("model_type", "albert"),
        ("hidden_act", "mish"),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
    ],
)
def test_an_option_that_is_not_computed_is_refused_by_name(folder, entry, value):
    change_config(folder, **{entry: value})
    refused(folder, entry, repr(value))


def test_a_config_without_a_needed_entry_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "num_hidden_layers")


def test_a_config_of_another_size_is_refused_before_a_weight_changes(folder):
    change_config(folder, num_hidden_layers=3)
    refused(folder, "encoder.layer.2")


def as_sentence_model(folder, tokens=VOCABULARY, **pooling):
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    modes = pooling or {"pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")


def test_a_sentence_folder_gives_a_sentence_encoder_without_normalize(folder):
    as_sentence_model(folder)
    model = ka.from_pretrained(folder)
    vectors = model.encode(["the animal", "tired street!"], batch_size=1)
    assert not model.normalize
    ids = model.tokenizer(["tired street!"])
    outputs = model.encoder(ids)["sequence_output"]
    np.testing.assert_allclose(vectors[1], np.mean(outputs[0], axis=0), atol=1e-6)


def test_a_tokenizer_of_another_vocabulary_is_refused(folder):
    as_sentence_model(folder, tokens=VOCABULARY[:-1])
    refused(folder, "does not fit the model")


def test_another_pooling_is_refused_by_name(folder):
    as_sentence_model(folder, pooling_mode_median_token=True)
    refused(folder, "pooling_mode_median_token")


def test_the_pooling_of_a_sentence_folder_is_read(folder):
    as_sentence_model(folder, pooling_mode_cls_token=True)
    model = ka.from_pretrained(folder)
    outputs = model(IDS)
    np.testing.assert_array_equal(
        outputs["sentence_embedding"], outputs["sequence_output"][:, 0]
    )


def test_a_model_that_exists_is_not_replaced(folder):
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="Received:"):
        ka.save_pretrained(small_bert(), folder)
    assert (folder / "model.safetensors").read_bytes() == before


def test_only_encoders_are_saved(tmp_path):
    layer = ka.FeedForward(intermediate_dim=3)
    with pytest.raises(ValueError, match="BertEncoder"):
        ka.save_pretrained(layer, tmp_path)


def test_the_real_checkpoint_gives_the_published_similarities(tmp_path):
    source = minilm_folder()
    model = ka.from_pretrained(source)
    report = model.load_report
    assert len(report.loaded) == 103
    assert list(report.ignored) == ["embeddings.position_ids"]
    vectors = model.encode(
        [
            "The weather is lovely today.",
            "It's so sunny outside!",
            "He drove to the stadium.",
        ]
    )
    got = [vectors[0] @ vectors[1], vectors[0] @ vectors[2], vectors[1] @ vectors[2]]
    np.testing.assert_allclose(got, [0.6660, 0.1046, 0.1411], atol=5e-5)

    # Saved again, every tensor of the file is equal bit for bit.
    ka.save_pretrained(model, tmp_path / "again")
    stored = load_file(source / "model.safetensors")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert set(stored) - set(again) == {"embeddings.position_ids"}
    for name, array in again.items():
        np.testing.assert_array_equal(array, stored[name], err_msg=name)
    shutil.rmtree(tmp_path / "again")
