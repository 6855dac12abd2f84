"""What models of an encoder and a decoder share: their passes and their inputs."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_attention.models.inputs import standardize_ids
from keras_attention.ops.cache_static import EncoderDecoderCache
from keras_attention.ops.positions import positions_of_tokens

INPUTS = (
    "encoder_token_ids",
    "encoder_padding_mask",
    "decoder_token_ids",
    "decoder_padding_mask",
)


def inputs_of_both(encoder_token_ids: Any, *others: Any) -> list[Any]:
    """The four inputs, given one by one or in a dict.

    Args:
        encoder_token_ids: Int `[B, S]`, or a dict of the inputs by name.
        *others: The other three of `INPUTS`, `None` where not given.

    Returns:
        The inputs in the order of `INPUTS`, not checked yet.
    """
    if not isinstance(encoder_token_ids, dict):
        return [encoder_token_ids, *others]
    given = encoder_token_ids
    unknown = [name for name in given if name not in INPUTS]
    if unknown or "decoder_token_ids" not in given:
        raise ValueError(
            "The inputs of an encoder and a decoder are "
            f"{', '.join(INPUTS)}; `decoder_token_ids` must be there. "
            f"Received: {', '.join(given) or 'nothing'}"
        )
    listed = [None, *others]
    return [given.get(name, other) for name, other in zip(INPUTS, listed, strict=True)]


def encode_and_decode(
    model: Any, *inputs: Any, cache: Any, training: bool | None
) -> dict[str, Any]:
    """The `call` of a model with `encode` and `decode`: both, or one more step.

    Args:
        model: The model.
        *inputs: The four of `INPUTS`, one by one, or the first a dict of all.
        cache: Of its `empty_cache`, or of the last call; then only `decode` runs.
        training: Whether dropout is active.

    Returns:
        What `decode` returns; without a cache `encoder_sequence_output` too.
    """
    source, source_keep, target, keep = inputs_of_both(*inputs)
    if cache is not None:
        return model.decode(target, keep, cache=cache, training=training)
    encoded = model.encode(source, source_keep, training=training)
    decoded = model.decode(target, keep, encoded=encoded, training=training)
    sequence = encoded["encoder_sequence_output"]
    return {"encoder_sequence_output": sequence, **decoded}


def ids_and_mask(token_ids: Any, padding_mask: Any, side: str) -> tuple[Any, Any]:
    """Token ids and their mask, checked.

    Args:
        token_ids: Int `[B, T]`.
        padding_mask: Bool or 0 / 1 `[B, T]`, or `None`.
        side: `"encoder"` or `"decoder"`, for messages.
    """
    if token_ids is None:
        raise ValueError(
            f"The {side} needs token ids: pass `{side}_token_ids`. "
            f"Received: {side}_token_ids=None"
        )
    inputs = standardize_ids(token_ids, {"padding_mask": padding_mask})
    return inputs["token_ids"], inputs["padding_mask"]


def run_encoder(
    blocks: Sequence[Any], x: Any, *, keep: Any, training: bool | None
) -> Any:
    """`[B, S, E]` through encoder blocks.

    Args:
        blocks: `EncoderBlock`s.
        x: `[B, S, E]`.
        keep: Bool `[B, S]` or `None`.
        training: Whether dropout is active.
    """
    for block in blocks:
        x = block(x, padding_mask=keep, training=training)
    return x


def run_decoder(
    blocks: Sequence[Any],
    x: Any,
    *,
    encoder_sequence: Any,
    encoder_keep: Any,
    keep: Any,
    positions: Any,
    cache: Sequence[Any] | None,
    training: bool | None,
) -> tuple[Any, list[Any]]:
    """`[B, T, E]` through decoder blocks.

    Args:
        blocks: `DecoderBlock`s with cross-attention.
        x: `[B, T, E]`.
        encoder_sequence: `[B, S, E]`; not used with a cache.
        encoder_keep: Bool `[B, S]` or `None`; likewise.
        keep: Bool `[B, T]` or `None`.
        positions: Int `[B, T]`, -1 at padding.
        cache: One `EncoderDecoderCache` a block, or `None`.
        training: Whether dropout is active.

    Returns:
        `(x, new caches)`; the list is empty without a cache.
    """
    new = []
    for index, block in enumerate(blocks):
        past = None if cache is None else cache[index]
        source = encoder_sequence if past is None else None
        x = block(
            x,
            source,
            padding_mask=keep,
            encoder_padding_mask=encoder_keep if past is None else None,
            cache=past,
            positions=positions,
            training=training,
        )
        if past is not None:
            x, past = x
            new.append(past)
    return x, new


def caches_of(
    blocks: Sequence[Any], encoder_sequence: Any, keep: Any, kind: Any, settings: dict
) -> list[EncoderDecoderCache]:
    """One cache a block: no token decoded yet, the encoder's keys projected.

    Args:
        blocks: `DecoderBlock`s whose attentions are `MultiHeadAttention`s.
        encoder_sequence: `[B, S, E]`.
        keep: Bool `[B, S]` or `None`.
        kind: `KVCache`, `FixedKVCache` or `RollingKVCache`.
        settings: Of its `empty`.
    """
    batch = encoder_sequence.shape[0]
    caches = []
    for block in blocks:
        attention = block.attention
        heads = attention.num_key_value_heads
        past = kind.empty(
            batch_size=ops.shape(encoder_sequence)[0] if batch is None else batch,
            key_size=heads * attention.key_dim,
            value_size=heads * attention.value_dim,
            **{"dtype": block.compute_dtype, "num_heads": heads, **settings},
        )
        memory = block.cross_attention.remember(encoder_sequence, value_mask=keep)
        caches.append(EncoderDecoderCache(past, memory))
    return caches


def decoder_positions(token_ids: Any, keep: Any, cache: Any) -> Any:
    """Positions `[B, T]`, counted over real tokens only; -1 at padding.

    Args:
        token_ids: Int `[B, T]`.
        keep: Bool `[B, T]` or `None`.
        cache: One `EncoderDecoderCache` a block, or `None`.
    """
    if keep is None:
        keep = ops.ones_like(token_ids, dtype="bool")
    if cache is None:
        return positions_of_tokens(keep)
    return cache[0].next_positions(keep)
