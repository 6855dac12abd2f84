"""`fine_tune`: training a task on examples in one call."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_attention.ops.backend.replicas import ReplicaTraining, in_scope_of_model
from keras_attention.tasks.batches import ArrayBatches, EpochBatches
from keras_attention.tasks.common import freeze_unread_pooler
from keras_attention.training.adamw import AdamW
from keras_attention.training.checkpoint import checkpoint_of
from keras_attention.training.schedules import WarmupLinearDecay
from keras_attention.training.settings import (
    StopAtNaN,
    computing_in,
    early_stopping_of,
    loss_with,
    replaced,
    steps_of,
)

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
    gradient_accumulation_steps: int | None = None,
    ema: float | None = None,
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
        gradient_accumulation_steps: The number of batches whose gradients make one
            step; `num_steps` counts steps.
        ema: The momentum of a moving average of the weights, such as 0.999, which
            replaces them at the end of `fit`; `None` for no average.

    Returns:
        The optimizer.

    Example:
    >>> optimizer = ka.fine_tuning_optimizer(5e-5, num_steps=100)
    >>> optimizer.name
    'adamw'
    """
    schedule = WarmupLinearDecay(
        learning_rate,
        num_steps,
        round(warmup * num_steps),
        gradient_accumulation_steps=gradient_accumulation_steps or 1,
    )
    return AdamW(
        schedule,
        weight_decay,
        epsilon=epsilon,
        no_weight_decay=_BIASES_AND_SCALES,
        global_clipnorm=clip_norm,
        gradient_accumulation_steps=gradient_accumulation_steps,
        use_ema=ema is not None,
        ema_momentum=0.99 if ema is None else ema,
    )


@in_scope_of_model
def fine_tune(
    model: keras.Model,
    batches: Any,
    *,
    epochs: int = 3,
    learning_rate: float = 5e-5,
    validation: Any = None,
    loss: Any = None,
    freeze_backbone: bool | None = None,
    weight_decay: float = 0.01,
    warmup: float = 0.1,
    epsilon: float = 1e-8,
    gradient_accumulation_steps: int | None = None,
    ema: float | None = None,
    label_smoothing: float = 0.0,
    class_weight: Mapping[Any, float] | None = None,
    early_stopping: int | None = None,
    monitor: str = "val_loss",
    steps_per_epoch: int | None = None,
    dtype: Any = None,
    resume: Any = None,
    callbacks: Sequence[Any] = (),
    verbose: bool | str = "auto",
) -> keras.callbacks.History:
    """Trains a task on its examples.

    It calls `model.compile` with the task's own loss and metrics and
    `fine_tuning_optimizer`, then `model.fit`. Call these yourself for other settings.
    What is frozen (`layer.trainable = False`) stays frozen. A loss that is not finite
    ends the training with an error.

    Args:
        model: A task, e.g. `ka.TextClassifier`.
        batches: The batches that `model.batches(…)` returned, or anything else that
            `fit` takes and that has the task's inputs and targets.
        epochs: The number of passes over all examples.
        learning_rate: The learning rate at its peak: about 5e-5 for a whole model, 1e-3
            for a head.
        validation: Other batches that are evaluated after each epoch, or `None`.
        loss: A loss instead of the task's own, e.g. `ka.TripletLoss()`.
        freeze_backbone: `True` trains the head only: `model.backbone.trainable` becomes
            `False`, and stays so afterwards. If the head reads one vector per row, the
            backbone then runs once and not once per epoch. `False` trains all layers,
            also those that were frozen. `None` leaves frozen what is.
        weight_decay: The weight decay of the matrices.
        warmup: The share of the steps before the peak of the learning rate.
        epsilon: The number that AdamW adds to its denominators.
        gradient_accumulation_steps: The number of batches whose gradients make one
            step, to train with large batches in little memory.
        ema: The momentum of a moving average of the weights, such as 0.999. Validation
            uses the average, and the trained model is the average.
        label_smoothing: The share of the target that all classes get, such as 0.1.
        class_weight: The factor of the loss of each class, by name or number.
        early_stopping: The number of epochs without improvement after which the
            training stops. The weights of the best epoch are restored.
        monitor: The metric that early stopping compares, such as `"val_accuracy"`.
        steps_per_epoch: The number of batches per epoch, if `batches` does not say it.
        dtype: The dtype policy of the training, such as `"mixed_bfloat16"`; the model's
            own when `None`. The weights keep their dtype.
        resume: A folder of checkpoints, one after each epoch, or a
            `ka.TrainingCheckpoint`. If it has a checkpoint, the training goes on from
            there.
        callbacks: The callbacks of `fit`.
        verbose: Whether to show a progress bar; `"auto"` as in `fit`.

    Returns:
        The history that `fit` returned.

    Raises:
        ValueError: If nothing can be trained, an argument does not fit the task, or the
            loss is not finite.

    Example:
    ```python
    model = ka.TextClassifier(encoder, ["bad", "good"], tokenizer)
    ka.fine_tune(model, model.batches(texts, labels), epochs=2)
    model.classify(["What a film!"])
    ```
    """
    if freeze_backbone is not None:
        model.backbone.trainable = not freeze_backbone
    freeze_unread_pooler(model)
    if not model.trainable_variables:
        raise ValueError(
            "Every layer of the model is frozen, so nothing can be trained. Pass "
            "`freeze_backbone=False`, or set `layer.trainable = True`. Received: "
            f"{type(model).__name__} with {model.count_params()} frozen parameters"
        )
    settings = getattr(batches, "compile_settings", {})
    arguments = model.compile_arguments(**settings)
    arguments["loss"] = loss_with(
        replaced(arguments["loss"], loss),
        label_smoothing,
        class_weight,
        getattr(model, "labels", None),
    )
    steps = epochs * steps_of(batches, steps_per_epoch)
    accumulated = gradient_accumulation_steps or 1
    optimizer = fine_tuning_optimizer(
        learning_rate,
        max(1, steps // accumulated),
        warmup=warmup,
        weight_decay=weight_decay,
        epsilon=epsilon,
        gradient_accumulation_steps=gradient_accumulation_steps,
        ema=ema,
    )
    validation = copy.copy(validation) if validation is batches else validation
    stop = early_stopping_of(early_stopping, monitor, validation)
    swap = [keras.callbacks.SwapEMAWeights(bool(stop))] if ema is not None else []
    with computing_in(model, dtype):
        trained = model
        if _reads_features(model, batches, validation):
            trained = HeadTraining([model.head])  # pyright: ignore[reportCallIssue]
            trained.dtype_policy = model.dtype_policy  # float16 needs a scaled loss
            batches = _features(model, batches, verbose)
            if validation is not None:
                validation = _features(model, validation, verbose)
        trained.compile(optimizer, **arguments)
        history = trained.fit(
            batches,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            # Ours are shuffled by seed and epoch; Keras' shuffle cannot be resumed.
            shuffle=not isinstance(batches, EpochBatches),
            validation_data=validation,
            callbacks=[
                StopAtNaN(),
                *checkpoint_of(resume),
                _Validation(validation),
                *swap,
                *callbacks,
                *stop,
            ],
            verbose=verbose if verbose == "auto" else int(verbose),  # pyright: ignore
        )
    if trained is not model:
        model.compile(**arguments)
    return history


class _Validation(keras.callbacks.Callback):
    """Evaluates the same batches each time: other hidden tokens are another score."""

    def __init__(self, batches: Any):
        super().__init__()
        self.batches = batches

    def on_test_begin(self, logs=None):
        if isinstance(self.batches, EpochBatches):
            self.batches.epoch = 0


def _reads_features(model: Any, batches: Any, validation: Any) -> bool:
    """Returns whether the backbone may run once, before the head is trained."""
    frozen = not model.backbone.trainable and getattr(model, "reads_one_vector", False)
    given = [batches] if validation is None else [batches, validation]
    return frozen and all(isinstance(one, EpochBatches) for one in given)


def _features(model: Any, batches: EpochBatches, verbose: bool | str) -> ArrayBatches:
    """Returns batches of the features that the head reads.

    Rows are in the order of epoch 0, so that a resumed training draws the same.
    """
    show = int(verbose if verbose != "auto" else batches.num_batches >= 10)
    bar = keras.utils.Progbar(batches.num_batches, verbose=show, unit_name="batch")
    features, targets = [], []
    reader = FeatureReader(model)
    epoch, batches.epoch = batches.epoch, 0
    for index in range(batches.num_batches):
        inputs, target = batches[index]
        features.append(reader.predict_on_batch(inputs))
        targets.append(target)
        bar.update(index + 1)
    found = ArrayBatches(
        np.concatenate(features),
        np.concatenate(targets),
        batch_size=batches.batch_size,
        shuffle=batches.shuffle,
        seed=batches.seed,
    )
    batches.epoch = found.epoch = epoch
    return found


class HeadTraining(ReplicaTraining, keras.Sequential):
    """A head alone, on features that were computed before."""


class FeatureReader(ReplicaTraining, keras.Model):
    """A task without its head, as a model that Keras can compile."""

    def __init__(self, task: Any):
        super().__init__()
        self.task = task
        self.built = True

    def call(self, inputs):
        return self.task.features(inputs, training=False)
