"""`fine_tune`: what one does with a task and examples, in one call."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_attention.tasks.common import freeze_unread_pooler
from keras_attention.training.schedules import WarmupLinearDecay


def fine_tuning_optimizer(
    learning_rate: float,
    num_steps: int,
    *,
    warmup: float = 0.1,
    weight_decay: float = 0.01,
    clip_norm: float | None = 1.0,
) -> keras.optimizers.Optimizer:
    """AdamW as transformers are fine-tuned: warm-up, linear decay, no decay of norms.

    Weights decay, biases and the scales of normalisations do not.

    Reference: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019
    (arXiv:1711.05101).

    Args:
        learning_rate: At its peak.
        num_steps: Steps of the whole training.
        warmup: Share of the steps until the peak.
        weight_decay: Of the matrices, a step and unit of learning rate.
        clip_norm: Largest norm of all gradients together; `None` for any.

    Returns:
        The optimizer.

    Example:
    >>> optimizer = ka.fine_tuning_optimizer(5e-5, num_steps=100)
    >>> optimizer.name
    'adamw'
    """
    schedule = WarmupLinearDecay(learning_rate, num_steps, round(warmup * num_steps))
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=weight_decay, global_clipnorm=clip_norm, name="adamw"
    )
    # Of the last part of a variable's path: `relative_position_bias` does decay.
    optimizer.exclude_from_weight_decay(var_names=[r"(^|/)(bias|gamma|beta)$"])
    return optimizer


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

    It is `model.compile` with the task's own loss and metrics and
    `fine_tuning_optimizer`, then `model.fit`: call those for other settings.

    Args:
        model: A task with `compile_arguments`, e.g. `ka.TextClassifier`.
        batches: What `model.batches(…)` returns.
        epochs: Times all examples are seen.
        learning_rate: At its peak. About 5e-5 for a whole model, 1e-3 for a head.
        validation: More batches, to be evaluated after each epoch.
        freeze_backbone: Whether only the head is trained. The backbone stays frozen
            (`model.backbone.trainable`). Where the head reads one vector a row, the
            backbone runs once and not once an epoch.
        callbacks: Those of `fit`.
        verbose: Whether there is a progress bar; `"auto"` as in `fit`.

    Returns:
        The history of `fit`.

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
    if freeze_backbone and hasattr(model, "features"):
        trained = keras.Sequential([model.head])
        batch_size = batches.batch_size
        batches = _Rows(*_features(model, batches, verbose), batch_size=batch_size)
        if validation is not None:
            found = _features(model, validation, verbose)
            validation = _Rows(*found, batch_size=batch_size)
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
    """What the head reads, and the targets, of all rows."""
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
    """A task up to its head, so that Keras compiles that."""

    def __init__(self, task: Any):
        super().__init__()
        self.task = task
        self.built = True

    def call(self, inputs):
        return self.task.features(inputs, training=False)


class _Rows(keras.utils.PyDataset):
    """Rows of one shape, in another order each epoch."""

    def __init__(self, inputs: np.ndarray, targets: np.ndarray, *, batch_size: int):
        super().__init__()
        self.inputs, self.targets, self.batch_size = inputs, targets, batch_size
        self._random = np.random.default_rng(0)
        self._order = self._random.permutation(len(inputs))

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.inputs) // self.batch_size)

    def __getitem__(self, index):
        start = index * self.batch_size
        rows = self._order[start : start + self.batch_size]
        return self.inputs[rows], self.targets[rows]

    def on_epoch_end(self):
        """Draws the order of the next epoch."""
        self._order = self._random.permutation(len(self.inputs))
