"""AdamW as torch computes it, so that published settings mean the same here."""

import math
import re
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_attention.ops.backend.replicas import summed_over_replicas


@keras.saving.register_keras_serializable("keras_attention")
class AdamW(keras.optimizers.AdamW):
    r"""AdamW with the formula of torch, whose settings papers and scripts publish.

    ```text
    m = beta_1 m + (1 - beta_1) g          v = beta_2 v + (1 - beta_2) g²
    w = w (1 - learning_rate · weight_decay)
    w = w - learning_rate · m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon)
    ```

    `keras.optimizers.AdamW` adds `epsilon` before the bias correction of `v`, where
    `epsilon` counts up to 30 times as much in the first steps, and its default is ten
    times as large. Gradients whose common norm is above `global_clipnorm` are divided
    by that norm plus 1e-6, as `torch.nn.utils.clip_grad_norm_` does.

    References: Kingma & Ba, 2015 (arXiv:1412.6980), algorithm 1; Loshchilov & Hutter,
    2019 (arXiv:1711.05101), algorithm 2.

    Args:
        learning_rate: The learning rate, or a schedule.
        weight_decay: The weight decay per step and unit of learning rate.
        beta_1: The decay rate of the mean of the gradients.
        beta_2: The decay rate of the mean of their squares.
        epsilon: The number that is added to the square root of the corrected `v`.
        no_weight_decay: Regular expressions. A variable whose path one of them finds
            (`re.search`) has no weight decay.
        **kwargs: The other arguments of `keras.optimizers.AdamW`, such as
            `global_clipnorm`, `gradient_accumulation_steps` and `use_ema`.

    Example:
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile(ka.AdamW(5e-5, weight_decay=0.01), loss="mse")
    >>> history = model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0)
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.01,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        no_weight_decay: Sequence[str] = (),
        **kwargs: Any,
    ):
        kwargs.setdefault("name", "adamw")
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            **kwargs,
        )
        self.no_weight_decay = tuple(no_weight_decay)

    def build(self, variables):
        # Keras compares `var_names` with names that end in ":0" on TensorFlow, and does
        # not store them in the config.
        excluded = [
            variable
            for variable in variables
            if any(
                re.search(pattern, variable.path) for pattern in self.no_weight_decay
            )
        ]
        if excluded and not self.built:
            self.exclude_from_weight_decay(var_list=excluded)
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        """Updates the variables once.

        Args:
            grads: One gradient per variable.
            trainable_variables: The variables; those of `build` when omitted.
        """
        grads = list(grads)
        for index, grad in enumerate(grads):
            # The sum of TensorFlow's slices and a tensor is a tensor.
            if hasattr(grad, "dense_shape"):
                grads[index] = ops.add(grad, ops.zeros(grad.dense_shape, grad.dtype))
        return super().apply(summed_over_replicas(grads), trainable_variables)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        # Keras sums on TensorFlow after it has clipped what each replica found. Here
        # `apply` has summed already, so that the batch's gradients are clipped.
        return list(grads_and_vars)

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable.

        Args:
            gradient: Its gradient.
            variable: The variable.
            learning_rate: The learning rate of this step.
        """
        dtype = variable.dtype
        rate, gradient = ops.cast(learning_rate, dtype), ops.cast(gradient, dtype)
        step = ops.cast(self.iterations + 1, dtype)
        left_1 = _share_seen(self.beta_1, step)
        left_2 = _share_seen(self.beta_2, step)
        index = self._get_variable_index(variable)
        mean, square = self._momentums[index], self._velocities[index]
        self.assign_add(mean, (gradient - mean) * (1 - self.beta_1))
        self.assign_add(square, (gradient * gradient - square) * (1 - self.beta_2))
        if self.amsgrad:
            largest = self._velocity_hats[index]
            self.assign(largest, ops.maximum(largest, square))
            square = largest
        root = ops.sqrt(square) / ops.sqrt(left_2) + self.epsilon
        self.assign_sub(variable, rate / left_1 * mean / root)

    def _clip_gradients(self, grads):
        # Keras divides by the norm alone, and would be off by up to 1e-6 per step.
        limit = self.global_clipnorm
        if limit is None or limit <= 0:
            return super()._clip_gradients(grads)
        given = [grad for grad in grads if grad is not None]
        if not given:
            return grads
        total = sum(ops.sum(ops.square(ops.cast(g, _wide(g)))) for g in given)
        factor = ops.minimum(limit / (ops.sqrt(total) + 1e-6), 1.0)
        return [g if g is None else g * ops.cast(factor, g.dtype) for g in grads]

    def get_config(self):
        config = super().get_config()
        return {**config, "no_weight_decay": list(self.no_weight_decay)}


def _share_seen(beta, step):
    """Returns 1 - beta^step; in float32, 0.999 itself is too far from its value."""
    return -ops.expm1(step * (math.log(beta) if beta else -math.inf))


def _wide(gradient):
    """Returns the dtype in which squares are summed: at least float32."""
    return keras.backend.result_type(gradient.dtype, "float32")
