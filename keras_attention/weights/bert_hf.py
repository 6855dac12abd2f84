"""BERT's checkpoints in Hugging Face's format: config.json and tensor names."""

from collections.abc import Collection, Iterator
from typing import Any

from keras_attention.models.bert import BertEncoder
from keras_attention.weights import configs
from keras_attention.weights.parts_hf import attention, linear, norm
from keras_attention.weights.rules import Rule

MODEL_TYPES = ("bert",)
PREFIXES = ("bert.",)
IGNORED = {
    "embeddings.position_ids": "a buffer of 0, 1, 2, …",
    "embeddings.token_type_ids": "a buffer of zeros",
}
# config.json entry -> constructor argument.
ARGUMENTS = {
    "vocab_size": "vocabulary_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "max_position_embeddings": "max_sequence_length",
    "type_vocab_size": "num_segments",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "layer_norm_epsilon",
}
# Options that change the numbers, with the only value that is supported.
COMPUTED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}


def build(config: dict, names: Collection[str]) -> BertEncoder:
    """Builds the encoder of a config.json, with a pooler if the tensors have one."""
    configs.refuse_others(config, COMPUTED)
    return BertEncoder(
        **configs.take(config, ARGUMENTS),
        activation=configs.activation(config, "hidden_act"),
        pooler="pooler.dense.weight" in names,
        name="bert",
    )


def header(config: dict) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Returns the numbers of layers, and the shapes that limit the model's size."""
    configs.require(config, ARGUMENTS)
    width, segments = config["hidden_size"], config["type_vocab_size"]
    block = "encoder.layer.{}"
    shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "embeddings.position_embeddings.weight": (
            config["max_position_embeddings"],
            width,
        ),
        f"{block}.attention.self.query.weight": (width, width),
        f"{block}.intermediate.dense.weight": (config["intermediate_size"], width),
    }
    if segments:
        shapes["embeddings.token_type_embeddings.weight"] = (segments, width)
    return {"encoder.layer.": config["num_hidden_layers"]}, shapes


def config_of(model: BertEncoder) -> dict[str, Any]:
    """Returns the config.json of an encoder, the inverse of `build`."""
    ours = model.get_config()
    if model.attention_dropout is None:
        ours["attention_dropout"] = model.dropout
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": configs.activation_name(model.activation),
        "position_embedding_type": "absolute",
        **{theirs: ours[name] for theirs, name in ARGUMENTS.items()},
    }


def rules(model: BertEncoder) -> Iterator[Rule]:
    """Yields a rule for every tensor of the checkpoint and every variable."""
    tables = {
        "word_embeddings": model.token_embedding,
        "position_embeddings": model.position_embedding,
        "token_type_embeddings": model.segment_embedding,
    }
    for name, layer in tables.items():
        yield Rule(f"embeddings.{name}.weight", layer.embeddings)
    yield from norm("embeddings.LayerNorm", model.embedding_normalization)
    for index, block in enumerate(model.blocks):
        yield from _block(f"encoder.layer.{index}", block)
    if model.pooler is not None:
        yield from linear("pooler.dense", model.pooler.projection)


def _block(prefix: str, block: Any) -> Iterator[Rule]:
    yield from attention(
        block.attention,
        query=f"{prefix}.attention.self.query",
        key=f"{prefix}.attention.self.key",
        value=f"{prefix}.attention.self.value",
        output=f"{prefix}.attention.output.dense",
    )
    after = block.attention_residual.normalization
    yield from norm(f"{prefix}.attention.output.LayerNorm", after)
    yield from linear(f"{prefix}.intermediate.dense", block.feed_forward.intermediate)
    yield from linear(f"{prefix}.output.dense", block.feed_forward.output_projection)
    after = block.feed_forward_residual.normalization
    yield from norm(f"{prefix}.output.LayerNorm", after)
