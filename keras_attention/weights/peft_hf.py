"""LoRA in the format of PEFT: adapter_config.json and adapter_model.safetensors.

The names of the tensors are those of the checkpoint's family, so that PEFT finds them
in the model of transformers that `save_pretrained` writes for the same model.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_attention import untrusted
from keras_attention.layers.projection import Projection, stored_kernels
from keras_attention.layers.states import backbone_of, freeze_all_but, projections
from keras_attention.weights import families, files
from keras_attention.weights.peft_config import (
    CONFIG,
    check_config,
    config_of,
    scale_of,
)
from keras_attention.weights.pretrained import described
from keras_attention.weights.rules import (
    KERNEL,
    KERNEL_OF_HEADS,
    LINEAR,
    LINEAR_OF_HEADS,
    Rule,
)

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_CONV1D = (KERNEL, KERNEL_OF_HEADS)  # transformers' layer of GPT-2: [inputs, outputs]
_MATRICES = (LINEAR, LINEAR_OF_HEADS, *_CONV1D)


def save_adapter(model: keras.Model, folder: str | Path) -> None:
    """Writes the LoRA of a model, and a trained head, as a folder that PEFT reads.

    PEFT opens it on the model that `ka.save_pretrained` writes, or on the checkpoint
    that the model came from: `peft.PeftModel.from_pretrained(base, folder)`.

    GPT-2 keeps queries, keys and values in one matrix. Their separate LoRA of rank r
    becomes one of a rank of up to 3 r, with the same outputs.

    Args:
        model: A model of a known family, or a task with one, after `ka.enable_lora` or
            `ka.load_adapter`. Its base may be quantised.
        folder: The path of a folder without an adapter.

    Raises:
        ValueError: If the model has no LoRA, or trained weights that the format does
            not have.

    Example:
    ```python
    ka.enable_lora(model, rank=8)
    ka.fine_tune(model, model.batches(texts, labels))
    ka.save_adapter(model, "adapter")
    ```
    """
    folder = Path(folder)
    if (folder / WEIGHTS).exists():
        raise FileExistsError(
            "There is an adapter already, and it is not replaced. Pass another folder "
            f"or remove it first. Received: folder={folder}"
        )
    rules, owners = _rules(model)
    tensors: dict[str, np.ndarray] = {}
    modules: dict[str, tuple[int, float]] = {}
    dropout = 0.0
    family = families.family_of_model(backbone_of(model))
    for rule in rules:
        updates = [getattr(part, "lora", None) for part in _owners(rule, owners)]
        if not any(updates):
            continue
        _check_matrix(rule)
        name, (a, b, scale) = _module_of(rule, family), _joined(rule, owners)
        tensors[_PREFIX + name + _A], tensors[_PREFIX + name + _B] = a, b
        modules[name] = len(a), scale * len(a)
        dropout = next(update.dropout for update in updates if update)
    if not modules:
        raise ValueError(
            "There is no LoRA to save: `ka.enable_lora` adds it. "
            f"Received: model={model!r}"
        )
    head = _head(model, rules)
    tensors |= {_PREFIX + rule.tensor: rule.write() for rule in head}
    layouts = {_module_of(rule, family): rule.layout for rule in rules}
    config = config_of(
        modules,
        all_modules=layouts,
        saved=sorted({_owner(rule) for rule in head}),
        dropout=dropout,
        transposed={layouts[name] in _CONV1D for name in modules} == {True},
    )
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", "utf-8")
    from safetensors.numpy import save_file

    part = folder / f".{WEIGHTS}.part"
    save_file(tensors, part, metadata={"format": "pt"})
    part.replace(folder / WEIGHTS)


def load_adapter(model: keras.Model, folder: str | Path) -> None:
    """Reads a folder that PEFT or `ka.save_adapter` wrote into a model without LoRA.

    The rest of the model is frozen, as by `ka.enable_lora`, so that training can go on.
    Call `ka.merge_lora` to add the matrices to the weights.

    Args:
        model: The model of the checkpoint that the adapter was trained on. Its base may
            be quantised.
        folder: The path of a folder with adapter_config.json and
            adapter_model.safetensors.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the adapter is of another method than LoRA (such as DoRA or IA3),
            has biases, or does not fit the model; then nothing was changed.

    Example:
    ```python
    model = ka.from_pretrained("bert-base-uncased")
    ka.load_adapter(model, "adapter")
    ```
    """
    folder = Path(folder)
    config = untrusted.read_object(files.require_file(folder, CONFIG))
    check_config(config, folder)
    stored = files.read_header(files.require_file(folder, WEIGHTS))
    rules, owners = _rules(model)
    by_name = _by_name(model, rules)
    inside = {id(variable) for variable in backbone_of(model).variables}
    planned, assigned = [], []
    for name in stored:
        module = name.removeprefix(_PREFIX)
        if module.endswith(_B) and name.removesuffix(_B) + _A in stored:
            continue
        matrix = module.endswith(_A)
        tensor = module.removesuffix(_A) + ".weight" if matrix else module
        rule = by_name.get(tensor)
        of_head = rule and not any(id(v) in inside for v in rule.variables)
        if rule is None or not (matrix or of_head):
            raise ValueError(
                "The adapter does not fit the model: it has a tensor for which the "
                "model has no place. Load the checkpoint and the task it was trained "
                f"on. Nothing was changed. Received: {untrusted.show(name)} in "
                f"{untrusted.clip(folder)}"
            )
        if not matrix:
            _check_shape(name, stored[name], rule.shape)
            assigned += rule.read(_values(stored, name))
            continue
        _check_matrix(rule)
        a = _values(stored, name)
        b = _values(stored, name.removesuffix(_A) + _B)
        scale = scale_of(config, module.removesuffix(_A), max(len(a), 1))
        planned += _separate(name, a, b, scale, _owners(rule, owners))
    if not planned:
        raise ValueError(
            f"There are no matrices of LoRA in {WEIGHTS}. Received: "
            f"{untrusted.clip(folder)} with {untrusted.clip(', '.join(stored), 500)}"
        )
    for part, *_ in planned:
        part.check_lora()
    dropout = float(config.get("lora_dropout") or 0.0)
    for part, a, b, scale in planned:
        part.add_lora(len(a), scale=scale, dropout=dropout)
        part.lora.a.assign(a.T)
        part.lora.b.assign(b.T)
    for variable, value in assigned:
        variable.assign(value)
    freeze_all_but(backbone_of(model), [part for part, *_ in planned])


class _Part(NamedTuple):
    """LoRA that one projection gets: a `[r, inputs]`, b `[outputs, r]`."""

    projection: Projection
    a: np.ndarray
    b: np.ndarray
    scale: float


def _rules(model: Any) -> tuple[list[Rule], dict[int, Projection]]:
    """Returns the rules of a model, and its projections by the id of the kernel."""
    with stored_kernels():
        _, rules = described(model)
        return rules, {id(part.kernel): part for part in projections(model)}


def _owners(rule: Rule, owners: Mapping[int, Projection]) -> list[Any]:
    return [owners.get(id(variable)) for variable in rule.variables]


def _by_name(model: Any, rules: Iterable[Rule]) -> dict[str, Rule]:
    """Returns the rules by their names in files with and without the prefix."""
    family = families.family_of_model(backbone_of(model))
    prefix = next(iter(getattr(family, "PREFIXES", ())), "")
    exact = {rule.tensor: rule for rule in rules}
    exact |= {f"{_module_of(rule, family)}.weight": rule for rule in rules}
    longer = {prefix + name: rule for name, rule in exact.items()}
    shorter = {name.removeprefix(prefix): rule for name, rule in exact.items()}
    return {**longer, **shorter, **exact}


def _module_of(rule: Rule, family: Any) -> str:
    """Returns the name of a tensor's module in the newest transformers."""
    name = rule.tensor.removesuffix(".weight")
    for old, new in getattr(family, "MODULE_NAMES", {}).items():
        name = name.replace(old, new)
    return name


def _head(model: Any, rules: Iterable[Rule]) -> list[Rule]:
    """Returns the rules of what is trained outside the backbone."""
    inside = {id(variable) for variable in backbone_of(model).variables}
    trained = [v for v in model.trainable_variables if id(v) not in inside]
    covered = {id(v): rule for rule in rules for v in rule.variables}
    found = {id(rule): rule for v in trained if (rule := covered.get(id(v)))}
    # What is saved is a whole module; a bias of its own, as in BERT's head for masked
    # words, is in a module that holds the token table too.
    owners = {_owner(rule) for rule in found.values()}
    names = {rule.tensor for rule in rules}
    missing = [v.path for v in trained if id(v) not in covered]
    missing += [name for name in owners if f"{name}.weight" not in names]
    if missing:
        raise ValueError(
            "PEFT's format has no place for a part of the trained head. Freeze it "
            "(`model.head.trainable = False`), or write the whole model with "
            f"`ka.save_pretrained`. Received: {', '.join(missing[:8])}"
        )
    return list(found.values())


def _owner(rule: Rule) -> str:
    """Returns the name of the module that has the tensor of a rule."""
    return rule.tensor.rpartition(".")[0]


def _check_matrix(rule: Rule) -> None:
    if rule.layout not in _MATRICES:
        raise ValueError(
            "LoRA can be read and written only where the tensor is a linear layer. "
            f"Received: tensor '{rule.tensor}' ({rule.layout.name})"
        )


def _joined(rule: Rule, owners: Mapping[int, Any]) -> tuple[Any, Any, float]:
    """Returns A `[r, inputs]`, B `[outputs, r]` and the scale of a tensor.

    The parts of a fused tensor have their own A, below each other; B then has blocks.
    """
    parts = _owners(rule, owners)
    widths = [math.prod(part.output_axes) for part in parts]
    updates = [part.lora for part in parts]
    there = [update for update in updates if update is not None]
    a = [keras.ops.convert_to_numpy(update.a).T for update in there]
    same = len(there) == len(parts) and all(np.array_equal(x, a[0]) for x in a)
    ranks = [0 if same and i else len(x) for i, x in enumerate(a)]
    scale = there[0].scale
    b = np.zeros((sum(widths), sum(ranks)), "float32")
    row = column = index = 0
    for width, update in zip(widths, updates, strict=True):
        if update is not None:
            part = keras.ops.convert_to_numpy(update.b).T * (update.scale / scale)
            b[row : row + width, column : column + update.rank] = part
            column += ranks[index] if not same else 0
            index += 1
        row += width
    a = np.concatenate(a[:1] if same else a).astype("float32")
    return np.ascontiguousarray(a), b, scale  # safetensors writes memory as it lies


def _separate(
    name: str, a: np.ndarray, b: np.ndarray, scale: float, parts: list[Projection]
) -> list[_Part]:
    """Returns the LoRA of each projection of a tensor, the inverse of `_joined`."""
    widths = [math.prod(part.output_axes) for part in parts]
    inputs = math.prod(parts[0].input_axes or parts[0].kernel.shape[:1])
    _check_shape(name, a, (len(a), inputs))
    _check_shape(name.removesuffix(_A) + _B, b, (sum(widths), len(a)))
    blocks = np.split(b, np.cumsum(widths)[:-1])
    found = []
    for part, block in zip(parts, blocks, strict=True):
        used = np.flatnonzero(block.any(axis=0))
        if len(parts) == 1 or not b.any():
            used = np.arange(len(a))
        if len(used):
            found.append(_Part(part, a[used], block[:, used], scale))
    return found


def _check_shape(name: str, tensor: Any, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != tuple(expected) or 0 in expected:
        raise ValueError(
            f"Tensor {untrusted.show(name)} must have shape {tuple(expected)} for this "
            f"model. Nothing was changed. Received: shape {tuple(tensor.shape)}"
        )


def _values(stored: Mapping[str, Any], name: str) -> np.ndarray:
    if name not in stored or len(stored[name].shape) not in (1, 2):
        raise ValueError(
            "A tensor of the adapter is missing, or is no matrix. Nothing was changed. "
            f"Received: {untrusted.show(name)}"
        )
    array = np.asarray(stored[name]).astype("float32")
    if not np.isfinite(array).all():
        raise ValueError(
            "The adapter holds NaN or infinity: its training diverged. Nothing was "
            f"changed. Received: tensor {untrusted.show(name)}"
        )
    return array
