"""Monotonic attention (Raffel)."""

from typing import Any, Literal

import keras
from keras import ops

from keras_attention.layers._score_attention import scores_of
from keras_attention.layers._scores import check_score, make_score, scores_with
from keras_attention.layers.base import AttentionInputs, AttentionLayer, StepState
from keras_attention.layers.checks import check_optional_sizes
from keras_attention.ops.attend import cap_scores
from keras_attention.ops.monotonic import (
    check_mode,
    first_alignment,
    monotonic_alignments,
)

SCORES = scores_with(compares_keys=True)
MonotonicScore = Literal["additive", "scaled_dot", "dot", "general", "cosine", "concat"]


@keras.saving.register_keras_serializable("keras_attention")
class MonotonicAttention(AttentionLayer):
    """Monotonic attention: each query starts where the query before it stopped.

    A query moves forward and stops at position j with probability sigmoid(score + r).
    Training uses the expected alignment; with `mode="hard"` the layer attends to one
    position. Use it where output follows the order of the source: speech, spelling,
    transliteration. A query depends on those before it, so all queries of a sequence
    must be in one call, or in an `AttentionCell`.

    The weights of a query need not sum to 1: it may pass the end without stopping, and
    then the weights of later queries are 0. A padding query does not move.

    Reference: Raffel et al., "Online and Linear-Time Attention by Enforcing Monotonic
    Alignments", 2017 (arXiv:1704.00784).

    Args:
        score: `"additive"` (see `AdditiveAttention`), or any other score that compares
            queries with keys. The table of scores in docs/kinds/README.md lists them.
        units: Size of the hidden layer of `"additive"` and `"concat"`; the query's
            size when `None`.
        mode: `"parallel"`, `"recursive"` (the same numbers, slower) or `"hard"` (for
            inference), see `ops.monotonic.monotonic_alignment`. It may be changed on
            a built layer, because all modes have the same weights.
        sigmoid_noise: Standard deviation of the noise added to the scores in
            training, which makes the probabilities near 0 or 1, so that `"hard"`
            agrees with them.
        score_bias_initializer: First value of r, a number or an initializer. Use a
            negative number, such as −4, for long sources: with 0 half of the queries
            stop at once.
        normalize: Whether v of `"additive"` is a learned length times a direction,
            as in the paper.
        dropout: Rate of dropout on the attention weights.
        seed: Seed of dropout and noise.
        logits_soft_cap: See `AttentionLayer`; applied before r.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments: the same for every attention layer, see `AdditiveAttention`.

    Returns:
        `[B, T, V]`, 0 for a query that can attend to no key; with
        `return_attention_scores=True` also the weights `[B, T, S]`.

    Example:
    >>> layer = ka.MonotonicAttention(units=16, mode="hard")
    >>> decoder_states = np.random.rand(1, 3, 8).astype("float32")
    >>> source = np.random.rand(1, 20, 12).astype("float32")
    >>> _, weights = layer(decoder_states, source, return_attention_scores=True)
    >>> set(np.array(weights).ravel().tolist()) <= {0.0, 1.0}
    True
    """

    def __init__(
        self,
        score: MonotonicScore = "additive",
        units: int | None = None,
        mode: Literal["parallel", "recursive", "hard"] = "parallel",
        *,
        sigmoid_noise: float = 0.0,
        score_bias_initializer: Any = 0.0,
        normalize: bool = True,
        dropout: float = 0.0,
        seed: int | None = None,
        logits_soft_cap: float | None = None,
        **kwargs: Any,
    ):
        soft_cap = {"logits_soft_cap": logits_soft_cap}
        super().__init__(dropout=dropout, seed=seed, **soft_cap, **kwargs)
        check_optional_sizes(units=units)
        if not sigmoid_noise >= 0.0:
            raise ValueError(
                "`sigmoid_noise` is a standard deviation and must be 0 or more. "
                f"Received: sigmoid_noise={sigmoid_noise}"
            )
        self.score = check_score(score, SCORES)
        self.units = units
        self.mode = check_mode(mode)
        self.sigmoid_noise = sigmoid_noise
        self.score_bias_initializer = _initializer(score_bias_initializer)
        self.normalize = normalize
        self._noise_seed = keras.random.SeedGenerator(seed) if sigmoid_noise else None

    def build_weights(self, query_shape, value_shape, key_shape):
        self._score = make_score(
            self.score,
            units=self.units or query_shape[-1],
            normalize=self.normalize,
            dtype=self.dtype_policy,
        )
        self._score.build(query_shape, key_shape)
        self.score_bias = self.add_weight(
            name="score_bias", shape=(), initializer=self.score_bias_initializer
        )

    def prepare_key(self, key: Any) -> Any:
        return self._score.prepare(key)

    def start(self, memory: Any, memory_mask: Any = None) -> StepState:
        state = super().start(memory, memory_mask)
        return state._replace(alignment=first_alignment(state.alignment))

    def attend_to(self, inputs: AttentionInputs) -> tuple[Any, Any]:
        probabilities, walks = self._stopping(inputs)
        previous = inputs.previous
        if previous is None:
            a_query = ops.sum(probabilities[:, :1], axis=1)  # [B, S], also if T is 0
            previous = first_alignment(a_query)
        weights = monotonic_alignments(probabilities, previous, self.mode, walks)
        dropout = self.active_dropout(inputs.training)
        used = weights if dropout is None else dropout(weights)
        output = ops.matmul(used, ops.cast(inputs.value, used.dtype))  # [B, T, V]
        return ops.cast(output, self.compute_dtype), weights

    def _stopping(self, inputs):
        """Returns the probabilities `[B, T, S]`, and which queries move `[B, T]`."""
        scores = cap_scores(scores_of(self._score, inputs), inputs.soft_cap)
        if inputs.bias is not None:
            scores = scores + ops.cast(inputs.bias, scores.dtype)
        scores = scores + ops.cast(self.score_bias, scores.dtype)
        if inputs.training and self._noise_seed is not None:
            noise = keras.random.normal(
                ops.shape(scores), dtype=scores.dtype, seed=self._noise_seed
            )
            scores = scores + self.sigmoid_noise * noise
        probabilities = ops.sigmoid(scores)
        if inputs.mask is None:
            return probabilities, None
        mask = ops.broadcast_to(inputs.mask, ops.shape(scores))
        return ops.where(mask, probabilities, 0.0), ops.any(mask, axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "score": self.score,
            "units": self.units,
            "mode": self.mode,
            "sigmoid_noise": self.sigmoid_noise,
            "score_bias_initializer": keras.initializers.serialize(
                self.score_bias_initializer
            ),
            "normalize": self.normalize,
        }


def _initializer(value: Any) -> Any:
    if isinstance(value, int | float):
        return keras.initializers.Constant(value)
    return keras.initializers.get(value)
