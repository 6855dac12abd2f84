"""Checkpoints of Llama, Mistral and Qwen2 in Hugging Face's format.

The three have one structure and three kinds of config.json.
"""

from collections.abc import Collection, Iterator
from typing import Any

from keras_attention.models.decoder_options import BIASES, windows_of_layers
from keras_attention.models.gpt import GPTDecoder
from keras_attention.weights import configs
from keras_attention.weights.rope_hf import rope_entries, rotary_settings
from keras_attention.weights.rules import FLAT, LINEAR, LINEAR_OF_HEADS, Rule

MODEL_TYPES = ("llama", "mistral", "qwen2")
PREFIXES = ("model.",)
OUTSIDE = ("lm_head.weight",)
IGNORED = {
    "rotary_emb.inv_freq": "a buffer, the angles",
    "layers.*.self_attn.rotary_emb.inv_freq": "a buffer, the angles",
    "lm_head.weight": "a copy of the token table",
}
# config.json entry -> constructor argument.
ARGUMENTS = {
    "vocab_size": "vocabulary_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "max_position_embeddings": "max_sequence_length",
    "rms_norm_eps": "layer_norm_epsilon",
}
STEMS = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}


def build(config: dict, names: Collection[str]) -> GPTDecoder:
    """Builds the decoder of a config.json."""
    kind, arguments = config["model_type"], configs.take(config, ARGUMENTS)
    heads = arguments["num_heads"]
    groups = config.get("num_key_value_heads")
    if kind != "llama":
        configs.require(config, ["num_key_value_heads"])
    key_dim = config.get("head_dim") or arguments["hidden_dim"] // heads
    return GPTDecoder(
        **arguments,
        num_key_value_heads=groups or heads,
        key_dim=key_dim,
        position=rotary_settings(config),
        normalization="rms",
        activation=configs.activation(config, "hidden_act"),
        gated=True,
        use_bias=_biases(kind, config),
        sliding_window=_windows(kind, config),
        head=configs.head_of(config, names, tied=False),
        dropout=0.0,
        attention_dropout=config.get("attention_dropout", 0.0),
        name=kind,
    )


def header(config: dict) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Returns the numbers of layers, and the shapes that limit the model's size."""
    configs.require(config, ARGUMENTS)
    width, heads = config["hidden_size"], config["num_attention_heads"]
    groups = config.get("num_key_value_heads") or heads
    size = config.get("head_dim") or width // heads
    block = "layers.{}"
    return {"layers.": config["num_hidden_layers"]}, {
        "embed_tokens.weight": (config["vocab_size"], width),
        f"{block}.self_attn.q_proj.weight": (heads * size, width),
        f"{block}.self_attn.k_proj.weight": (groups * size, width),
        f"{block}.mlp.gate_proj.weight": (config["intermediate_size"], width),
    }


def _biases(kind: str, config: dict) -> tuple[str, ...]:
    if kind == "qwen2":
        return BIASES[:1]
    if kind == "mistral":
        return ()
    attention = BIASES[:2] if config.get("attention_bias") else ()
    return (*attention, *(BIASES[2:] if config.get("mlp_bias") else ()))


def _windows(kind: str, config: dict) -> Any:
    """Returns Mistral's window, or those of Qwen2, which may differ between layers."""
    window = config.get("sliding_window", 4096)
    if kind == "llama" or window is None:
        return None
    if kind == "mistral":
        return window
    if not config.get("use_sliding_window", False):
        return None
    count, first = config["num_hidden_layers"], config.get("max_window_layers", 28)
    types = config.get("layer_types")
    if types is None:
        return [window if index >= first else None for index in range(count)]
    known = {"sliding_attention": window, "full_attention": None}
    if len(types) != count or set(types) - set(known):
        raise ValueError(
            f"`layer_types` in config.json must have one of {', '.join(known)} for "
            f"each of {count} layers. Received: layer_types={types!r}"
        )
    return [known[each] for each in types]


def writes(model: GPTDecoder) -> bool:
    """Whether a decoder has Llama's structure."""
    return model.rotary is not None and model.normalization == "rms" and model.gated


def config_of(model: GPTDecoder) -> dict[str, Any]:
    """Returns the config.json of a decoder, the inverse of `build`."""
    ours, dropout = model.get_config(), model.attention_dropout
    assert model.rotary is not None
    kind, own = _kind(model)
    suffix = "Model" if model.head is None else "ForCausalLM"
    return {
        "architectures": [STEMS[kind] + suffix],
        "model_type": kind,
        **{theirs: ours[name] for theirs, name in ARGUMENTS.items()},
        "num_key_value_heads": model.num_key_value_heads,
        "head_dim": model.key_dim,
        "hidden_act": configs.activation_name(model.activation),
        "attention_dropout": model.dropout if dropout is None else dropout,
        "tie_word_embeddings": model.head == "tied",
        **rope_entries(model.rotary),
        **own,
    }


def _kind(model: GPTDecoder) -> tuple[str, dict[str, Any]]:
    """Returns the decoder's family of the three, and the entries of only this one."""
    windows = windows_of_layers(model.sliding_window, model.num_layers)
    sizes = {window for window in windows if window is not None}
    if model.use_bias == BIASES[:1] and len(sizes) <= 1:
        kinds = ("sliding_attention", "full_attention")
        types = [kinds[window is None] for window in windows]
        own = {"use_sliding_window": bool(sizes), "layer_types": types}
        return "qwen2", {**own, "sliding_window": max(sizes, default=None)}
    is_mistral = model.name == "mistral" and not sizes  # one without windows
    if not model.use_bias and (is_mistral or (len(sizes) == 1 and None not in windows)):
        return "mistral", {"sliding_window": max(sizes, default=None)}
    attention, mlp = BIASES[1] in model.use_bias, BIASES[2] in model.use_bias
    if sizes or (BIASES[0] in model.use_bias) != attention:
        raise ValueError(
            "None of Llama, Mistral and Qwen2 has these biases and windows. "
            f"Received: use_bias={model.use_bias}, sliding_window={windows}"
        )
    return "llama", {"attention_bias": attention, "mlp_bias": mlp}


def rules(model: GPTDecoder) -> Iterator[Rule]:
    """Yields a rule for every tensor of the checkpoint and every variable."""
    yield Rule("embed_tokens.weight", model.token_embedding.embeddings)
    for index, block in enumerate(model.blocks):
        yield from _block(f"layers.{index}", block)
    yield Rule("norm.weight", model.final_normalization.gamma)
    if model.head_projection is not None:
        yield Rule("lm_head.weight", model.head_projection.kernel, LINEAR)


def _block(prefix: str, block: Any) -> Iterator[Rule]:
    attention, feed_forward = block.attention, block.feed_forward
    norm = block.attention_residual.normalization
    yield Rule(f"{prefix}.input_layernorm.weight", norm.gamma)
    for name in ("query", "key", "value"):
        projection = getattr(attention, f"{name}_projection")
        yield from _linear(f"{prefix}.self_attn.{name[0]}_proj", projection)
    output = attention.output_projection
    yield from _linear(f"{prefix}.self_attn.o_proj", output, LINEAR_OF_HEADS)
    norm = block.feed_forward_residual.normalization
    yield Rule(f"{prefix}.post_attention_layernorm.weight", norm.gamma)
    yield from _linear(f"{prefix}.mlp.gate_proj", feed_forward.gate)
    yield from _linear(f"{prefix}.mlp.up_proj", feed_forward.intermediate)
    yield from _linear(f"{prefix}.mlp.down_proj", feed_forward.output_projection)


def _linear(name: str, projection: Any, layout: Any = LINEAR) -> Iterator[Rule]:
    yield Rule(f"{name}.weight", projection.kernel, layout)
    if projection.bias is not None:
        yield Rule(f"{name}.bias", projection.bias, FLAT)
