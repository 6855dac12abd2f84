"""PEFT's adapter_config.json: what is written, what is read, what is refused."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_attention import untrusted

CONFIG = "adapter_config.json"
# Entries that are read, or that say nothing about the numbers.
_KNOWN = {
    *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"),
    *("lora_dropout", "bias", "init_lora_weights", "modules_to_save", "task_type"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("auto_mapping", "base_model_name_or_path", "revision", "inference_mode"),
    *("peft_version", "fan_in_fan_out", "eva_config", "megatron_core"),
    *("qalora_group_size", "runtime_config", "ensure_weight_tying"),
}
# Others change the base model too, whose weights the file does not hold.
_INITIALIZERS = (True, False, "gaussian", "eva", "orthogonal")


def config_of(
    modules: Mapping[str, tuple[int, float]],
    *,
    all_modules: Iterable[str],
    saved: Sequence[str],
    dropout: float,
    transposed: bool,
) -> dict[str, Any]:
    """Returns the content of an adapter_config.json.

    Args:
        modules: The rank and the alpha of each module with LoRA, by its name.
        all_modules: The names of these and other modules.
        saved: The names of the modules that are saved as a whole.
        dropout: The rate of dropout on the input of the matrices.
        transposed: Whether the modules are GPT-2's `Conv1D`.
    """
    rank, alpha = Counter(modules.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: r for name, (r, _) in modules.items() if r != rank},
        "alpha_pattern": {name: x for name, (_, x) in modules.items() if x != alpha},
        "lora_dropout": dropout,
        "target_modules": _short(modules, all_modules),
        "modules_to_save": list(saved) or None,
        "fan_in_fan_out": transposed,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _short(modules: Iterable[str], names: Iterable[str]) -> list[str]:
    """Returns the last parts of the modules' names, if they name no other module."""
    modules = set(modules)
    last = {name.rpartition(".")[2] for name in modules}
    named = {name for name in names if name.rpartition(".")[2] in last}
    return sorted(last if named == modules else modules)


def check_config(config: Mapping[str, Any], folder: Path) -> None:
    """Refuses an adapter_config.json that asks for more than plain LoRA.

    Args:
        config: Its content.
        folder: The path of its folder, for errors.
    """
    kind, bias = config.get("peft_type"), config.get("bias", "none")
    start = config.get("init_lora_weights", True)
    wrong = [
        ("peft_type", kind, kind == "LORA"),
        ("bias", bias, bias == "none"),
        ("init_lora_weights", start, start in _INITIALIZERS),
        *((name, value, False) for name, value in config.items() if name not in _KNOWN),
    ]
    for name, value, allowed in wrong:
        off = value in (None, False) or value in ({}, [], 0)
        if not allowed and not (off and name not in ("peft_type", "bias")):
            raise ValueError(
                "Only plain LoRA can be read, without biases, whose training leaves "
                "the other weights as they are. Nothing was changed. Received: "
                f"{untrusted.clip(name)}={untrusted.show(value)} in "
                f"{untrusted.clip(folder / CONFIG)}"
            )
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(name) or {}, dict):
            _wrong(name, config[name], "must be an object")
    dropout = config.get("lora_dropout") or 0.0
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        _wrong("lora_dropout", dropout, "must be a number from 0 to below 1")


def _wrong(name: str, value: Any, what: str) -> None:
    raise ValueError(
        f"`{name}` in {CONFIG} {what}. Nothing was changed. "
        f"Received: {name}={untrusted.show(value)}"
    )


def scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Returns the scale of a module, by the patterns of PEFT.

    Args:
        config: The content of an adapter_config.json.
        module: The name of the module.
        rank: Its rank.
    """
    alpha = config.get("lora_alpha", 8)
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        # PEFT's keys are regular expressions, which are used as names with dots.
        plain = pattern.removeprefix("^").replace("\\.", ".")
        if re.search(r"[^\w.-]", plain):
            _wrong("alpha_pattern", pattern, "must have names of modules as keys")
        if module == plain or (module.endswith(f".{plain}") and pattern[0] != "^"):
            alpha = own
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        _wrong("lora_alpha", alpha, "must be a number")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
