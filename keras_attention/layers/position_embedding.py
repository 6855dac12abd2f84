"""Learned position embeddings."""

from typing import Any

import keras
from keras import ops

from keras_attention.layers.building import built_once
from keras_attention.layers.checks import check_sizes
from keras_attention.ops.backend.shapes import is_symbolic, refuse_ragged
from keras_attention.ops.lookup import lookup
from keras_attention.ops.positions import standardize_positions


@keras.saving.register_keras_serializable("keras_attention")
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned vector for each position to its features.

    The output is the input *plus* the embedding, with the input's Keras mask.

    Reference: Gehring et al., "Convolutional Sequence to Sequence Learning", 2017
    (arXiv:1705.03122); Devlin et al., 2018 (arXiv:1810.04805).

    Args:
        max_sequence_length: Number of positions in the table.
        initializer: The table's initializer.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: `[B, T, E]`.
        positions: Int `[T]` or `[B, T]`; 0, 1, 2, … when not given.

    Returns:
        `[B, T, E]`.

    Raises:
        ValueError: If the sequence is longer than the table, or an explicit position
            is outside it. In a compiled graph the runtime raises its own error.

    Example:
    >>> layer = ka.PositionEmbedding(max_sequence_length=16)
    >>> tuple(layer(np.zeros((2, 5, 8), "float32")).shape)
    (2, 5, 8)
    """

    def __init__(
        self,
        max_sequence_length: int,
        *,
        initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_sizes(max_sequence_length=max_sequence_length)
        self.max_sequence_length = max_sequence_length
        self.initializer = keras.initializers.get(initializer)
        self.supports_masking = True

    @built_once
    def build(self, inputs_shape):
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.max_sequence_length, inputs_shape[-1]),
            initializer=self.initializer,
        )
        self.built = True

    def call(self, inputs, positions=None):
        refuse_ragged(inputs=inputs)
        if positions is None:
            self._check_length(inputs.shape)
        positions = standardize_positions(positions, length=ops.shape(inputs)[1])
        rows = lookup(self.embeddings, positions, what="positions")  # [(B,) T, E]
        return inputs + ops.cast(rows, inputs.dtype)  # [B, T, E]

    def _check_length(self, shape):
        length = shape[1]
        if length is None or is_symbolic(length):
            return
        if length > self.max_sequence_length:
            raise ValueError(
                f"The sequence is longer than the {self.max_sequence_length} positions "
                f"of '{self.name}'. Truncate it, or build the layer with "
                f"a larger `max_sequence_length`. Received: inputs of shape "
                f"{tuple(shape)}"
            )

    def compute_output_shape(self, inputs_shape, positions_shape=None):
        if positions_shape is None:
            self._check_length(inputs_shape)
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "max_sequence_length": self.max_sequence_length,
            "initializer": keras.initializers.serialize(self.initializer),
        }
