"""The state of a model's parts that its constructor does not know.

A constructor makes its layers anew. Which of them are frozen, quantised or have LoRA
is stored in the model's config, by the places of the layers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_attention.layers.projection import Projection


def frozen_parts(model: Any) -> list[str]:
    """Returns the places of the frozen layers, and of frozen variables of others.

    Args:
        model: A model.
    """
    frozen = []
    for place, part in _places(model, skip_frozen=True):
        if not part.trainable:
            frozen.append(place)
        elif not getattr(part, "lora_enabled", False):  # Keras' own LoRA is merged
            frozen += [f"{place}/{name}" for name, v in _own(part) if not v.trainable]
    return frozen


def freeze_parts(model: Any, frozen: Sequence[str]) -> None:
    """Freezes what `frozen_parts` listed.

    Args:
        model: A model whose layers are built.
        frozen: The places.
    """
    wanted = set(frozen)
    for place, part in [*_places(model)] if wanted else ():
        if place in wanted:
            part.trainable = False
        for name, variable in _own(part):
            if f"{place}/{name}" in wanted:
                variable.trainable = False


def changed_projections(model: Any) -> dict[str, dict[str, Any]]:
    """Returns how projections differ from new ones, by their places.

    Args:
        model: A model.
    """
    changed = {}
    for place, part in _places(model):
        if isinstance(part, Projection):
            state: dict[str, Any] = {}
            if part.quantization_mode:
                config = part.quantization_config
                config = keras.saving.serialize_keras_object(config)
                state["quantization"] = [part.quantization_mode, config]
            if part.lora is not None:
                state["lora"] = part.lora.settings()
            if state:
                changed[place] = state
    return changed


def change_projections(model: Any, changed: Mapping[str, Mapping[str, Any]]) -> None:
    """Makes projections what `changed_projections` described.

    Args:
        model: A model whose layers are built.
        changed: The states by the places of the projections.
    """
    for place, part in [*_places(model)] if changed else ():
        if place not in changed or not isinstance(part, Projection):
            continue
        state = changed[place]
        if "quantization" in state and part.quantization_mode is None:
            mode, config = state["quantization"]
            config = keras.saving.deserialize_keras_object(config)
            part.quantize(mode, config=config)
        if "lora" in state and part.lora is None:
            part.add_lora(**state["lora"])


def backbone_of(model: Any) -> Any:
    """Returns the backbone of a task, and any other model itself.

    Args:
        model: A task or another model.
    """
    for name in ("backbone", "encoder"):
        if isinstance(part := getattr(model, name, None), keras.Model):
            return part
    return model


def projections(model: Any) -> Iterator[Projection]:
    """Yields the projections of a model.

    Args:
        model: A model whose layers are built.
    """
    for part in model._flatten_layers():
        if isinstance(part, Projection):
            yield part


def freeze_all_but(layer: Any, kept: Sequence[Projection]) -> None:
    """Freezes what is not in one of some projections.

    Args:
        layer: A layer or a model.
        kept: The projections, which have frozen their own weights.
    """
    inside = {id(part) for part in layer._flatten_layers()}
    if not any(id(part) in inside for part in kept):
        layer.trainable = False
    elif layer not in kept:
        for variable in layer._trainable_variables:
            variable.trainable = False
        for part in layer._flatten_layers(include_self=False, recursive=False):
            freeze_all_but(part, kept)


def _own(part: Any) -> list[tuple[str, Any]]:
    return [(variable.name, variable) for variable in part._trainable_variables]


def _places(
    layer: Any, path: str = "", *, skip_frozen: bool = False
) -> Iterator[tuple[str, Any]]:
    """Yields the place and the layer of all parts that have variables.

    A place names a part by its class and its number among those of its class, after the
    place of what it is in: names that Keras gives differ from one model to the next.
    The model itself has the place `"."`.

    Args:
        layer: The layer.
        path: The place of the layer, which ends in a slash.
        skip_frozen: Whether to leave out what is inside a frozen part.
    """
    if not path:
        yield ".", layer
    counts: dict[str, int] = {}
    for part in layer._flatten_layers(include_self=False, recursive=False):
        name = type(part).__name__
        number = counts.get(name, 0)
        counts[name] = number + 1
        if part.variables:
            place = f"{path}{name}:{number}"
            yield place, part
            if part.trainable or not skip_frozen:
                yield from _places(part, f"{place}/", skip_frozen=skip_frozen)
