"""Folders of sentence-transformers: modules, prompts, lengths, as in the package.

The expected vectors are computed with NumPy from the encoder's token vectors.
"""

import json
import shutil

import numpy as np
import pytest
from contracts.kinds import relative_error
from safetensors.numpy import save_file
from samples import VOCABULARY, small_bert
from small_models import with_random_weights

import keras_attention as ka

pytest.importorskip("tensorflow_text")
pytestmark = pytest.mark.tensorflow

TEXTS = ["the animal", "the street, the animal tired", "a"]
OLD, NEW = "sentence_transformers.models.", "sentence_transformers.base.modules.x."
TANH = "torch.nn.modules.activation.Tanh"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder of transformers, without the files of sentence-transformers."""
    folder = tmp_path_factory.mktemp("sentence") / "plain"
    ka.save_pretrained(with_random_weights(small_bert(num_layers=1)), folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


@pytest.fixture
def folder(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "model")


def write(folder, *modules, prefix=OLD, settings=None, **files):
    """Writes modules as (kind, config) after the Transformer, and other JSON files."""
    listed = [{"idx": 0, "name": "0", "path": "", "type": f"{prefix}Transformer"}]
    for index, (kind, config) in enumerate(modules, 1):
        place = f"{index}_{kind}"
        entry = {"idx": index, "name": str(index), "path": place}
        listed.append({**entry, "type": f"{prefix}{kind}"})
        (folder / place).mkdir()
        (folder / place / "config.json").write_text(json.dumps(config))
    files = {"modules": listed, **files}
    if settings is not None:
        files["config_sentence_transformers"] = settings
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def pooled(tokens, mode):
    """Returns the vector of the token vectors `[T, E]` of one text."""
    weights = np.arange(1, len(tokens) + 1)[:, None]
    return {
        "cls": tokens[0],
        "max": tokens.max(0),
        "mean": tokens.mean(0),
        "mean_sqrt_len_tokens": tokens.sum(0) / np.sqrt(len(tokens)),
        "weightedmean": (tokens * weights).sum(0) / weights.sum(),
        "lasttoken": tokens[-1],
    }[mode]


def token_vectors(model, text):
    outputs = model.encoder(model.tokenizer([text]))["sequence_output"]
    return np.asarray(outputs)[0].astype("float64")


MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@pytest.mark.parametrize("modes", [*MODES, ["lasttoken", "mean"]], ids=str)
def test_every_pooling_of_the_new_layout(folder, modes):
    config = {"embedding_dimension": 33, "pooling_mode": modes, "include_prompt": True}
    write(folder, ("Pooling", config), prefix=NEW)
    model = ka.from_pretrained(folder)
    listed = [modes] if isinstance(modes, str) else modes
    for text, vector in zip(TEXTS, model.encode(TEXTS), strict=True):
        tokens = token_vectors(model, text)
        expected = np.concatenate([pooled(tokens, mode) for mode in listed])
        assert relative_error(vector, expected) <= 1e-5


def test_dense_modules_and_all_files_are_written_again(folder, tmp_path):
    rng = np.random.default_rng(3)
    shapes = {"2": [(33, 9, True, TANH), (9, 5, False, TANH)]}["2"]
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    dense = [
        (
            "Dense",
            {
                "in_features": size if index else 66,
                "out_features": units,
                "bias": bias,
                "activation_function": activation,
            },
        )
        for index, (size, units, bias, activation) in enumerate(shapes)
    ]
    settings = {"prompts": {"query": "the "}, "default_prompt_name": "query"}
    write(folder, ("Pooling", pooling), *dense, ("Normalize", {}), settings=settings)
    layers = []
    for place, (_, config) in zip(("2_Dense", "3_Dense"), dense, strict=True):
        size = config["out_features"], config["in_features"]
        tensors = {"linear.weight": rng.normal(size=size).astype("float32")}
        if config["bias"]:
            tensors["linear.bias"] = rng.normal(size=size[0]).astype("float32")
        save_file(tensors, folder / place / "model.safetensors")
        layers.append(tensors)
    model = ka.from_pretrained(folder)
    vectors = model.encode(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        tokens = token_vectors(model, "the " + text)
        # The package concatenates in its own order: cls before mean.
        x = np.concatenate([pooled(tokens, "cls"), pooled(tokens, "mean")])
        for tensors in layers:
            x = np.tanh(tensors["linear.weight"] @ x + tensors.get("linear.bias", 0))
        assert relative_error(vector, x / np.sqrt(x @ x)) <= 1e-5
    ka.save_pretrained(model, tmp_path / "back")
    again = ka.from_pretrained(tmp_path / "back")
    np.testing.assert_array_equal(again.encode(TEXTS), vectors)
    model.save(tmp_path / "model.keras")
    loaded = ka.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.encode(TEXTS), vectors)


@pytest.mark.parametrize("included", [True, False])
@pytest.mark.parametrize("mode", ["mean", "weightedmean", "cls"])
def test_a_prompt_is_read_and_pooled_or_not(folder, mode, included):
    prompts = {"prompts": {"query": "the street ", "none": ""}}
    config = {"pooling_mode": mode, "include_prompt": included}
    write(folder, ("Pooling", config), settings=prompts)
    model = ka.from_pretrained(folder)
    vectors = model.encode(TEXTS, prompt_name="query")
    np.testing.assert_array_equal(model.encode(TEXTS, prompt="the street "), vectors)
    for text, vector in zip(TEXTS, vectors, strict=True):
        tokens = token_vectors(model, "the street " + text)
        if included:
            expected = pooled(tokens, mode)
        else:  # without [CLS], the and street
            weights = np.arange(4, len(tokens) + 1)[:, None]
            tokens = tokens[3:]
            expected = pooled(tokens, mode)
            if mode == "weightedmean":
                expected = (tokens * weights).sum(0) / weights.sum()
        assert relative_error(vector, expected) <= 1e-5
    with pytest.raises(ValueError, match=r"'query', 'none'.*prompt_name='passage'"):
        model.encode(TEXTS, prompt_name="passage")


@pytest.mark.parametrize(
    ("own", "of_tokenizer", "expected"),
    [(None, 7, 7), (5, 7, 5), (9, 7, 9), (None, 10**30, 61), ("missing", 6, 6)],
)
def test_the_length_is_the_one_that_the_package_takes(
    folder, own, of_tokenizer, expected
):
    files = {"tokenizer_config": {"model_max_length": of_tokenizer}}
    if own != "missing":
        files["sentence_bert_config"] = {"max_seq_length": own, "do_lower_case": False}
    write(folder, ("Pooling", {"pooling_mode": "mean"}), **files)
    assert ka.from_pretrained(folder).tokenizer.max_length == expected


def test_lower_casing_of_a_cased_vocabulary(folder):
    cased = {"tokenizer_config": {"do_lower_case": False}}
    lower = {"sentence_bert_config": {"do_lower_case": True}}
    write(folder, ("Pooling", {"pooling_mode": "mean"}), **cased, **lower)
    tokenizer = ka.from_pretrained(folder).tokenizer
    assert tokenizer.tokens(["The ANIMAL"]) == tokenizer.tokens(["the animal"])


PLACES = {
    "sentence_bert_config": "sentence_bert_config",
    "settings": "config_sentence_transformers",
    "Pooling": "1_Pooling/config",
    "Normalize": "2_Normalize/config",
}


@pytest.mark.parametrize(
    ("place", "entry"),
    [
        ("sentence_bert_config", {"max_seq_length": -3}),
        ("sentence_bert_config", {"query_length": 32}),
        ("sentence_bert_config", {"processing_kwargs": {"text": {"padding": False}}}),
        ("sentence_bert_config", {"something_new": 1}),
        ("settings", {"truncate_dim": 8}),
        ("settings", {"prompts": ["a"]}),
        ("settings", {"default_prompt_name": "passage"}),
        ("settings", {"model_type": "SparseEncoder"}),
        ("Pooling", {"pooling_mode": "median"}),
        ("Pooling", {"pooling_mode_new": True}),
        ("Normalize", {"module_input_name": "token_embeddings"}),
    ],
    ids=str,
)
def test_an_entry_that_is_not_applied_is_refused_by_name(folder, place, entry):
    write(folder, ("Pooling", {"pooling_mode": "mean"}), ("Normalize", {}))
    path = folder / f"{PLACES[place]}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **entry}))
    name = next(iter(entry)).removeprefix("default_")
    with pytest.raises(ValueError, match=rf"Received: .*{name}") as caught:
        ka.from_pretrained(folder)
    assert len(str(caught.value)) <= 2000


@pytest.mark.parametrize(
    "kinds",
    [("Pooling", "Normalize", "Dense"), ("Dense", "Pooling"), ("Pooling", "LayerNorm")],
    ids=str,
)
def test_another_order_of_modules_is_refused_by_name(folder, kinds):
    write(folder, *((kind, {"pooling_mode": "mean"}) for kind in kinds))
    with pytest.raises(ValueError, match=" -> ".join(["Transformer", *kinds])):
        ka.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "ours"), [("linear.Identity", "linear"), ("activation.Sigmoid", "sigmoid")]
)
def test_a_cross_encoder_of_the_new_layout_is_a_scorer(tmp_path, name, ours):
    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    model = with_random_weights(ka.TextScorer(small_bert(num_layers=1), tokenizer))
    ka.save_pretrained(model, tmp_path / "model")
    settings = {
        "model_type": "CrossEncoder",
        "activation_fn": f"torch.nn.modules.{name}",
        "prompts": {},
        "default_prompt_name": None,
    }
    write(tmp_path / "model", prefix=NEW, settings=settings)
    again = ka.from_pretrained(tmp_path / "model")
    assert isinstance(again, ka.TextScorer)
    assert again.activation == ours
    scores = model.score(TEXTS, TEXTS[::-1]).astype("float64")
    expected = scores if ours == "linear" else 1 / (1 + np.exp(-scores))
    assert relative_error(again.score(TEXTS, TEXTS[::-1]), expected) <= 1e-5
