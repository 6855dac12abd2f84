"""Additive attention (Bahdanau)."""

from typing import Any

import keras

from keras_attention.layers._conversions import from_keras_additive
from keras_attention.layers._score_attention import attend_with_score
from keras_attention.layers._scores import make_score
from keras_attention.layers.base import AttentionInputs, AttentionLayer
from keras_attention.layers.checks import check_sizes


@keras.saving.register_keras_serializable("keras_attention")
class AdditiveAttention(AttentionLayer):
    """Additive attention: score = v · tanh(W q + U k + b), all learned.

    Use it between an encoder and a recurrent decoder, or wherever queries and keys
    have different meanings or sizes. Unlike `keras.layers.AdditiveAttention`, which
    learns v only, it is the alignment model of the paper. `from_keras` makes one that
    returns the numbers of that layer.

    Reference: Bahdanau et al., "Neural Machine Translation by Jointly Learning to
    Align and Translate", 2014 (arXiv:1409.0473); `normalize` is the weight
    normalisation of Salimans & Kingma, 2016 (arXiv:1602.07868) on v.

    Args:
        units: Size of the hidden layer of the alignment model.
        normalize: Whether v is a learned length times a direction.
        dropout: Rate of dropout on the attention weights.
        seed: Seed of that dropout.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        query: `[B, T, E]`, or a list `[query, value]` or `[query, value, key]`. In
            images and videos `[B, ..., T, E]` each row attends to its own keys.
        value: `[B, S, V]`.
        key: `[B, S, E']`; `value` when not given.
        query_mask, value_mask, key_mask: Bool `[B, T]` / `[B, S]`, `True` at
            non-padding tokens. Masks that Keras carries on the tensors are used too.
        attention_mask: Bool `[B, T, S]`, `True` where a query can attend to a key; or
            a mask of `ka.masks`.
        attention_bias: Float `[B, T, S]`, added to the scores.
        use_causal_mask: Whether keys after the query are hidden.
        return_attention_scores: Whether the weights are returned too.
        mask: A list `[query_mask, value_mask]` or `[query_mask, value_mask, key_mask]`,
            an argument of Keras' layers.
        training: Whether dropout is active.

    Returns:
        `[B, T, V]`, 0 for a query that can attend to no key; with
        `return_attention_scores=True` also the weights `[B, T, S]`.

    Example:
    >>> layer = ka.AdditiveAttention(units=16)
    >>> decoder_state = np.random.rand(2, 1, 8).astype("float32")
    >>> annotations = np.random.rand(2, 5, 12).astype("float32")
    >>> context = layer(decoder_state, annotations)
    >>> tuple(context.shape)
    (2, 1, 12)
    """

    def __init__(
        self,
        units: int,
        *,
        normalize: bool = False,
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(dropout=dropout, seed=seed, **kwargs)
        check_sizes(units=units)
        self.units = units
        self.normalize = normalize
        settings = {"units": units, "normalize": normalize}
        self._score = make_score("additive", **settings, dtype=self.dtype_policy)
        self.key_term_size = self._score.key_term_size

    @classmethod
    def from_keras(cls, layer: Any) -> "AdditiveAttention":
        """Converts a layer of Keras to one that returns the same numbers.

        Keras adds queries and keys without a projection: W and U start as the identity,
        b as 0 and v as Keras' scale. All of them can be trained, so that training
        continues with the model of the paper.

        Args:
            layer: A built `keras.layers.AdditiveAttention`, or a
                `keras.layers.Attention` with `score_mode="concat"`.

        Raises:
            ValueError: If `layer` is something else.
        """
        return from_keras_additive(cls, layer)

    def build_weights(self, query_shape, value_shape, key_shape):
        if not self._score.built:
            self._score.build(query_shape, key_shape)

    def prepare_key(self, key: Any) -> Any:
        return self._score.prepare(key)

    def attend_to(self, inputs: AttentionInputs) -> tuple[Any, Any]:
        dropout = self.active_dropout(inputs.training)
        return attend_with_score(self._score, inputs, dropout=dropout)

    def get_config(self):
        config = {"units": self.units, "normalize": self.normalize}
        return {**super().get_config(), **config}
