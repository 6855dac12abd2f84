"""Task heads of Hugging Face's files: `BertForSequenceClassification` and the like.

One `Head` a task. `from_pretrained` looks for the one whose `suffix` the first of
config.json's "architectures" ends with, or whose `task` was asked for.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_attention.weights.rules import Rule


@dataclass(frozen=True)
class Head:
    """A task on a backbone.

    Attributes:
        suffix: End of the name of an architecture, `"ForSequenceClassification"`.
        task: What `from_pretrained(task=…)` calls it, `"text_classifier"`.
        build: `(backbone, tokenizer or None, config, names)` to the task model.
        matches: Whether a model is of this task.
        rules: `(task model)` to the rules of the head only; names as they stand in
            the file, without the backbone's prefix.
        config_of: `(task model)` to entries beside those of the backbone's
            config.json.
        ignored: Name or pattern of a tensor of the head to the reason it holds no
            weight.
    """

    suffix: str
    task: str
    build: Callable[[keras.Model, Any, dict, Collection[str]], keras.Model]
    matches: Callable[[keras.Model], bool]
    rules: Callable[[keras.Model], Iterator[Rule]]
    config_of: Callable[[keras.Model], dict]
    ignored: Mapping[str, str] = field(default_factory=dict)


HEADS: tuple[Head, ...] = ()


def of_config(config: Mapping[str, Any]) -> Head | None:
    """The head of a config.json's architecture; `None` for a backbone."""
    architectures = config.get("architectures") or [""]
    for head in HEADS:
        if architectures[0].endswith(head.suffix):
            return head
    return None


def of_task(task: str) -> Head:
    """The head of that name, or an error that names all."""
    for head in HEADS:
        if head.task == task:
            return head
    known = ", ".join(repr(name) for name in ["backbone", *(h.task for h in HEADS)])
    raise ValueError(
        f"No task of this name. Supported: {known}, and None for what the files say. "
        f"Received: task={task!r}"
    )


def of_model(model: Any) -> Head | None:
    """The head that a task model has; `None` for a backbone."""
    return next((head for head in HEADS if head.matches(model)), None)
