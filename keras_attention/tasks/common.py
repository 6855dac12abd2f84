"""What tasks share: texts in by length, a backbone that is run, parts in a config."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.ops.attend import attention_weights, score_dtype

# Inputs that a backbone may take beside its ids.
OPTIONAL_INPUTS = ("segment_ids", "padding_mask")


def run_backbone(backbone: Any, inputs: dict[str, Any], training: Any) -> Any:
    """Calls a backbone with those of the inputs that it takes.

    A frozen backbone has no dropout either: its outputs are features that do not
    change, see `ka.fine_tune`.

    Args:
        backbone: Of `models/`.
        inputs: `token_ids`, and whatever stands beside them; `None` is left out.
        training: Whether dropout is active.

    Returns:
        The backbone's dict of outputs.
    """
    takes = inspect.signature(backbone.call).parameters
    given = {
        name: value
        for name, value in inputs.items()
        if value is not None and (name not in OPTIONAL_INPUTS or name in takes)
    }
    return backbone(given, training=training if backbone.trainable else False)


def freeze_unread_pooler(task: Any) -> None:
    """A pooler that the task does not read is not trained: it has no gradient."""
    pooler = getattr(task.backbone, "pooler", None)
    if pooler is not None and getattr(task, "pooling", None) != "pooled":
        pooler.trainable = False


def probabilities(logits: Any, mask: Any = None) -> Any:
    """Logits `[..., C]` as probabilities over the last axis, in float32 or wider.

    Args:
        logits: `[..., C]`.
        mask: Bool, broadcastable; `False` has probability 0.
    """
    return attention_weights(scores=ops.cast(logits, score_dtype(logits)), mask=mask)


def check_texts(task: Any, texts: Any, name: str, method: str) -> list[str]:
    """A list of texts, and a tokenizer to read them with.

    Args:
        task: With `tokenizer`.
        texts: What the user gave.
        name: Of the argument.
        method: Of the task, for the message.
    """
    if task.tokenizer is None:
        raise ValueError(
            f"`{method}` needs a tokenizer: build the model with `tokenizer=`, or "
            "load it with `ka.from_pretrained`. Received: tokenizer=None"
        )
    if isinstance(texts, str):
        raise ValueError(
            f"`{name}` must be a list of texts; wrap a single one in a list. "
            f"Received: {name}={texts!r}"
        )
    return list(texts)


def check_same_number(**lists: Sequence[Any] | None) -> None:
    """Refuses lists of different lengths; `None` is no list."""
    sizes = {name: len(one) for name, one in lists.items() if one is not None}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"{' and '.join(f'`{name}`' for name in sizes)} must be equally many, one "
            f"a row. Received: {', '.join(f'{n} {name}' for name, n in sizes.items())}"
        )


def batches_by_length(
    lengths: Sequence[int], batch_size: int, verbose: bool | str
) -> Iterator[np.ndarray]:
    """Rows to compute together, similar lengths together, under a progress bar.

    Args:
        lengths: One a row.
        batch_size: Rows at a time.
        verbose: Whether to show the bar; `"auto"` from 10 batches on.

    Yields:
        The numbers of the rows.
    """
    if batch_size < 1:
        raise ValueError(
            f"`batch_size` must be at least 1. Received: batch_size={batch_size}"
        )
    order = np.argsort(lengths, kind="stable")
    starts = range(0, len(order), batch_size)
    show = len(starts) >= 10 if verbose == "auto" else bool(verbose)
    bar = keras.utils.Progbar(len(starts), verbose=int(show), unit_name="batch")
    for done, start in enumerate(starts, 1):
        yield order[start : start + batch_size]
        bar.update(done)


def tokenized(
    tokenizer: Any, *texts: Sequence[str] | None
) -> list[dict[str, np.ndarray]]:
    """One dict of arrays `[T]` a row, without padding.

    Args:
        tokenizer: Called with a batch.
        *texts: The texts, and the second texts where they come in pairs.
    """
    given = [list(one) for one in texts if one is not None]
    rows: list[dict[str, np.ndarray]] = []
    for start in range(0, len(given[0]), 1000):
        batch = tokenizer(*(one[start : start + 1000] for one in given))
        batch = {name: np.asarray(value) for name, value in batch.items()}
        keep = batch.pop("padding_mask").astype(bool)
        rows += [
            {name: value[row, keep[row]] for name, value in batch.items()}
            for row in range(len(keep))
        ]
    return rows


def padding_of(tokenizer: Any) -> dict[str, int]:
    """What fills the inputs of shorter rows."""
    return {"token_ids": getattr(tokenizer, "pad_token_id", 0) or 0}


def parts_config(model: Any, names: Sequence[str]) -> dict[str, Any]:
    """The config of a model made of parts: what every layer has, and the parts.

    Args:
        model: With an attribute of each name.
        names: Of the parts: backbone, tokenizer.
    """
    serialize = keras.saving.serialize_keras_object
    config = keras.layers.Layer.get_config(model)
    return {**config, **{name: serialize(getattr(model, name)) for name in names}}


def with_parts(config: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """`parts_config` read backwards: the arguments of the constructor."""
    rebuild = keras.saving.deserialize_keras_object
    return {**config, **{name: rebuild(config[name]) for name in names}}


def check_labels(labels: Any) -> tuple[str, ...]:
    """Names of labels: two or more different strings."""
    if isinstance(labels, str | int) or not all(isinstance(x, str) for x in labels):
        raise ValueError(
            "`labels` must be a list of names; their order is that of the logits. "
            f"Received: labels={labels!r}"
        )
    names = tuple(labels)
    if not names or len(set(names)) != len(names):
        raise ValueError(
            "`labels` must name each class once, and there must be some. "
            f"Received: labels={list(names)}"
        )
    return names


def label_ids(labels: Sequence[Any], names: Sequence[str]) -> np.ndarray:
    """Labels by name, or by number, as int32 of the same nesting.

    Args:
        labels: Names or numbers.
        names: All labels.
    """
    places = {name: place for place, name in enumerate(names)}

    def place_of(label):
        place = places.get(label, label) if isinstance(label, str) else int(label)
        if isinstance(place, str) or not 0 <= place < len(names):
            raise ValueError(
                f"A label must be one of {', '.join(names[:8])}"
                f"{', …' if len(names) > 8 else ''}, or its number. "
                f"Received: {label!r}"
            )
        return place

    return np.array([place_of(label) for label in labels], "int32")
