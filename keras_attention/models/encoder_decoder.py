"""What all models of an encoder and a decoder share: their passes and inputs."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_attention.models.common import (
    from_base_config,
    run_block,
    run_encoder,
    table_rows,
    token_positions,
)
from keras_attention.models.inputs import standardize_ids
from keras_attention.ops.backend.replicas import ReplicaTraining
from keras_attention.ops.caches.growing import KVCache
from keras_attention.ops.caches.static import EncoderDecoderCache

INPUTS = (
    "encoder_token_ids",
    "encoder_padding_mask",
    "decoder_token_ids",
    "decoder_padding_mask",
)


def inputs_of_both(encoder_token_ids: Any, *others: Any) -> list[Any]:
    """Returns the four inputs, which are passed one by one or in a dict.

    Args:
        encoder_token_ids: Int `[B, S]`, or a dict of the inputs by name.
        *others: The other three of `INPUTS`, `None` where omitted.

    Returns:
        The inputs in the order of `INPUTS`. They are not checked.
    """
    if not isinstance(encoder_token_ids, dict):
        return [encoder_token_ids, *others]
    given = encoder_token_ids
    unknown = [name for name in given if name not in INPUTS]
    if unknown or "decoder_token_ids" not in given:
        raise ValueError(
            "The inputs of an encoder and a decoder are "
            f"{', '.join(INPUTS)}; `decoder_token_ids` must be among them. "
            f"Received: {', '.join(given) or 'nothing'}"
        )
    listed = [None, *others]
    return [given.get(name, other) for name, other in zip(INPUTS, listed, strict=True)]


class EncoderDecoder(ReplicaTraining, keras.Model):
    """The base of models with an encoder and a decoder.

    A call runs both; `encode` and `decode` run one each. A subclass defines
    `empty_cache`, `_encode`, `_decode` and `_logits`.
    """

    def call(
        self,
        encoder_token_ids=None,
        encoder_padding_mask=None,
        decoder_token_ids=None,
        decoder_padding_mask=None,
        *,
        cache=None,
        return_hidden_states=False,
        training=None,
    ):
        given = encoder_padding_mask, decoder_token_ids, decoder_padding_mask
        source, source_mask, target, mask = inputs_of_both(encoder_token_ids, *given)
        how = {"return_hidden_states": return_hidden_states, "training": training}
        if cache is not None:
            return self.decode(target, mask, cache=cache, **how)
        encoded = self.encode(source, source_mask, **how)
        decoded = self.decode(target, mask, encoded=encoded, **how)
        names = ("encoder_sequence_output", "encoder_hidden_states")
        return {name: encoded[name] for name in names if name in encoded} | decoded

    def encode(
        self,
        token_ids: Any,
        padding_mask: Any = None,
        training: bool | None = None,
        *,
        return_hidden_states: bool = False,
    ) -> dict[str, Any]:
        """Runs the encoder alone; once per source is enough.

        Args:
            token_ids: Int `[B, S]`.
            padding_mask: Bool or 0 / 1 `[B, S]`, `True` at non-padding tokens.
            training: Whether dropout is active.
            return_hidden_states: Whether `encoder_hidden_states` are returned too.

        Returns:
            A dict for `empty_cache` and `decode`: `encoder_sequence_output`
            `[B, S, hidden_dim]` and `encoder_padding_mask` (bool, or `None`). A
            recurrent encoder also returns `encoder_states`, the last states of both
            directions. `encoder_hidden_states` is a tuple of the vectors `[B, S, E]`
            before the first layer and after each layer; the last one is the
            `encoder_sequence_output`.
        """
        token_ids, padding_mask = ids_and_mask(token_ids, padding_mask, "encoder")
        outputs, states = self._encode(token_ids, padding_mask, training)
        outputs["encoder_padding_mask"] = padding_mask
        if return_hidden_states:
            states = *states, outputs["encoder_sequence_output"]
            outputs["encoder_hidden_states"] = states
        return outputs

    def decode(
        self,
        token_ids: Any,
        padding_mask: Any = None,
        *,
        encoded: dict[str, Any] | None = None,
        cache: list[Any] | None = None,
        training: bool | None = None,
        return_hidden_states: bool = False,
    ) -> dict[str, Any]:
        """Runs the decoder alone: on a whole target, a prompt, or one more token.

        Args:
            token_ids: Int `[B, T]`; with a cache only the new tokens.
            padding_mask: Bool or 0 / 1 `[B, T]`, `True` at non-padding tokens.
            encoded: What `encode` returned; not needed with a cache.
            cache: The cache that `empty_cache` or the last call returned.
            training: Whether dropout is active.
            return_hidden_states: Whether `decoder_hidden_states` are returned too.

        Returns:
            A dict: `sequence_output` `[B, T, hidden_dim]`, `logits`
            `[B, T, vocabulary_size]` and, if a `cache` was passed, the new `cache`.
            `decoder_hidden_states` is a tuple of the vectors `[B, T, E]` before the
            first layer and after each layer; the last one is the `sequence_output`.
        """
        token_ids, padding_mask = ids_and_mask(token_ids, padding_mask, "decoder")
        if cache is None and encoded is None:
            raise ValueError(
                "The decoder needs `encoded`, which `encode` returns, or a `cache`, "
                "which `empty_cache` returns. Received: encoded=None, cache=None"
            )
        *states, x, new = self._decode(
            token_ids, padding_mask, encoded, cache, training
        )
        outputs = {"sequence_output": x, "logits": self._logits(x)}
        if return_hidden_states:
            outputs["decoder_hidden_states"] = (*states, x)
        return outputs if cache is None else {**outputs, "cache": new}

    @classmethod
    def from_config(cls, config):
        return from_base_config(cls, config)

    def _encode(self, token_ids, padding_mask, training):
        """Returns a dict with `encoder_sequence_output` `[B, S, E]`, and a list.

        The list has the vectors before the first layer and after all but the last.
        """
        raise NotImplementedError

    def _decode(self, token_ids, padding_mask, encoded, cache, training):
        """Returns the vectors `[B, T, E]` before the first layer and after each.

        After them comes the new cache, or what is not used if there was none.
        """
        raise NotImplementedError

    def _logits(self, x):
        """Returns the logits `[B, T, V]` of a sequence `[B, T, E]`."""
        raise NotImplementedError


class EncoderDecoderOfBlocks(EncoderDecoder):
    """The base of models made of `encoder_blocks` and `decoder_blocks`.

    A subclass defines what comes before the blocks, `_before(side, token_ids,
    positions, training)`, and after them, `_after(side, x, training)`. Both return
    `[B, T, E]`.
    """

    remat: bool
    encoder_blocks: Sequence[Any]
    decoder_blocks: Sequence[Any]

    def empty_cache(
        self, encoded: dict[str, Any], kind: Any = KVCache, **settings: Any
    ) -> list[Any]:
        """Returns one `EncoderDecoderCache` per decoder block, without a token.

        The encoder's keys and values are projected here once, and not in each step.

        Args:
            encoded: The dict that `encode` returned.
            kind: The class of the caches: `ka.KVCache`, `ka.FixedKVCache` or
                `ka.RollingKVCache`.
            **settings: The arguments of its `empty`.
        """
        sequence = encoded["encoder_sequence_output"]
        mask = encoded["encoder_padding_mask"]
        return _caches_of(self.decoder_blocks, sequence, mask, kind, settings)

    def _encode(self, token_ids, padding_mask, training):
        x = self._before("encoder", token_ids, None, training)
        blocks = self.encoder_blocks
        *states, x = run_encoder(
            blocks,
            x,
            padding_mask=padding_mask,
            training=training,
            remat=self.remat,
        )
        return {"encoder_sequence_output": self._after("encoder", x, training)}, states

    def _decode(self, token_ids, padding_mask, encoded, cache, training):
        positions = token_positions(token_ids, padding_mask, cache)
        x = self._before("decoder", token_ids, table_rows(positions), training)
        states, new = [], []
        for index, block in enumerate(self.decoder_blocks):
            states.append(x)
            own = {
                "padding_mask": padding_mask,
                "positions": positions,
                "training": training,
            }
            if cache is not None:
                x, past = block(x, cache=cache[index], **own)
                new.append(past)
                continue
            sequence = encoded["encoder_sequence_output"]
            mask = encoded["encoder_padding_mask"]
            own |= {"encoder_padding_mask": mask, "remat": self.remat}
            x = run_block(block, x, sequence, **own)
        return *states, self._after("decoder", x, training), new

    def _before(self, side, token_ids, positions, training):
        raise NotImplementedError

    def _after(self, side, x, training):
        raise NotImplementedError


def ids_and_mask(token_ids: Any, padding_mask: Any, side: str) -> tuple[Any, Any]:
    """Checks and returns token ids and their mask.

    Args:
        token_ids: Int `[B, T]`.
        padding_mask: Bool or 0 / 1 `[B, T]`, or `None`.
        side: `"encoder"` or `"decoder"`, for error messages.
    """
    if token_ids is None:
        raise ValueError(
            f"The {side} needs token ids: pass `{side}_token_ids`. "
            f"Received: {side}_token_ids=None"
        )
    inputs = standardize_ids(token_ids, {"padding_mask": padding_mask})
    return inputs["token_ids"], inputs["padding_mask"]


def _caches_of(
    blocks: Sequence[Any],
    encoder_sequence: Any,
    padding_mask: Any,
    kind: Any,
    settings: dict,
) -> list[EncoderDecoderCache]:
    """Returns one cache per block, with the encoder's keys and without a token.

    Args:
        blocks: `DecoderBlock`s whose attentions are `MultiHeadAttention`s.
        encoder_sequence: The encoder's output `[B, S, E]`.
        padding_mask: The encoder's mask, bool `[B, S]`, or `None`.
        kind: `KVCache`, `FixedKVCache` or `RollingKVCache`.
        settings: The arguments of its `empty`.
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
        memory = block.cross_attention.remember(
            encoder_sequence, value_mask=padding_mask
        )
        caches.append(EncoderDecoderCache(past, memory))
    return caches
