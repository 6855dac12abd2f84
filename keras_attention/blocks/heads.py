"""Heads: layers that make a prediction from an encoder's output."""

from typing import Any

import keras
from keras import ops

from keras_attention.layers.building import built_once
from keras_attention.layers.layer_normalization import LayerNormalization
from keras_attention.layers.projection import Projection, fresh_initializer
from keras_attention.ops.activations import get_activation
from keras_attention.ops.attend import score_dtype
from keras_attention.ops.linear import linear_of_table


@keras.saving.register_keras_serializable("keras_attention")
class FirstTokenPooler(keras.layers.Layer):
    """tanh(W x) of the first token: BERT's `pooled_output`.

    Reference: Devlin et al., 2018 (arXiv:1810.04805).

    Args:
        kernel_initializer: The initializer of W.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        sequence: `[B, T, E]`.

    Returns:
        `[B, E]`.
    """

    def __init__(self, *, kernel_initializer: Any = "glorot_uniform", **kwargs: Any):
        super().__init__(**kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    @built_once
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


@keras.saving.register_keras_serializable("keras_attention")
class ClassificationHead(keras.layers.Layer):
    """Maps a vector to one logit per class, with or without a hidden layer.

    BERT's head is a linear map, RoBERTa's has a hidden tanh layer, DistilBERT's a
    hidden ReLU layer. For token classification each token's vector is mapped.

    Args:
        num_classes: Number of logits.
        hidden_activation: The activation of a hidden layer that is as wide as the
            input; there is no hidden layer when `None`.
        dropout: Rate of dropout before the last linear map.
        use_bias: Whether the last linear map has a bias.
        kernel_initializer: The initializer of the matrices.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        features: `[..., E]`.
        training: Whether dropout is active.

    Returns:
        `[..., num_classes]`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        hidden_activation: Any = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.use_bias = use_bias
        self.hidden_activation = hidden_activation
        self.dropout_rate = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    @built_once
    def build(self, features_shape):
        self.hidden = None
        if self.hidden_activation is not None:
            self.hidden = self._projection(
                features_shape[-1], "hidden", get_activation(self.hidden_activation)
            )
            self.hidden.build(features_shape)
        self.output_projection = self._projection(
            self.num_classes, "output_projection", use_bias=self.use_bias
        )
        self.output_projection.build(features_shape)
        self.built = True

    def _projection(self, size, name, activation=None, use_bias=True):
        return Projection(
            (size,),
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=fresh_initializer(self.kernel_initializer),
            name=name,
            dtype=self.dtype_policy,
        )

    def call(self, features, training=None):
        if self.hidden is not None:
            features = self.hidden(features)  # [..., E]
        features = self.dropout(features, training=training)
        return self.output_projection(features)  # [..., C]

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "hidden_activation": self.hidden_activation,
            "dropout": self.dropout_rate,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable("keras_attention")
class MaskedTokenHead(keras.layers.Layer):
    """BERT's masked-token head: a layer, a normalisation, and the token table.

    Reference: Devlin et al., 2018 (arXiv:1810.04805), section 3.1.

    Args:
        vocabulary_size: Number of logits.
        activation: The layer's activation.
        epsilon: The epsilon of the normalisation.
        kernel_initializer: The initializer of the layer's kernel.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        features: `[..., E]`.
        table: The token embeddings `[V, E]`, which are used as the last matrix.

    Returns:
        `[..., V]`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        *,
        activation: Any = "gelu",
        epsilon: float = 1e-12,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.activation, self.epsilon = activation, epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.normalization = LayerNormalization(
            epsilon=epsilon, name="normalization", dtype=self.dtype_policy
        )

    @built_once
    def build(self, features_shape):
        self.transform = Projection(
            (features_shape[-1],),
            activation=get_activation(self.activation),
            kernel_initializer=self.kernel_initializer,
            name="transform",
            dtype=self.dtype_policy,
        )
        self.transform.build(features_shape)
        self.normalization.build(features_shape)
        self.bias = self.add_weight(
            name="bias", shape=(self.vocabulary_size,), initializer="zeros"
        )
        self.built = True

    def call(self, features, table):
        x = self.normalization(self.transform(features))  # [..., E]
        table = ops.cast(table, x.dtype)
        return linear_of_table(x, table, ops.cast(self.bias, x.dtype))

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "activation": self.activation,
            "epsilon": self.epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def mean_of_tokens(sequence: Any, padding_mask: Any = None) -> Any:
    """Returns the mean over non-padding tokens; 0 for a row without any.

    Args:
        sequence: `[B, T, E]`.
        padding_mask: Bool `[B, T]`, `True` at non-padding tokens; all when `None`.

    Returns:
        `[B, E]`.
    """
    if padding_mask is None:
        return ops.mean(sequence, axis=1)
    dtype = score_dtype(sequence)
    cleared = ops.where(padding_mask[..., None], ops.cast(sequence, dtype), 0.0)
    count = ops.sum(ops.cast(padding_mask, dtype), axis=1)[:, None]  # [B, 1]
    mean = ops.sum(cleared, axis=1) / ops.maximum(count, 1.0)  # [B, E]
    return ops.cast(mean, sequence.dtype)
