"""What several models share: their config, the initializer, positions, checks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import keras
from keras import ops

from keras_attention.layers.states import (
    change_projections,
    changed_projections,
    freeze_parts,
    frozen_parts,
)
from keras_attention.ops import masks
from keras_attention.ops.backend.recompute import recomputed
from keras_attention.ops.positions import positions_in_documents, positions_of_tokens

T = TypeVar("T")


def base_config(model: keras.Model) -> dict:
    """Returns the part of a config that every Keras layer has, and the parts' states.

    Args:
        model: A model of this library.
    """
    config = keras.layers.Layer.get_config(model)
    frozen = frozen_parts(model) if model.trainable else ()
    states = {"frozen": frozen, "projections": changed_projections(model)}
    return {**config, **{name: state for name, state in states.items() if state}}


def from_base_config(kind: Callable[..., T], config: Mapping[str, Any]) -> T:
    """Makes a model of a config; what was frozen or quantised is so again.

    A constructor makes its layers anew, so that their `trainable`, quantisation and
    LoRA are in no other config than the model's.

    Args:
        kind: The class.
        config: A config with the entries of `base_config`.
    """
    arguments = dict(config)
    frozen = arguments.pop("frozen", ())
    projections = arguments.pop("projections", {})
    model: Any = kind(**arguments)
    change_projections(model, projections)
    if not arguments.get("trainable", True):
        # Its layers too, which Keras changes only where its own flag changes.
        model.trainable = True
        model.trainable = False
    freeze_parts(model, frozen)
    return model


def initializer() -> keras.initializers.Initializer:
    """Returns BERT's and GPT-2's initializer: a truncated normal, deviation 0.02."""
    return keras.initializers.TruncatedNormal(stddev=0.02)


def check_divisible(hidden_dim: int, num_heads: int) -> None:
    """Refuses a number of heads that does not divide the hidden size."""
    if hidden_dim % num_heads:
        raise ValueError(
            "`hidden_dim` must be a multiple of `num_heads`. Received: "
            f"hidden_dim={hidden_dim}, num_heads={num_heads}"
        )


def run_encoder(
    blocks: Sequence[Any],
    x: Any,
    *,
    padding_mask: Any,
    training: bool | None,
    attention_mask: Any = None,
    remat: bool = False,
) -> list[Any]:
    """Runs encoder blocks one after the other.

    Args:
        blocks: The `EncoderBlock`s.
        x: The token vectors `[B, S, E]`.
        padding_mask: Bool `[B, S]`, `True` at non-padding tokens, or `None`.
        training: Whether dropout is active.
        attention_mask: A mask of the blocks' attention, or `None`.
        remat: Whether the blocks are computed again in the backward pass.

    Returns:
        The vectors `[B, S, E]` before the first block and after each block.
    """
    states = [x]
    call = {"padding_mask": padding_mask, "training": training}
    if attention_mask is not None:
        call["attention_mask"] = attention_mask
    for block in blocks:
        states.append(run_block(block, states[-1], remat=remat, **call))
    return states


def run_block(block: Any, *args: Any, remat: bool, **kwargs: Any) -> Any:
    """Calls a block.

    Args:
        block: The block.
        *args: The arguments of its call.
        remat: Whether it is computed again in the backward pass, if `training`.
        **kwargs: Further arguments of its call.
    """
    if remat and kwargs.get("training"):
        return recomputed(block, *args, **kwargs)
    return block(*args, **kwargs)


def documents_mask(document_ids: Any) -> masks.Mask | None:
    """Returns the mask that hides other documents of a row; `None` without ids.

    Args:
        document_ids: Int `[B, T]`, the document that a token is of, or `None`.
    """
    return None if document_ids is None else masks.segments(document_ids)


def token_positions(
    token_ids: Any, padding_mask: Any, cache: Any = None, document_ids: Any = None
) -> Any:
    """Returns positions `[B, T]` that count only non-padding tokens; -1 at padding.

    Args:
        token_ids: Int `[B, T]`.
        padding_mask: Bool `[B, T]`, or `None` where no token is padding.
        cache: One cache per decoder block, whose tokens come before these, or `None`.
        document_ids: Int `[B, T]`, the document that a token is of: positions begin
            anew in each; `None` for one document per row.
    """
    if padding_mask is None:
        padding_mask = ops.ones_like(token_ids, dtype="bool")
    if document_ids is not None:
        if cache is not None:
            raise ValueError(
                "`document_ids` are for whole sequences, and a `cache` continues one "
                "document per row. Pass one of them. Received: both"
            )
        return positions_in_documents(document_ids, padding_mask)
    if cache is None:
        return positions_of_tokens(padding_mask)
    return cache[0].next_positions(padding_mask)


def table_rows(positions: Any) -> Any:
    """Returns the rows of a position table for positions that may be -1 at padding.

    The output at a padding token is never read, so that any row will do there.

    Args:
        positions: Int, any shape.
    """
    return ops.maximum(positions, 0)
