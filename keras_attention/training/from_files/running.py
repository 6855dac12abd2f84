"""From files of examples to a trained task and its report: what `fine-tune` runs."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_attention.tasks.causal_lm import CausalLM
from keras_attention.tasks.masked_lm import MaskedLM
from keras_attention.tasks.question_answerer import QuestionAnswerer
from keras_attention.tasks.sentence_encoder import SentenceEncoder
from keras_attention.tasks.seq2seq_lm import Seq2SeqLM
from keras_attention.tasks.text_classifier import TextClassifier
from keras_attention.tasks.token_classifier import TokenClassifier
from keras_attention.training.evaluation import TaskEvaluation, evaluate_task
from keras_attention.training.fine_tuning import fine_tune
from keras_attention.training.from_files.files import (
    FileExamples,
    file_batches,
    labels_in,
)

TASKS: dict[str, Any] = {
    "classify": TextClassifier,
    "tag": TokenClassifier,
    "answer": QuestionAnswerer,
    "embed": SentenceEncoder,
    "generate": CausalLM,
    "translate": Seq2SeqLM,
    "fill": MaskedLM,
}
CUT = (TextClassifier, SentenceEncoder, MaskedLM)  # others read long texts in parts
# The settings of a run: those of `file_batches`, then those of `fine_tune`.
OF_BATCHES: dict[str, Any] = {
    "batch_size": 32,
    "seed": 0,
    "pad_to_multiple_of": None,
    "packing": False,
}
OF_TRAINING: dict[str, Any] = {
    "epochs": 3,
    "learning_rate": 5e-5,
    "warmup": 0.1,
    "weight_decay": 0.01,
    "epsilon": 1e-8,
    "gradient_accumulation_steps": None,
    "ema": None,
    "label_smoothing": 0.0,
    "class_weight": None,
    "early_stopping": None,
    "monitor": "val_loss",
    "dtype": None,
    "freeze_backbone": None,
}
_MOST_POINTS = 500


def run_fine_tuning(
    source: Any,
    task: str,
    data: list[Path],
    *,
    tokenizer: Any = None,
    validation: Path | None = None,
    hold_out: float = 0.1,
    columns: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    callbacks: list[Any] | None = None,
    verbose: Any = "auto",
) -> tuple[Any, dict[str, Any]]:
    """Trains a task on files and evaluates it on examples that were held out.

    All examples are read and checked before the first step. A model of the task that
    knows the labels is trained further; otherwise its backbone gets a new head.

    Args:
        source: A task or a backbone.
        task: One of `TASKS`.
        data: The files of examples; see `file_batches`.
        tokenizer: The tokenizer, if `source` has none.
        validation: A file of held-out examples.
        hold_out: The share of `data` that is held out if there is no such file.
        columns: The columns that are meant, by their usual names.
        settings: Entries of `OF_BATCHES` and `OF_TRAINING`.
        callbacks: The callbacks of `fit`.
        verbose: Whether to show progress.

    Returns:
        The trained task, and the report: `task`, `examples`, `cut` (texts as long as
        the model or longer), `settings`, `labels`, `scores` of the held-out examples,
        `history` by epoch, `curve` (batch and mean loss since the beginning of its
        epoch) and `seconds`.
    """
    chosen, kind = _settings(settings or {}), _kind(task)
    if kind in (CausalLM, MaskedLM) and "batch_size" not in (settings or {}):
        chosen["batch_size"] = 8  # the logits of every token take memory
    of_batches = {name: chosen[name] for name in OF_BATCHES}
    if validation is None and not 0 < hold_out < 1:
        raise ValueError(
            "The report needs examples that are not trained on: pass a file of them, "
            f"or hold out a share between 0 and 1. Received: hold_out={hold_out}"
        )
    keras.utils.set_random_seed(chosen["seed"])
    share = 0.0 if validation is not None else hold_out
    labels = None
    if kind in (TextClassifier, TokenClassifier):
        labels = labels_in(FileExamples(kind, data, columns))
    model = task_of(source, kind, labels, tokenizer)
    trained_on = FileExamples(model, data, columns, share=(share, 1.0))
    files = data if validation is None else [validation]
    held_out = FileExamples(model, files, columns, share=(0.0, share or 1.0))
    batches = file_batches(model, trained_on, **of_batches)
    tested = file_batches(model, held_out, shuffle=False, **of_batches)
    columns_of = [*map(list, zip(*(values for _, values in held_out), strict=True))]
    scores = TaskEvaluation(model, *columns_of)
    after_epochs = chosen["early_stopping"] and chosen["monitor"] != "val_loss"
    curve = _Curve()
    start = time.monotonic()
    history = fine_tune(
        model,
        batches,
        validation=tested,
        callbacks=[curve, *([scores] if after_epochs else []), *(callbacks or ())],
        verbose=verbose,
        **{name: chosen[name] for name in OF_TRAINING},
    ).history
    seconds = time.monotonic() - start
    return model, {
        "task": task,
        "model": type(model).__name__,
        "examples": {"trained": batches.num_rows, "held_out": tested.num_rows},
        "cut": (batches.num_full + tested.num_full) * (kind in CUT),
        "labels": list(labels or ()),
        "settings": chosen,
        "scores": evaluate_task(model, *columns_of, verbose=False),
        "history": {name: [*map(float, x)] for name, x in history.items()},
        "curve": curve.points[:: -(-len(curve.points) // _MOST_POINTS) or 1],
        "seconds": round(seconds, 1),
    }


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    known = {**OF_BATCHES, **OF_TRAINING}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(
            f"A setting must be one of {', '.join(known)}. Received: {unknown[:8]}"
        )
    return {**known, **given}


def _kind(task: str) -> Any:
    if task not in TASKS:
        raise ValueError(
            f"The task must be one of {', '.join(TASKS)}. Received: {task}"
        )
    return TASKS[task]


def task_of(source: Any, kind: Any, labels: list[str] | None, tokenizer: Any) -> Any:
    """Returns a model as a task of a kind, with a new head where it has none.

    Args:
        source: A task or a backbone.
        kind: The class of the task.
        labels: The labels of the examples, or `None`.
        tokenizer: The tokenizer, if the model has none.
    """
    tokenizer = getattr(source, "tokenizer", None) or tokenizer
    if isinstance(source, kind) and set(labels or ()) <= {
        *getattr(source, "labels", ())
    }:
        source.tokenizer = tokenizer
        model = source
    elif kind in (CausalLM, Seq2SeqLM) and not isinstance(source, kind):
        raise ValueError(
            f"{kind.__name__} needs a model that writes text: a decoder, or an encoder "
            f"with a decoder. Received: {type(source).__name__}"
        )
    else:
        backbone = getattr(source, "backbone", source)
        settings: dict[str, Any] = {"tokenizer": tokenizer}
        if labels is not None:
            settings["labels"] = labels
        of_sentences = isinstance(source, SentenceEncoder) and source.pooling == "mean"
        if kind is TextClassifier and of_sentences:
            settings["pooling"] = "mean"  # its other vectors were never trained
        model = kind(backbone, **settings)
    if tokenizer is None:
        raise ValueError(
            "The model has no tokenizer: pass the folder of one. "
            f"Received: {type(source).__name__} without a tokenizer"
        )
    return model


class _Curve(keras.callbacks.Callback):
    """Collects the loss of each batch."""

    def __init__(self):
        super().__init__()
        self.points: list[tuple[int, float]] = []

    def on_train_batch_end(self, batch, logs=None):
        loss = float((logs or {}).get("loss", 0.0))
        self.points.append((len(self.points) + 1, loss))
