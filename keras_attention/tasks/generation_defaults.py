"""The settings of `generate` that a task has of its own, for calls that pass none."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from keras_attention.generation.settings import GenerationSettings

# Entries that are no fields of `GenerationSettings`: they count the prompt too.
LENGTHS = ("max_length", "min_length")
_ON_HOST = ("allowed_tokens", "processors")
FIELDS = tuple(
    field.name
    for field in dataclasses.fields(GenerationSettings)
    if field.name not in _ON_HOST
)


def checked(defaults: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns a task's own settings as a dict, after checking them.

    Args:
        defaults: Arguments of `GenerationSettings`, `max_length` and `min_length`. In
            JSON, `logit_bias` is a list of pairs: token ids and their number.
    """
    given = dict(defaults or {})
    unknown = sorted(set(given) - {*FIELDS, *LENGTHS})
    if unknown:
        raise ValueError(
            "`defaults` may have the arguments of `GenerationSettings` except "
            f"{', '.join(_ON_HOST)}, and {', '.join(LENGTHS)}. "
            f"Received: {', '.join(unknown)}"
        )
    for name in LENGTHS:
        value = given.get(name)
        if value is not None and (type(value) is not int or value < 0):
            raise ValueError(
                f"`{name}` must be an int of 0 or more. Received: {name}={value!r}"
            )
    fields = _fields(given)
    most = fields.get("min_new_tokens", 0)
    GenerationSettings(**{"max_new_tokens": max(64, most), **fields})
    return given


def _fields(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `GenerationSettings`; JSON has no tuples as keys."""
    fields = {name: value for name, value in defaults.items() if name not in LENGTHS}
    bias = fields.get("logit_bias")
    if bias is not None and not isinstance(bias, Mapping):
        fields["logit_bias"] = {tuple(tokens): value for tokens, value in bias}
    return fields


def of_call(
    task: Any,
    settings: GenerationSettings | None,
    max_new_tokens: int | None,
    *,
    lengths: Iterable[int] = (),
    end_token_id: int | None = None,
) -> GenerationSettings:
    """Returns the settings of a call: those that were passed, or the task's own.

    Args:
        task: A task with `defaults` and `generator`.
        settings: The settings that were passed, or `None`.
        max_new_tokens: The limit that replaces the one of the settings.
        lengths: The number of tokens of each prompt.
        end_token_id: The token that ends a row if nothing else is said.
    """
    settings = _of_call(task, settings, max_new_tokens, [*lengths])
    if settings.stop_token_ids is not None:
        return settings
    ends = task.defaults.get("stop_token_ids")
    if ends is None:
        ends = () if end_token_id is None else (int(end_token_id),)
    return dataclasses.replace(settings, stop_token_ids=tuple(ends))


def _of_call(task, settings, max_new_tokens, lengths):
    changes: dict[str, Any] = {}
    if max_new_tokens is not None:
        changes["max_new_tokens"] = max_new_tokens
    if settings is not None:
        return dataclasses.replace(settings, **changes)
    own = _fields(task.defaults)
    longest = max(lengths, default=0)
    if max_new_tokens is None and "max_new_tokens" not in own:
        changes |= _room(task, longest)
    own = {**own, **changes}
    least, most = task.defaults.get("min_length"), own.get("max_new_tokens", 64)
    if "min_new_tokens" not in own and least is not None:
        own["min_new_tokens"] = max(least - longest, 0)
    own["min_new_tokens"] = min(own.get("min_new_tokens", 0), most)
    return GenerationSettings(**own)


def _room(task: Any, longest: int) -> dict[str, int]:
    """Returns the `max_new_tokens` that `max_length` leaves after the prompt."""
    whole = task.defaults.get("max_length")
    if whole is None:
        return {}
    if longest >= whole:
        raise ValueError(
            f"The model's own `max_length` of {whole} tokens, of which its folder's "
            "generation_config.json tells, leaves no room after the prompt. Pass "
            f"`max_new_tokens=`. Received: a prompt of {longest} tokens"
        )
    limit = task.generator.model.max_sequence_length
    room = whole - longest
    return {"max_new_tokens": min(room, limit - longest) if limit else room}
