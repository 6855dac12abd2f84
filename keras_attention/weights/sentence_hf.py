"""Folders of sentence-transformers: their modules, prompts and lengths, both ways.

Every entry of every file is in a table: it is applied, has no effect on the vectors of
texts, or is refused by its name. The layouts of all versions are read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_attention import untrusted
from keras_attention.tasks.sentence_encoder import SentenceEncoder
from keras_attention.weights import files
from keras_attention.weights.parts_hf import linear
from keras_attention.weights.rules import Rule

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
# The name of the Transformer's settings in old folders has the family in it.
LENGTHS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta")
# Old entry of the pooling's config -> the pooling's name there and in new entries.
POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
OURS = {name: name.removesuffix("_tokens") for name in POOLINGS.values()}
_TORCH = "torch.nn.modules"
ACTIVATIONS = {
    f"{_TORCH}.linear.Identity": None,
    f"{_TORCH}.activation.Tanh": "tanh",
    f"{_TORCH}.activation.ReLU": "relu",
    f"{_TORCH}.activation.GELU": "gelu",
    f"{_TORCH}.activation.SiLU": "silu",
    f"{_TORCH}.activation.Sigmoid": "sigmoid",
}
_ANY = object()
_TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_EMBEDDING = ("sentence_embedding", None)
# Entries -> the values that are supported; `_ANY` for all, which are read or neutral.
TRANSFORMER = {
    "max_seq_length": _ANY,
    "do_lower_case": _ANY,
    "transformer_task": ("feature-extraction",),
    "modality_config": (_TEXT, None),
    "module_output_name": ("token_embeddings", None),
    "processing_kwargs": ({}, None),
    "unpad_inputs": _ANY,
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "model_args": ({}, None),
    "tokenizer_args": ({}, None),
    "config_args": ({}, None),
    "tokenizer_name_or_path": (None,),
}
POOLING = {
    "word_embedding_dimension": _ANY,
    "embedding_dimension": _ANY,
    "pooling_mode": _ANY,
    "include_prompt": (True, False),
    **dict.fromkeys(POOLINGS, (True, False)),
}
DENSE = {
    "in_features": _ANY,
    "out_features": _ANY,
    "bias": (True, False),
    "activation_function": tuple(ACTIVATIONS),
    "module_input_name": _EMBEDDING,
    "module_output_name": _EMBEDDING,
    "use_residual": (False,),
}
NORMALIZE = {"module_input_name": _EMBEDDING, "module_output_name": _EMBEDDING}
MODEL = {
    "__version__": _ANY,
    "model_type": ("SentenceTransformer", None),
    "prompts": _ANY,
    "default_prompt_name": _ANY,
    "similarity_fn_name": _ANY,  # of two vectors, which is not computed here
    "truncate_dim": (None,),
}


@dataclass(frozen=True)
class Sentence:
    """What a folder of sentence-transformers says in addition to its Transformer.

    Attributes:
        folder: The folder of the Transformer.
        arguments: The arguments of `SentenceEncoder`.
        max_length: The most tokens in a row; the tokenizer's own number when `None`.
        lowercase: Whether texts are lower-cased before they are split.
        dense: The tensors of each Dense module by their names.
    """

    folder: Path
    arguments: dict[str, Any]
    max_length: int | None
    lowercase: bool
    dense: list[dict[str, Any]] = field(default_factory=list)

    @property
    def tensors(self) -> dict[str, Any]:
        """The tensors of all Dense modules, named after the modules."""
        return {
            f"dense.{index}.{name}": tensor
            for index, part in enumerate(self.dense)
            for name, tensor in part.items()
        }


def open_sentence(folder: Path) -> Sentence | None:
    """Reads a folder of sentence-transformers; `None` for another folder.

    Args:
        folder: The folder.
    """
    if not (folder / MODULES).exists():
        return None
    modules = _modules(folder)
    if cross_encoder(folder) is not None:
        if [kind for kind, _ in modules] == ["Transformer"]:
            return None
        raise _order(folder, modules)
    kinds = [kind for kind, _ in modules if kind != "Dropout"]
    last = kinds[2:]
    normalize = last[-1:] == ["Normalize"]
    others = {*(last[:-1] if normalize else last)} - {"Dense"}
    if kinds[:2] != ["Transformer", "Pooling"] or others:
        raise _order(folder, modules)
    own = _entries(folder, SETTINGS, MODEL)
    prompts = own.get("prompts") or {}
    if not isinstance(prompts, Mapping) or not all(
        isinstance(text, str) for text in prompts.values()
    ):
        raise _unsupported(SETTINGS, "prompts", prompts, "an object of texts")
    places: dict[str, list[str]] = {}
    for kind, place in modules:
        places.setdefault(kind, []).append(place)
    for place in places.get("Normalize", []):
        _entries(folder, f"{place}/config.json", NORMALIZE)
    (place,) = places["Pooling"]
    pooling = _entries(folder, f"{place}/config.json", POOLING)
    dense = places.get("Dense", [])
    layers = [_entries(folder, f"{place}/config.json", DENSE) for place in dense]
    arguments = {
        "normalize": normalize,
        "pooling": _poolings(pooling),
        "include_prompt": pooling.get("include_prompt", True),
        "dense": [_dense(layer) for layer in layers],
        "prompts": dict(prompts),
        "default_prompt_name": own.get("default_prompt_name"),
    }
    (place,) = places["Transformer"]
    length, lowercase = _limits(folder, place)
    tensors = []
    for each in dense:
        name = f"{each}/{files.WEIGHTS}"
        untrusted.inside(folder, name, MODULES)
        files.require_file(folder / each, files.WEIGHTS)
        tensors.append(files.read_header(folder / name))
    return Sentence(folder / place, arguments, length, lowercase, tensors)


def cross_encoder(folder: Path) -> Mapping[str, Any] | None:
    """Returns the settings of a cross-encoder that a new version saved, or `None`.

    Args:
        folder: The folder.
    """
    if not (folder / SETTINGS).exists():
        return None
    own = untrusted.read_object(folder / SETTINGS)
    return own if own.get("model_type") == "CrossEncoder" else None


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Returns the kind and the folder of each module."""
    found = []
    with untrusted.reading(folder / MODULES):
        for module in untrusted.read_json(folder / MODULES):
            kind, place = module["type"].rsplit(".", 1)[-1], module.get("path")
            untrusted.inside(folder, place, MODULES)
            if module.get("kwargs"):
                raise _unsupported(MODULES, "kwargs", module["kwargs"], "none")
            found.append((kind, place))
    return found


def _order(folder: Path, modules: list[tuple[str, str]]) -> ValueError:
    kinds = " -> ".join(kind for kind, _ in modules)
    return ValueError(
        "Supported are sentence models of Transformer, Pooling, any number of Dense "
        "and optionally Normalize, in this order, and cross-encoders of a Transformer. "
        f"Received: {untrusted.clip(kinds)} in {untrusted.clip(folder / MODULES)}"
    )


def _entries(folder: Path, name: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of a JSON file, after checking that all are supported."""
    untrusted.inside(folder, name, MODULES)
    if not (folder / name).exists() and (known is NORMALIZE or known is MODEL):
        return {}  # old versions wrote none
    entries = untrusted.read_object(files.require_file(folder, name))
    for entry, value in entries.items():
        allowed = known.get(entry, (None,))
        if allowed is not _ANY and not any(
            value == one and type(value) is type(one) for one in allowed
        ):
            listed = " or ".join(map(repr, allowed))
            what = listed if entry in known else "no such entry"
            raise _unsupported(name, entry, value, what)
    return entries


def _unsupported(name: str, entry: str, value: Any, expected: str) -> ValueError:
    return ValueError(
        f"{untrusted.clip(name)} has {untrusted.clip(entry)}="
        f"{untrusted.clip(untrusted.show(value))}, which is not supported here; "
        f"supported: {untrusted.clip(expected, 800)}. Load the encoder alone with "
        f"task='backbone'. Received: {untrusted.clip(entry)}="
        f"{untrusted.clip(untrusted.show(value))}"
    )


def _poolings(config: Mapping[str, Any]) -> Any:
    names = config.get("pooling_mode")
    if names is None:
        names = [mode for entry, mode in POOLINGS.items() if config.get(entry)]
        names = names or ["mean"]
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or any(x not in OURS for x in names):
        expected = f"one or more of {', '.join(OURS)}"
        raise _unsupported("The pooling's config", "pooling_mode", names, expected)
    found = [OURS[name] for name in names]
    return found[0] if len(found) == 1 else found


def _dense(config: Mapping[str, Any]) -> dict[str, Any]:
    size, most = config.get("out_features"), 2**31
    if type(size) is not int or not 0 < size < most:
        raise _unsupported("The config of a Dense", "out_features", size, "an integer")
    path = config.get("activation_function", f"{_TORCH}.activation.Tanh")
    return {
        "units": size,
        "activation": ACTIVATIONS[path],
        "use_bias": config.get("bias", True),
    }


def _limits(folder: Path, place: str) -> tuple[int | None, bool]:
    """Returns the most tokens in a row, and whether texts are lower-cased."""
    before = f"{place}/" if place else ""
    names = [f"{before}sentence_{name}_config.json" for name in LENGTHS]
    name = next((name for name in names if (folder / name).exists()), None)
    if name is None:
        return None, False
    entries = _entries(folder, name, TRANSFORMER)
    length = entries.get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        raise ValueError(
            f"{name} must have a positive integer or null as max_seq_length. "
            f"Fetch the file again. Received: max_seq_length={untrusted.show(length)}"
        )
    lowercase = entries.get("do_lower_case") or False
    if not isinstance(lowercase, bool):
        raise _unsupported(name, "do_lower_case", lowercase, "true or false")
    return length, lowercase


def rules(model: SentenceEncoder) -> Iterator[Rule]:
    """Yields the rules of the Dense modules, with the names of `Sentence.tensors`."""
    for index, layer in enumerate(model.dense_layers):
        yield from linear(f"dense.{index}.linear", layer)


def files_of(model: SentenceEncoder) -> dict[str, Any]:
    """Returns the JSON files of a model by their names, in the layout that all read.

    Args:
        model: The model.
    """
    kinds = ["Transformer", "Pooling", *["Dense"] * len(model.dense)]
    kinds += ["Normalize"] if model.normalize else []
    places = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds) if index)]
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": place,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]
    poolings = [model.pooling] if isinstance(model.pooling, str) else model.pooling
    size = model.encoder.hidden_dim
    theirs = [mode for name in poolings for mode in OURS if OURS[mode] == name]
    modes: dict[str, Any] = {"pooling_mode": theirs}
    if theirs == [mode for mode in POOLINGS.values() if mode in theirs]:
        modes = {entry: mode in theirs for entry, mode in POOLINGS.items()}
    inverse = {ours: path for path, ours in ACTIVATIONS.items()}
    found: dict[str, Any] = {
        MODULES: modules,
        f"sentence_{LENGTHS[0]}_config.json": {
            "max_seq_length": getattr(model.tokenizer, "max_length", None),
            "do_lower_case": False,
        },
        SETTINGS: {
            "prompts": model.prompts,
            "default_prompt_name": model.default_prompt_name,
            "similarity_fn_name": "cosine",
        },
        f"{places[1]}/config.json": {
            "word_embedding_dimension": size,
            **modes,
            "include_prompt": model.include_prompt,
        },
    }
    size *= len(poolings)
    for place, entries in zip(places[2:], model.dense, strict=False):
        found[f"{place}/config.json"] = {
            "in_features": size,
            "out_features": entries["units"],
            "bias": entries["use_bias"],
            "activation_function": inverse[entries["activation"]],
        }
        size = entries["units"]
    return found


def parts_of(model: SentenceEncoder) -> dict[str, list[Rule]]:
    """Returns the rules of each Dense module, by the path of its weights.

    Args:
        model: The model.
    """
    return {
        f"{index}_Dense/{files.WEIGHTS}": list(linear("linear", layer))
        for index, layer in enumerate(model.dense_layers, 2)
    }
