"""`fine_tune`: training a task on examples in one call."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_attention.tasks.batches import ArrayBatches
from keras_attention.tasks.common import freeze_unread_pooler
from keras_attention.training.adamw import AdamW
from keras_attention.training.schedules import WarmupLinearDecay

# Relative position biases, as in T5, are biases too: transformers excludes them.
_BIASES_AND_SCALES = (
    r"(^|/)(bias|gamma|beta)$",
    r"relative_position(_bias)?(_\d+)?(/|$)",
)


def fine_tuning_optimizer(
    learning_rate: float,
    num_steps: int,
    *,
    warmup: float = 0.1,
    weight_decay: float = 0.01,
    clip_norm: float | None = 1.0,
    epsilon: float = 1e-8,
) -> keras.optimizers.Optimizer:
    """Returns `ka.AdamW` with the usual settings for fine-tuning transformers.

    The learning rate warms up, then decays linearly. Matrices have weight decay; biases
    (also those of relative positions) and the scales of normalisations have none. A
    training with it has the losses that a loop of `transformers` on torch has, with
    equal weights, batches and settings.

    Reference: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019
    (arXiv:1711.05101).

    Args:
        learning_rate: The learning rate at its peak.
        num_steps: The number of steps of the whole training.
        warmup: The share of the steps before the peak.
        weight_decay: The weight decay of the matrices, per step and unit of learning
            rate.
        clip_norm: The largest norm of all gradients together; `None` for no limit.
        epsilon: The number that AdamW adds to its denominators.

    Returns:
        The optimizer.

    Example:
    >>> optimizer = ka.fine_tuning_optimizer(5e-5, num_steps=100)
    >>> optimizer.name
    'adamw'
    """
    schedule = WarmupLinearDecay(learning_rate, num_steps, round(warmup * num_steps))
    return AdamW(
        schedule,
        weight_decay,
        epsilon=epsilon,
        no_weight_decay=_BIASES_AND_SCALES,
        global_clipnorm=clip_norm,
    )


def fine_tune(
    model: keras.Model,
    batches: Any,
    *,
    epochs: int = 3,
    learning_rate: float = 5e-5,
    validation: Any = None,
    freeze_backbone: bool = False,
    callbacks: Sequence[Any] = (),
    verbose: bool | str = "auto",
) -> keras.callbacks.History:
    """Trains a task on its examples.

    It calls `model.compile` with the task's own loss and metrics and
    `fine_tuning_optimizer`, then `model.fit`. Call these yourself for other settings.

    Args:
        model: A task with `compile_arguments`, e.g. `ka.TextClassifier`.
        batches: The batches that `model.batches(…)` returned.
        epochs: The number of passes over all examples.
        learning_rate: The learning rate at its peak: about 5e-5 for a whole model, 1e-3
            for a head.
        validation: Other batches that are evaluated after each epoch, or `None`.
        freeze_backbone: Whether only the head is trained. The backbone stays frozen
            afterwards (`model.backbone.trainable`). If the head reads one vector per
            row, the backbone runs once and not once per epoch.
        callbacks: The callbacks of `fit`.
        verbose: Whether to show a progress bar; `"auto"` as in `fit`.

    Returns:
        The history that `fit` returned.

    Example:
    ```python
    model = ka.TextClassifier(encoder, ["bad", "good"], tokenizer)
    ka.fine_tune(model, model.batches(texts, labels), epochs=2)
    model.classify(["What a film!"])
    ```
    """
    model.backbone.trainable = not freeze_backbone
    freeze_unread_pooler(model)
    trained = model
    arguments = model.compile_arguments()
    if freeze_backbone and getattr(model, "reads_one_vector", False):
        trained = keras.Sequential([model.head])
        batch_size = batches.batch_size
        found = _features(model, batches, verbose)
        batches = ArrayBatches(*found, batch_size=batch_size)
        if validation is not None:
            found = _features(model, validation, verbose)
            validation = ArrayBatches(*found, batch_size=batch_size)
    steps = epochs * batches.num_batches
    trained.compile(fine_tuning_optimizer(learning_rate, steps), **arguments)
    history = trained.fit(
        batches,
        epochs=epochs,
        validation_data=validation,
        callbacks=list(callbacks),
        verbose=verbose if verbose == "auto" else int(verbose),  # pyright: ignore
    )
    if trained is not model:
        model.compile(**arguments)
    return history


def _features(
    model: Any, batches: Any, verbose: bool | str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features that the head reads, and the targets, of all rows."""
    compute = keras.Model.predict_on_batch
    show = int(verbose if verbose != "auto" else batches.num_batches >= 10)
    bar = keras.utils.Progbar(batches.num_batches, verbose=show, unit_name="batch")
    features, targets = [], []
    reader = FeatureReader(model)
    for index in range(batches.num_batches):
        inputs, target = batches[index]
        features.append(compute(reader, inputs))
        targets.append(target)
        bar.update(index + 1)
    return np.concatenate(features), np.concatenate(targets)


class FeatureReader(keras.Model):
    """A task without its head, as a model that Keras can compile."""

    def __init__(self, task: Any):
        super().__init__()
        self.task = task
        self.built = True

    def call(self, inputs):
        return self.task.features(inputs, training=False)
