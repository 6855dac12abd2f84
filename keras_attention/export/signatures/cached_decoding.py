"""Signatures for callers with their own loop: one model call, the cache as tensors.

`prefill` and `decode_step` are for SavedModels. `decoder` is for ONNX: one file that
does both, with the tensor names of Hugging Face's Optimum, which other runtimes know.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_attention.export.signatures.signature import Signature, TensorInfo
from keras_attention.models.gpt import GPTDecoder
from keras_attention.ops.backend.regions import region
from keras_attention.ops.caches.base import Cache, CacheView
from keras_attention.ops.caches.growing import KVCache
from keras_attention.ops.positions import EMPTY, first_positions, positions_of_tokens

_IDS = {
    "token_ids": TensorInfo("int32", ("batch", "sequence")),
    "padding_mask": TensorInfo("bool", ("batch", "sequence")),
}


def step_signatures(decoder: GPTDecoder) -> list[Signature]:
    """Returns `prefill` and `decode_step`: logits after the last token of each row.

    The inputs hold the cache: `past_positions` `[B, P]` (-1 in empty slots),
    `past_key_0` and `past_value_0` `[B, P, K * H]`, and so on for each layer. The
    outputs `present_…` hold the cache with the new tokens. Padding may be on either
    side.

    Args:
        decoder: The decoder; it must have a head.
    """
    past = _plain_cache(decoder, "past", "past")
    logits = {"logits": TensorInfo("float32", ("batch", decoder.vocabulary_size))}
    limits = {"token_ids": decoder.vocabulary_size}
    longest = {"sequence": decoder.max_sequence_length}
    learned = decoder.position_embedding is not None
    common: dict[str, Any] = {"limits": limits, "formats": ("saved_model",)}

    def step(token_ids, padding_mask, **past):
        caches = [
            KVCache(past[f"past_key_{i}"], past[f"past_value_{i}"], positions)
            for i in range(decoder.num_layers)
            for positions in [past["past_positions"]]
        ]
        return run(token_ids, padding_mask, caches)

    def prefill(token_ids, padding_mask):
        caches = decoder.empty_cache(ops.shape(token_ids)[0])
        return run(token_ids, padding_mask, caches)

    def run(token_ids, padding_mask, caches):
        caches = [_cast(cache, decoder.compute_dtype) for cache in caches]
        outputs = decoder(token_ids, padding_mask=padding_mask, cache=caches)
        logits = {"logits": _after_last(outputs["logits"], padding_mask)}
        return logits | _as_tensors(outputs["cache"], "present")

    return [
        Signature(
            "prefill",
            prefill,
            dict(_IDS),
            logits | _plain_cache(decoder, "present", "sequence"),
            max_lengths=longest if learned else {},
            examples=lambda: _prefill_examples(decoder),
            **common,
        ),
        Signature(
            "decode_step",
            step,
            _IDS | past,
            logits | _plain_cache(decoder, "present", "total"),
            examples=lambda: _step_examples(decoder),
            **common,
        ),
    ]


def _prefill_examples(decoder: GPTDecoder) -> Iterator[tuple]:
    for name, (ids, padding_mask, past_length) in decoding_cases(decoder):
        if past_length == 0 or "past" in name.rpartition(",")[2]:
            inputs = {"token_ids": ids, "padding_mask": padding_mask}
            yield name.replace(f", {past_length} past", ""), inputs, None


def _step_examples(decoder: GPTDecoder) -> Iterator[tuple]:
    for name, (ids, padding_mask, past_length) in decoding_cases(decoder):
        caches = decoder.empty_cache(len(ids))
        if past_length:
            before = ids[:, :past_length], padding_mask[:, :past_length]
            caches = decoder(*before, cache=caches)["cache"]
        past = {k: np.array(v) for k, v in _as_tensors(caches, "past").items()}
        new = {
            "token_ids": ids[:, past_length:],
            "padding_mask": padding_mask[:, past_length:],
        }
        yield name, new | past, None


def _plain_cache(decoder, prefix, axis):
    size = decoder.num_key_value_heads * decoder.key_dim
    infos = {f"{prefix}_positions": TensorInfo("int32", ("batch", axis))}
    for index in range(decoder.num_layers):
        for part in ("key", "value"):
            info = TensorInfo("float32", ("batch", axis, size))
            infos[f"{prefix}_{part}_{index}"] = info
    return infos


def _as_tensors(caches, prefix):
    tensors = {f"{prefix}_positions": caches[0].positions}
    for index, cache in enumerate(caches):
        tensors[f"{prefix}_key_{index}"] = ops.cast(cache.key, "float32")
        tensors[f"{prefix}_value_{index}"] = ops.cast(cache.value, "float32")
    return tensors


def _cast(cache, dtype):
    key, value = ops.cast(cache.key, dtype), ops.cast(cache.value, dtype)
    return cache._replace(key=key, value=value)


def _after_last(logits, padding_mask):
    """`[B, T, V]` at the last non-padding token of each row: `[B, V]`, float32."""
    columns = first_positions(ops.shape(padding_mask)[1])
    columns = ops.where(padding_mask, columns, 0)
    last = ops.max(columns, axis=-1)[:, None, None]
    return ops.cast(ops.take_along_axis(logits, last, axis=1)[:, 0], "float32")


class _Fields(NamedTuple):
    key: Any
    value: Any
    positions: Any
    new_positions: Any


class HeadsCache(Cache, _Fields):
    """A cache that has an axis for heads, and positions that the caller passes.

    Attributes:
        key: The keys, `[B, K, P, H]`.
        value: The values, `[B, K, P, V]`.
        positions: The keys' positions, int32 `[B, P]`; -1 in empty slots.
        new_positions: The positions of the next tokens, int32 `[B, T]`.
    """

    __slots__ = ()

    def next_positions(self, keep):
        return ops.where(keep, self.new_positions, EMPTY)

    def extend(self, *, key, value, positions, query_positions):
        keys, all_keys = region("cache_append", _append, self.key, key)
        values, all_values = region("cache_append", _append, self.value, value)
        positions = ops.concatenate([self.positions, positions], axis=1)
        cache = HeadsCache(all_keys, all_values, positions, self.new_positions)
        return CacheView(keys, values, positions, query_positions), cache


def _append(past, new):
    """Appends new keys or values `[B, T, K * H]` to past ones `[B, K, P, H]`.

    Returns:
        All of them, with heads side by side, `[B, P + T, K * H]`, and on an axis of
        their own, `[B, K, P + T, H]`.
    """
    batch, length = ops.shape(new)[:2]
    heads = ops.reshape(new, (batch, length, past.shape[1], past.shape[3]))
    heads = ops.concatenate([past, ops.transpose(heads, (0, 2, 1, 3))], axis=2)
    total = ops.shape(heads)[2]
    side_by_side = ops.transpose(heads, (0, 2, 1, 3))
    return ops.reshape(side_by_side, (batch, total, new.shape[2])), heads


def decoder_signature(decoder: GPTDecoder) -> Signature:
    """Returns `decoder`: prefill and step in one signature, with Optimum's names.

    `input_ids` and `position_ids` are `[B, T]`, `attention_mask` is `[B, P + T]` (1 at
    non-padding tokens), `past_key_values.0.key` is `[B, K, P, H]` with P >= 0, and so
    on; `logits` are `[B, T, V]`, `present.0.key` is `[B, K, P + T, H]`. Padding may be
    anywhere; positions must increase by one from each non-padding token to the next.

    Args:
        decoder: The decoder; it must have a head.
    """
    layers = range(decoder.num_layers)
    kinds = [(index, part) for index in layers for part in ("key", "value")]

    def heads(axis):
        sizes = (decoder.num_key_value_heads, axis, decoder.key_dim)
        return TensorInfo("float32", ("batch", *sizes))

    inputs = {
        "input_ids": TensorInfo("int64", ("batch", "sequence")),
        "attention_mask": TensorInfo("int64", ("batch", "total")),
        "position_ids": TensorInfo("int64", ("batch", "sequence")),
        **{f"past_key_values.{i}.{part}": heads("past") for i, part in kinds},
    }
    size = decoder.vocabulary_size
    outputs = {
        "logits": TensorInfo("float32", ("batch", "sequence", size)),
        **{f"present.{i}.{part}": heads("total") for i, part in kinds},
    }

    def step(input_ids, attention_mask, position_ids, **past):
        mask = ops.cast(attention_mask, "bool")
        new_positions = ops.cast(position_ids, "int32")
        past_length = ops.shape(past["past_key_values.0.key"])[2]
        past_mask, new_mask = mask[:, :past_length], mask[:, past_length:]
        positions = _positions_of_past(past_mask, new_mask, new_positions)
        caches = []
        for index in layers:
            key, value = (
                past[f"past_key_values.{index}.{p}"] for p in ("key", "value")
            )
            caches.append(HeadsCache(key, value, positions, new_positions))
        caches = [_cast(cache, decoder.compute_dtype) for cache in caches]
        ids = ops.cast(input_ids, "int32")
        outputs = decoder(ids, padding_mask=new_mask, cache=caches)
        returned = {"logits": ops.cast(outputs["logits"], "float32")}
        for index, cache in enumerate(outputs["cache"]):
            returned[f"present.{index}.key"] = ops.cast(cache.key, "float32")
            returned[f"present.{index}.value"] = ops.cast(cache.value, "float32")
        return returned

    limits = {"input_ids": decoder.vocabulary_size}
    if decoder.position_embedding is not None:
        limits["position_ids"] = decoder.max_sequence_length
    return Signature(
        "decoder",
        step,
        inputs,
        outputs,
        limits=limits,
        formats=("onnx",),
        examples=lambda: _decoder_examples(decoder, step),
    )


def _positions_of_past(past_mask, new_mask, new_positions):
    """The positions of the past tokens, counted back from the first new token."""
    first = ops.where(new_mask, new_positions, np.int32(2**30))
    first = ops.pad(first, [[0, 0], [0, 1]], constant_values=2**30)
    first = ops.min(first, axis=-1, keepdims=True)  # [B, 1]
    ranks = positions_of_tokens(past_mask)
    counts = ops.sum(ops.cast(past_mask, "int32"), axis=-1, keepdims=True)
    return ops.where(past_mask, ops.maximum(first - counts + ranks, 0), EMPTY)


def _decoder_examples(decoder: GPTDecoder, step: Callable) -> Iterator[tuple]:
    sizes = (decoder.num_key_value_heads, 0, decoder.key_dim)
    for name, (ids, mask, past_length) in decoding_cases(decoder):
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        past = {
            f"past_key_values.{index}.{part}": np.zeros((len(ids), *sizes), "float32")
            for index in range(decoder.num_layers)
            for part in ("key", "value")
        }
        if past_length:
            before = (x[:, :past_length] for x in (ids, mask, positions))
            first = step(*before, **past)
            past = {
                name.replace("present", "past_key_values"): ops.convert_to_numpy(x)
                for name, x in first.items()
                if name != "logits"
            }
        inputs = {
            "input_ids": ids[:, past_length:].astype("int64"),
            "attention_mask": mask.astype("int64"),
            "position_ids": positions[:, past_length:].astype("int64"),
        }
        yield name, inputs | past, None


def decoding_cases(decoder: GPTDecoder) -> Iterator[tuple[str, tuple[Any, Any, int]]]:
    """Yields the cases on which signatures with a cache are verified.

    They combine batch sizes, numbers of new and of past tokens, and kinds of padding.

    Args:
        decoder: The decoder.

    Yields:
        `(name, (ids, padding_mask, past_length))`: ids and mask `[B, P + T]` of past
        and new tokens together, and P.
    """
    rng = np.random.default_rng(0)
    longest = decoder.max_sequence_length
    sides = ("no", "left", "past", "new", "whole row")
    for batch in (1, 3):
        for new, past in ((1, 0), (7, 0), (1, 1), (1, 9), (5, 4)):
            for padding in sides if batch > 1 else ("no", "whole row"):
                total = past + new
                if total > longest or (padding == "past" and past < 2):
                    continue
                shape = (batch, total)
                whole = padding == "whole row"
                ids = rng.integers(0, decoder.vocabulary_size, shape).astype("int32")
                mask = np.ones(shape, bool)
                mask[:1] = not whole
                for row in range(batch):
                    lost = (row + 1) * total // 4
                    if padding == "left":
                        mask[row, : min(lost, total - 1)] = False
                    elif padding == "past":  # a shorter prompt, padded on the right
                        mask[row, past - min(lost, past - 1) : past] = False
                    elif padding == "new":
                        mask[row, past + max(new - lost, 0) :] = False
                name = f"batch {batch}, {new} new, {past} past, {padding} padding"
                yield name, (ids, mask, past)
