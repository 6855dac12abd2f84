"""Checkpoints of RoBERTa, XLM-R and CamemBERT: BERT's tensors, other positions."""

from collections.abc import Collection
from typing import Any

from keras_attention.models.bert import BertEncoder
from keras_attention.weights import bert_hf, configs

MODEL_TYPES = ("roberta", "xlm-roberta", "camembert")
PREFIXES = ("roberta.",)
IGNORED = bert_hf.IGNORED
ARGUMENTS = {
    theirs: ours
    for theirs, ours in bert_hf.ARGUMENTS.items()
    if ours != "max_sequence_length"
}

# The families have one structure, so the name of a model decides how it is written.
STEMS = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}

header = bert_hf.header
rules = bert_hf.rules


def writes(model: BertEncoder) -> bool:
    """Whether the encoder counts positions over non-padding tokens, as RoBERTa."""
    return model.position_offset is not None and model.num_segments > 0


def build(config: dict, names: Collection[str]) -> BertEncoder:
    """Builds the encoder of a config.json, with a pooler if the tensors have one."""
    configs.refuse_others(config, bert_hf.COMPUTED)
    configs.require(config, ("max_position_embeddings", "pad_token_id"))
    offset = config["pad_token_id"] + 1
    if not 0 < offset < config["max_position_embeddings"]:
        raise ValueError(
            "config.json must have a pad_token_id of at least 0 and a larger number of "
            "positions. Fetch the file again. Received: "
            f"pad_token_id={config['pad_token_id']}, "
            f"max_position_embeddings={config['max_position_embeddings']}"
        )
    return BertEncoder(
        **configs.take(config, ARGUMENTS),
        max_sequence_length=config["max_position_embeddings"] - offset,
        position_offset=offset,
        activation=configs.activation(config, "hidden_act"),
        pooler="pooler.dense.weight" in names,
        name=config["model_type"],
    )


def config_of(model: BertEncoder) -> dict[str, Any]:
    """Returns the config.json of an encoder, the inverse of `build`."""
    offset = model.position_offset or 0
    kind = model.name if model.name in STEMS else "roberta"
    return {
        **bert_hf.config_of(model),
        "architectures": [f"{STEMS[kind]}Model"],
        "model_type": kind,
        "max_position_embeddings": model.max_sequence_length + offset,
        "pad_token_id": offset - 1,
    }
