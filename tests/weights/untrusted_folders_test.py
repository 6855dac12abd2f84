"""Checkpoint folders that somebody else made: refused before a model is built."""

import json
import os
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from samples import VOCABULARY, small_bert

import keras_attention as ka
from keras_attention.weights import bart_hf, families, files

LLAMA = {
    "position": {"max_wavelength": 700.0},
    "normalization": "rms",
    "activation": "silu",
    "gated": True,
    "use_bias": False,
    "num_key_value_heads": 1,
    "key_dim": 10,
    "dropout": 0.0,
}
SEQ2SEQ: dict[str, Any] = {
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 36,
    "intermediate_dim": 47,
}
MODELS = {
    "bert": small_bert,
    "distilbert": lambda: small_bert(
        num_segments=0, pooler=False, layer_norm_epsilon=1e-12
    ),
    "roberta": lambda: small_bert(position_offset=2),
    "gpt2": lambda: ka.GPTDecoder(13, 2, 3, 33, 47, max_sequence_length=29),
    "llama": lambda: ka.GPTDecoder(13, 2, 3, 33, 47, max_sequence_length=29, **LLAMA),
    "bart": lambda: ka.Seq2SeqTransformer(
        13,
        **SEQ2SEQ,
        max_sequence_length=29,
        positions="learned",
        position_offset=2,
        norm="post",
        normalize_embedding=True,
    ),
    "marian": lambda: ka.Seq2SeqTransformer(
        13, **SEQ2SEQ, max_sequence_length=29, positions="concatenated", norm="post"
    ),
    "t5": lambda: ka.T5EncoderDecoder(
        13, num_layers=2, num_heads=3, hidden_dim=33, head_dim=11, intermediate_dim=47
    ),
    "vit": lambda: ka.VisionTransformer(
        image_size=10,
        patch_size=5,
        num_layers=2,
        num_heads=3,
        hidden_dim=33,
        intermediate_dim=47,
    ),
}
# Entries that change no size of a model.
FREE = {
    "llama": {"max_position_embeddings"},
    "marian": {"max_position_embeddings"},
}


@pytest.fixture
def folder(tmp_path):
    ka.save_pretrained(small_bert(), tmp_path / "bert")
    return tmp_path / "bert"


def change(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def refused(folder, *words, error: type[Exception] = ValueError):
    with pytest.raises(error) as caught:
        ka.from_pretrained(folder)
    text = str(caught.value)
    assert len(text) <= 2000
    assert text.isprintable()
    for word in (*words, "Received:"):
        assert word in text


@pytest.fixture
def unbuilt(monkeypatch):
    """Makes the test fail if a model is built."""

    def forbid(module):
        def build(*_):
            raise AssertionError("a model was built before the sizes were compared")

        monkeypatch.setattr(module, "build", build)

    return forbid


@pytest.mark.parametrize("family", MODELS)
def test_sizes_are_compared_with_the_header_before_a_model_is_built(
    family, tmp_path, unbuilt
):
    ka.save_pretrained(MODELS[family](), tmp_path)
    path = tmp_path / "config.json"
    before = path.read_text()
    config = json.loads(before)
    assert config["model_type"] == family
    module = families.family_of_config(config, path)
    # One head more or fewer changes no shape where a head's size is the quotient.
    sizes = {
        entry
        for entry in getattr(module, "ARGUMENTS", bart_hf.ARGUMENTS)
        if type(config.get(entry)) is int and "head" not in entry
    } - FREE.get(family, set())
    sizes |= {"num_key_value_heads", "head_dim"} & config.keys()
    sizes |= {
        "decoder_layers",
        "decoder_ffn_dim",
        "num_decoder_layers",
        "n_inner",
    } & set(config)
    assert len(sizes) >= 5
    unbuilt(module)
    for entry in sorted(sizes - {"num_channels", "scale_embedding"}):
        for value in (10**12, 10**9, config[entry] + 10):
            change(path, **{entry: value})
            refused(tmp_path, *[entry] * (value == 10**12))
            path.write_text(before)


WRONG = [0, -1, 10**12, 1.5, True, "9", [], {}, [[[]]]]


@pytest.mark.parametrize(
    "family",
    ["bert", *(pytest.param(n, marks=pytest.mark.slow) for n in MODELS if n != "bert")],
)
def test_entries_of_a_wrong_type_are_named(family, tmp_path):
    ka.save_pretrained(MODELS[family](), tmp_path)
    path = tmp_path / "config.json"
    before = path.read_text()
    config = json.loads(before)
    for entry, value in config.items():
        if type(value) is int and "token" not in entry:
            wrong = WRONG[1:] if entry == "type_vocab_size" else WRONG
            wrong = wrong[:-3] if entry in ("image_size", "patch_size") else wrong
        elif type(value) is float:
            wrong = [-0.1, "x", [], True, {}]
        elif isinstance(value, bool | str):
            wrong = [5, 0.5, [], {}, [[]]]
        else:
            continue
        if entry == "is_encoder_decoder":  # not read
            continue
        for each in wrong:
            change(path, **{entry: each})
            refused(tmp_path, entry)
        path.write_text(before)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("architectures", [5]),
        ("architectures", "BertModel"),
        ("id2label", {"x": "a"}),
        ("id2label", {"0": 5}),
        ("id2label", ["a"]),
        ("num_labels", 10**9),
        ("eos_token_id", [[]]),
        ("bad_words_ids", [5]),
        ("rope_scaling", []),
        ("rope_scaling", {"rope_type": "linear", "factor": 0}),
        ("rope_theta", 0),
    ],
)
def test_other_entries_are_checked_too(folder, entry, value):
    change(folder / "config.json", **{entry: value})
    refused(folder, entry)


def test_a_null_entry_is_missing(folder):
    change(folder / "config.json", hidden_size=None)
    refused(folder, "hidden_size")


def header_of(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_header(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_tensors_that_share_bytes_are_refused(folder):
    path = folder / "model.safetensors"
    header, data = header_of(path)
    stem = "encoder.layer.0.attention.self"
    header[f"{stem}.query.weight"] = header[f"{stem}.key.weight"]
    write_header(path, header, data)
    refused(folder, "damaged or incomplete", "begins at byte")


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(data_offsets=[4, 28]),  # a gap before it
        lambda entry: entry.update(data_offsets=[0, 20]),
        lambda entry: entry.update(data_offsets=[24, 0]),
        lambda entry: entry.update(data_offsets=[0.0, 24.0]),
        lambda entry: entry.update(data_offsets=[-24, 0]),
        lambda entry: entry.update(data_offsets=[0]),
        lambda entry: entry.update(data_offsets="ab"),
        lambda entry: entry.update(shape=[6]),
        lambda entry: entry.update(shape=[-2, -3]),
        lambda entry: entry.update(shape=[2, 3, True]),
        lambda entry: entry.update(shape=[1] * 9 + [6]),
        lambda entry: entry.update(shape=[10**4000] * 8),
        lambda entry: entry.update(shape={}),
        lambda entry: entry.update(dtype="F128"),
        lambda entry: entry.update(dtype=["F32"]),
        lambda entry: entry.update(more=1),
        lambda entry: entry.pop("dtype"),
    ],
)
def test_a_header_that_does_not_fit_the_data_is_refused(tmp_path, change):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones((2, 3), "float32")}, path)
    header, data = header_of(path)
    assert files.read_header(path)["a"].shape == (2, 3)
    change(header["a"])
    write_header(path, header, data + bytes(4))
    with pytest.raises(ValueError, match=r"damaged or incomplete.*Received:") as caught:
        files.read_header(path)
    assert len(str(caught.value)) <= 2000


@pytest.mark.parametrize(
    "header", [b"[]", b"5", b'{"a": 5}', b'{"a": {}, "a": {}}', b"[" * 10**6]
)
def test_a_header_of_another_structure_is_refused(tmp_path, header):
    path = tmp_path / "model.safetensors"
    write_header(path, header, bytes(24))
    with pytest.raises(ValueError, match=r"damaged or incomplete.*Received:"):
        files.read_header(path)


def test_a_pipe_in_a_folder_does_not_wait(folder):
    os.mkfifo(folder / "generation_config.json")
    refused(folder, "plain file")
    for name in ("model.safetensors", "config.json"):
        (folder / "generation_config.json").unlink(missing_ok=True)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        refused(folder, name, error=FileNotFoundError)


@pytest.mark.parametrize("place", ["../a", "/etc/passwd", "out/a", "a\x1b", 5, []])
def test_a_shard_is_inside_the_folder(folder, place):
    (folder / "out").symlink_to("/")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"pooler.dense.bias": place}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "inside the folder")


@pytest.mark.parametrize("place", ["../1_Pooling", "/1_Pooling", "out", None])
def test_the_modules_of_a_sentence_model_are_inside_the_folder(folder, place):
    outside = folder.parent / "1_Pooling"
    outside.mkdir()
    (outside / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (folder / "out").symlink_to(outside)
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": place, "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    refused(folder, "inside the folder")
    (folder / "modules.json").write_text("[5]")
    refused(folder, "modules.json has a part")
