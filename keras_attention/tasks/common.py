"""Helpers that all tasks share: running a backbone, checks, labels, configs."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.models.common import base_config
from keras_attention.ops.attend import attention_weights, score_dtype

POOLINGS = ("pooled", "first", "last", "mean")  # see `BackboneTask.pooling`
# Inputs that a backbone may take in addition to its ids.
OPTIONAL_INPUTS = ("segment_ids", "padding_mask")


def run_backbone(backbone: Any, inputs: Any, training: Any) -> Any:
    """Calls a backbone with those of the inputs that it takes.

    A frozen backbone has no dropout either, so that its outputs are features that do
    not change; see `ka.fine_tune`.

    Args:
        backbone: A model of `models/`.
        inputs: A dict of inputs, in which `None` stands for an omitted one; or one
            array, for example of images.
        training: Whether dropout is active.

    Returns:
        The backbone's dict of outputs.
    """
    if isinstance(inputs, dict):
        takes = inspect.signature(backbone.call).parameters
        inputs = {
            name: value
            for name, value in inputs.items()
            if value is not None and (name not in OPTIONAL_INPUTS or name in takes)
        }
    return backbone(inputs, training=training if backbone.trainable else False)


def freeze_unread_pooler(task: Any) -> None:
    """Freezes the backbone's pooler if the task does not read it.

    Such a pooler has no gradient, and training it only makes Keras warn.

    Args:
        task: A task with a `backbone`.
    """
    pooler = getattr(task.backbone, "pooler", None)
    if pooler is not None and getattr(task, "pooling", None) != "pooled":
        pooler.trainable = False


def pooling_of(pooling: str | None, backbone: Any) -> str:
    """Returns the pooling of a task, after checking that the backbone allows it.

    Args:
        pooling: The value that the user passed. When `None`, it is the backbone's
            pooler, or the first token if there is no pooler.
        backbone: A model of `models/`.
    """
    has_pooler = getattr(backbone, "pooler", None) is not None
    if pooling is None:
        return "pooled" if has_pooler else "first"
    if pooling not in POOLINGS or (pooling == "pooled" and not has_pooler):
        raise ValueError(
            f"`pooling` must be one of {', '.join(POOLINGS)}, and `pooled` needs a "
            f"backbone with a pooler. Received: pooling={pooling!r}, a backbone "
            f"{'with' if has_pooler else 'without'} a pooler"
        )
    return pooling


def probabilities(logits: Any, mask: Any = None) -> Any:
    """Returns the softmax of logits `[..., C]`, in float32 or wider.

    Args:
        logits: The logits `[..., C]`.
        mask: Bool, of a shape that broadcasts; where it is `False` the probability is
            0.
    """
    return attention_weights(scores=ops.cast(logits, score_dtype(logits)), mask=mask)


def check_texts(task: Any, texts: Any, name: str, method: str) -> list[Any]:
    """Returns the texts as a list, after checking them and the task's tokenizer.

    Args:
        task: A task with a `tokenizer`.
        texts: The value that the user passed.
        name: The argument's name, for error messages.
        method: The name of the task's method, for error messages.
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
    """Refuses lists of different lengths; `None` stands for an omitted list.

    Args:
        **lists: The lists, by the names of the arguments.
    """
    sizes = {name: len(one) for name, one in lists.items() if one is not None}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"{' and '.join(f'`{name}`' for name in sizes)} must have the same length, "
            "with one entry per row. Received: "
            f"{', '.join(f'{n} {name}' for name, n in sizes.items())}"
        )


def batches_by_length(
    lengths: Sequence[int], batch_size: int, verbose: bool | str
) -> Iterator[np.ndarray]:
    """Groups rows of similar length into batches, and shows a progress bar.

    Args:
        lengths: The length of each row.
        batch_size: The number of rows per batch.
        verbose: Whether to show the bar; `"auto"` shows it from 10 batches on.

    Yields:
        The row numbers of each batch.
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
    """Tokenizes texts; returns one dict of arrays `[T]` per row, without padding.

    Args:
        tokenizer: A tokenizer that is called with a batch.
        *texts: The texts, and the second texts if they come in pairs.
    """
    given = [list(one) for one in texts if one is not None]
    rows: list[dict[str, np.ndarray]] = []
    for start in range(0, len(given[0]), 1000):
        batch = tokenizer(*(one[start : start + 1000] for one in given))
        batch = {name: np.asarray(value) for name, value in batch.items()}
        padding_mask = batch.pop("padding_mask").astype(bool)
        rows += [
            {name: value[row, mask] for name, value in batch.items()}
            for row, mask in enumerate(padding_mask)
        ]
    return rows


def check_lengths(rows: Sequence[Any], backbone: Any) -> None:
    """Refuses rows with more tokens than a model has positions, before it is trained.

    Args:
        rows: The token ids of each row, or dicts of them.
        backbone: A model of `models/`. Only learned positions are a limit.
    """
    kind = getattr(backbone, "position", getattr(backbone, "positions", "learned"))
    limit = backbone.max_sequence_length if kind == "learned" else None
    lengths = [len(x["token_ids"] if isinstance(x, dict) else x) for x in rows]
    for number, length in enumerate(lengths):
        if limit is not None and length > limit:
            raise ValueError(
                f"A text has more tokens than the model has positions, {limit}. "
                "Shorten it, or let the tokenizer cut texts (its `max_length=`). "
                f"Received: {length} tokens in row {number + 1} of {len(rows)}"
            )


def padding_of(tokenizer: Any) -> dict[str, int]:
    """Returns the value that fills shorter rows, by the input's name.

    Args:
        tokenizer: A tokenizer, or `None`.
    """
    return {"token_ids": getattr(tokenizer, "pad_token_id", 0) or 0}


def parts_config(model: Any, names: Sequence[str]) -> dict[str, Any]:
    """Returns the config of a model made of parts: Keras' own entries and the parts.

    Args:
        model: A model with an attribute of each name.
        names: The names of the parts, such as backbone and tokenizer.
    """
    serialize = keras.saving.serialize_keras_object
    config = base_config(model)
    return {**config, **{name: serialize(getattr(model, name)) for name in names}}


def with_parts(config: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Returns the constructor's arguments from what `parts_config` returned.

    Args:
        config: The config.
        names: The names of the parts.
    """
    rebuild = keras.saving.deserialize_keras_object
    return {**config, **{name: rebuild(config[name]) for name in names}}


def check_labels(labels: Any) -> tuple[str, ...]:
    """Returns the names of the labels, after checking that they differ.

    Args:
        labels: The value that the user passed.
    """
    if isinstance(labels, str | int) or not all(isinstance(x, str) for x in labels):
        raise ValueError(
            "`labels` must be a list of names, in the order of the logits. "
            f"Received: labels={labels!r}"
        )
    names = tuple(labels)
    if not names or len(set(names)) != len(names):
        raise ValueError(
            "`labels` must name at least one class, and each class once. "
            f"Received: labels={list(names)}"
        )
    return names


def label_ids(labels: Sequence[Any], names: Sequence[str]) -> np.ndarray:
    """Returns the numbers of labels, as int32.

    Args:
        labels: The labels, by name or by number.
        names: The names of all labels, in order.
    """
    numbers = {name: number for number, name in enumerate(names)}

    def number_of(label):
        number = numbers.get(label, label) if isinstance(label, str) else int(label)
        if isinstance(number, str) or not 0 <= number < len(names):
            raise ValueError(
                f"A label must be one of {', '.join(names[:8])}"
                f"{', …' if len(names) > 8 else ''}, or its number. "
                f"Received: {label!r}"
            )
        return number

    return np.array([number_of(label) for label in labels], "int32")


def best_label(labels: Sequence[str], scores: Sequence[float]) -> dict[str, Any]:
    """Returns the label with the largest score, its score, and all scores by name.

    Args:
        labels: The names of all labels.
        scores: The score of each.
    """
    by_name = dict(zip(labels, scores, strict=True))
    best = max(by_name, key=by_name.__getitem__)
    return {"label": best, "score": by_name[best], "scores": by_name}


def cross_entropy(ignore_class: int | None = None) -> keras.losses.Loss:
    """Returns the cross-entropy of logits and label numbers.

    Args:
        ignore_class: The label number that does not count, or `None`.
    """
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=ignore_class
    )
