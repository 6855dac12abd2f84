"""A sequence of any length as one vector, or as a few, by learned queries."""

from typing import Any

import keras
from keras import ops

from keras_attention.layers.base import AttentionLayer
from keras_attention.layers.building import built_once
from keras_attention.layers.checks import check_optional_sizes
from keras_attention.layers.dot_product_attention import DotProductAttention


@keras.saving.register_keras_serializable("keras_attention")
class AttentionPooling(keras.layers.Layer):
    """Pools a sequence by attention: learned queries attend to all positions.

    Use it in place of `GlobalAveragePooling1D` after a recurrent layer or an encoder,
    where some positions matter more than others, or where you want to see which do.

    With `AdditiveAttention(units)` and one query, the score of position h is
    v · tanh(W h + b): the "attention over time steps" of Yang et al. and of most Keras
    tutorials. With `MultiHeadAttention` and several queries, it is the pooling by
    multi-head attention (PMA) of the Set Transformer.

    Reference: Yang et al., "Hierarchical Attention Networks for Document
    Classification", 2016 (NAACL, aclanthology.org/N16-1174); Lee et al., "Set
    Transformer", 2018 (arXiv:1810.00825), section 3.2.

    Args:
        attention: The attention layer that the queries use, of any kind;
            `DotProductAttention()` when `None`.
        num_queries: The number of learned queries, each of which gives one vector. With
            `None` there is one query, and the outputs have no axis for it.
        query_dim: The size of each query; the features of the inputs when `None`.
        query_initializer: The initializer of the queries.
        **kwargs: Those of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: `[B, S, E]`.
        mask: Bool `[B, S]`, `True` at non-padding positions. A mask that Keras carries
            on `inputs` is used without being passed.
        return_attention_scores: Whether the weights are returned too.
        training: Whether dropout is active.

    Returns:
        `[B, V]`, where V is the size that the attention returns, or `[B, Q, V]` with
        `num_queries=Q`; 0 for a sequence without a visible position. With
        `return_attention_scores=True` also the weights, `[B, S]` or `[B, Q, S]`, with a
        head axis behind B where the attention has heads.

    Example:
    >>> states = np.random.rand(2, 5, 8).astype("float32")
    >>> pooling = ka.AttentionPooling(ka.AdditiveAttention(units=16))
    >>> vectors, weights = pooling(states, return_attention_scores=True)
    >>> tuple(vectors.shape), tuple(weights.shape)
    ((2, 8), (2, 5))
    """

    def __init__(
        self,
        attention: AttentionLayer | None = None,
        num_queries: int | None = None,
        *,
        query_dim: int | None = None,
        query_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if attention is None:
            attention = DotProductAttention(dtype=self.dtype_policy)
        if not isinstance(attention, AttentionLayer):
            raise ValueError(
                "`attention` must be an attention layer of this library, such as "
                "`ka.AdditiveAttention(units=64)`, or `None`. "
                f"Received: attention={attention!r}"
            )
        check_optional_sizes(num_queries=num_queries, query_dim=query_dim)
        self.attention = attention
        self.num_queries = num_queries
        self.query_dim = query_dim
        self.query_initializer = keras.initializers.get(query_initializer)
        self.supports_masking = True

    @built_once
    def build(self, input_shape):
        if len(input_shape) != 3:
            raise ValueError(
                f"`inputs` of layer '{self.name}' must have shape [batch, length, "
                f"features]. Received: a shape of {tuple(input_shape)}"
            )
        number, size = self.num_queries or 1, self.query_dim or input_shape[-1]
        self.queries = self.add_weight(
            name="queries", shape=(number, size), initializer=self.query_initializer
        )
        if not self.attention.built:
            self.attention.build((input_shape[0], number, size), input_shape)
        self.built = True

    def call(self, inputs, mask=None, return_attention_scores=False, training=None):
        batch = ops.shape(inputs)[0]
        queries = ops.cast(self.queries, self.compute_dtype)[None]  # [1, Q, E]
        queries = ops.broadcast_to(queries, (batch, *self.queries.shape))  # [B, Q, E]
        output, weights = self.attention(
            queries,
            inputs,
            value_mask=mask,
            return_attention_scores=True,
            training=training,
        )
        if self.num_queries is None:
            output, weights = output[:, 0], weights[..., 0, :]  # [B, V], [B, S]
        return (output, weights) if return_attention_scores else output

    def compute_output_shape(self, inputs_shape):
        number, size = self.num_queries or 1, self.query_dim or inputs_shape[-1]
        shape = self.attention.compute_output_shape(
            (inputs_shape[0], number, size), inputs_shape
        )
        return (shape[0], *shape[2:]) if self.num_queries is None else shape

    def compute_output_spec(self, *args, **kwargs):
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_mask(self, inputs, mask=None):
        return None  # the axis of the mask is not in the output

    def get_config(self):
        return {
            **super().get_config(),
            "attention": keras.saving.serialize_keras_object(self.attention),
            "num_queries": self.num_queries,
            "query_dim": self.query_dim,
            "query_initializer": keras.initializers.serialize(self.query_initializer),
        }

    @classmethod
    def from_config(cls, config):
        attention = keras.saving.deserialize_keras_object(config["attention"])
        return cls(**{**config, "attention": attention})
