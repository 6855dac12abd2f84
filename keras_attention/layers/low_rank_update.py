"""The trained part of LoRA: a product of two narrow matrices."""

import math
from typing import Any

import keras
from keras import ops

from keras_attention.layers.checks import check_sizes
from keras_attention.ops.linear import linear


@keras.saving.register_keras_serializable("keras_attention")
class LowRankUpdate(keras.layers.Layer):
    """A linear map of low rank that is added to a frozen one, as LoRA does.

    It computes `scale * (inputs @ a) @ b`. `b` starts as zeros, so that the sum starts
    as the frozen map. `ka.enable_lora` adds it to projections.

    Reference: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021
    (arXiv:2106.09685).

    Args:
        rank: The rank: the number of columns of `a` and of rows of `b`.
        units: The size of the output.
        scale: The factor of the product; `alpha / rank` in the paper.
        dropout: The rate of dropout on the input.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: `[..., E]`.
        training: Whether dropout is active.

    Returns:
        `[..., units]`.

    Example:
    >>> from keras_attention.layers.low_rank_update import LowRankUpdate
    >>> layer = LowRankUpdate(rank=2, units=5)
    >>> tuple(layer(np.ones((1, 3, 4), "float32")).shape), layer.count_params()
    ((1, 3, 5), 18)
    """

    def __init__(
        self,
        rank: int,
        units: int,
        *,
        scale: float = 1.0,
        dropout: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_sizes(rank=rank, units=units)
        self.rank, self.units = rank, units
        self.scale, self.dropout = float(scale), float(dropout)
        self._dropout_layer = None
        if dropout:
            self._dropout_layer = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape):
        size = input_shape[-1]
        limit = math.sqrt(1 / size)  # PEFT's: He's uniform initializer with a = sqrt(5)
        uniform = keras.initializers.RandomUniform(-limit, limit)
        self.a = self.add_weight(name="a", shape=(size, self.rank), initializer=uniform)
        self.b = self.add_weight(
            name="b", shape=(self.rank, self.units), initializer="zeros"
        )
        self.built = True

    def call(self, inputs, training=None):
        if self._dropout_layer is not None:
            inputs = self._dropout_layer(inputs, training=training)
        narrow = linear(inputs, ops.convert_to_tensor(self.a))  # [..., rank]
        return self.scale * linear(narrow, ops.convert_to_tensor(self.b))

    def matrix(self) -> Any:
        """Returns the whole update, `[E, units]`."""
        return self.scale * ops.matmul(self.a, self.b)

    def settings(self) -> dict[str, Any]:
        """Returns the arguments that make such an update again."""
        return {"rank": self.rank, "scale": self.scale, "dropout": self.dropout}

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), **self.settings(), "units": self.units}
