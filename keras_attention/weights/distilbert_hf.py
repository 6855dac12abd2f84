"""DistilBERT's checkpoints in Hugging Face's format: config.json and tensor names."""

from collections.abc import Collection, Iterator
from typing import Any

from keras_attention.models.bert import BertEncoder
from keras_attention.weights import configs
from keras_attention.weights.parts_hf import attention, linear, norm
from keras_attention.weights.rules import Rule

MODEL_TYPES = ("distilbert",)
PREFIXES = ("distilbert.",)
IGNORED = {"embeddings.position_ids": "a buffer of 0, 1, 2, …"}
# config.json entry -> constructor argument.
ARGUMENTS = {
    "vocab_size": "vocabulary_size",
    "n_layers": "num_layers",
    "n_heads": "num_heads",
    "dim": "hidden_dim",
    "hidden_dim": "intermediate_dim",
    "max_position_embeddings": "max_sequence_length",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
}
EPSILON = 1e-12  # a constant of DistilBERT's code; no config has it


def writes(model: BertEncoder) -> bool:
    """Whether the encoder has no segments, as a DistilBERT."""
    return model.num_segments == 0


def build(config: dict, names: Collection[str]) -> BertEncoder:
    """Builds the encoder of a config.json."""
    # Sinusoidal positions are stored in the checkpoint as learned ones are.
    return BertEncoder(
        **configs.take(config, ARGUMENTS),
        num_segments=0,
        activation=configs.activation(config, "activation"),
        layer_norm_epsilon=EPSILON,
        pooler=False,
        name="distilbert",
    )


def header(config: dict) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Returns the numbers of layers, and the shapes that limit the model's size."""
    configs.require(config, ARGUMENTS)
    width, block = config["dim"], "transformer.layer.{}"
    positions = config["max_position_embeddings"]
    return {"transformer.layer.": config["n_layers"]}, {
        "embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "embeddings.position_embeddings.weight": (positions, width),
        f"{block}.attention.q_lin.weight": (width, width),
        f"{block}.ffn.lin1.weight": (config["hidden_dim"], width),
    }


def config_of(model: BertEncoder) -> dict[str, Any]:
    """Returns the config.json of an encoder, the inverse of `build`."""
    ours = model.get_config()
    wanted = {"layer_norm_epsilon": EPSILON, "pooler": False, "position_offset": None}
    for name, value in wanted.items():
        if ours[name] != value:
            raise ValueError(
                "An encoder without segments is written as a DistilBERT, and that has "
                f"{name}={value}. Received: {name}={ours[name]}"
            )
    if model.attention_dropout is None:
        ours["attention_dropout"] = model.dropout
    return {
        "architectures": ["DistilBertModel"],
        "model_type": "distilbert",
        "activation": configs.activation_name(model.activation),
        **{theirs: ours[name] for theirs, name in ARGUMENTS.items()},
    }


def rules(model: BertEncoder) -> Iterator[Rule]:
    """Yields a rule for every tensor of the checkpoint and every variable."""
    yield Rule("embeddings.word_embeddings.weight", model.token_embedding.embeddings)
    table = model.position_embedding.embeddings
    yield Rule("embeddings.position_embeddings.weight", table)
    yield from norm("embeddings.LayerNorm", model.embedding_normalization)
    for index, block in enumerate(model.blocks):
        yield from _block(f"transformer.layer.{index}", block)


def _block(prefix: str, block: Any) -> Iterator[Rule]:
    yield from attention(
        block.attention,
        query=f"{prefix}.attention.q_lin",
        key=f"{prefix}.attention.k_lin",
        value=f"{prefix}.attention.v_lin",
        output=f"{prefix}.attention.out_lin",
    )
    yield from norm(f"{prefix}.sa_layer_norm", block.attention_residual.normalization)
    yield from linear(f"{prefix}.ffn.lin1", block.feed_forward.intermediate)
    yield from linear(f"{prefix}.ffn.lin2", block.feed_forward.output_projection)
    after = block.feed_forward_residual.normalization
    yield from norm(f"{prefix}.output_layer_norm", after)
