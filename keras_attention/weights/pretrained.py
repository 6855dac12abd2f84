"""Loads and saves Hugging Face folders: config.json, safetensors, tokenizer files."""

import contextlib
import warnings
from pathlib import Path
from typing import Any

import keras

from keras_attention import untrusted
from keras_attention.tasks.sentence_encoder import SentenceEncoder
from keras_attention.weights import families, header_check, heads_hf, sentence_hf
from keras_attention.weights.hub import local_folder
from keras_attention.weights.rules import Rule, load
from keras_attention.weights.sources import open_source
from keras_attention.weights.tokenizers_hf import has_tokenizer, load_tokenizer
from keras_attention.weights.writing import write_folder


def from_pretrained(
    folder: str | Path,
    *,
    task: str | None = None,
    dtype: Any = None,
    revision: str | None = None,
) -> keras.Model:
    """Loads a model from a folder in Hugging Face's format, or one of the others.

    The config decides the model: a backbone, or the task that its architecture names
    (`CausalLM` for `…ForCausalLM`, `Seq2SeqLM` for `…ForConditionalGeneration`). A
    folder of sentence-transformers (with a modules.json) becomes a `SentenceEncoder`.
    Every tensor of the file must have a variable of the model and every variable a
    tensor, or no model is returned (see `model.load_report`). Configs, names, shapes
    and the tokenizer are checked before the first weight is read. Weights are read one
    tensor at a time.

    Args:
        folder: The path of a folder with config.json and model.safetensors (or its
            shards), and with the tokenizer's files if the model takes text (see
            `load_tokenizer`). If there is no such folder, it is an id on the hub,
            `"org/name"`, which is downloaded. It can also be a folder of Google's first
            BERT or of OpenAI's GPT-2 (TensorFlow checkpoints), or a `.bin` file of
            llama2.c.
        task: `"backbone"` for the model without its head, or a task's name for a model
            of that task, with a new head if the files have none. By default the files
            decide.
        dtype: The model's dtype policy; by default Keras' current one.
        revision: The branch, tag or commit on the hub.

    Returns:
        The model with its weights.

    Raises:
        FileNotFoundError: If the folder or one of the files is missing.
        ValueError: If a file is damaged, does not fit the others, or has an option that
            is not supported.

    Example:
    ```python
    model = ka.from_pretrained("all-MiniLM-L6-v2")
    vectors = model.encode(["The weather is lovely today."])
    ```
    """
    folder = local_folder(folder, revision)
    sentence = sentence_hf.open_sentence(folder) if task is None else None
    source = open_source(folder if sentence is None else sentence.folder)
    config, family, stored = source.config, source.family, source.tensors
    if (encoder := sentence_hf.cross_encoder(folder)) is not None:
        config["sentence_transformers"] = encoder
    head = None
    if sentence is None and task != "backbone":
        head = heads_hf.of_config(config) if task is None else heads_hf.of_task(task)
    names = families.without_prefix(family, stored)
    header_check.compare(family, config, names, stored, folder)
    with _policy(dtype):
        model = backbone = family.build(config, names)
        if sentence is not None:
            tokenizer = load_tokenizer(
                sentence.folder,
                backbone,
                sentence.max_length,
                lowercase=sentence.lowercase,
            )
            model = SentenceEncoder(backbone, tokenizer, **sentence.arguments)
        elif head is not None:
            there = has_tokenizer(folder)
            tokenizer = load_tokenizer(folder, backbone) if there else None
            model = head.build(backbone, tokenizer, config, names)
    tensors = {name: stored[place] for name, place in names.items()}
    rules, ignored = list(family.rules(backbone)), families.ignored(family, names)
    variables = backbone.weights
    if head is not None:
        of_head = [_named(family, rule) for rule in head.rules(model)]
        # A part of a head is an error; with `task`, a file without one gets a new head.
        if task is None or any(rule.tensor in names for rule in of_head):
            rules, variables = rules + of_head, model.weights
            ignored = families.matching({**family.IGNORED, **head.ignored}, names)
        elif of_head:
            _tell_new(head, of_head, folder)
    elif sentence is not None:
        rules += sentence_hf.rules(model)
        tensors, variables = {**tensors, **sentence.tensors}, model.weights
    report = load(rules, tensors, variables, ignored=ignored, source=str(folder))
    model.load_report = report
    return model


def _named(family: Any, rule: Rule) -> Rule:
    """Returns the rule of a head with the names that a family has for its tensors."""
    return getattr(family, "named", lambda rule: rule)(rule)


def _tell_new(head: heads_hf.Head, rules: list[Rule], folder: Path) -> None:
    warnings.warn(
        f"The files have no {head.suffix.removeprefix('For')} head, so that "
        f"task={head.task!r} has a new one ({len(rules)} variables drawn at random, "
        f"such as {rules[0].variables[0].path}): train it before use. "
        f"Received: {untrusted.clip(folder)}",
        stacklevel=3,
    )


def save_pretrained(model: keras.Model, folder: str | Path) -> None:
    """Writes a model as a folder that transformers and `from_pretrained` read.

    Args:
        model: A backbone of a supported family, a task with one, or a
            `SentenceEncoder`, which is written as a folder of sentence-transformers.
        folder: The path of a folder, which must not hold a model.safetensors. Weights
            of more than 5 GB are written to several files.
    """
    check_float(model)
    config, rules = described(model)
    others = {"generation_config.json": heads_hf.generation_config_of(model)}
    parts: dict[str, list[Rule]] = {}
    if isinstance(model, SentenceEncoder):
        others |= sentence_hf.files_of(model)
        parts = sentence_hf.parts_of(model)
    tokenizer = getattr(model, "tokenizer", None)
    write_folder(Path(folder), config, rules, tokenizer, others=others, parts=parts)


def described(model: keras.Model) -> tuple[dict[str, Any], list[Rule]]:
    """Returns the config.json of a model, and its rules with the names in the file.

    Args:
        model: What `save_pretrained` takes.
    """
    head = heads_hf.of_model(model)
    backbone = model
    if isinstance(model, SentenceEncoder):
        backbone = model.encoder
    elif head is not None:
        backbone = families.bare(model.backbone)
    family = families.family_of_model(backbone)
    if family is None:
        raise ValueError(
            "`save_pretrained` writes a backbone of a known family "
            f"({', '.join(families.WRITERS)}), a task with one, or a SentenceEncoder. "
            f"Received: model={model!r}"
        )
    config = family.config_of(backbone)
    rules = list(family.rules(backbone))
    (architecture,) = config["architectures"]
    if head is not None:
        if not head.in_backbone:
            architecture = families.stem(architecture) + head.suffix
            config["architectures"] = [architecture]
        config |= head.config_of(model)
        (architecture,) = config["architectures"]
    if architecture != families.stem(architecture) + "Model":
        rules = [families.prefixed(family, rule) for rule in rules]
    if head is not None:
        rules += head.rules(model)
    return config, rules


def check_float(model: Any) -> None:
    """Refuses a quantised model, whose kernels are no weights without their scales.

    Args:
        model: A model.
    """
    for part in model._flatten_layers():
        if mode := getattr(part, "quantization_mode", None):
            raise ValueError(
                "A quantised model cannot be written as a folder of float weights. "
                "Save it as `.keras`, or only its LoRA with `ka.save_adapter`. "
                f"Received: layer '{part.path}' with quantization_mode={mode!r}"
            )


@contextlib.contextmanager
def _policy(dtype):
    """Sets Keras' dtype policy for the models that are built inside."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(before if dtype is None else dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
