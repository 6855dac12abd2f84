"""Reads the sections of a `tokenizer.json`: what is not computed is refused by name."""

from collections.abc import Mapping
from typing import Any

from keras_attention.text.json_files import refuse


def kind(section: Any, where: str) -> str:
    """Returns the type of a component.

    Args:
        section: The component.
        where: The name of its place, such as `"normalizer"`, for the error.
    """
    found = section.get("type") if isinstance(section, Mapping) else None
    if not isinstance(found, str):
        refuse(f"the {where}", "an object with a type", section)
    return found


def entries(section: Mapping[str, Any], **defaults: Any) -> list[Any]:
    """Returns the entries of a component, in the order of the defaults.

    Each has its default's type; any other entry is refused.
    """
    name = section["type"]
    for key in section:
        if key != "type" and key not in defaults:
            refuse(f"{key!r} of {name}", f"{', '.join(defaults) or 'none'}", section)
    found = [section.get(key, default) for key, default in defaults.items()]
    for (key, default), value in zip(defaults.items(), found, strict=True):
        right = default is None or isinstance(value, type(default))
        if not right or isinstance(value, bool) != isinstance(default, bool):
            wanted = type(default).__name__
            if default is not None:
                refuse(f"{key!r} of {name}", f"of the type {wanted}", value)
    return found


def steps(section: Any, name: str) -> list[Any]:
    """Returns the components of a section, which may be a `Sequence` of them.

    Args:
        section: The section, or `None`.
        name: The entry of a `Sequence` that lists its components.
    """
    if section is None:
        return []
    if kind(section, name) != "Sequence":
        return [section]
    inner = section.get(name)
    if not isinstance(inner, list) or set(section) != {"type", name}:
        refuse(f"a Sequence of {name}", "a list of components", section)
    return [step for one in inner for step in steps(one, name)]


def one_of(section: Any, where: str, known: Mapping[str, Any]) -> Any:
    """Returns what the component's type stands for in a table.

    Args:
        section: The component.
        where: The name of its place, for the error.
        known: The table of all types that are computed.
    """
    name = kind(section, where)
    if name not in known:
        refuse(f"the {where} {name!r:.100}", ", ".join(known), section)
    return known[name]
