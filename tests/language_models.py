"""Small language models with a byte-level tokenizer, for tests of generation."""

import keras
import numpy as np
from small_models import LLAMA

import keras_attention as ka
from keras_attention.text.patterns import byte_characters

END = "<|end|>"
GPT2: dict = {}
SHAPES = {"gpt2": GPT2, "llama": {**LLAMA, "num_key_value_heads": 2, "head": "own"}}


def byte_pairs():
    tokens = [*byte_characters().values(), "th", "the", END]
    return ka.BytePairTokenizer(
        tokens,
        [("t", "h"), ("th", "e")],
        special_tokens={"eos": END},
        max_length=47,
    )


def language_model(shape, *, seed=5, num_layers=2, compiled=False, **options):
    """A model with weights so large that its choices differ from row to row."""
    keras.utils.set_random_seed(seed)
    decoder = ka.GPTDecoder(
        vocabulary_size=259,
        num_layers=num_layers,
        num_heads=4,
        hidden_dim=16,
        intermediate_dim=23,
        max_sequence_length=53,
        **SHAPES[shape],
        **options,
    )
    rng = np.random.default_rng(seed)
    for weight in decoder.weights:
        weight.assign(weight + rng.normal(0, 0.3, weight.shape))
    return ka.CausalLM(decoder, byte_pairs(), compiled=compiled)


def padded(rows, side="right"):
    """`token_ids` and `padding_mask` of rows of ids."""
    width = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), width), "int32")
    for row, tokens in enumerate(rows):
        at = slice(len(tokens)) if side == "right" else slice(width - len(tokens), None)
        ids[row, at], mask[row, at] = tokens, 1
    return {"token_ids": ids, "padding_mask": mask.astype(bool)}


def controls(batch, **changes):
    plain = {"max_new_tokens": 8, "temperature": 0, "top_k": 0, "top_p": 1, "seed": 0}
    dtypes = {"temperature": "float32", "top_p": "float32"}
    return {
        name: np.resize(value, batch).astype(dtypes.get(name, "int32"))
        for name, value in (plain | changes).items()
    }
