"""Folders of adapters, without PEFT: both ways, and what is refused.

`tests/parity/transformers/peft_test.py` compares them with PEFT.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_attention as ka

IDS = np.array([[3, 4, 5, 6], [9, 8, 7, 1]])
SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"


def classifier(rank=None, **settings):
    encoder = ka.BertEncoder(13, **SIZES, max_sequence_length=7, pooler=True)
    model = ka.TextClassifier(encoder, ["a", "b"], dropout=0.0)
    if rank:
        ka.enable_lora(model, rank, **settings)
        with_drawn(model)
    return model


def with_drawn(model):
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))


def without_lora(model):
    """A copy of a classifier's base: its weights without LoRA and head."""
    copy = classifier()
    values = {v.path.split("/", 1)[1]: v for v in model.backbone.variables}
    for variable in copy.backbone.variables:
        variable.assign(values[variable.path.split("/", 1)[1]])
    return copy


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A classifier with LoRA, and the folder of its adapter."""
    model = classifier(2, targets=["query", "output"], alpha=3, dropout=0.25)
    folder = tmp_path_factory.mktemp("adapter") / "new" / "folder"
    ka.save_adapter(model, folder)
    return model, folder


def changed(folder, place, tensors=(), **config):
    """Copies an adapter with other tensors (`None` removes one) and entries."""
    place.mkdir()
    arrays = {**load_file(folder / WEIGHTS), **dict(tensors)}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    save_file(arrays, place / WEIGHTS)
    entries = {**json.loads((folder / CONFIG).read_text()), **config}
    (place / CONFIG).write_text(json.dumps(entries))
    return place


def test_an_adapter_holds_what_was_trained(saved):
    model, folder = saved
    config = json.loads((folder / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (2, 3, 0.25)
    assert config["modules_to_save"] == ["classifier"]
    tensors = load_file(folder / WEIGHTS)
    assert len(tensors) == 2 * 2 + 2
    update = model.backbone.blocks[0].attention.query_projection.lora
    np.testing.assert_array_equal(
        tensors[f"{QUERY}.lora_A.weight"], np.array(update.a).T
    )
    np.testing.assert_array_equal(
        tensors[f"{QUERY}.lora_B.weight"], np.array(update.b).T
    )
    with pytest.raises(FileExistsError, match="There is an adapter already"):
        ka.save_adapter(model, folder)


def test_a_base_with_the_adapter_is_the_trained_model(saved):
    model, folder = saved
    copy = without_lora(model)
    before = np.array(copy(IDS))
    ka.load_adapter(copy, folder)
    assert np.abs(before - np.array(copy(IDS))).max() > 0.1
    np.testing.assert_allclose(copy(IDS), model(IDS), atol=1e-6)
    trained = [v.path.split("/", 1)[1] for v in model.trainable_variables]
    found = [variable.path.split("/", 1)[1] for variable in copy.trainable_variables]
    assert found == trained
    assert copy.backbone.blocks[0].feed_forward.output_projection.lora.dropout == 0.25


def test_names_without_the_prefix_of_the_family_fit_too(saved, tmp_path):
    model, folder = saved
    tensors = load_file(folder / WEIGHTS)
    renamed = {name.replace("model.bert.", "model."): x for name, x in tensors.items()}
    place = changed(folder, tmp_path / "x", {**dict.fromkeys(tensors), **renamed})
    copy = without_lora(model)
    ka.load_adapter(copy, place)
    np.testing.assert_allclose(copy(IDS), model(IDS), atol=1e-6)


@pytest.mark.parametrize(
    ("entries", "scale"),
    [
        ({"lora_alpha": 5}, 2.5),
        ({"lora_alpha": 5, "use_rslora": True}, 5 / 2**0.5),
        ({"alpha_pattern": {"self.query": 7}}, 3.5),
        ({"alpha_pattern": {r"^bert\.encoder.layer.0.attention.self.query": 7}}, 3.5),
        ({"alpha_pattern": {"^self.query": 7, "elf.query": 9}}, 1.5),
    ],
)
def test_the_scale_is_that_of_peft(saved, tmp_path, entries, scale):
    model = classifier()
    ka.load_adapter(model, changed(saved[1], tmp_path / "x", **entries))
    update = model.backbone.blocks[0].attention.query_projection.lora
    assert update.scale == pytest.approx(scale)


@pytest.mark.parametrize("mode", [None, "int4"])
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
def test_the_three_parts_of_a_fused_matrix_stay_apart(mode, tmp_path):
    def decoder():
        return ka.CausalLM(ka.GPTDecoder(13, **SIZES, max_sequence_length=7))

    model = decoder()
    if mode:
        model.quantize(mode)
    ka.enable_lora(model, 2, ["query", "value"])
    with_drawn(model)
    ka.save_adapter(model, tmp_path / "one")
    tensors = load_file(tmp_path / "one" / WEIGHTS)
    name = "base_model.model.transformer.h.0.attn.c_attn"
    assert tensors[f"{name}.lora_A.weight"].shape == (4, 8)
    b = tensors[f"{name}.lora_B.weight"]
    assert b.shape == (24, 4)
    assert not b[:8, 2:].any()
    assert not b[8:16].any()
    again = decoder()
    ka.load_adapter(again, tmp_path / "one")
    attention = again.backbone.blocks[0].attention
    assert attention.key_projection.lora is None
    for part in ("query_projection", "value_projection"):
        theirs = getattr(model.backbone.blocks[0].attention, part).lora
        ours = getattr(attention, part).lora
        np.testing.assert_array_equal(ours.a, theirs.a)
        np.testing.assert_array_equal(ours.b, theirs.b)
        assert ours.scale == theirs.scale
    ka.save_adapter(again, tmp_path / "two")  # the rank does not grow
    again = load_file(tmp_path / "two" / WEIGHTS)
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)


A, B = f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight"
ONES = np.ones((2, 8), "float32")
BAD = {
    "dora": ({}, {"use_dora": True}, "use_dora=True"),
    "ia3": ({}, {"peft_type": "IA3"}, "peft_type='IA3'"),
    "no type": ({}, {"peft_type": None}, "peft_type=None"),
    "bias": ({}, {"bias": "all"}, "bias='all'"),
    "base": ({}, {"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
    "new option": ({}, {"use_something": 3}, "use_something=3"),
    "pattern": ({}, {"alpha_pattern": {"(a+)+$": 3}}, "names of modules as keys"),
    "patterns": ({}, {"alpha_pattern": [1]}, r"alpha_pattern=\[1\]"),
    "alpha": ({}, {"lora_alpha": "8"}, "lora_alpha='8'"),
    "dropout": ({}, {"lora_dropout": 1.5}, "lora_dropout=1.5"),
    "nan": ({A: ONES * np.nan}, {}, "NaN or infinity"),
    "no B": ({B: None}, {}, "is missing, or is no matrix"),
    "no A": ({A: None}, {}, "no place"),
    "a shape": ({A: np.ones((2, 9), "float32")}, {}, r"must have shape \(2, 8\)"),
    "a rank": ({B: np.ones((8, 3), "float32")}, {}, r"must have shape \(8, 2\)"),
    "no rank": ({A: ONES[:0], B: ONES.T[:, :0]}, {}, "must have shape"),
    "unknown": ({"base_model.model.x.lora_A.weight": ONES}, {}, "no place"),
    "a table": (
        {"base_model.model.bert.embeddings.word_embeddings.weight": ONES},
        {},
        "no place",
    ),
    "a norm": (
        {
            f"{QUERY.replace('self.query', 'output.LayerNorm')}.lora_{x}.weight": y
            for x, y in (("A", ONES), ("B", ONES.T))
        },
        {},
        "only where the tensor is a linear layer",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_adapter_is_refused_and_changes_nothing(saved, name, tmp_path):
    tensors, config, words = BAD[name]
    place = changed(saved[1], tmp_path / "x", tensors, **config)
    model = classifier()
    before = [np.array(variable) for variable in model.variables]
    with pytest.raises(ValueError, match=words) as caught:
        ka.load_adapter(model, place)
    assert len(str(caught.value)) < 2000
    assert all(variable.trainable for variable in model.backbone.trainable_variables)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_missing_file_is_named(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=CONFIG):
        ka.load_adapter(classifier(), tmp_path)
    (tmp_path / CONFIG).write_text((saved[1] / CONFIG).read_text())
    with pytest.raises(FileNotFoundError, match=WEIGHTS):
        ka.load_adapter(classifier(), tmp_path)


def test_what_has_no_place_in_the_format_is_not_lost(tmp_path):
    with pytest.raises(ValueError, match="There is no LoRA to save"):
        ka.save_adapter(classifier(), tmp_path)
    encoder = ka.BertEncoder(13, **SIZES, max_sequence_length=7)
    model = ka.SentenceEncoder(encoder, dense=[{"units": 3}])
    ka.enable_lora(model, 2)
    with pytest.raises(ValueError, match="no place for a part of the trained head"):
        ka.save_adapter(model, tmp_path)
    assert not list(tmp_path.iterdir())
