"""Global attention (Luong)."""

from typing import Any, Literal

import keras
from keras import ops

from keras_attention.layers._score_attention import attend_with_score
from keras_attention.layers._scores import check_score, make_score, scores_with
from keras_attention.layers.base import AttentionInputs, AttentionLayer
from keras_attention.layers.checks import check_optional_sizes
from keras_attention.layers.projection import Projection

SCORES = scores_with(luong=True)


@keras.saving.register_keras_serializable("keras_attention")
class GlobalAttention(AttentionLayer):
    """Luong's global attention: every source position, then tanh(W [c; h]).

    Use it between an encoder and a recurrent decoder. The output is the attentional
    vector of the paper: a learned combination of the context c and the query h.

    Reference: Luong et al., "Effective Approaches to Attention-based Neural Machine
    Translation", 2015 (arXiv:1508.04025). Our query is the paper's h_t, our key and
    value are its source states h_s.

    Args:
        score: `"dot"`: q · k. `"general"`: q · W k. `"concat"`: v · tanh(W [q; k]).
            `"location"`: W q, one score per source position, whatever its key is.
        units: Size of the attentional vector and of the hidden layer of
            `"concat"`; the query's size when `None`.
        attentional_vector: Whether the output is tanh(W [c; h]); with
            `False` it is the context c itself.
        max_length: Longest source sequence; needed by `"location"`.
        dropout: Rate of dropout on the attention weights.
        seed: Seed of that dropout.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments: the same for every attention layer, see `AdditiveAttention`.

    Returns:
        `[B, T, units]` (the context is 0 for a query that can attend to no key);
        with `return_attention_scores=True` also the weights `[B, T, S]`.

    Example:
    >>> layer = ka.GlobalAttention(score="general", units=16)
    >>> decoder_state = np.random.rand(2, 1, 8).astype("float32")
    >>> source = np.random.rand(2, 5, 12).astype("float32")
    >>> tuple(layer(decoder_state, source).shape)
    (2, 1, 16)
    """

    def __init__(
        self,
        score: Literal["dot", "general", "concat", "location"] = "general",
        units: int | None = None,
        *,
        attentional_vector: bool = True,
        max_length: int | None = None,
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(dropout=dropout, seed=seed, **kwargs)
        check_optional_sizes(units=units, max_length=max_length)
        self.score = check_score(score, SCORES)
        self.units = units
        self.attentional_vector = attentional_vector
        self.max_length = max_length

    def build_weights(self, query_shape, value_shape, key_shape):
        units = self.units or query_shape[-1]
        self._score = make_score(
            self.score,
            units=units,
            max_length=self.max_length,
            dtype=self.dtype_policy,
        )
        self._score.build(query_shape, key_shape)
        self.key_term_size = self._score.key_term_size
        if self.attentional_vector:
            self.combine = attentional_projection(units, self.dtype_policy)
            self.combine.build((None, None, value_shape[-1] + query_shape[-1]))

    def output_sizes_of(self, query_shape, value_shape, key_shape):
        if not self.attentional_vector:
            return (value_shape[-1],)
        return (self.units or query_shape[-1],)

    def prepare_key(self, key: Any) -> Any:
        return self._score.prepare(key)

    def attend_to(self, inputs: AttentionInputs) -> tuple[Any, Any]:
        dropout = self.active_dropout(inputs.training)
        context, weights = attend_with_score(self._score, inputs, dropout=dropout)
        if not self.attentional_vector:
            return context, weights
        both = ops.concatenate([context, inputs.query], axis=-1)  # [B, T, V + E]
        return self.combine(both), weights  # [B, T, units]

    def get_config(self):
        return {
            **super().get_config(),
            "score": self.score,
            "units": self.units,
            "attentional_vector": self.attentional_vector,
            "max_length": self.max_length,
        }


def attentional_projection(
    units: int, dtype: Any, *, activation: Any = "tanh"
) -> Projection:
    """Makes the map tanh(W [c; h]) (Luong 2015, equation 5)."""
    return Projection(
        (units,), use_bias=False, activation=activation, name="combine", dtype=dtype
    )
