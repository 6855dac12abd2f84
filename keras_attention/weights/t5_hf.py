"""Checkpoints of T5, T5 1.1 and FLAN-T5 in Hugging Face's format."""

from collections.abc import Collection, Iterator
from typing import Any

from keras_attention.models.t5 import T5EncoderDecoder
from keras_attention.models.t5_encoder import T5Encoder
from keras_attention.weights import configs
from keras_attention.weights.parts_hf import attention, linear
from keras_attention.weights.rules import LINEAR, Rule

MODEL_TYPES = ("t5",)
PREFIXES: tuple[str, ...] = ()
IGNORED = {
    "encoder.embed_tokens.weight": "a copy of the shared table",
    "decoder.embed_tokens.weight": "a copy of the shared table",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": (
        "unused in old files; T5 has no positions there"
    ),
}
# config.json entry -> constructor argument.
ARGUMENTS = {
    "vocab_size": "vocabulary_size",
    "d_model": "hidden_dim",
    "d_kv": "head_dim",
    "d_ff": "intermediate_dim",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "relative_attention_num_buckets": "num_buckets",
    "dropout_rate": "dropout",
    "layer_norm_epsilon": "layer_norm_epsilon",
}


def build(config: dict, names: Collection[str]) -> T5EncoderDecoder | T5Encoder:
    """Builds the model of a config.json, with an untied head if there is one."""
    configs.refuse_others(config, {"is_decoder": False})
    # In an old config an untied head means that the head's input is not scaled.
    scaled = config.get("tie_word_embeddings", True) is not False
    kind = config.get("feed_forward_proj", "relu")
    gate, _, name = kind.rpartition("-")
    configs.refuse_others({"feed_forward_proj": gate}, {"feed_forward_proj": _GATES})
    both = {
        **configs.take(config, ARGUMENTS),
        "max_distance": config.get("relative_attention_max_distance", 128),
        "activation": _activation(kind, name),
        "gated": gate == "gated",
    }
    if _is_encoder(config):
        return T5Encoder(**both, name="t5")
    return T5EncoderDecoder(
        **both,
        num_decoder_layers=config.get("num_decoder_layers"),
        tied_head="lm_head.weight" not in names,
        scale_output=config.get("scale_decoder_outputs", scaled),
        name="t5",
    )


def _is_encoder(config: dict) -> bool:
    architectures = config.get("architectures") or [""]
    return architectures[0].endswith("EncoderModel")


def header(config: dict) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Returns the numbers of layers, and the shapes that limit the model's size."""
    configs.require(config, ARGUMENTS)
    width, heads = config["d_model"], config["num_heads"]
    layers, shapes = {}, {"shared.weight": (config["vocab_size"], width)}
    gated = config.get("feed_forward_proj", "relu").startswith("gated")
    table = (config["relative_attention_num_buckets"], heads)
    sides = {"encoder": 1} if _is_encoder(config) else {"encoder": 1, "decoder": 2}
    for side, last in sides.items():
        count = config.get(f"num_{side}_layers") if side == "decoder" else None
        layers[f"{side}.block."] = count or config["num_layers"]
        block, first = f"{side}.block.{{}}.layer", f"{side}.block.0.layer.0"
        attention = f"{block}.0.SelfAttention.q.weight"
        shapes[attention] = (heads * config["d_kv"], width)
        dense = f"{block}.{last}.DenseReluDense.{'wi_0' if gated else 'wi'}.weight"
        shapes[dense] = (config["d_ff"], width)
        shapes[f"{first}.SelfAttention.relative_attention_bias.weight"] = table
    return layers, shapes


_GATES = ("", "gated")


def _activation(kind: str, name: str) -> str:
    # "gated-gelu" means the approximation by tanh.
    entry = {"feed_forward_proj": "gelu_new" if kind == "gated-gelu" else name}
    return configs.activation(entry, "feed_forward_proj")


def config_of(model: T5EncoderDecoder | T5Encoder) -> dict[str, Any]:
    """Returns the config.json of a model, the inverse of `build`."""
    ours = model.get_config()
    kind = configs.activation_name(model.activation)
    if model.gated:
        kind = f"gated-{'gelu' if model.activation == 'gelu_tanh' else kind}"
    if kind == "gated-gelu" and model.activation == "gelu":
        raise ValueError(
            "In Hugging Face's config 'gated-gelu' is the approximation by tanh, and "
            "the exact one has no name. Save the model as .keras. "
            "Received: activation='gelu', gated=True"
        )
    both = {
        "model_type": "t5",
        "feed_forward_proj": kind,
        "relative_attention_max_distance": model.max_distance,
        "pad_token_id": 0,
        "eos_token_id": 1,
        **{theirs: ours[name] for theirs, name in ARGUMENTS.items()},
    }
    if isinstance(model, T5Encoder):
        own = {"is_encoder_decoder": False, "use_cache": False}
        return {"architectures": ["T5EncoderModel"], **both, **own}
    return {
        "architectures": ["T5ForConditionalGeneration"],
        **both,
        "is_encoder_decoder": True,
        "num_decoder_layers": model.num_decoder_layers,
        "tie_word_embeddings": model.tied_head or model.scale_output,
        "scale_decoder_outputs": model.scale_output,
        "decoder_start_token_id": 0,
    }


def rules(model: T5EncoderDecoder | T5Encoder) -> Iterator[Rule]:
    """Yields a rule for every tensor of the checkpoint and every variable."""
    yield Rule("shared.weight", model.token_embedding.embeddings)
    alone = isinstance(model, T5Encoder)
    for side in ("encoder",) if alone else ("encoder", "decoder"):
        name = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        yield Rule(name, getattr(model, f"{side}_position").embeddings)
        norm = getattr(model, f"{side}_normalization")
        yield Rule(f"{side}.final_layer_norm.weight", norm.gamma)
    for index, block in enumerate(model.encoder_blocks):
        yield from _block(f"encoder.block.{index}.layer", block, last=1)
    if alone:
        return
    for index, block in enumerate(model.decoder_blocks):
        prefix = f"decoder.block.{index}.layer"
        yield from _block(prefix, block, last=2)
        yield from _attention(f"{prefix}.1.EncDecAttention", block.cross_attention)
        residual: Any = block.cross_residual
        gamma = residual.normalization.gamma
        yield Rule(f"{prefix}.1.layer_norm.weight", gamma)
    if model.head is not None:
        yield Rule("lm_head.weight", model.head, LINEAR)


def _block(prefix: str, block: Any, last: int) -> Iterator[Rule]:
    yield from _attention(f"{prefix}.0.SelfAttention", block.attention)
    gamma = block.attention_residual.normalization.gamma
    yield Rule(f"{prefix}.0.layer_norm.weight", gamma)
    dense, feed_forward = f"{prefix}.{last}.DenseReluDense", block.feed_forward
    if feed_forward.gate is None:
        yield from linear(f"{dense}.wi", feed_forward.intermediate)
    else:
        yield from linear(f"{dense}.wi_0", feed_forward.gate)
        yield from linear(f"{dense}.wi_1", feed_forward.intermediate)
    yield from linear(f"{dense}.wo", feed_forward.output_projection)
    gamma = block.feed_forward_residual.normalization.gamma
    yield Rule(f"{prefix}.{last}.layer_norm.weight", gamma)


def _attention(prefix: str, layer: Any) -> Iterator[Rule]:
    yield from attention(
        layer,
        query=f"{prefix}.q",
        key=f"{prefix}.k",
        value=f"{prefix}.v",
        output=f"{prefix}.o",
    )
