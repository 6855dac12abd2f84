"""Checkpoints of Marian's translators (OPUS-MT) in Hugging Face's format."""

from collections.abc import Collection, Iterator
from typing import Any

from keras_attention.models.seq2seq import Seq2SeqTransformer
from keras_attention.weights import bart_hf, configs
from keras_attention.weights.rules import Rule

MODEL_TYPES = ("marian",)
PREFIXES = bart_hf.PREFIXES
OUTSIDE = bart_hf.OUTSIDE
IGNORED = {
    **bart_hf.IGNORED,
    "encoder.embed_positions.weight": "sinusoids, which are computed",
    "decoder.embed_positions.weight": "sinusoids, which are computed",
}
COMPUTED = {
    "tie_word_embeddings": True,
    "share_encoder_decoder_embeddings": True,
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
    "static_position_embeddings": True,
}
# The arguments of Marian that are not in a config.
SHAPE = {
    "positions": "concatenated",
    "position_offset": 0,
    "norm": "post",
    "normalize_embedding": False,
}


header = bart_hf.shared_header


def writes(model: Seq2SeqTransformer) -> bool:
    """Whether the options are those of Marian."""
    sized = model.max_sequence_length is not None  # Marian's config has it
    return sized and all(getattr(model, k) == value for k, value in SHAPE.items())


def build(config: dict, names: Collection[str]) -> Seq2SeqTransformer:
    """Builds the model of a config.json, with a logits bias if the tensors have one."""
    configs.refuse_others(config, COMPUTED)
    size = config.get("vocab_size")
    configs.refuse_others(config, {"decoder_vocab_size": (size, None)})
    return Seq2SeqTransformer(
        **bart_hf.arguments(config, names), **SHAPE, name="marian"
    )


def config_of(model: Seq2SeqTransformer) -> dict[str, Any]:
    """Returns the config.json of a model, the inverse of `build`."""
    kind = "MTModel" if model.use_logits_bias else "Model"
    padding = model.vocabulary_size - 1  # Marian's converter puts it last
    return {
        "architectures": [f"Marian{kind}"],
        "model_type": "marian",
        "decoder_vocab_size": model.vocabulary_size,
        "pad_token_id": padding,
        "decoder_start_token_id": padding,
        "eos_token_id": 0,
        "forced_eos_token_id": 0,
        **bart_hf.entries_of(model),
    }


def rules(model: Seq2SeqTransformer) -> Iterator[Rule]:
    """Yields a rule for every tensor of the checkpoint and every variable."""
    return bart_hf.shared_rules(model)
