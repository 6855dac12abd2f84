"""Schedules of learning rates."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_attention")
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly from 0 to the peak, then falls to 0.

    Reference: Devlin et al., 2018 (arXiv:1810.04805), appendix A.2.

    Args:
        peak: The largest learning rate.
        num_steps: The number of steps of the whole training; after it the learning rate
            is 0.
        num_warmup_steps: The number of steps before the peak.
        gradient_accumulation_steps: The number of batches per step, because Keras
            counts batches here.
        name: The schedule's name.

    Example:
    >>> schedule = ka.WarmupLinearDecay(1.0, num_steps=10, num_warmup_steps=2)
    >>> [round(float(schedule(step)), 3) for step in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        peak: float,
        num_steps: int,
        num_warmup_steps: int = 0,
        *,
        gradient_accumulation_steps: int = 1,
        name: str = "warmup_linear_decay",
    ):
        super().__init__()
        if not 0 <= num_warmup_steps <= num_steps or num_steps < 1:
            raise ValueError(
                "`num_warmup_steps` must be between 0 and `num_steps`, and `num_steps` "
                f"at least 1. Received: num_steps={num_steps}, "
                f"num_warmup_steps={num_warmup_steps}"
            )
        self.peak, self.num_steps = peak, num_steps
        self.num_warmup_steps, self.name = num_warmup_steps, name
        self.gradient_accumulation_steps = gradient_accumulation_steps

    def __call__(self, step):
        dtype = keras.backend.result_type(keras.config.floatx(), "float32")
        step = ops.floor_divide(step, self.gradient_accumulation_steps)
        step = ops.cast(step, dtype)
        rising = step / max(1, self.num_warmup_steps)
        rest = max(1, self.num_steps - self.num_warmup_steps)
        falling = ops.maximum(0.0, (self.num_steps - step) / rest)
        return self.peak * ops.where(step < self.num_warmup_steps, rising, falling)

    def get_config(self):
        return {
            "peak": self.peak,
            "num_steps": self.num_steps,
            "num_warmup_steps": self.num_warmup_steps,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "name": self.name,
        }
