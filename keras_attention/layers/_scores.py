"""Score functions with weights: how well a query fits each key.

Each is a small layer called as `score(query, key)`: `[B, T, E]`, `[B, S, E']` to
scores `[B, T, S]` in float32 (float64 for float64 inputs). Attention layers hold
one; none of them branches on its kind. A score is made in two parts, so that a
recurrent decoder does the first once: `compare(query, prepare(key))`.
"""

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_attention.layers.base import AttentionInputs
from keras_attention.layers.projection import Projection
from keras_attention.ops.attend import attend, dot_product_attention, score_dtype
from keras_attention.ops.heads import HeadSettings


@dataclass(frozen=True)
class StepInputs(AttentionInputs):
    """What a recurrent decoder attends to in one step, T = 1.

    Attributes:
        key: `[B, S, K]`, what `Score.prepare` made of the keys.
        positions: Number of the step, int `[B, 1]`.
        previous: `[B, S]`, the alignment of the step before; one-hot at 0 in the
            first.
    """

    positions: Any = None
    previous: Any = None


class Score(keras.layers.Layer):
    """Base of the score functions.

    Attributes:
        multiplies: Whether the score is a product `project(query) · project_key(key)
            · scale`, so that attention over it is dot-product attention.
        adds: Whether a term for each key may be added to what `prepare` returns.

    Args:
        use_scale: Whether a product is multiplied by a learned scalar.
        **kwargs: Those of `keras.layers.Layer`.
    """

    multiplies = False
    adds = False

    def __init__(self, *, use_scale: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.use_scale = use_scale

    def build(self, query_shape, key_shape):
        if self.use_scale:
            self.learned_scale = self.add_weight(
                name="scale", shape=(), initializer="ones"
            )
        self.build_weights(query_shape[-1], key_shape[-1])
        self.built = True

    def build_weights(self, query_size: int, key_size: int) -> None:
        """Creates the weights. None by default."""

    def prepare(self, key: Any) -> Any:
        """The part of the score that does not depend on the query, `[B, S, K]`."""
        return key

    def prepare_query(self, query: Any) -> Any:
        """The factor on the prepared key, for a score that is a product."""
        if not self.use_scale:
            return query
        dtype = score_dtype(query)
        return ops.cast(query, dtype) * ops.cast(self.learned_scale, dtype)

    @property
    def scale(self) -> float:
        """Factor on the product."""
        return 1.0

    def compare(self, query: Any, prepared: Any) -> Any:
        """Scores `[B, T, S]` of queries and prepared keys."""
        query = self.prepare_query(query)
        dtype = score_dtype(query, prepared)
        query, key = ops.cast(query, dtype) * self.scale, ops.cast(prepared, dtype)
        return ops.matmul(query, ops.swapaxes(key, -2, -1))  # [B, T, S]

    def call(self, query, key):
        return self.compare(query, self.prepare(key))


class DotScore(Score):
    """q · k (Luong 2015, "dot")."""

    multiplies = True

    def build_weights(self, query_size, key_size):
        require_same_size(query_size, key_size, "dot")


class ScaledDotScore(DotScore):
    """q · k / sqrt(E) (Vaswani 2017)."""

    def build_weights(self, query_size, key_size):
        super().build_weights(query_size, key_size)
        self._scale = query_size**-0.5

    @property
    def scale(self):
        return self._scale


class CosineScore(DotScore):
    """Cosine of the angle between q and k, times `temperature`, a learned scale."""

    def build_weights(self, query_size, key_size):
        super().build_weights(query_size, key_size)
        self.temperature = self.add_weight(
            name="temperature", shape=(), initializer="ones"
        )

    def prepare(self, key):
        return _normalize(ops.cast(key, score_dtype(key)))

    def prepare_query(self, query):
        dtype = score_dtype(query)
        return _normalize(ops.cast(query, dtype)) * ops.cast(self.temperature, dtype)


class GeneralScore(Score):
    """q · W k (Luong 2015, "general")."""

    multiplies = True

    def build_weights(self, query_size, key_size):
        self.key_projection = Projection(
            (query_size,), use_bias=False, name="key", dtype=self.dtype_policy
        )
        self.key_projection.build((None, None, key_size))

    def prepare(self, key):
        return self.key_projection(key)


class AdditiveScore(Score):
    """v · tanh(W q + U k + b) (Bahdanau 2014); "concat" of Luong 2015.

    Luong writes v · tanh(W [q; k]): one matrix over the concatenation is two
    matrices side by side, so both papers' score is this one (Luong without b).

    Args:
        units: Size of the hidden layer.
        normalize: Whether v is a direction times a learned length.
        use_bias: Whether b is there.
        **kwargs: Those of `keras.layers.Layer`.
    """

    adds = True

    def __init__(self, units, *, normalize=False, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.units, self.normalize, self.use_bias = units, normalize, use_bias

    def build_weights(self, query_size, key_size):
        dtype = self.dtype_policy
        self.query_projection = Projection(
            (self.units,), use_bias=self.use_bias, name="query", dtype=dtype
        )
        self.key_projection = Projection(
            (self.units,), use_bias=False, name="key", dtype=dtype
        )
        self.query_projection.build((None, None, query_size))
        self.key_projection.build((None, None, key_size))
        self.score_vector = self.add_weight(
            name="score_vector", shape=(self.units,), initializer=_vector_initializer
        )
        if self.normalize:
            length = keras.initializers.Constant(self.units**-0.5)
            self.score_length = self.add_weight(
                name="score_length", shape=(), initializer=length
            )

    def prepare(self, key):
        return self.key_projection(key)  # [B, S, U]

    def compare(self, query, prepared):
        query = self.query_projection(query)[:, :, None, :]  # [B, T, 1, U]
        key = prepared[:, None, :, :]  # [B, 1, S, U]
        dtype = score_dtype(query, key)
        hidden = ops.tanh(ops.cast(query, dtype) + ops.cast(key, dtype))
        vector = ops.cast(self.score_vector, dtype)
        if self.normalize:
            vector = _normalize(vector) * ops.cast(self.score_length, dtype)
        return ops.sum(hidden * vector, axis=-1)  # [B, T, S]


class LocationScore(Score):
    """W q: one score a position, whatever stands there (Luong 2015, "location").

    Args:
        max_length: Longest key sequence.
        **kwargs: Those of `keras.layers.Layer`.
    """

    def __init__(self, max_length, **kwargs):
        super().__init__(**kwargs)
        if max_length is None:
            raise ValueError(
                "The 'location' score has one weight vector per key position: give "
                "`max_length`, the longest key sequence. Received: max_length=None"
            )
        self.max_length = max_length

    def build_weights(self, query_size, key_size):
        self.position_projection = Projection(
            (self.max_length,), use_bias=False, name="position", dtype=self.dtype_policy
        )
        self.position_projection.build((None, None, query_size))

    def prepare(self, key):
        return key[..., :1]  # its length is all that counts

    def compare(self, query, prepared):
        length = prepared.shape[1]
        if length is not None and length > self.max_length:
            raise ValueError(
                "The 'location' score knows max_length positions. Build the layer "
                "with a larger `max_length` or shorten the keys. Received: "
                f"max_length={self.max_length}, key of length {length}"
            )
        scores = self.position_projection(query)[:, :, : ops.shape(prepared)[1]]
        return ops.cast(scores, score_dtype(scores))  # [B, T, S]


def scores_of(score: Score, inputs: AttentionInputs) -> Any:
    """Scores `[B, T, S]`, before bias and mask.

    Args:
        score: The score function.
        inputs: What to attend to.
    """
    if isinstance(inputs, StepInputs):
        return score.compare(inputs.query, inputs.key)
    return score(inputs.query, inputs.key)


def attend_with_score(
    score: Score, inputs: AttentionInputs, *, dropout: Any, weight_factor: Any = None
) -> tuple[Any, Any]:
    """Attention of one head by a score function.

    A score that is a product goes through the dot-product core, which runtimes have
    an operator for; the numbers are the same either way.

    Args:
        score: The score function.
        inputs: What to attend to.
        dropout: Called with the weights, or `None`.
        weight_factor: `[B, T, S]`, multiplies the weights after the softmax.

    Returns:
        `(output [B, T, V], weights [B, T, S] or None)`.
    """
    if not score.multiplies or weight_factor is not None:
        return attend(
            scores=scores_of(score, inputs),
            value=inputs.value,
            mask=inputs.mask,
            bias=inputs.bias,
            weight_factor=weight_factor,
            soft_cap=inputs.soft_cap,
            dropout=dropout,
        )
    stepwise = isinstance(inputs, StepInputs)
    query = score.prepare_query(inputs.query)
    key = inputs.key if stepwise else score.prepare(inputs.key)
    mask, bias = inputs.mask, inputs.bias
    output, weights = dot_product_attention(
        query=query,
        key=key,
        value=inputs.value,
        heads=HeadSettings(scale=score.scale, soft_cap=inputs.soft_cap),
        mask=None if mask is None else mask[:, None],
        bias=None if bias is None else bias[:, None],
        dropout=dropout,
        return_weights=inputs.need_weights,
    )
    return output, None if weights is None else weights[:, 0]


def make_score(
    kind: str,
    *,
    units: int | None,
    max_length: int | None,
    dtype: Any,
    use_scale: bool = False,
):
    """The score function of that name.

    Args:
        kind: `"dot"`, `"scaled_dot"`, `"cosine"`, `"general"`, `"concat"` or
            `"location"`.
        units: Hidden size of `"concat"`.
        max_length: Longest key sequence of `"location"`.
        dtype: Dtype policy.
        use_scale: Whether a product is multiplied by a learned scalar.
    """
    product = {"name": "score", "dtype": dtype, "use_scale": use_scale}
    makers = {
        "dot": lambda: DotScore(**product),
        "scaled_dot": lambda: ScaledDotScore(**product),
        "cosine": lambda: CosineScore(name="score", dtype=dtype),
        "general": lambda: GeneralScore(**product),
        "concat": lambda: AdditiveScore(
            units, use_bias=False, name="score", dtype=dtype
        ),
        "location": lambda: LocationScore(max_length, name="score", dtype=dtype),
    }
    return makers[kind]()


def check_score(score: str, allowed: tuple[str, ...]) -> str:
    """Returns `score` if it is one of `allowed`."""
    if score not in allowed:
        names = ", ".join(repr(name) for name in allowed)
        raise ValueError(f"`score` must be one of {names}. Received: score={score!r}")
    return score


def require_same_size(query_size: int, key_size: int, score: str) -> None:
    """Refuses a product of vectors of different sizes."""
    if query_size != key_size:
        raise ValueError(
            f"The '{score}' score multiplies query and key, so their last axes must "
            "be equal. Use score='general', which learns a matrix between them, or "
            f"project one. Received: query size {query_size}, key size {key_size}"
        )


def _normalize(x: Any) -> Any:
    squares = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.maximum(squares, 1e-12))


def _vector_initializer(shape, dtype=None):
    """Glorot uniform for a vector that maps `units` features to one score."""
    initializer = keras.initializers.GlorotUniform()
    return ops.reshape(initializer((*shape, 1), dtype=dtype), shape)
