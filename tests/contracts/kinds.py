"""The one list of attention kinds. A new kind joins all contracts by one line here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
import oracle

import keras_attention as ka

# Pairwise different primes. Dot products need keys as wide as queries.
B, T, S = 2, 3, 5
QUERY, KEY, VALUE, UNITS = 7, 13, 11, 17


@dataclass(frozen=True)
class Kind:
    """An attention layer and the equations it has to agree with."""

    name: str
    make: Callable  # (**kwargs of keras.layers.Layer) -> layer
    expected: Callable  # (query, key, value, mask, keep, weights) -> output, weights
    same_size: bool = False  # queries and keys have one size
    sums_to_one: bool = True
    by_content: bool = True  # moving keys moves nothing but their weights
    needs_positions: bool = False  # a window, which lengths alone do not place
    size: int | None = None  # of the output; VALUE when None

    @property
    def key_size(self):
        return QUERY if self.same_size else KEY

    def inputs(self, seed=1, *, batch=B, queries=T, keys=S, dtype="float32"):
        """Random query, value and key."""
        rng = np.random.default_rng(seed)
        shapes = (batch, queries, QUERY), (batch, keys, VALUE)
        shapes += ((batch, keys, self.key_size),)
        return [rng.normal(size=shape).astype(dtype) for shape in shapes]

    def call(self, layer, query, value, key, **kwargs):
        """Calls the layer; windows are told where the queries stand."""
        if self.needs_positions and "positions" not in kwargs:
            kwargs["positions"] = np.arange(query.shape[1])
        return layer(query, value, key, **kwargs)

    def built(self, **kwargs):
        """A layer whose weights, biases too, are the same random ones each time."""
        layer = self.make(**kwargs)
        layer.build((B, T, QUERY), (B, S, VALUE), (B, S, self.key_size))
        rng = np.random.default_rng(7)
        for w in layer.trainable_weights:
            w.assign(rng.normal(scale=0.3, size=w.shape) if w.shape else 1.7)
        return layer

    def oracle(
        self,
        layer,
        query,
        value,
        key,
        *,
        mask,
        query_mask=None,
        key_mask=None,
        stored_as="float64",
    ):
        """What the papers say the layer should return, in float64.

        `stored_as` rounds inputs and weights, but no step in between.
        """
        query, value, key = (
            np.array(x).astype(stored_as).astype("float64") for x in (query, value, key)
        )
        mask = np.broadcast_to(mask, (len(query), query.shape[1], key.shape[1]))
        keep = np.ones(key.shape[:2], bool) if key_mask is None else key_mask
        mask = mask & keep[:, None, :]
        if query_mask is not None:
            query = np.where(query_mask[..., None], query, 0.0)
            mask = mask & query_mask[..., None]
        return self.expected(
            query, key, value, mask=mask, keep=keep, w=weights_of(layer, stored_as)
        )


def weights_of(layer, stored_as="float64"):
    """A layer's weights in float64 by name, without the layer's own name."""
    return {
        w.path.split("/", 1)[1]: np.array(w).astype(stored_as).astype("float64")
        for w in layer.weights
        if w.dtype != "uint32"  # the state of a random generator
    }


def _one_head(query, key, value, *, mask, keep, w, score, around=oracle.everywhere):
    context, weights = oracle.one_head(
        query, key, value, mask=mask, keep=keep, w=w, score=score, around=around
    )
    if "combine/kernel" in w:
        context = oracle.attentional(context, query, w)
    return context, weights


def _local_m(query, key, value, *, mask, keep, w, score):
    where = np.cumsum(keep, axis=1) - 1  # [B, S]
    aligned = np.arange(query.shape[1])
    near = abs(where[:, None, :] - aligned[None, :, None]) <= WINDOW
    return _one_head(query, key, value, mask=mask & near, keep=keep, w=w, score=score)


def _multi_head(query, key, value, *, mask, keep, w, behind=99, ahead=99):
    distance = np.arange(key.shape[1])[None, :] - np.arange(query.shape[1])[:, None]
    mask = mask & (distance >= -behind) & (distance <= ahead)
    return oracle.multi_head(query, key, value, mask, w)


WINDOW = 2
SCORES = {
    "dot": oracle.dot,
    "scaled_dot": oracle.scaled_dot,
    "cosine": oracle.cosine,
    "general": oracle.general,
    "concat": oracle.additive,
    "location": oracle.location,
}
DOTS = ("dot", "scaled_dot", "cosine")


def _kind(name, layer, expected, *args, settings=None, **facts):
    return Kind(name, partial(layer, *args, **(settings or {})), expected, **facts)


def _score_kind(name, layer, score, *args, settings=None, **facts):
    expected = partial(_one_head, score=SCORES[score])
    facts = {"same_size": score in DOTS, "by_content": score != "location", **facts}
    return _kind(name, layer, expected, *args, settings=settings, **facts)


def _local(alignment, score):
    expected = partial(_local_m, score=SCORES[score])
    if alignment == "predictive":
        around = oracle.local_p(WINDOW)
        expected = partial(_one_head, score=SCORES[score], around=around)
    return _kind(
        f"local-{alignment}-{score}",
        ka.LocalAttention,
        expected,
        settings={
            "alignment": alignment,
            "window": WINDOW,
            "score": score,
            "units": UNITS,
        },
        same_size=score in DOTS,
        sums_to_one=alignment == "monotonic",
        by_content=False,
        size=UNITS,
    )


def _heads(name, *, behind=None, ahead=99, **settings):
    windowed = behind is not None
    expected = partial(_multi_head, behind=behind, ahead=ahead)
    return _kind(
        f"multi-head-{name}",
        ka.MultiHeadAttention,
        expected if windowed else _multi_head,
        settings={"num_heads": 4, "key_dim": 3, **settings},
        by_content=not windowed,
        needs_positions=windowed,
        size=settings.get("output_shape", QUERY),
    )


LOCATION = {"max_length": 19}
KINDS = [
    *(
        _score_kind(f"dot-product-{score}", ka.DotProductAttention, score, score)
        for score in (*DOTS, "general")
    ),
    *(
        _score_kind(
            f"global-{score}",
            ka.GlobalAttention,
            score,
            score,
            UNITS,
            settings=LOCATION if score == "location" else {},
            size=UNITS,
        )
        for score in ("dot", "general", "concat", "location")
    ),
    _score_kind(
        "global-context",
        ka.GlobalAttention,
        "concat",
        "concat",
        UNITS,
        settings={"attentional_vector": False},
    ),
    *(
        _local(alignment, score)
        for alignment in ("monotonic", "predictive")
        for score in ("dot", "general", "concat")
    ),
    _score_kind("additive", ka.AdditiveAttention, "concat", UNITS),
    _score_kind(
        "additive-normalized",
        ka.AdditiveAttention,
        "concat",
        UNITS,
        settings={"normalize": True},
    ),
    _heads("full"),
    _heads("grouped", num_key_value_heads=2),
    _heads("multi-query", num_key_value_heads=1),
    _heads("value-dim", value_dim=5, output_shape=UNITS),
    _heads("no-bias", use_bias=False),
    _heads("window", sliding_window=2, behind=1, ahead=1),
    _heads("window-pair", sliding_window=(2, 0), behind=2, ahead=0),
]
BY_NAME = {kind.name: kind for kind in KINDS}


def to_numpy(x):
    """A tensor, or a structure of tensors, as numpy."""
    return keras.tree.map_structure(keras.ops.convert_to_numpy, x)


def relative_error(actual, expected):
    """The largest error over the largest expected number."""
    actual, expected = np.asarray(actual, "float64"), np.asarray(expected, "float64")
    assert actual.shape == expected.shape
    scale = abs(expected).max(initial=0.0)
    error = abs(actual - expected).max(initial=0.0)
    return error / (scale if scale else 1.0)


def weights_that_are_copies(layer):
    """Pairs of weights whose first numbers were drawn from one initializer."""
    drawn = [
        (w.path, np.array(w).ravel())
        for w in layer.weights
        if np.unique(np.array(w)).size > 1
    ]
    return [
        (left, right)
        for i, (left, x) in enumerate(drawn)
        for right, y in drawn[:i]
        if np.corrcoef(x[: len(y)], y[: len(x)])[0, 1] > 0.99
    ]
