"""Training under `tf.distribute`, which Keras 3.15 breaks: the mixin of all models.

TensorFlow is imported inside the functions that need it. On other backends, and outside
of a strategy, nothing here changes what Keras does.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import keras
from keras import ops

F = TypeVar("F", bound=Callable)


class ReplicaTraining:
    """What the training of a model needs under a `tf.distribute` strategy.

    It is the first base of every model and task, before `keras.Model`. Keras 3.15
    builds a model with the sum of the first batches of all replicas, which fails for
    bool masks and for values of several workers (keras#20585), and it takes the mean
    over replicas of means over rows. Here a loss is the mean over all rows, or over all
    labels that count, as on one device, also where a batch cannot be divided evenly.
    """

    @functools.wraps(keras.Model.fit)
    def fit(self, x=None, *args, **kwargs):
        # Keras shuffles the batches of a `PyDataset` by Python's own generator, which
        # no checkpoint holds and which is different in each worker.
        if isinstance(x, keras.utils.PyDataset) and (
            hasattr(x, "epoch") or _has_workers(self)
        ):
            kwargs.setdefault("shuffle", False)
        for callback in _listed(kwargs.get("callbacks")):
            if hasattr(callback, "set_batches"):
                callback.set_batches(x)
        return super().fit(x, *args, **kwargs)  # pyright: ignore

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Returns the loss of a batch, or the part of it that this replica adds."""
        y, y_pred = _of_whole_batch(self, y, y_pred)
        loss = super().compute_loss(  # pyright: ignore
            x, y, y_pred, sample_weight, training=training
        )
        return _part_of_whole(self, loss, y, y_pred, sample_weight)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Returns the metrics after they have seen a batch."""
        y, y_pred = _of_whole_batch(self, y, y_pred)
        return super().compute_metrics(  # pyright: ignore
            x, y, y_pred, sample_weight=sample_weight
        )

    def predict_on_batch(self, x):
        """Returns the outputs of one batch, as NumPy arrays.

        Args:
            x: The inputs.
        """
        # Keras computes the whole batch on every replica, returns the rows of all of
        # them, and waits for the other workers.
        strategy = _strategy(self)
        if strategy is None or strategy.num_replicas_in_sync == 1:
            return super().predict_on_batch(x)  # pyright: ignore
        outputs = self.predict_step((x,))  # pyright: ignore
        return keras.tree.map_structure(ops.convert_to_numpy, outputs)

    def train_step(self, *args):
        """Does what Keras' own step does."""
        return _with_axis(self, super().train_step(*args))  # pyright: ignore

    def test_step(self, *args):
        """Does what Keras' own step does."""
        return _with_axis(self, super().test_step(*args))  # pyright: ignore

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras calls this on TensorFlow, and does nothing outside of a strategy.
        strategy = getattr(self, "_distribute_strategy", None)
        if strategy is not None and iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0],
                next(batches),
            )
            iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)  # pyright: ignore


def is_chief(model: Any) -> bool:
    """Whether this process writes files: it trains alone, or is the first worker.

    Args:
        model: The model that is trained.
    """
    if not _has_workers(model):
        return True
    resolver = _strategy(model).cluster_resolver
    first = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return (resolver.task_type, resolver.task_id) == (first, 0)


def scope_of(model: Any) -> Any:
    """Returns a context in which variables are made for the model's strategy, if any.

    Args:
        model: The model.
    """
    strategy = _strategy(model)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def in_scope_of_model(function: F) -> F:
    """Runs a function in the scope of its first argument, so that what it makes fits.

    Args:
        function: A function whose first argument is a model.
    """

    @functools.wraps(function)
    def run(model, *args, **kwargs):
        with scope_of(model):
            return function(model, *args, **kwargs)

    return cast(F, run)


def summed_over_replicas(gradients: list[Any]) -> list[Any]:
    """Returns the sums over all replicas of gradients, of which some may be `None`.

    Args:
        gradients: The gradients that one replica found.
    """
    if keras.backend.backend() != "tensorflow":
        return gradients
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return gradients
    given = [gradient for gradient in gradients if gradient is not None]
    sums = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, given))
    return [None if gradient is None else next(sums) for gradient in gradients]


def _listed(callbacks: Any) -> list[Any]:
    """Returns the callbacks of `fit`: none, one, a list or a `CallbackList`."""
    callbacks = getattr(callbacks, "callbacks", callbacks)
    return list(keras.tree.flatten(callbacks)) if callbacks is not None else []


def _strategy(model: Any) -> Any:
    """Returns the strategy in whose scope a model was made, or `None`."""
    return getattr(model, "_distribute_strategy", None)


def _has_workers(model: Any) -> bool:
    """Whether several processes train the model together."""
    extended = getattr(_strategy(model), "extended", None)
    return bool(getattr(extended, "_in_multi_worker_mode", bool)())


def _with_axis(model: Any, logs: Any) -> Any:
    """Returns the logs of a step with a first axis, if Keras takes a mean over it."""
    if not _has_workers(model):
        return logs
    return {name: ops.expand_dims(value, 0) for name, value in logs.items()}


def _replica(model: Any) -> Any:
    """Returns the replica that computes now; `None` for one, or while it is built."""
    strategy = _strategy(model)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return None
    import tensorflow as tf

    return tf.distribute.get_replica_context()


def _of_whole_batch(model: Any, y: Any, y_pred: Any) -> tuple[Any, Any]:
    """Returns the rows of all replicas, if the loss compares rows with each other."""
    replica = _replica(model)
    if replica is None or not getattr(_only_loss(model), "whole_batch", False):
        return y, y_pred

    def gathered(value):
        return keras.tree.map_structure(lambda x: replica.all_gather(x, axis=0), value)

    if not isinstance(y_pred, dict):
        return gathered(y), gathered(y_pred)
    used = {name: y_pred[name] for name in y_pred if name in model.loss}
    return gathered(y), {**y_pred, **gathered(used)}


def _only_loss(model: Any) -> Any:
    """Returns the loss of a model that has one, whatever structure it is in."""
    losses = keras.tree.flatten(getattr(model, "loss", None))
    return losses[0] if len(losses) == 1 else None


def _part_of_whole(
    model: Any, loss: Any, y: Any, y_pred: Any, sample_weight: Any
) -> Any:
    """Returns a loss whose gradients, summed over replicas, are those of the batch.

    Its value is the batch's loss, divided by the number of replicas as in Keras.
    """
    replica = _replica(model)
    if replica is None:
        return loss
    import tensorflow as tf

    given = _only_loss(model)
    summed = getattr(given, "reduction", "mean") in ("sum", "none", None)
    if summed or getattr(given, "whole_batch", False):
        return loss
    count = tf.cast(_count(given, y, y_pred, sample_weight), loss.dtype)
    total = replica.all_reduce(tf.distribute.ReduceOp.SUM, count)
    replicas = replica.num_replicas_in_sync
    part = loss * tf.math.divide_no_nan(count * replicas, total)
    whole = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(part))
    return part + tf.stop_gradient(whole / replicas - part)


def _count(loss: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
    """Returns by what the loss of one replica was divided: rows or counted labels."""
    if getattr(loss, "reduction", None) == "mean_with_sample_weight" and (
        sample_weight is not None
    ):
        return ops.sum(sample_weight)
    ignored = getattr(loss, "ignore_class", None)
    if ignored is not None:
        labels = keras.tree.flatten(y)[0]
        return ops.sum(ops.cast(ops.not_equal(labels, ignored), "int32"))
    return ops.shape(keras.tree.flatten(y_pred)[0])[0]
