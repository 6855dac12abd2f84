"""The score functions: how well a query fits each key.

Each is a small layer that is called as `score(query, key)`, `[B, T, E]` and
`[B, S, E']`, and returns scores `[B, T, S]` in float32 (float64 for float64 inputs).
An attention layer holds one score and never branches on its name. A score has two
parts, `compare(query, prepare(key))`, so that a recurrent decoder computes the second
one once.

To add a score, write a class and add it to `SCORES`. The properties of the class decide
which attention layers allow it.
"""

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_attention.layers.projection import Projection
from keras_attention.ops.attend import score_dtype


@dataclass(frozen=True)
class ScoreSettings:
    """The settings of an attention layer that its score may use.

    Attributes:
        dtype: The layer's dtype policy.
        units: Size of the hidden layer of an additive score.
        max_length: Length of the longest key sequence, for `"location"`.
        use_scale: Whether a product is multiplied by a learned scalar.
        normalize: Whether v of `"additive"` is a learned length times a direction.
    """

    dtype: Any
    units: int | None = None
    max_length: int | None = None
    use_scale: bool = False
    normalize: bool = False


class Score(keras.layers.Layer):
    """Base of the score functions.

    Attributes:
        multiplies: Whether the score is a product `prepare_query(query) ·
            prepare(key) · scale`, so that attention over it is dot-product attention.
        compares_keys: Whether the score depends on the keys, and not only on the query
            and the keys' positions.
        luong: Whether the score is one of Luong et al., 2015.
        key_term_size: Size of the vectors that may be added to what `prepare` returns;
            `None` if nothing may be added.

    Args:
        use_scale: Whether a product is multiplied by a learned scalar.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    multiplies = False
    compares_keys = True
    luong = False
    key_term_size: int | None = None

    def __init__(self, *, use_scale: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.use_scale = use_scale

    @classmethod
    def of(cls, settings: ScoreSettings) -> "Score":
        """Makes the score for an attention layer.

        Args:
            settings: The layer's settings.
        """
        use_scale = settings.use_scale
        return cls(use_scale=use_scale, name="score", dtype=settings.dtype)

    def build(self, query_shape, key_shape):
        if self.use_scale:
            self.learned_scale = self.add_weight(
                name="scale", shape=(), initializer="ones"
            )
        self.build_weights(query_shape[-1], key_shape[-1])
        self.built = True

    def build_weights(self, query_size: int, key_size: int) -> None:
        """Creates the weights. A score has none by default."""

    def prepare(self, key: Any) -> Any:
        """Computes the part of the score that depends on the key alone, `[B, S, K]`."""
        return key

    def prepare_query(self, query: Any) -> Any:
        """Computes the factor on the prepared key, for a score that is a product."""
        if not self.use_scale:
            return query
        dtype = score_dtype(query)
        return ops.cast(query, dtype) * ops.cast(self.learned_scale, dtype)

    @property
    def scale(self) -> float:
        """The factor on the product."""
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
    luong = True

    def build_weights(self, query_size, key_size):
        require_same_size(query_size, key_size, "dot")


class ScaledDotScore(DotScore):
    """q · k / sqrt(E) (Vaswani 2017)."""

    luong = False

    def build_weights(self, query_size, key_size):
        super().build_weights(query_size, key_size)
        self._scale = query_size**-0.5

    @property
    def scale(self):
        return self._scale


class CosineScore(DotScore):
    """Cosine of the angle between q and k, times `temperature`, a learned scale."""

    luong = False

    @classmethod
    def of(cls, settings):
        return cls(name="score", dtype=settings.dtype)  # has a scale of its own

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
    luong = True

    def build_weights(self, query_size, key_size):
        self.key_projection = Projection(
            (query_size,), use_bias=False, name="key", dtype=self.dtype_policy
        )
        self.key_projection.build((None, None, key_size))

    def prepare(self, key):
        return self.key_projection(key)


class AdditiveScore(Score):
    """v · tanh(W q + U k + b) (Bahdanau 2014).

    Args:
        units: Size of the hidden layer.
        normalize: Whether v is a learned length times a direction.
        use_bias: Whether the score has the bias b.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, units, *, normalize=False, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.units, self.normalize, self.use_bias = units, normalize, use_bias
        self.key_term_size = units

    @classmethod
    def of(cls, settings):
        normalize = settings.normalize
        return cls(
            settings.units, normalize=normalize, name="score", dtype=settings.dtype
        )

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


class ConcatScore(AdditiveScore):
    """v · tanh(W [q; k]) (Luong 2015, "concat").

    A matrix times the concatenation is the sum of two matrices times its parts, so
    this is the additive score without its bias.
    """

    luong = True

    @classmethod
    def of(cls, settings):
        return cls(settings.units, use_bias=False, name="score", dtype=settings.dtype)


class LocationScore(Score):
    """W q: one score per position, whatever the key is (Luong 2015, "location").

    Args:
        max_length: Length of the longest key sequence.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    compares_keys = False
    luong = True

    def __init__(self, max_length, **kwargs):
        super().__init__(**kwargs)
        if max_length is None:
            raise ValueError(
                "The 'location' score has one weight vector per key position: give "
                "`max_length`, the longest key sequence. Received: max_length=None"
            )
        self.max_length = max_length

    @classmethod
    def of(cls, settings):
        return cls(settings.max_length, name="score", dtype=settings.dtype)

    def build_weights(self, query_size, key_size):
        self.position_projection = Projection(
            (self.max_length,), use_bias=False, name="position", dtype=self.dtype_policy
        )
        self.position_projection.build((None, None, query_size))

    def prepare(self, key):
        return key[..., :1]  # only the number of keys is used

    def compare(self, query, prepared):
        length = prepared.shape[1]
        if length is not None and length > self.max_length:
            raise ValueError(
                "The 'location' score has weights for max_length positions. Build the "
                "layer with a larger `max_length` or shorten the keys. Received: "
                f"max_length={self.max_length}, key of length {length}"
            )
        scores = self.position_projection(query)[:, :, : ops.shape(prepared)[1]]
        return ops.cast(scores, score_dtype(scores))  # [B, T, S]


SCORES: dict[str, type[Score]] = {
    "additive": AdditiveScore,
    "scaled_dot": ScaledDotScore,
    "dot": DotScore,
    "general": GeneralScore,
    "cosine": CosineScore,
    "concat": ConcatScore,
    "location": LocationScore,
}


def scores_with(**properties: bool) -> tuple[str, ...]:
    """Returns the names of the scores that have certain properties.

    Args:
        **properties: Class attributes of `Score` and the values they must have.
    """
    return tuple(
        name
        for name, score in SCORES.items()
        if all(getattr(score, key) == wanted for key, wanted in properties.items())
    )


def make_score(name: str, **settings: Any) -> Score:
    """Makes the score function of that name.

    Args:
        name: A key of `SCORES`.
        **settings: Attributes of `ScoreSettings`.
    """
    return SCORES[name].of(ScoreSettings(**settings))


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
