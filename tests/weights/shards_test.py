"""Shards, dtypes, the hub, and what is refused before anything large is read."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from samples import small_bert

import keras_attention as ka
from keras_attention.weights import files

IDS = np.array([[2, 57, 58, 59, 3]])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small BERT in several files."""
    monkeypatch.setattr(files, "MAX_SHARD_BYTES", 30_000)
    ka.save_pretrained(small_bert(), tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def unread(monkeypatch):
    """Makes the test fail if a tensor is read."""

    def read(*_, **__):
        raise AssertionError("a tensor was read before the checks were done")

    monkeypatch.setattr(files.Tensor, "__array__", read)


def refused(folder, *words):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        ka.from_pretrained(folder)
    for word in (*words, "Received:"):
        assert word in str(caught.value), str(caught.value)


def shards(folder):
    return sorted(folder.glob("model-*.safetensors"))


def test_large_models_are_written_and_read_in_several_files(folder):
    assert len(shards(folder)) > 2
    assert max(path.stat().st_size for path in shards(folder)) < 35_000
    assert not (folder / "model.safetensors").exists()
    stored = {}
    for path in shards(folder):
        stored |= load_file(path)
    model = ka.from_pretrained(folder)
    ka.save_pretrained(model, folder / "again")
    again = {}
    for path in shards(folder / "again"):
        again |= load_file(path)
    assert set(stored) == set(again)
    for name, tensor in stored.items():
        np.testing.assert_array_equal(tensor, again[name])


def test_a_folder_with_an_index_is_not_written_over(folder):
    with pytest.raises(FileExistsError, match="Received:"):
        ka.save_pretrained(small_bert(), folder)


def test_a_missing_shard_is_named(folder, unread):
    lost = shards(folder)[1]
    lost.unlink()
    refused(folder, lost.name, "are missing")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_shard_is_named(folder, unread, share):
    path = shards(folder)[-1]
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(folder, path.name, "damaged or incomplete")


def test_an_index_of_another_download_is_refused(folder, unread):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["pooler.dense.bias"] = shards(folder)[0].name
    path.write_text(json.dumps(index))
    refused(folder, "different downloads", "pooler.dense.bias")


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": {}}', "null"])
def test_a_damaged_index_is_refused(folder, unread, content):
    (folder / "model.safetensors.index.json").write_text(content)
    refused(folder, "model.safetensors.index.json")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"bert"'])
def test_a_damaged_config_is_refused(folder, unread, content):
    (folder / "config.json").write_text(content)
    refused(folder, "config.json")


def test_an_unknown_family_is_refused_with_those_that_are_known(folder, unread):
    (folder / "config.json").write_text('{"model_type": "mamba"}')
    refused(folder, "'mamba'", "bert, gpt2, llama")


def test_a_wrong_shape_is_refused_before_a_tensor_is_read(folder, unread):
    path = shards(folder)[-1]
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    save_file({**tensors, name: np.zeros((3, 2), "float32")}, path)
    refused(folder, name, "(3, 2)")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickles_are_refused_with_the_reason(tmp_path, name):
    ka.save_pretrained(small_bert(), tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").rename(tmp_path / "bert" / name)
    refused(tmp_path / "bert", "can run code", name)


def test_a_header_with_wrong_sizes_is_refused(tmp_path, unread):
    ka.save_pretrained(small_bert(), tmp_path / "bert")
    path = tmp_path / "bert" / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["pooler.dense.bias"]["shape"] = [32]
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    refused(tmp_path / "bert", "pooler.dense.bias", "132 bytes, not 128")


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
def test_files_of_half_precision_are_read(tmp_path, dtype):
    ka.save_pretrained(small_bert(), tmp_path / "bert")
    path = tmp_path / "bert" / "model.safetensors"
    stored = {name: x.astype(dtype) for name, x in load_file(path).items()}
    save_file(stored, path)
    model = ka.from_pretrained(tmp_path / "bert")
    bias = model.embedding_normalization.gamma
    kernel = np.asarray(model.blocks[1].feed_forward.intermediate.kernel)
    expected = stored["encoder.layer.1.intermediate.dense.weight"]
    np.testing.assert_array_equal(kernel, expected.astype("float32").T)
    assert bias.dtype == "float32"


def test_the_model_has_the_dtype_of_the_argument(tmp_path):
    ka.save_pretrained(small_bert(), tmp_path / "bert")
    model = ka.from_pretrained(tmp_path / "bert", dtype="mixed_bfloat16")
    assert model(IDS)["pooled_output"].dtype.name == "bfloat16"
    assert ka.from_pretrained(tmp_path / "bert").compute_dtype == "float32"
    half = ka.from_pretrained(tmp_path / "bert", dtype="float16")
    assert {weight.dtype for weight in half.weights} == {"float16"}
    ka.save_pretrained(half, tmp_path / "half")
    again = ka.from_pretrained(tmp_path / "half", dtype="float16")
    for ours, theirs in zip(half.weights, again.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_an_id_on_the_hub_is_downloaded_without_pickles(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    ka.save_pretrained(small_bert(), tmp_path / "snapshot")
    received = {}

    def snapshot_download(name, **settings):
        received.update(settings, name=name)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    model = ka.from_pretrained("someone/small-bert", revision="v1.2")
    assert isinstance(model, ka.BertEncoder)
    assert (received["name"], received["revision"]) == ("someone/small-bert", "v1.2")
    assert not any("bin" in pattern for pattern in received["allow_patterns"])


def test_a_folder_that_exists_is_never_downloaded(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", None)
    ka.save_pretrained(small_bert(), tmp_path / "bert")
    monkeypatch.chdir(tmp_path)
    assert isinstance(ka.from_pretrained("bert"), ka.BertEncoder)
    with pytest.raises(ValueError, match=r"revision.*Received:"):
        ka.from_pretrained("bert", revision="v1")


def test_the_error_of_an_unknown_name_names_folder_and_hub(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def snapshot_download(name, **_):
        raise OSError("no connection")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(FileNotFoundError, match=r"no such folder.*no connection"):
        ka.from_pretrained("someone/nothing")


def test_an_unknown_task_is_refused_and_the_backbone_is_a_task(folder):
    with pytest.raises(ValueError, match=r"'backbone'.*Received: task='poetry'"):
        ka.from_pretrained(folder, task="poetry")
    assert isinstance(ka.from_pretrained(folder, task="backbone"), ka.BertEncoder)
