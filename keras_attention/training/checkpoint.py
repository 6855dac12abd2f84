"""`TrainingCheckpoint`: a training that was stopped goes on as if it had not been."""

from pathlib import Path
from typing import Any

import keras
from keras import ops

from keras_attention.ops.backend.replicas import is_chief, scope_of
from keras_attention.training import checkpoint_files as files


class TrainingCheckpoint(keras.callbacks.Callback):
    """Writes all that a training needs to go on, and goes on from it.

    A checkpoint holds the weights, the optimizer with its step and averages, the states
    of all seed generators, and the place in the data. When `fit` begins and the folder
    has a checkpoint, the training goes on from the newest one, also in the middle of an
    epoch: the weights at the end are those of a training that was not stopped, bit by
    bit, as far as the machine computes the same twice.

    A checkpoint is one file that appears only when it is complete. A damaged one is set
    aside with a warning, and the one before it is taken.

    The data must be the same in each epoch, or be batches with an `epoch` that chooses
    them, as those of the tasks are; batches before the place are read and left out. Of
    an endless `tf.data.Dataset` all batches since the beginning are. The history of
    `fit` begins anew, and the states of other callbacks are not held. With several
    workers the folder is shared, and the first worker writes.

    Args:
        folder: The folder of the checkpoints, for one training only.
        every_steps: The number of steps (batches) from one checkpoint to the next;
            `None` for one after each epoch.
        keep: The number of checkpoints that are kept.
        batches: The batches that `fit` gets. A model of this library hands them over
            by itself; others need it if the batches have an `epoch`.

    Raises:
        ValueError: In `fit`, if the checkpoints are all damaged, or are of another
            model, other data or another optimizer; or if `steps_per_epoch` ends an
            epoch before the data ends.

    Example:
    ```python
    checkpoint = ka.TrainingCheckpoint("checkpoints", every_steps=500)
    model.fit(batches, epochs=3, callbacks=[checkpoint])
    ```
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every_steps: int | None = None,
        keep: int = 2,
        batches: Any = None,
    ):
        super().__init__()
        if keep < 1 or (every_steps is not None and every_steps < 1):
            raise ValueError(
                "`keep` and `every_steps` must be at least 1. "
                f"Received: keep={keep}, every_steps={every_steps}"
            )
        self.folder, self.every_steps, self.keep = Path(folder), every_steps, keep
        self.batches = batches
        self._settings: dict[str, Any] = {}
        self._epoch = self._first_step = self._total = 0
        self._is_due = False

    def set_batches(self, batches: Any) -> None:
        """Takes the data of `fit`, if none was passed; models call it.

        Args:
            batches: The data.
        """
        if self.batches is None:
            self.batches = batches

    def on_train_begin(self, logs=None):
        """Restores the newest checkpoint, if there is one."""
        model: Any = self.model
        if not model.built or not model.optimizer:
            raise ValueError(
                "`TrainingCheckpoint` needs a model that is built and compiled with an "
                "optimizer: call the model once on a batch before `fit`. "
                f"Received: {model.name}, built={model.built}"
            )
        self._check_epoch_is_whole()
        if not model.optimizer.built:
            with scope_of(model):
                model.optimizer.build(model.trainable_variables)
        self._settings = _settings(model, self.batches)
        self._epoch = self._first_step = self._total = 0
        self._is_due = False
        found = files.newest(self.folder, is_chief(model))
        if found is not None:
            self._restore(model, *found)

    def _check_epoch_is_whole(self):
        # Otherwise `fit` goes on with the rest of the data in the next epoch, and where
        # that is nobody can tell.
        steps, whole = self.params.get("steps"), _num_batches(self.batches)
        if whole == -1 and keras.backend.backend() != "tensorflow":
            raise ValueError(
                "`TrainingCheckpoint` finds its place in an endless dataset on "
                "TensorFlow only; pass a dataset that ends. "
                f"Received: {type(self.batches).__name__}"
            )
        if whole and whole > 0 and steps and steps != whole:
            raise ValueError(
                "`TrainingCheckpoint` cannot find its place in the data if an epoch of "
                "`fit` is not the data's. Leave out `steps_per_epoch`, or pass an "
                "endless dataset (`dataset.repeat()`). Received: "
                f"steps_per_epoch={steps}, {whole} batches"
            )

    def _restore(self, model, path, content):
        files.check_settings(path, content.about["settings"], self._settings)
        variables = _variables(model)
        files.check_tensors(path, content.tensors, variables)
        for name, variable in variables.items():
            variable.assign(content.tensors[name])
        place = content.about["place"]
        self._total, self._first_step = place["total"], place["step"]
        model._initial_epoch = self._epoch = place["epoch"]
        if place["data_epoch"] is not None:
            self.batches.epoch = place["data_epoch"]
        endless = _num_batches(self.batches) == -1
        before = self._total - self._first_step if endless else 0
        if before or self._first_step:
            _leave_out(model, before, self._first_step)

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the epoch."""
        if epoch != self._epoch:
            self._epoch, self._first_step = epoch, 0

    def on_train_batch_end(self, batch, logs=None):
        """Writes a checkpoint if it is time for one."""
        done = batch + 1
        if done <= self._first_step:  # it was trained before the training was stopped
            return
        before, self._total = self._total, self._total + self._model.steps_per_execution
        every = self.every_steps
        if every and self._total // every > before // every:
            self._is_due = True
        # After the last batch of an epoch comes what `fit` does at its end.
        if self._is_due and done != self.params.get("steps"):
            self._write(self._epoch, done)

    def on_epoch_end(self, epoch, logs=None):
        """Writes a checkpoint if it is time for one."""
        if self._is_due or not self.every_steps:
            self._write(epoch + 1, 0)

    def on_train_end(self, logs=None):
        """Lets the next `fit` begin with its first epoch."""
        self._model._initial_epoch = None

    def _write(self, epoch, step):
        self._is_due = False
        model: Any = self.model  # on JAX this brings the variables up to date
        if not is_chief(model):
            return
        place = {
            "epoch": epoch,
            "step": step,
            "total": self._total,
            "data_epoch": getattr(self.batches, "epoch", None),
        }
        tensors = {
            name: ops.convert_to_numpy(variable)
            for name, variable in _variables(model).items()
        }
        about = {"place": place, "settings": self._settings}
        files.write(self.folder, self._total, files.Content(about, tensors))
        files.remove_old(self.folder, self.keep)


def checkpoint_of(resume: Any) -> list[keras.callbacks.Callback]:
    """Returns the callback that resumes, if any, for the callbacks of `fit`.

    Args:
        resume: A folder, a `TrainingCheckpoint`, or `None`.
    """
    if resume is None or isinstance(resume, TrainingCheckpoint):
        return [resume] if resume else []
    return [TrainingCheckpoint(resume)]


def _variables(model: Any) -> dict[str, Any]:
    """Returns everything that training changes, by name.

    The names have no layer's name in them: those that Keras gives differ from one
    process to the next.
    """
    parts = {"model": model.variables, "optimizer": model.optimizer.variables}
    return {
        f"{part}/{number:05d}": variable
        for part, variables in parts.items()
        for number, variable in enumerate(variables)
    }


def _num_batches(batches: Any) -> int | None:
    """Returns the number of batches, -1 for an endless dataset, `None` if unknown."""
    if hasattr(batches, "cardinality"):
        return int(batches.cardinality())  # -1 is endless, -2 is unknown
    return getattr(batches, "num_batches", None)


def _settings(model: Any, batches: Any) -> dict[str, Any]:
    """Returns what must be the same when a training goes on."""
    names = ("num_batches", "num_rows", "batch_size", "shuffle", "seed")
    return {
        "optimizer": keras.saving.serialize_keras_object(model.optimizer),
        "frozen": [not variable.trainable for variable in model.variables].count(True),
        "data": {
            name: value
            for name in names
            if isinstance(value := getattr(batches, name, None), int)
        },
    }


def _leave_out(model: Any, before: int, steps: int) -> None:
    """Replaces the function that trains until the place in the data is reached.

    Args:
        model: The model.
        before: The number of batches that are read at once, before the epoch's.
        steps: The number of batches of the epoch that are read and not trained.
    """
    train = model.train_function

    def read_only(*args):
        nonlocal before, steps
        _read(args[-1], before)
        before = 0
        if steps <= 0:
            model.train_function = train
            return train(*args)
        steps -= model.steps_per_execution
        _read(args[-1], model.steps_per_execution)
        return {} if len(args) == 1 else ({}, args[0])  # on JAX with the state

    model.train_function = read_only


def _read(batches: Any, count: int) -> None:
    if not isinstance(batches, list):  # what Keras has read, on other backends
        for _ in range(count):
            next(batches)
