"""Reads entries of a config.json, or refuses them by name. Does not import Keras."""

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

from keras_attention import untrusted

# Hugging Face's name of an activation -> ours; "gelu" is the exact one in both.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


def take(config: Mapping[str, Any], arguments: Mapping[str, str]) -> dict[str, Any]:
    """Returns the constructor arguments of entries that a config.json must have.

    Args:
        config: The parsed file.
        arguments: A dict of an entry to the name of its argument.

    Raises:
        ValueError: If entries are missing; the error names all of them.
    """
    require(config, arguments)
    return {ours: config[theirs] for theirs, ours in arguments.items()}


def require(config: Mapping[str, Any], entries: Any) -> None:
    """Refuses a config.json that lacks entries the model is built from."""
    missing = [name for name in entries if config.get(name) is None]
    if missing:
        family = config.get("model_type")
        raise ValueError(
            f"config.json lacks entries that a model of type {family!r} needs. Fetch "
            f"the file again. Received: a config without {', '.join(missing)}"
        )


def refuse_others(config: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
    """Refuses options that change the numbers and are not supported here.

    Args:
        config: The parsed file.
        supported: A dict of an entry to its supported value, or a tuple of them.
            An entry that is absent has a supported value.
    """
    for name, values in supported.items():
        allowed = values if isinstance(values, tuple) else (values,)
        if name in config and config[name] not in allowed:
            known = ", ".join(map(repr, allowed))
            given = f"{name}={untrusted.show(config[name])}"
            raise ValueError(
                f"config.json has {given}, which is not supported here; supported: "
                f"{known}. Received: {given}"
            )


def activation(config: Mapping[str, Any], entry: str) -> str:
    """Returns our name of the activation that an entry names."""
    name = config.get(entry)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(
            "config.json has an activation that is not supported here. Supported: "
            f"{', '.join(ACTIVATIONS)}. Received: {entry}={untrusted.show(name)}"
        )
    return ACTIVATIONS[name]


def activation_name(ours: Any) -> str:
    """Returns Hugging Face's name of one of our activations."""
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if ours not in names:
        raise ValueError(
            "This activation has no name in Hugging Face's config. Supported: "
            f"{', '.join(names)}. Received: activation={ours!r}"
        )
    return names[ours]


def head_of(
    config: Mapping[str, Any], names: Collection[str], *, tied: bool
) -> Literal["tied", "own"] | None:
    """Returns a decoder's `head`; `None` for a file of only a backbone.

    Args:
        config: The parsed file.
        names: The names of the tensors.
        tied: Whether the head is tied if a config has no "tie_word_embeddings".
    """
    architectures = config.get("architectures") or [""]
    if re.search("For(Sequence|Token)Classification$", architectures[0]):
        return None
    if config.get("tie_word_embeddings", tied):
        return "tied"
    causal = architectures[0].endswith(("ForCausalLM", "LMHeadModel"))
    return "own" if causal or "lm_head.weight" in names else None
