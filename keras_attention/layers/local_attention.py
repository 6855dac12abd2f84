"""Local attention (Luong)."""

from typing import Any, Literal

import keras
from keras import ops

from keras_attention.layers._score_attention import attend_with_score
from keras_attention.layers._scores import check_score, make_score, scores_with
from keras_attention.layers.base import AttentionInputs, AttentionLayer
from keras_attention.layers.checks import check_optional_sizes, check_sizes
from keras_attention.layers.global_attention import attentional_projection
from keras_attention.layers.projection import Projection
from keras_attention.ops.positions import first_positions, positions_of_tokens

SCORES = scores_with(luong=True, compares_keys=True)
ALIGNMENTS = ("monotonic", "predictive")


@keras.saving.register_keras_serializable("keras_attention")
class LocalAttention(AttentionLayer):
    """Luong's local attention: a window of the source around an aligned position.

    `alignment="monotonic"` (local-m) aligns query t with source position t.
    `alignment="predictive"` (local-p) predicts the position from the query,
    p = S · sigmoid(v · tanh(W q)), and multiplies the weights by a Gaussian around
    it with standard deviation D / 2, through which p is learned. S is the number of
    non-padding tokens of each source, so padding does not move the window.

    Use it for long sources of which each output needs a small part. For a sliding
    window in self-attention use `MultiHeadAttention(sliding_window=...)`.

    Reference: Luong et al., "Effective Approaches to Attention-based Neural Machine
    Translation", 2015 (arXiv:1508.04025), section 3.2. The weights of local-p are
    not renormalised after the Gaussian, as in the paper.

    Args:
        alignment: `"monotonic"` or `"predictive"`.
        window: D, the number of positions on each side of the aligned one that are
            visible.
        score: `"dot"`, `"general"` or `"concat"`, see `GlobalAttention`.
        units: Size of the attentional vector and of the hidden layers; the query's
            size when `None`.
        attentional_vector: Whether the output is tanh(W [c; h]); with
            `False` it is the context c itself.
        dropout: Rate of dropout on the attention weights.
        seed: Seed of that dropout.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments: the same for every attention layer, see `AdditiveAttention`.

    Returns:
        `[B, T, units]` (the context is 0 for a query that can attend to no key);
        with `return_attention_scores=True` also the weights `[B, T, S]`.

    Example:
    >>> layer = ka.LocalAttention(alignment="predictive", window=2)
    >>> decoder_state = np.random.rand(1, 1, 8).astype("float32")
    >>> source = np.random.rand(1, 20, 8).astype("float32")
    >>> _, weights = layer(decoder_state, source, return_attention_scores=True)
    >>> int((np.array(weights) > 0).sum()) <= 5
    True
    """

    def __init__(
        self,
        alignment: Literal["monotonic", "predictive"] = "monotonic",
        window: int = 10,
        score: Literal["dot", "general", "concat"] = "general",
        units: int | None = None,
        *,
        attentional_vector: bool = True,
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(dropout=dropout, seed=seed, **kwargs)
        check_sizes(window=window)
        check_optional_sizes(units=units)
        if alignment not in ALIGNMENTS:
            raise ValueError(
                "`alignment` must be 'monotonic' (local-m) or 'predictive' (local-p). "
                f"Received: alignment={alignment!r}"
            )
        self.alignment = alignment
        self.window = window
        self.score = check_score(score, SCORES)
        self.units = units
        self.attentional_vector = attentional_vector

    def build_weights(self, query_shape, value_shape, key_shape):
        units = self.units or query_shape[-1]
        dtype = self.dtype_policy
        self._score = make_score(self.score, units=units, dtype=dtype)
        self._score.build(query_shape, key_shape)
        self.key_term_size = self._score.key_term_size
        maker = {"monotonic": _Monotonic, "predictive": _Predictive}[self.alignment]
        self._alignment = maker(self.window, units, name="alignment", dtype=dtype)
        self._alignment.build(query_shape)
        if self.attentional_vector:
            self.combine = attentional_projection(units, dtype)
            self.combine.build((None, None, value_shape[-1] + query_shape[-1]))

    def output_sizes_of(self, query_shape, value_shape, key_shape):
        if not self.attentional_vector:
            return (value_shape[-1],)
        return (self.units or query_shape[-1],)

    def prepare_key(self, key: Any) -> Any:
        return self._score.prepare(key)

    def attend_to(self, inputs: AttentionInputs) -> tuple[Any, Any]:
        seen, factor = self._alignment.around(inputs)
        inputs = inputs.seeing_only(seen)
        context, weights = attend_with_score(
            self._score,
            inputs,
            dropout=self.active_dropout(inputs.training),
            weight_factor=factor,
        )
        if not self.attentional_vector:
            return context, weights
        both = ops.concatenate([context, inputs.query], axis=-1)  # [B, T, V + E]
        return self.combine(both), weights  # [B, T, units]

    def get_config(self):
        return {
            **super().get_config(),
            "alignment": self.alignment,
            "window": self.window,
            "score": self.score,
            "units": self.units,
            "attentional_vector": self.attentional_vector,
        }


class _Monotonic(keras.layers.Layer):
    """Query t is aligned with source position t."""

    def __init__(self, window, units, **kwargs):
        super().__init__(**kwargs)
        self.window, self.units = window, units

    def around(self, inputs: AttentionInputs) -> tuple[Any, Any]:
        """Returns `(visible [B, T, S], factor on the weights or None)`."""
        queries = _query_positions(inputs)
        keys = _token_positions(inputs.key, inputs.key_mask)
        distance = keys[:, None, :] - queries[:, :, None]  # [B, T, S]
        return ops.abs(distance) <= self.window, None


class _Predictive(keras.layers.Layer):
    """The aligned position is predicted from the query."""

    def __init__(self, window, units, **kwargs):
        super().__init__(**kwargs)
        self.window, self.units = window, units

    def build(self, query_shape):
        self.hidden = Projection(
            (self.units,),
            use_bias=False,
            activation="tanh",
            name="hidden",
            dtype=self.dtype_policy,
        )
        self.hidden.build(query_shape)
        # In half precision neighbouring positions would be the same number.
        dtype = "float64" if self.variable_dtype == "float64" else "float32"
        self.position = Projection((1,), use_bias=False, name="position", dtype=dtype)
        self.position.build((*query_shape[:-1], self.units))
        self.built = True

    def around(self, inputs: AttentionInputs) -> tuple[Any, Any]:
        """Returns `(visible [B, T, S], factor on the weights [B, T, S])`."""
        share = ops.sigmoid(self.position(self.hidden(inputs.query)))  # [B, T, 1]
        keys = ops.cast(_token_positions(inputs.key, inputs.key_mask), share.dtype)
        length = ops.sum(ops.cast(keys >= 0, share.dtype), axis=-1)  # [B]
        distance = keys[:, None, :] - length[:, None, None] * share  # [B, T, S]
        deviation = self.window / 2.0
        factor = ops.exp(-ops.square(distance) / (2.0 * deviation**2))
        return ops.abs(distance) <= self.window, factor


def _query_positions(inputs: AttentionInputs) -> Any:
    """Returns the queries' positions, int `[B or 1, T]`.

    In a recurrent decoder it is the number of the step.
    """
    if inputs.step is not None:
        return inputs.step
    return _token_positions(inputs.query, inputs.query_mask)


def _token_positions(sequence: Any, padding_mask: Any) -> Any:
    """Returns int32 `[B or 1, length]`, counted without padding; -1 at padding."""
    if padding_mask is None:
        return first_positions(ops.shape(sequence)[1])[None]
    return positions_of_tokens(padding_mask)
