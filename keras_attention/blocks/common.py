"""Functions that all blocks share."""

from typing import Any

import keras

from keras_attention.ops.backend.shapes import refuse_ragged


def build_once(layer: keras.layers.Layer, *shapes: Any) -> None:
    """Builds a layer unless it is built: users may pass layers that have weights.

    A layer that has no `build` of its own is built by its first call.
    """
    if not layer.built and type(layer).build is not keras.layers.Layer.build:
        layer.build(*shapes)


def padding_mask_of(x: Any, padding_mask: Any) -> Any:
    """Returns the explicit mask, else the one that Keras carries on `x`, or `None`."""
    refuse_ragged(x=x)
    return getattr(x, "_keras_mask", None) if padding_mask is None else padding_mask


def attend(
    attention: keras.layers.Layer, return_attention_scores: bool, **call: Any
) -> tuple:
    """Calls an attention layer; returns its results as a tuple, the output first.

    Args:
        attention: The layer. It needs an argument `return_attention_scores` only if
            the weights are asked for.
        return_attention_scores: Whether the weights are returned too, as the second.
        **call: The other arguments of the call.
    """
    if return_attention_scores:
        call["return_attention_scores"] = True
    results = attention(**call)
    return results if isinstance(results, tuple) else (results,)


def with_layers(config: dict, *names: str) -> dict:
    """Returns a config in which the layers of these names are deserialized."""
    rebuild = keras.saving.deserialize_keras_object
    layers = {name: rebuild(config[name]) for name in names if config[name]}
    return {**config, **layers}
