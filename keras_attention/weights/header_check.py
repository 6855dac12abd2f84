"""Compares a config.json with the header of its checkpoint before a model is built.

Otherwise a few bytes in a config.json could ask for a model of any size.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from keras_attention import untrusted


def compare(
    family: Any,
    config: Mapping[str, Any],
    names: Mapping[str, str],
    tensors: Mapping[str, Any],
    source: Any,
) -> None:
    """Refuses a config whose sizes are not those of the tensors.

    Only the tensors that a family's `header` names are compared, which limit the size
    of the model. After the model is built, `rules.load` compares all of them.

    Args:
        family: The family, whose `header` may be missing.
        config: The config, whose entries have been checked.
        names: The names that `families.without_prefix` returned.
        tensors: A dict of a name in the file to an object with `.shape`.
        source: The path of the checkpoint, for errors.
    """
    if not hasattr(family, "header"):
        return
    layers, shapes = family.header(config)
    for prefix, count in layers.items():
        _compare_layers(prefix, count, names, source)
    for name, shape in _of_all_layers(layers, shapes):
        if name not in names:
            raise _misfit("the model needs tensors that are missing", name, source)
        found = tuple(tensors[names[name]].shape)
        if found != shape:
            raise ValueError(
                f"Tensor '{name}' must have shape {shape} by the entries of "
                "config.json. Nothing was loaded; fetch all files again. "
                f"Received: shape {found} in {untrusted.clip(source)}"
            )


def _of_all_layers(
    layers: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, shape in shapes.items():
        prefix, is_of_layer, rest = name.partition("{}")
        for index in range(layers[prefix]) if is_of_layer else ("",):
            yield f"{prefix}{index}{rest}", shape


def _compare_layers(
    prefix: str, count: int, names: Mapping[str, str], source: Any
) -> None:
    pattern = re.compile(re.escape(prefix) + r"(0|[1-9][0-9]{0,8})[./]")
    found = {}
    for name in names:
        match = pattern.match(name)
        if match:
            found.setdefault(int(match[1]), name)
    unknown = [name for index, name in found.items() if index >= count]
    if unknown:
        what = "there are tensors for which this model has no variable"
        raise _misfit(what, min(unknown), source)
    if len(found) < count:
        missing = next(index for index in range(count) if index not in found)
        what = "the model needs tensors that are missing"
        raise _misfit(what, f"{prefix}{missing}", source)


def _misfit(what: str, name: str, source: Any) -> ValueError:
    return ValueError(
        f"The checkpoint does not fit config.json: {what}. Fetch all files again: the "
        "weights may be incomplete, or of another model. Nothing was loaded. "
        f"Received: {untrusted.clip(source)}, {untrusted.clip(name)}"
    )
