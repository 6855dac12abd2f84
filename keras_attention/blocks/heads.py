"""What stands on top of an encoder."""

from typing import Any

import keras
from keras import ops

from keras_attention.layers.projection import Projection
from keras_attention.ops.attend import score_dtype


@keras.saving.register_keras_serializable("keras_attention")
class FirstTokenPooler(keras.layers.Layer):
    """tanh(W x) of the first token: BERT's `pooled_output`.

    Reference: Devlin et al., 2018 (arXiv:1810.04805).

    Args:
        kernel_initializer: Of W.
        **kwargs: Those of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        sequence: `[B, T, E]`.

    Returns:
        `[B, E]`.
    """

    def __init__(self, *, kernel_initializer: Any = "glorot_uniform", **kwargs: Any):
        super().__init__(**kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, sequence_shape):
        self.projection = Projection(
            (sequence_shape[-1],),
            activation="tanh",
            kernel_initializer=self.kernel_initializer,
            name="projection",
            dtype=self.dtype_policy,
        )
        self.projection.build((sequence_shape[0], sequence_shape[-1]))
        self.built = True

    def call(self, sequence):
        return self.projection(sequence[:, 0])  # [B, E]

    def get_config(self):
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), "kernel_initializer": initializer}


def mean_of_tokens(sequence: Any, padding_mask: Any = None) -> Any:
    """The mean over real tokens; 0 for a row without any.

    Args:
        sequence: `[B, T, E]`.
        padding_mask: Bool `[B, T]`, `True` at real tokens; all when `None`.

    Returns:
        `[B, E]`.
    """
    if padding_mask is None:
        return ops.mean(sequence, axis=1)
    dtype = score_dtype(sequence)
    kept = ops.where(padding_mask[..., None], ops.cast(sequence, dtype), 0.0)
    count = ops.sum(ops.cast(padding_mask, dtype), axis=1)[:, None]  # [B, 1]
    mean = ops.sum(kept, axis=1) / ops.maximum(count, 1.0)  # [B, E]
    return ops.cast(mean, sequence.dtype)
