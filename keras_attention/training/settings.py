"""What `fine_tune` makes of its arguments: steps, loss, dtype, callbacks."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_attention.tasks.losses import SmoothedCrossEntropy


def steps_of(batches: Any, steps_per_epoch: int | None) -> int:
    """Returns the number of batches per epoch.

    Args:
        batches: What `fit` takes: a `PyDataset`, a `tf.data.Dataset`, a generator.
        steps_per_epoch: The number that the user passed, or `None`.
    """
    if steps_per_epoch is not None:
        return steps_per_epoch
    found = getattr(batches, "num_batches", None)
    if found is None and hasattr(batches, "cardinality"):
        found = int(batches.cardinality())
    elif found is None and hasattr(batches, "__len__"):
        found = len(batches)
    if found is None or found < 1:
        raise ValueError(
            "The learning rate depends on the number of batches per epoch, and that of "
            "these batches is unknown, infinite or 0. Pass `steps_per_epoch=`, or "
            "`dataset.apply(tf.data.experimental.assert_cardinality(n))`. "
            f"Received: {type(batches).__name__} with {found} batches"
        )
    return int(found)


def replaced(loss: Any, other: Any) -> Any:
    """Returns another loss in the form of a task's own; that one if there is none.

    Args:
        loss: The loss of `compile_arguments`: one, or a dict with the output's name.
        other: The loss that the user passed, or `None`.
    """
    if other is None:
        return loss
    return dict.fromkeys(loss, other) if isinstance(loss, dict) else other


def loss_with(
    loss: Any,
    label_smoothing: float,
    class_weight: Mapping[Any, float] | None,
    labels: Any,
) -> Any:
    """Returns the loss of a task with smoothed labels and weighted classes.

    Args:
        loss: The loss of `compile_arguments`.
        label_smoothing: The share of the target that all classes get.
        class_weight: The weight of each class, by its name or number, or `None`.
        labels: The names of the classes, or `None`.
    """
    if not label_smoothing and not class_weight:
        return loss
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        numbers: dict[Any, Any] = {name: i for i, name in enumerate(labels or ())}
        unknown = [x for x in class_weight or () if isinstance(x, str) - (x in numbers)]
        if unknown:
            raise ValueError(
                "`class_weight` must name labels of the model, or their numbers. The "
                f"labels are {', '.join(list(numbers)[:8])}. Received: {unknown[:8]}"
            )
        given = (class_weight or {}).items()
        weights = {numbers.get(name, name): weight for name, weight in given}
        return SmoothedCrossEntropy(loss.ignore_class, label_smoothing, weights)
    if isinstance(loss, keras.losses.BinaryCrossentropy) and not class_weight:
        config = {**loss.get_config(), "label_smoothing": label_smoothing}
        return type(loss).from_config(config)
    raise ValueError(
        "Only tasks with one label per text, image or token have `class_weight` and "
        "`label_smoothing`; several labels per text only the latter. Received: "
        f"label_smoothing={label_smoothing}, class_weight={class_weight}, loss={loss}"
    )


@contextlib.contextmanager
def computing_in(model: keras.Model, dtype: Any) -> Iterator[None]:
    """Sets the dtype policy of a built model, and restores it at the end.

    Layers with another policy than the model's, such as quantised ones, keep it.

    Args:
        model: The model.
        dtype: The policy, such as `"mixed_bfloat16"`; `None` changes nothing.
    """
    if dtype is None:
        yield
        return
    policy, before = keras.dtype_policies.get(dtype), model.dtype_policy
    if policy.variable_dtype != before.variable_dtype:
        raise ValueError(
            "The weights of a model keep their dtype: `dtype` must be a policy with "
            f"{before.variable_dtype} variables, such as 'mixed_bfloat16'. "
            f"Received: dtype={dtype!r}"
        )
    layers = [x for x in model._flatten_layers() if x.dtype_policy.name == before.name]
    try:
        for layer in layers:
            layer.dtype_policy = policy
        yield
    finally:
        for layer in layers:
            layer.dtype_policy = before
        # What was traced computes in the other dtype.
        model.train_function = model.test_function = model.predict_function = None


def early_stopping_of(patience: int | None, monitor: str, validation: Any) -> list[Any]:
    """Returns the callback that stops early and restores the best weights, if any.

    Args:
        patience: The number of epochs without improvement, or `None` for no stop.
        monitor: The name in the logs that is compared.
        validation: The validation data, or `None`.
    """
    if patience is None:
        return []
    if validation is None and monitor == "val_loss":
        raise ValueError(
            "Early stopping compares epochs by data that is not trained on: pass "
            f"`validation=`. Received: early_stopping={patience}, validation=None"
        )
    less = ("loss", "perplexity", "error")
    mode = "min" if monitor.endswith(less) else "max"
    stop = _EarlyStopping(
        monitor, patience=patience, mode=mode, restore_best_weights=True
    )
    return [stop]


class _EarlyStopping(keras.callbacks.EarlyStopping):
    def get_monitor_value(self, logs):
        """Returns the value; Keras only warns where there is none, and never stops."""
        if self.monitor not in (logs or {}):
            raise ValueError(
                "Early stopping compares a metric that there is not. There are "
                f"{', '.join(logs or {})}; the callback `ka.TaskEvaluation` adds more. "
                f"Received: monitor={self.monitor!r}"
            )
        return super().get_monitor_value(logs)


class StopAtNaN(keras.callbacks.Callback):
    """Raises an error as soon as the loss is no number, before anything is saved."""

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the loss.

        Args:
            batch: The number of the batch in its epoch.
            logs: The loss and the metrics.
        """
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise ValueError(
                "The loss is not finite any more, so the weights cannot be used: load "
                "the model again. Most often the learning rate is too high, or a "
                "target is not finite; in float16, use 'mixed_bfloat16'. "
                f"Received: loss={loss} after batch {batch + 1} of the epoch"
            )
