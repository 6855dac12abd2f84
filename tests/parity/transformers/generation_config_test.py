"""A folder's generation_config.json has the effect that it has in transformers.

`generate` is called without settings in both libraries.
"""

import numpy as np
import pytest
from parity.transformers.compare import loaded, randomized

import keras_attention as ka

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAD = 96
SIZES = {
    "vocab_size": 97,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 36,
    "intermediate_size": 47,
    "max_position_embeddings": 61,
    "num_key_value_heads": 3,
}
PAIR = {
    "vocab_size": 97,
    "d_model": 36,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 47,
    "decoder_ffn_dim": 41,
    "max_position_embeddings": 61,
    "decoder_start_token_id": 2,
    "pad_token_id": PAD,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "forced_eos_token_id": None,
}
ENDS = [7, 11, 19, 23, 29, 31, 37, 41]
CASES = {
    "ends": {"eos_token_id": ENDS, "max_new_tokens": 12},
    "length": {"eos_token_id": ENDS, "max_length": 17, "min_length": 9},
    "penalties": {
        "eos_token_id": ENDS,
        "max_new_tokens": 12,
        "repetition_penalty": 1.7,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[3], [5, 6]],
        "suppress_tokens": [8, 9],
        "min_new_tokens": 6,
    },
    "beams": {
        "eos_token_id": ENDS,
        "max_new_tokens": 12,
        "num_beams": 3,
        "length_penalty": 2.0,
        "early_stopping": True,
        "no_repeat_ngram_size": 2,
    },
    "renormalized beams": {
        "eos_token_id": ENDS,
        "max_new_tokens": 12,
        "num_beams": 3,
        "renormalize_logits": True,
        "suppress_tokens": [*range(40, 80)],
    },
    "bias": {
        "eos_token_id": ENDS,
        "max_new_tokens": 9,
        "sequence_bias": [[[3], 5.0], [[3, 4], 9.0], [[5], -4.0]],
    },
}


def their_rows(reference, prompts, skip, ends):
    rows = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        new = reference.generate(ids, attention_mask=torch.ones_like(ids))
        new = new[0, len(prompt) if skip else 1 :].tolist()
        stops = [i for i, token in enumerate(new) if token in ends]
        rows.append(new[: stops[0] + 1] if stops else new)
    return rows


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["Llama", "GPT2", "Bart"])
def test_generate_without_settings(kind, case, tmp_path):
    if kind == "Bart":
        model = transformers.BartForConditionalGeneration(
            transformers.BartConfig(**PAIR)
        )
    elif kind == "GPT2":
        sizes = {"n_layer": 2, "n_head": 3, "n_embd": 36, "n_positions": 61}
        config = transformers.GPT2Config(
            vocab_size=97, bos_token_id=0, eos_token_id=2, **sizes
        )
        model = transformers.GPT2LMHeadModel(config)
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    reference = randomized(model, seed=3)
    settings = {"pad_token_id": PAD, **CASES[case]}
    if kind == "Bart":
        settings |= {"decoder_start_token_id": 2, "forced_bos_token_id": 4}
    reference.generation_config = transformers.GenerationConfig(**settings)
    prompts = np.random.default_rng(1).integers(42, 95, (2, 5)).tolist()
    expected = their_rows(reference, prompts, kind != "Bart", ENDS)
    ours = loaded(reference, tmp_path / "theirs")
    ours.compiled = False
    for row, wanted in zip(prompts, expected, strict=True):
        assert ours.generate([row])[0].tolist() == wanted
    # transformers reads what we write in the same way.
    ka.save_pretrained(ours, tmp_path / "back")
    again = type(reference).from_pretrained(tmp_path / "back")
    assert their_rows(again, prompts, kind != "Bart", ENDS) == expected
