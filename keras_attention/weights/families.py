"""The families of checkpoints: which module reads and which module writes them.

A family is a module of this folder, imported when it is needed, with

    MODEL_TYPES   the values of "model_type" in a config.json that it reads
    PREFIXES      removed from the names of tensors in files that have them ("bert.")
    IGNORED       name (or pattern) of a tensor -> the reason why it holds no weight
    build(config, names) -> the backbone of a config and of the tensors' names
    config_of(model)     -> the config.json of a backbone, the inverse of `build`
    rules(model)         -> one rule for every tensor and every variable
    header(config)       -> `{"encoder.layer.": number of layers}`, and the shapes of
                            tensors by which all sizes of the model are limited; "{}"
                            in a name is the number of a layer

and, if it needs them,

    OUTSIDE         names in `rules` that never have the prefix ("lm_head.weight")
    MODULE_NAMES    parts of names that transformers' modules have otherwise
    writes(model)   whether it writes this model, if several families share a class
"""

import fnmatch
import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from keras_attention import untrusted
from keras_attention.weights.rules import Rule

# model_type -> module of this folder.
MODULES = {
    "bart": "bart_hf",
    "bert": "bert_hf",
    "camembert": "roberta_hf",
    "distilbert": "distilbert_hf",
    "gpt2": "gpt2_hf",
    "llama": "llama_hf",
    "marian": "marian_hf",
    "mistral": "llama_hf",
    "qwen2": "llama_hf",
    "roberta": "roberta_hf",
    "t5": "t5_hf",
    "vit": "vit_hf",
    "xlm-roberta": "roberta_hf",
}
# Class of a backbone -> modules that may write it; the first whose `writes` is true.
WRITERS = {
    "BertEncoder": ("roberta_hf", "distilbert_hf", "bert_hf"),
    "GPTDecoder": ("gpt2_hf", "llama_hf"),
    "Seq2SeqTransformer": ("bart_hf", "marian_hf"),
    "T5Encoder": ("t5_hf",),
    "T5EncoderDecoder": ("t5_hf",),
    "VisionTransformer": ("vit_hf",),
}


def family_of_config(config: Mapping[str, Any], source: Any) -> ModuleType:
    """Returns the family of a config.json.

    Args:
        config: The parsed file.
        source: The path of the file, for errors.
    """
    name = config.get("model_type") if isinstance(config, Mapping) else None
    if not isinstance(name, str) or name not in MODULES:
        raise ValueError(
            f"This family of models is not supported. Supported: "
            f"{', '.join(sorted(MODULES))}. "
            f"Received: model_type={untrusted.show(name)} in {untrusted.clip(source)}"
        )
    return _module(MODULES[name])


def family_in(model: Any, table: Mapping[str, Any]) -> str:
    """Returns the key of a table of heads for the family of a task's backbone.

    Args:
        model: A task model.
        table: A dict of the first `MODEL_TYPES` of each family to its head.
    """
    family = family_of_model(model.backbone)
    for name in family.MODEL_TYPES if family else ():
        if name in table:
            return name
    raise ValueError(
        "transformers has no such head on this backbone. Supported families: "
        f"{', '.join(table)}. Received: {type(model).__name__} on "
        f"{type(model.backbone).__name__}"
    )


def of_family(config: Mapping[str, Any], table: Mapping[str, Any]) -> Any:
    """Returns a table's head for the family of a config.json.

    Args:
        config: The parsed config.json.
        table: A dict of the first `MODEL_TYPES` of each family to its head.
    """
    name = config.get("model_type", "")
    if name in MODULES:
        for one in _module(MODULES[name]).MODEL_TYPES:
            if one in table:
                return table[one]
    raise ValueError(
        f"This family has no such head here. Supported: {', '.join(table)}. "
        f"Received: model_type={untrusted.show(name)}"
    )


def family_of_model(model: Any) -> ModuleType | None:
    """Returns the family that writes a backbone, or `None` if there is none."""
    model = bare(model)
    for kind in type(model).__mro__:
        for name in WRITERS.get(kind.__name__, ()):
            module = _module(name)
            if getattr(module, "writes", lambda model: True)(model):
                return module
    return None


def bare(backbone: Any) -> Any:
    """Returns the backbone that checkpoints hold, of one that a task may wrap.

    Args:
        backbone: A task's backbone.
    """
    return getattr(backbone, "seq2seq", backbone)


def without_prefix(family: ModuleType, names: Iterable[str]) -> dict[str, str]:
    """Returns a dict of names without the family's prefix to the names in the file."""
    names = list(names)
    for prefix in family.PREFIXES:
        if any(name.startswith(prefix) for name in names):
            return {name.removeprefix(prefix): name for name in names}
    return {name: name for name in names}


def stem(architecture: str) -> str:
    """Returns `"Bert"` for `"BertModel"`, `"BertForMaskedLM"`, `"BertLMHeadModel"`."""
    return re.sub(r"(For[A-Z]\w*|(LMHead|MT|Encoder)?Model)$", "", architecture)


def prefixed(family: ModuleType, rule: Rule) -> Rule:
    """Returns a backbone's rule with its tensor's name in a file with a head."""
    if rule.tensor in getattr(family, "OUTSIDE", ()) or not family.PREFIXES:
        return rule
    return replace(rule, tensor=family.PREFIXES[0] + rule.tensor)


def ignored(family: ModuleType, names: Mapping[str, str]) -> dict[str, str]:
    """Returns the tensors that are no weight of the backbone, with the reason.

    Args:
        family: The family's module.
        names: The names that `without_prefix` returned.
    """
    found = {}
    if any(name != stored for name, stored in names.items()):
        reason = "part of a task head, not of the backbone"
        found = {n: reason for n, stored in names.items() if n == stored}
    return {**found, **matching(family.IGNORED, names)}


def matching(patterns: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Returns the names that match a pattern, with the reason of the pattern."""
    return {
        name: reason
        for name in names
        for pattern, reason in patterns.items()
        if fnmatch.fnmatchcase(name, pattern)
    }


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"keras_attention.weights.{name}")
