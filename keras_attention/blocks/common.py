"""Functions that all blocks share."""

from typing import Any

import keras


def build_once(layer: keras.layers.Layer, *shapes: Any) -> None:
    """Builds a layer unless it is built: users may pass layers that have weights."""
    if not layer.built:
        layer.build(*shapes)


def padding_mask_of(x: Any, padding_mask: Any) -> Any:
    """Returns the explicit mask, else the one that Keras carries on `x`, or `None`."""
    return getattr(x, "_keras_mask", None) if padding_mask is None else padding_mask


def with_layers(config: dict, *names: str) -> dict:
    """Returns a config in which the layers of these names are deserialized."""
    rebuild = keras.saving.deserialize_keras_object
    layers = {name: rebuild(config[name]) for name in names if config[name]}
    return {**config, **layers}
