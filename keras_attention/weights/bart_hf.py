"""BART's checkpoints in Hugging Face's format: config.json and tensor names."""

from collections.abc import Collection, Iterator
from typing import Any

from keras_attention.models.seq2seq import Seq2SeqTransformer
from keras_attention.weights import configs
from keras_attention.weights.parts_hf import attention, linear, norm
from keras_attention.weights.rules import Layout, Rule

MODEL_TYPES = ("bart",)
PREFIXES = ("model.",)
OUTSIDE = ("final_logits_bias",)
IGNORED = {
    "encoder.embed_tokens.weight": "a copy of the shared table",
    "decoder.embed_tokens.weight": "a copy of the shared table",
    "lm_head.weight": "a copy of the shared table",
}
# config.json entry -> constructor argument.
ARGUMENTS = {
    "vocab_size": "vocabulary_size",
    "d_model": "hidden_dim",
    "encoder_layers": "num_layers",
    "encoder_attention_heads": "num_heads",
    "encoder_ffn_dim": "intermediate_dim",
    "max_position_embeddings": "max_sequence_length",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "scale_embedding": "scale_embedding",
}
DECODER = {
    "decoder_layers": "num_layers",
    "decoder_attention_heads": "num_heads",
    "decoder_ffn_dim": "intermediate_dim",
}
# Options that change the numbers, with the only value that is supported. New files have
# only the first one; old files have the others too.
COMPUTED = {
    "tie_word_embeddings": True,
    "normalize_before": False,
    "normalize_embedding": True,
    "add_final_layer_norm": False,
    "static_position_embeddings": False,
    "extra_pos_embeddings": 2,
}
# The arguments of BART that are not in a config.
SHAPE = {
    "positions": "learned",
    "position_offset": 2,
    "norm": "post",
    "normalize_embedding": True,
}
ROW = Layout("a row", lambda x, shape: x.reshape(shape), lambda x: x.reshape(1, -1))


def writes(model: Seq2SeqTransformer) -> bool:
    """Whether the options are those of BART."""
    return all(getattr(model, name) == value for name, value in SHAPE.items())


def build(config: dict, names: Collection[str]) -> Seq2SeqTransformer:
    """Builds the model of a config.json, with a logits bias if the tensors have one."""
    configs.refuse_others(config, COMPUTED)
    return Seq2SeqTransformer(**arguments(config, names), **SHAPE, name="bart")


def arguments(config: dict, names: Collection[str]) -> dict[str, Any]:
    """Returns the arguments that BART and Marian read from a config in the same way.

    Args:
        config: The parsed config.json.
        names: The names of the tensors.
    """
    return {
        **configs.take(config, ARGUMENTS),
        "decoder": configs.take(config, DECODER),
        "activation": configs.activation(config, "activation_function"),
        "use_logits_bias": "final_logits_bias" in names,
    }


def header(config: dict) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Returns the numbers of layers, and the shapes that limit the model's size."""
    layers, shapes = shared_header(config)
    rows = config["max_position_embeddings"] + SHAPE["position_offset"]
    for side in ("encoder", "decoder"):
        shapes[f"{side}.embed_positions.weight"] = (rows, config["d_model"])
    return layers, shapes


def shared_header(config: dict) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Returns the part of `header` that BART and Marian share.

    Args:
        config: The parsed config.json.
    """
    configs.require(config, (*ARGUMENTS, *DECODER))
    width = config["d_model"]
    layers, shapes = {}, {"shared.weight": (config["vocab_size"], width)}
    for side in ("encoder", "decoder"):
        layers[f"{side}.layers."] = config[f"{side}_layers"]
        block = f"{side}.layers.{{}}"
        shapes[f"{block}.self_attn.q_proj.weight"] = (width, width)
        shapes[f"{block}.fc1.weight"] = (config[f"{side}_ffn_dim"], width)
    return layers, shapes


def config_of(model: Seq2SeqTransformer) -> dict[str, Any]:
    """Returns the config.json of a model, the inverse of `build`."""
    kind = "ForConditionalGeneration" if model.use_logits_bias else "Model"
    entries = {"architectures": [f"Bart{kind}"], "model_type": "bart"}
    return {**entries, **entries_of(model)}


def entries_of(model: Seq2SeqTransformer) -> dict[str, Any]:
    """Returns the config's entries for a model, the inverse of `arguments`.

    Args:
        model: A model with BART's or Marian's structure.
    """
    ours = model.get_config()
    if model.attention_dropout is None:
        ours["attention_dropout"] = model.dropout
    decoder = {**{name: ours[name] for name in DECODER.values()}, **model.decoder}
    return {
        "is_encoder_decoder": True,
        "activation_function": configs.activation_name(model.activation),
        **{theirs: ours[name] for theirs, name in ARGUMENTS.items()},
        **{theirs: decoder[name] for theirs, name in DECODER.items()},
    }


def rules(model: Seq2SeqTransformer) -> Iterator[Rule]:
    """Yields a rule for every tensor of the checkpoint and every variable."""
    sides = {"encoder": model.encoder_parts, "decoder": model.decoder_parts}
    for side, parts in sides.items():
        table = parts["position"].embeddings
        yield Rule(f"{side}.embed_positions.weight", table)
        yield from norm(f"{side}.layernorm_embedding", parts["embedding_normalization"])
    yield from shared_rules(model)


def shared_rules(model: Seq2SeqTransformer) -> Iterator[Rule]:
    """Yields the rules that BART and Marian share: all except those of positions.

    Args:
        model: The model.
    """
    yield Rule("shared.weight", model.token_embedding.embeddings)
    for index, block in enumerate(model.encoder_blocks):
        yield from _block(f"encoder.layers.{index}", block)
    for index, block in enumerate(model.decoder_blocks):
        prefix = f"decoder.layers.{index}"
        yield from _block(prefix, block)
        yield from _attention(f"{prefix}.encoder_attn", block.cross_attention)
        residual: Any = block.cross_residual
        after = residual.normalization
        yield from norm(f"{prefix}.encoder_attn_layer_norm", after)
    if model.logits_bias is not None:
        yield Rule("final_logits_bias", model.logits_bias, ROW)


def _block(prefix: str, block: Any) -> Iterator[Rule]:
    yield from _attention(f"{prefix}.self_attn", block.attention)
    after = block.attention_residual.normalization
    yield from norm(f"{prefix}.self_attn_layer_norm", after)
    yield from linear(f"{prefix}.fc1", block.feed_forward.intermediate)
    yield from linear(f"{prefix}.fc2", block.feed_forward.output_projection)
    after = block.feed_forward_residual.normalization
    yield from norm(f"{prefix}.final_layer_norm", after)


def _attention(prefix: str, layer: Any) -> Iterator[Rule]:
    yield from attention(
        layer,
        query=f"{prefix}.q_proj",
        key=f"{prefix}.k_proj",
        value=f"{prefix}.v_proj",
        output=f"{prefix}.out_proj",
    )
