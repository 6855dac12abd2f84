"""What models of an encoder and a decoder share: their passes and their inputs."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_attention.models.inputs import standardize_ids
from keras_attention.ops.caches.growing import KVCache
from keras_attention.ops.caches.static import EncoderDecoderCache
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


class EncoderDecoder(keras.Model):
    """An encoder and a decoder, run together by a call or one after the other.

    A model defines `empty_cache`, `_encode` and `_decode`.
    """

    def call(
        self,
        encoder_token_ids=None,
        encoder_padding_mask=None,
        decoder_token_ids=None,
        decoder_padding_mask=None,
        *,
        cache=None,
        training=None,
    ):
        given = encoder_padding_mask, decoder_token_ids, decoder_padding_mask
        source, source_keep, target, keep = inputs_of_both(encoder_token_ids, *given)
        if cache is not None:
            return self.decode(target, keep, cache=cache, training=training)
        encoded = self.encode(source, source_keep, training=training)
        decoded = self.decode(target, keep, encoded=encoded, training=training)
        sequence = encoded["encoder_sequence_output"]
        return {"encoder_sequence_output": sequence, **decoded}

    def encode(
        self, token_ids: Any, padding_mask: Any = None, training: bool | None = None
    ) -> dict[str, Any]:
        """The encoder alone, once a source.

        Args:
            token_ids: Int `[B, S]`.
            padding_mask: Bool or 0 / 1 `[B, S]`, `True` at real tokens.
            training: Whether dropout is active.

        Returns:
            A dict for `empty_cache` and `decode`: `encoder_sequence_output`
            `[B, S, hidden_dim]`, `encoder_padding_mask` (bool, or `None`), and of a
            recurrent encoder `encoder_states`, the last ones of both directions.
        """
        token_ids, keep = ids_and_mask(token_ids, padding_mask, "encoder")
        found = self._encode(token_ids, keep, training)
        return {**found, "encoder_padding_mask": keep}

    def decode(
        self,
        token_ids: Any,
        padding_mask: Any = None,
        *,
        encoded: dict[str, Any] | None = None,
        cache: list[Any] | None = None,
        training: bool | None = None,
    ) -> dict[str, Any]:
        """The decoder alone: a whole target, a prompt, or one more token.

        Args:
            token_ids: Int `[B, T]`; with a cache only the new ones.
            padding_mask: Bool or 0 / 1 `[B, T]`, `True` at real tokens.
            encoded: What `encode` returned; not needed with a cache.
            cache: Of `empty_cache`, or of the last call.
            training: Whether dropout is active.

        Returns:
            A dict: `sequence_output` `[B, T, hidden_dim]`, `logits`
            `[B, T, vocabulary_size]` and, with a `cache`, the new `cache`.
        """
        token_ids, keep = ids_and_mask(token_ids, padding_mask, "decoder")
        if cache is None and encoded is None:
            raise ValueError(
                "The decoder needs what `encode` returned, or a `cache` of "
                "`empty_cache`. Received: encoded=None, cache=None"
            )
        x, new = self._decode(token_ids, keep, encoded, cache, training)
        outputs = {"sequence_output": x, "logits": self._logits(x)}
        return outputs if cache is None else {**outputs, "cache": new}

    def _encode(self, token_ids, keep, training):
        """A dict with `encoder_sequence_output` `[B, S, E]`."""
        raise NotImplementedError

    def _decode(self, token_ids, keep, encoded, cache, training):
        """`[B, T, E]`, and the new cache where there was one."""
        raise NotImplementedError

    def _logits(self, x):
        """`[B, T, V]`."""
        raise NotImplementedError


class EncoderDecoderOfBlocks(EncoderDecoder):
    """The same with `encoder_blocks` and `decoder_blocks` in a row.

    A model defines what stands before and after them: `_before(side, token_ids,
    positions, training)` and `_after(side, x, training)`, `[B, T, E]` both.
    """

    encoder_blocks: Sequence[Any]
    decoder_blocks: Sequence[Any]

    def empty_cache(
        self, encoded: dict[str, Any], kind: Any = KVCache, **settings: Any
    ) -> list[Any]:
        """One `EncoderDecoderCache` a decoder block, no token decoded yet.

        The encoder's keys and values are projected here, and in no step.

        Args:
            encoded: What `encode` returned.
            kind: `ka.KVCache`, `ka.FixedKVCache` or `ka.RollingKVCache`.
            **settings: Of its `empty`.
        """
        sequence = encoded["encoder_sequence_output"]
        keep = encoded["encoder_padding_mask"]
        return _caches_of(self.decoder_blocks, sequence, keep, kind, settings)

    def _encode(self, token_ids, keep, training):
        x = self._before("encoder", token_ids, None, training)
        x = run_encoder(self.encoder_blocks, x, keep=keep, training=training)
        return {"encoder_sequence_output": self._after("encoder", x, training)}

    def _decode(self, token_ids, keep, encoded, cache, training):
        positions = _decoder_positions(token_ids, keep, cache)
        rows = ops.maximum(positions, 0)  # -1 is padding: any row does for it
        x = self._before("decoder", token_ids, rows, training)
        new = []
        for index, block in enumerate(self.decoder_blocks):
            own = {"padding_mask": keep, "positions": positions, "training": training}
            if cache is not None:
                x, past = block(x, cache=cache[index], **own)
                new.append(past)
                continue
            sequence = encoded["encoder_sequence_output"]
            hidden = encoded["encoder_padding_mask"]
            x = block(x, sequence, encoder_padding_mask=hidden, **own)
        return self._after("decoder", x, training), new

    def _before(self, side, token_ids, positions, training):
        raise NotImplementedError

    def _after(self, side, x, training):
        raise NotImplementedError


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


def _caches_of(
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


def _decoder_positions(token_ids: Any, keep: Any, cache: Any) -> Any:
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
