"""BERT as Hugging Face writes it: config.json and the names of its tensors."""

from collections.abc import Iterator
from typing import Any

from keras_attention.models.bert import BertEncoder
from keras_attention.weights.rules import FLAT, LINEAR, LINEAR_OF_HEADS, SAME, Rule

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
# hidden_act -> activation; "gelu" is the exact one on both sides.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# Options that change the numbers, with the one value this encoder computes.
REQUIRED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
# Buffers and heads that are not part of the encoder.
IGNORED = {
    "embeddings.position_ids": "a buffer of 0, 1, 2, …",
    "embeddings.token_type_ids": "a buffer of zeros",
}


def arguments(config: dict, *, pooler: bool) -> dict[str, Any]:
    """Constructor arguments of `BertEncoder` from a config.json.

    Args:
        config: The parsed file.
        pooler: Whether the checkpoint has a pooler.

    Raises:
        ValueError: If an entry is missing or asks for what is not supported.
    """
    missing = [name for name in ARGUMENTS if name not in config]
    if missing:
        raise ValueError(
            "config.json lacks entries that a BERT model is built from. Received: a "
            f"config without {', '.join(missing)}"
        )
    for name, value in REQUIRED.items():
        if config.get(name, value) != value:
            raise ValueError(
                f"config.json asks for {name}={config[name]!r}, which BertEncoder does "
                f"not compute; supported: {value!r}. Received: {name}={config[name]!r}"
            )
    activation = config.get("hidden_act")
    if activation not in ACTIVATIONS:
        raise ValueError(
            "config.json asks for an activation that is not known here. Supported: "
            f"{', '.join(ACTIVATIONS)}. Received: hidden_act={activation!r}"
        )
    taken = {ours: config[theirs] for theirs, ours in ARGUMENTS.items()}
    return {**taken, "activation": ACTIVATIONS[activation], "pooler": pooler}


def config_of(encoder: BertEncoder) -> dict[str, Any]:
    """The config.json of an encoder: `arguments` read backwards."""
    ours = encoder.get_config()
    ours["attention_dropout"] = (
        encoder.dropout
        if encoder.attention_dropout is None
        else encoder.attention_dropout
    )
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if encoder.activation not in names:
        raise ValueError(
            "This activation has no name in Hugging Face's config. Supported: "
            f"{', '.join(names)}. Received: activation={encoder.activation!r}"
        )
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": names[encoder.activation],
        "position_embedding_type": "absolute",
        **{theirs: ours[name] for theirs, name in ARGUMENTS.items()},
    }


def rules(encoder: BertEncoder) -> Iterator[Rule]:
    """The table: every tensor of the checkpoint, every variable of the encoder."""
    tables = {
        "word_embeddings": encoder.token_embedding,
        "position_embeddings": encoder.position_embedding,
        "token_type_embeddings": encoder.segment_embedding,
    }
    for name, layer in tables.items():
        yield Rule(f"embeddings.{name}.weight", layer.embeddings)
    yield from _norm("embeddings.LayerNorm", encoder.embedding_normalization)
    for index, block in enumerate(encoder.blocks):
        yield from _block(f"encoder.layer.{index}", block)
    if encoder.pooler is not None:
        yield from _linear("pooler.dense", encoder.pooler.projection)


def _block(prefix: str, block: Any) -> Iterator[Rule]:
    attention, feed_forward = block.attention, block.feed_forward
    for name in ("query", "key", "value"):
        projection = getattr(attention, f"{name}_projection")
        yield from _linear(f"{prefix}.attention.self.{name}", projection)
    yield from _linear(
        f"{prefix}.attention.output.dense",
        attention.output_projection,
        layout=LINEAR_OF_HEADS,
    )
    norm = block.attention_residual.normalization
    yield from _norm(f"{prefix}.attention.output.LayerNorm", norm)
    yield from _linear(f"{prefix}.intermediate.dense", feed_forward.intermediate)
    yield from _linear(f"{prefix}.output.dense", feed_forward.output_projection)
    norm = block.feed_forward_residual.normalization
    yield from _norm(f"{prefix}.output.LayerNorm", norm)


def _linear(name: str, projection: Any, layout: Any = LINEAR) -> Iterator[Rule]:
    yield Rule(f"{name}.weight", projection.kernel, layout)
    yield Rule(f"{name}.bias", projection.bias, FLAT)


def _norm(name: str, layer: Any) -> Iterator[Rule]:
    yield Rule(f"{name}.weight", layer.gamma, SAME)
    yield Rule(f"{name}.bias", layer.beta, SAME)
