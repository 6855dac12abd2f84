"""GPT-2, Llama, Mistral and Qwen2 have the numbers of transformers."""

import functools
import json

import numpy as np
import pytest
from parity.transformers.compare import (
    assert_near,
    check_family,
    check_saving,
    compare,
    error,
    loaded,
    numbers,
    padded,
    random_model,
    their_outputs,
)

import keras_attention as ka

pytest.importorskip("transformers")
pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OUTPUTS = {
    "logits": "logits",
    "sequence_output": lambda theirs: theirs.hidden_states[-1],
}
GPT2 = {
    "vocab_size": 97,
    "n_layer": 2,
    "n_head": 3,
    "n_embd": 33,
    "n_inner": 47,
    "n_positions": 61,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
LLAMA = {
    "vocab_size": 97,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 40,
    "intermediate_size": 47,
    "max_position_embeddings": 61,
    "attn_implementation": "eager",
}
CASES = {
    "gpt2": ("GPT2", {}),
    "gpt2, exact gelu, epsilon": (
        "GPT2",
        {"activation_function": "gelu", "layer_norm_epsilon": 0.1, "n_inner": None},
    ),
    "gpt2, own head": ("GPT2", {"tie_word_embeddings": False}),
    "llama": ("Llama", {}),
    "llama, tied, epsilon, relu": (
        "Llama",
        {"tie_word_embeddings": True, "rms_norm_eps": 0.1, "hidden_act": "relu"},
    ),
    "llama, biases, head size, all heads": (
        "Llama",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 14,
            "num_key_value_heads": 4,
        },
    ),
    "llama, one key head": ("Llama", {"num_key_value_heads": 1}),
    "mistral, window": ("Mistral", {"sliding_window": 5}),
    "mistral, head size, window": ("Mistral", {"sliding_window": 3, "head_dim": 14}),
    "qwen2": ("Qwen2", {}),
    "qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2, window from layer 1": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
}
ROPES = {
    "theta": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic, short": {"rope_type": "dynamic", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 13,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0},
    "yarn, length": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn, betas, not truncated": {
        "rope_type": "yarn",
        "factor": 2.0,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "truncate": False,
        "original_max_position_embeddings": 29,
    },
    "yarn, attention_factor": {
        "rope_type": "yarn",
        "factor": 2.0,
        "attention_factor": 0.7,
    },
    "yarn, both mscales": {
        "rope_type": "yarn",
        "factor": 5.0,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
    },
    "yarn, one mscale": {"rope_type": "yarn", "factor": 5.0, "mscale": 0.7},
}


def reference_of(stem, **options):
    sizes = GPT2 if stem == "GPT2" else LLAMA
    kind = "LMHeadModel" if stem == "GPT2" else "ForCausalLM"
    return random_model(stem, kind, **{**sizes, **options})


def check_decoder(reference, tmp_path):
    compare_with = functools.partial(compare, outputs=OUTPUTS, count_positions=True)
    worst, _ = check_family(reference, tmp_path, compare_with, task="backbone")
    return worst


@pytest.mark.parametrize(("stem", "options"), CASES.values(), ids=CASES)
def test_a_decoder_is_that_of_transformers(stem, options, tmp_path, record_property):
    worst = check_decoder(reference_of(stem, **options), tmp_path)
    record_property("summary", f"{stem} {options}: {worst:.1e} from transformers")


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
def test_rotary_positions_are_those_of_transformers(rope, tmp_path, record_property):
    rope = {"rope_theta": 10000.0, **rope}
    reference = reference_of("Llama", rope_parameters=rope)
    worst = check_decoder(reference, tmp_path)
    record_property("summary", f"{rope}: {worst:.1e} from transformers")


@pytest.mark.parametrize("length", [7, 23])
def test_a_base_that_grows_with_the_length_is_that_of_transformers(length, tmp_path):
    rope = {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 10000.0}
    options = {"rope_parameters": rope, "max_position_embeddings": 11}
    reference = reference_of("Llama", **options)
    model = loaded(reference, tmp_path / "theirs", task="backbone")
    ids, mask = padded(97, None, lengths=(length, length))
    theirs = their_outputs(reference, ids, mask)
    assert_near(model(ids)["logits"], theirs.logits)
    plain = ka.from_pretrained(tmp_path / "theirs", task="backbone")
    for block in plain.blocks:
        block.attention.position.scaling = None
        block.attention.position.depends_on_length = False
        block.attention.position.build((None, None, 4, 10))
    unscaled = error(numbers(plain(ids)["logits"]), numbers(theirs.logits))
    assert (unscaled > 1e-3) == (length > 11)


@pytest.mark.parametrize(
    ("stem", "options"),
    [
        ("GPT2", {}),
        ("Llama", {"rope_parameters": {"rope_theta": 1e4, **ROPES["yarn, length"]}}),
        ("Mistral", {"sliding_window": 5}),
        ("Qwen2", CASES["qwen2, window from layer 1"][1]),
    ],
    ids=str,
)
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_cached_steps_are_the_outputs_of_transformers(stem, options, side, tmp_path):
    reference = reference_of(stem, **options)
    model = loaded(reference, tmp_path / "theirs", task="backbone")
    ids, mask = padded(97, side)
    more = np.random.default_rng(3).integers(0, 97, (len(ids), 5))
    everything = np.concatenate([ids, more], axis=1)
    mask_of_all = np.concatenate([mask, np.ones(more.shape, bool)], axis=1)
    theirs = their_outputs(reference, everything, mask_of_all, count_positions=True)
    outputs = model(ids, padding_mask=mask, cache=model.empty_cache(len(ids)))
    steps = [numbers(outputs["logits"])]
    for step in range(more.shape[1]):
        outputs = model(more[:, step : step + 1], cache=outputs["cache"])
        steps.append(numbers(outputs["logits"]))
    if side == "right" and stem in ("Mistral", "Qwen2"):
        # Their window counts padding between tokens too; ours counts tokens only.
        mask_of_all[:, ids.shape[1] :] = False
    assert_near(np.concatenate(steps, axis=1), theirs.logits, mask_of_all)


@pytest.mark.parametrize("spelling", ["rope_scaling", "type"])
def test_the_entries_of_transformers_4_are_read(spelling, tmp_path):
    rope = {"rope_theta": 700.0, **ROPES["yarn, length"]}
    model = loaded(
        reference_of("Llama", rope_parameters=rope),
        tmp_path / "theirs",
        task="backbone",
    )
    path = tmp_path / "theirs" / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("rope_parameters")["rope_theta"] == 700.0
    scaling = {k: v for k, v in rope.items() if k != "rope_theta"}
    if spelling == "type":
        scaling["type"] = scaling.pop("rope_type")
    config |= {"rope_theta": 700.0, "rope_scaling": scaling}
    path.write_text(json.dumps(config))
    again = ka.from_pretrained(tmp_path / "theirs", task="backbone")
    assert again.get_config() == model.get_config()


def test_a_file_of_the_backbone_only_has_no_logits(tmp_path):
    reference = random_model("Llama", "Model", **LLAMA)
    model = loaded(reference, tmp_path / "theirs", task="backbone")
    assert "logits" not in model(np.array([[1, 2]]))
    worst = compare(model, reference, {"sequence_output": "last_hidden_state"})
    assert worst > 0
    check_saving(model, reference, tmp_path, task="backbone")
