"""The peer of whole encoders: KerasHub's BERT, with the weights of our encoder."""

from typing import Any

SHAPE_NAMES = ("vocabulary_size", "num_layers", "num_heads", "hidden_dim")
SHAPE_NAMES += ("intermediate_dim", "max_sequence_length")
# KerasHub's BERT always uses the tanh GELU, so ours does too.
BERT_BASE = dict(zip(SHAPE_NAMES, (30522, 12, 12, 768, 3072, 512), strict=True))
MINILM = dict(zip(SHAPE_NAMES, (30522, 6, 12, 384, 1536, 512), strict=True))


def pair(shape: dict[str, int]) -> tuple[Any, Any]:
    """Returns our encoder with random weights, and KerasHub's with the same ones."""
    import keras

    import keras_attention as ka

    keras.utils.set_random_seed(0)
    ours = ka.BertEncoder(**shape, activation="gelu_tanh")
    return ours, of(ours)


def of(ours: Any) -> Any:
    """Builds KerasHub's BertBackbone with the shape and weights of our encoder."""
    import keras_hub

    theirs = keras_hub.models.BertBackbone(
        **{name: getattr(ours, name) for name in SHAPE_NAMES}, dropout=ours.dropout
    )
    _copy(ours, theirs)
    return theirs


def _copy(ours, theirs):
    pairs = [
        (ours.token_embedding, theirs.token_embedding),
        (ours.segment_embedding, theirs.segment_embedding),
        (ours.position_embedding, theirs.position_embedding),
        (ours.embedding_normalization, theirs.embeddings_layer_norm),
        (ours.pooler, theirs.pooled_dense),
    ]
    for mine, other in zip(ours.blocks, theirs.transformer_layers, strict=True):
        attention = mine.attention
        peer = other._self_attention_layer
        pairs += [
            (attention.query_projection, peer.query_dense),
            (attention.key_projection, peer.key_dense),
            (attention.value_projection, peer.value_dense),
            (attention.output_projection, peer.output_dense),
            (mine.attention_residual, other._self_attention_layer_norm),
            (mine.feed_forward.intermediate, other._feedforward_intermediate_dense),
            (mine.feed_forward.output_projection, other._feedforward_output_dense),
            (mine.feed_forward_residual, other._feedforward_layer_norm),
        ]
    for mine, other in pairs:
        values = [weight.numpy() for weight in mine.trainable_weights]
        other.set_weights(values)


def inputs(batch: int, length: int, vocabulary_size: int) -> dict[str, Any]:
    """Draws random ids; the last quarter of every second row is padding."""
    import numpy as np

    ids = np.random.default_rng(0).integers(1000, vocabulary_size, (batch, length))
    padding_mask = np.ones((batch, length), bool)
    padding_mask[1::2, length * 3 // 4 :] = False
    return {
        "token_ids": ids.astype("int32"),
        "segment_ids": np.zeros((batch, length), "int32"),
        "padding_mask": padding_mask,
    }
