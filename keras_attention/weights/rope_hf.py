"""Reads and writes rotary positions in a config.json of transformers 4 or 5."""

from collections.abc import Mapping
from typing import Any

from keras_attention.weights.configs import refuse_others, require

FULL = (None, 1.0)
_LENGTH = "original_max_position_embeddings"


def rotary_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `RotaryEmbedding`.

    transformers 5 writes one dict `rope_parameters`. transformers 4 wrote `rope_theta`
    and a dict `rope_scaling`, with the entry `type` instead of `rope_type` in the
    oldest files.

    Args:
        config: The parsed file.
    """
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if any(isinstance(value, dict) for value in given.values()):
        raise ValueError(
            "config.json has different rotary positions for different layers, which is "
            f"not supported. Received: rope_parameters={given!r}"
        )
    scaling = {name: value for name, value in given.items() if value is not None}
    old_kind = scaling.pop("type", "default")
    kind = scaling.pop("rope_type", old_kind)
    theta = scaling.pop("rope_theta", config.get("rope_theta") or 10000.0)
    # transformers has the entry, but rotates whole heads in these families.
    share = scaling.pop("partial_rotary_factor", config.get("partial_rotary_factor"))
    refuse_others({"partial_rotary_factor": share}, {"partial_rotary_factor": FULL})
    settings: dict[str, Any] = {"max_wavelength": float(theta)}
    if kind == "default":
        return settings
    settings["scaling"] = {"rope_type": kind, **_complete(kind, scaling, config)}
    return settings


def _complete(kind: str, scaling: dict, config: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the settings that transformers takes from other entries of the config."""
    require(config, ["max_position_embeddings"])
    length = config["max_position_embeddings"]
    if kind == "dynamic":  # transformers ignores the dict's own
        return {**scaling, _LENGTH: length}
    if kind == "linear":
        scaling.pop(_LENGTH, None)
        return scaling
    if _LENGTH in config:
        scaling[_LENGTH] = config[_LENGTH]
    scaling.setdefault(_LENGTH, length)
    if kind == "yarn":
        scaling.setdefault("factor", length / scaling[_LENGTH])
    return scaling


def rope_entries(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns entries for transformers 4 and 5, the inverse of `rotary_settings`."""
    interleaved = settings.get("layout", "half_split") != "half_split"
    if interleaved or settings.get("rotary_dim") is not None:
        raise ValueError(
            "In Hugging Face's files of these families rotary positions are not "
            "interleaved and rotate the whole head. Save the model as .keras. "
            f"Received: position={dict(settings)}"
        )
    theta = settings.get("max_wavelength", 10000.0)
    scaling = settings.get("scaling")
    scaling = None if scaling is None else dict(scaling)
    parameters = {**(scaling or {"rope_type": "default"}), "rope_theta": theta}
    entries = {"rope_theta": theta, "rope_scaling": scaling}
    return {**entries, "rope_parameters": parameters}
