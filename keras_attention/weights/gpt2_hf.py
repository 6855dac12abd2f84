"""GPT-2's checkpoints in Hugging Face's format: config.json and tensor names.

Kernels are [inputs, outputs], and one tensor holds queries, keys and values.
"""

from collections.abc import Collection, Iterator
from typing import Any

from keras_attention.models.decoder_options import BIASES
from keras_attention.models.gpt import GPTDecoder
from keras_attention.weights import configs
from keras_attention.weights.rules import (
    FLAT,
    KERNEL,
    KERNEL_OF_HEADS,
    LINEAR,
    SAME,
    Rule,
)

MODEL_TYPES = ("gpt2",)
PREFIXES = ("transformer.",)
OUTSIDE = ("lm_head.weight",)
IGNORED = {
    "h.*.attn.bias": "a buffer, the causal mask",
    "h.*.attn.masked_bias": "a buffer, the score of hidden keys",
    "lm_head.weight": "a copy of the token table",
}
# config.json entry -> constructor argument.
ARGUMENTS = {
    "vocab_size": "vocabulary_size",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_embd": "hidden_dim",
    "n_positions": "max_sequence_length",
    "layer_norm_epsilon": "layer_norm_epsilon",
}
# Options that change the numbers, with the only value that is supported.
COMPUTED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def build(config: dict, names: Collection[str]) -> GPTDecoder:
    """Builds the decoder of a config.json."""
    configs.refuse_others(config, COMPUTED)
    arguments = configs.take(config, ARGUMENTS)
    dropout = config.get("resid_pdrop", 0.1)
    configs.refuse_others(config, {"embd_pdrop": dropout})
    return GPTDecoder(
        **arguments,
        intermediate_dim=config.get("n_inner") or 4 * config["n_embd"],
        activation=configs.activation(config, "activation_function"),
        dropout=dropout,
        attention_dropout=config.get("attn_pdrop", 0.1),
        head=configs.head_of(config, names, tied=True),
        name="gpt2",
    )


def header(config: dict) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Returns the numbers of layers, and the shapes that limit the model's size."""
    configs.require(config, ARGUMENTS)
    width = config["n_embd"]
    return {"h.": config["n_layer"]}, {
        "wte.weight": (config["vocab_size"], width),
        "wpe.weight": (config["n_positions"], width),
        "h.{}.attn.c_attn.weight": (width, 3 * width),
        "h.{}.mlp.c_fc.weight": (width, config.get("n_inner") or 4 * width),
    }


def writes(model: GPTDecoder) -> bool:
    """Whether a decoder has GPT-2's structure."""
    return (
        model.rotary is None
        and model.normalization == "layer"
        and not model.gated
        and model.use_bias == BIASES
        and model.sliding_window is None
        and model.num_key_value_heads == model.num_heads
        and model.key_dim * model.num_heads == model.hidden_dim
    )


def config_of(model: GPTDecoder) -> dict[str, Any]:
    """Returns the config.json of a decoder, the inverse of `build`."""
    ours, dropout = model.get_config(), model.attention_dropout
    return {
        "architectures": ["GPT2Model" if model.head is None else "GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{theirs: ours[name] for theirs, name in ARGUMENTS.items()},
        "n_inner": model.intermediate_dim,
        "activation_function": configs.activation_name(model.activation),
        "resid_pdrop": model.dropout,
        "embd_pdrop": model.dropout,
        "attn_pdrop": model.dropout if dropout is None else dropout,
        "tie_word_embeddings": model.head == "tied",
    }


def rules(model: GPTDecoder) -> Iterator[Rule]:
    """Yields a rule for every tensor of the checkpoint and every variable."""
    assert model.position_embedding is not None
    yield Rule("wte.weight", model.token_embedding.embeddings)
    yield Rule("wpe.weight", model.position_embedding.embeddings)
    for index, block in enumerate(model.blocks):
        yield from _block(f"h.{index}", block)
    yield from _norm("ln_f", model.final_normalization)
    if model.head_projection is not None:
        yield Rule("lm_head.weight", model.head_projection.kernel, LINEAR)


def _block(prefix: str, block: Any) -> Iterator[Rule]:
    attention, feed_forward = block.attention, block.feed_forward
    parts = [
        attention.query_projection,
        attention.key_projection,
        attention.value_projection,
    ]
    yield from _norm(f"{prefix}.ln_1", block.attention_residual.normalization)
    kernels, biases = (tuple(getattr(p, n) for p in parts) for n in ("kernel", "bias"))
    yield Rule(f"{prefix}.attn.c_attn.weight", kernels, KERNEL)
    yield Rule(f"{prefix}.attn.c_attn.bias", biases, FLAT)
    output = attention.output_projection
    yield from _linear(f"{prefix}.attn.c_proj", output, KERNEL_OF_HEADS)
    yield from _norm(f"{prefix}.ln_2", block.feed_forward_residual.normalization)
    yield from _linear(f"{prefix}.mlp.c_fc", feed_forward.intermediate)
    yield from _linear(f"{prefix}.mlp.c_proj", feed_forward.output_projection)


def _linear(name: str, projection: Any, layout: Any = KERNEL) -> Iterator[Rule]:
    yield Rule(f"{name}.weight", projection.kernel, layout)
    yield Rule(f"{name}.bias", projection.bias, FLAT)


def _norm(name: str, layer: Any) -> Iterator[Rule]:
    yield Rule(f"{name}.weight", layer.gamma, SAME)
    yield Rule(f"{name}.bias", layer.beta, SAME)
