"""Dot-product attention with one head and no projections of its own."""

from typing import Any, Literal

import keras

from keras_attention.layers._conversions import from_keras_attention
from keras_attention.layers._score_attention import attend_with_score
from keras_attention.layers._scores import check_score, make_score, scores_with
from keras_attention.layers.base import AttentionInputs, AttentionLayer

SCORES = scores_with(multiplies=True)


@keras.saving.register_keras_serializable("keras_attention")
class DotProductAttention(AttentionLayer):
    """Dot-product attention: one head, with the inputs as queries and keys.

    Use it if queries and keys are vectors of one space already; for learned projections
    and several heads use `MultiHeadAttention`.

    Reference: Vaswani et al., 2017 (arXiv:1706.03762) for `"scaled_dot"`; Luong et
    al., 2015 (arXiv:1508.04025) for `"dot"` and `"general"`; Graves et al., 2014
    (arXiv:1410.5401) for `"cosine"`.

    Args:
        score: `"scaled_dot"`: q · k / sqrt(E). `"dot"`: q · k. `"general"`: q · W k
            with a learned W, for queries and keys of different sizes. `"cosine"`:
            the cosine of q and k times a learned scale.
        use_scale: Whether the score is multiplied by a learned scalar that starts at 1,
            as in `keras.layers.Attention`; `"cosine"` has one already.
        dropout: Rate of dropout on the attention weights.
        seed: Seed of that dropout.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments: the same for every attention layer, see `AdditiveAttention`.

    Returns:
        `[B, T, V]`, 0 for a query that can attend to no key; with
        `return_attention_scores=True` also the weights `[B, T, S]`.

    Example:
    >>> layer = ka.DotProductAttention()
    >>> x = np.random.rand(2, 5, 8).astype("float32")
    >>> output, weights = layer(
    ...     x, x, use_causal_mask=True, return_attention_scores=True
    ... )
    >>> tuple(output.shape), tuple(weights.shape)
    ((2, 5, 8), (2, 5, 5))
    """

    def __init__(
        self,
        score: Literal["scaled_dot", "dot", "general", "cosine"] = "scaled_dot",
        *,
        use_scale: bool = False,
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(dropout=dropout, seed=seed, **kwargs)
        self.score, self.use_scale = check_score(score, SCORES), use_scale
        if use_scale and score == "cosine":
            raise ValueError(
                "The 'cosine' score has a learned scale already: omit `use_scale`. "
                f"Received: use_scale={use_scale}, score={score!r}"
            )
        self._score = make_score(score, use_scale=use_scale, dtype=self.dtype_policy)

    @classmethod
    def from_keras(cls, layer: Any) -> "DotProductAttention":
        """Converts a layer of Keras; its weight is copied.

        Args:
            layer: A built `keras.layers.Attention` with `score_mode="dot"`. With
                `"concat"` it is an `AdditiveAttention`.

        Raises:
            ValueError: If `layer` is something else.
        """
        return from_keras_attention(cls, layer)

    def build_weights(self, query_shape, value_shape, key_shape):
        if not self._score.built:
            self._score.build(query_shape, key_shape)

    def prepare_key(self, key: Any) -> Any:
        return self._score.prepare(key)

    def attend_to(self, inputs: AttentionInputs) -> tuple[Any, Any]:
        dropout = self.active_dropout(inputs.training)
        return attend_with_score(self._score, inputs, dropout=dropout)

    def get_config(self):
        config = {"score": self.score, "use_scale": self.use_scale}
        return {**super().get_config(), **config}
