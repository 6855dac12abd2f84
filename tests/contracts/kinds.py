"""The list of all attention kinds. A new kind joins all contracts by one line here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import oracle
import position_oracle
import pytest
from backends import to_numpy

import keras_attention as ka
from keras_attention.layers import (
    dot_product_attention,
    global_attention,
    local_attention,
)

# Pairwise different primes. Dot products need keys as wide as queries.
B, T, S = 2, 3, 5
QUERY, KEY, VALUE, UNITS = 7, 13, 11, 17


@cache
def _shared(kind):
    return kind.built()


@dataclass(frozen=True)
class Kind:
    """An attention layer and the equations it has to agree with."""

    name: str
    make: Callable  # (**kwargs of keras.layers.Layer) -> layer
    expected: Callable  # (query, key, value, mask, keep, weights) -> output, weights
    same_size: bool = False  # queries and keys have one size
    sums_to_one: bool = True
    by_content: bool = True  # moving keys moves nothing but their weights
    needs_positions: bool = False  # of the queries among the keys
    size: int | None = None  # of the output; VALUE when None
    multi_head: bool = False
    cached: bool = False  # takes a cache
    absolute: bool = False  # it matters where position 0 is
    mixed: bool = False  # weights are mixed across heads, and may be negative

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
        """Calls the layer; those that need positions get the queries' positions."""
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

    def shared(self):
        """The same built layer for every test that does nothing but call it."""
        return _shared(self)

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
        """The expected output and weights in float64, by the equations of the papers.

        `stored_as` rounds inputs and weights, but no step in between.
        """
        query, value, key = (
            np.array(x).astype(stored_as).astype("float64") for x in (query, value, key)
        )
        mask = np.broadcast_to(mask, (len(query), query.shape[1], key.shape[1]))
        keep = np.ones(key.shape[:2], bool) if key_mask is None else key_mask
        mask = mask & keep[:, None, :]
        if query_mask is None:
            query_mask = np.ones(query.shape[:2], bool)
        query = np.where(query_mask[..., None], query, 0.0)
        mask = mask & query_mask[..., None]
        keeps = {"keep": keep, "query_keep": query_mask}
        weights = weights_of(layer, stored_as)
        return self.expected(query, key, value, mask=mask, w=weights, **keeps)


def weights_of(layer, stored_as="float64"):
    """A layer's weights in float64 by name, without the layer's own name."""
    return {
        w.path.split("/", 1)[1]: np.array(w).astype(stored_as).astype("float64")
        for w in layer.weights
        if w.dtype != "uint32"  # the state of a random generator
    }


def _one_head(
    query, key, value, *, mask, keep, query_keep, w, score, around=oracle.everywhere
):
    context, weights = oracle.one_head(
        query, key, value, mask=mask, key_mask=keep, w=w, score=score, around=around
    )
    if "combine/kernel" in w:
        context = oracle.attentional(context, query, w)
    return context, weights


def _local_m(query, key, value, *, mask, keep, query_keep, **others):
    where = np.cumsum(keep, axis=1) - 1  # [B, S]
    aligned = np.cumsum(query_keep, axis=1) - 1  # [B, T]
    near = abs(where[:, None, :] - aligned[:, :, None]) <= WINDOW
    keeps = {"keep": keep, "query_keep": query_keep}
    return _one_head(query, key, value, mask=mask & near, **keeps, **others)


def _multi_head(
    query, key, value, *, mask, keep, query_keep, w, seen=None, **equations
):
    """`seen(queries, keys)` says which positions `[T, 1]` see which `[1, S]`."""
    if seen is not None:
        queries, keys = np.arange(query.shape[1])[:, None], np.arange(key.shape[1])
        mask = mask & seen(queries, keys[None, :])
    output = oracle.multi_head(query, key, value, mask, w, **equations)
    own = {k.removeprefix("global_"): v for k, v in w.items() if k[:7] == "global_"}
    if own:  # Beltagy 2020, section 3.1: global queries have projections of their own
        others = oracle.multi_head(query, key, value, mask, {**w, **own}, **equations)
        rows = [t for t in GLOBAL if t < query.shape[1]]
        for common, other in zip(output, others, strict=True):
            common[..., rows, :] = other[..., rows, :]
    return output


def band(behind, ahead, step=1):
    """Positions that a window of so many steps sees."""

    def seen(queries, keys):
        near = (keys - queries >= -behind * step) & (keys - queries <= ahead * step)
        return near & ((keys - queries) % step == 0)

    return seen


def with_global(seen):
    """The keys that `seen` shows, and those of and for global tokens."""

    def also(queries, keys):
        return seen(queries, keys) | np.isin(queries, GLOBAL) | np.isin(keys, GLOBAL)

    return also


def blocks(queries, keys):
    """BigBird without random blocks: own block, its neighbours and the first block."""
    queries, keys = queries // BLOCK, keys // BLOCK
    return (abs(queries - keys) <= 1) | (queries == 0) | (keys == 0)


def _monotonic(query, key, value, *, mask, keep, query_keep, w):
    weights = np.zeros(mask.shape)
    for b in range(len(query)):
        previous = np.eye(mask.shape[2])[:1].sum(axis=0)
        for t in np.flatnonzero(mask[b].any(axis=-1)):
            scores = [oracle.additive(query[b, t], k, None, w) for k in key[b]]
            p = mask[b, t] / (1 + np.exp(-np.array(scores) - w["score_bias"]))
            previous = weights[b, t] = oracle.monotonic_step(p, previous)
    return weights @ value, weights


WINDOW, GLOBAL, BLOCK = 2, (1,), 2


def _kind(name, layer, expected, *args, settings=None, **facts):
    return Kind(name, partial(layer, *args, **(settings or {})), expected, **facts)


def _score_kind(name, layer, score, *args, settings=None, **facts):
    expected = partial(_one_head, score=oracle.SCORES[score])
    same_size = score in oracle.SAME_SIZE
    facts = {"same_size": same_size, "by_content": score != "location", **facts}
    return _kind(name, layer, expected, *args, settings=settings, **facts)


def _local(alignment, score):
    score_function = oracle.SCORES[score]
    expected = partial(_local_m, score=score_function)
    if alignment == "predictive":
        around = oracle.local_p(WINDOW)
        expected = partial(_one_head, score=score_function, around=around)
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
        same_size=score in oracle.SAME_SIZE,
        sums_to_one=alignment == "monotonic",
        by_content=False,
        size=UNITS,
    )


def _make_with_position(position, *, dtype=None, **settings):
    """A layer with a scheme of its own, both in that dtype."""
    scheme = position(name="position", dtype=dtype)
    return ka.MultiHeadAttention(position=scheme, dtype=dtype, **settings)


def _heads(
    name,
    *,
    layer=None,
    seen=None,
    soft_cap=None,
    scheme=None,
    position=None,
    **settings,
):
    """Multi-head attention; `seen` and `scheme` are its equations for the oracle."""
    equations = {"soft_cap": soft_cap, "scheme": scheme, "seen": seen}
    if soft_cap is not None:
        settings["logits_soft_cap"] = soft_cap
    settings = {"num_heads": 4, "key_dim": 3, **settings}
    make = partial(layer or ka.MultiHeadAttention, **settings)
    if position is not None:
        make = partial(_make_with_position, position, **settings)
    return Kind(
        name if layer else f"multi-head-{name}",
        make,
        partial(_multi_head, **equations),
        by_content=seen is None and scheme is None,
        needs_positions=seen is not None or scheme is not None,
        size=settings.get("output_shape", QUERY),
        sums_to_one="talking_heads" not in settings,
        mixed="talking_heads" in settings,
        multi_head=True,
        cached="global_projections" not in settings,
        absolute=layer is not None,
    )


KINDS = [
    *(
        _score_kind(f"dot-product-{score}", ka.DotProductAttention, score, score)
        for score in dot_product_attention.SCORES
    ),
    _kind(
        "dot-product-use-scale",
        ka.DotProductAttention,
        partial(_one_head, score=oracle.learned_scale),
        settings={"score": "dot", "use_scale": True},
        same_size=True,
    ),
    *(
        _score_kind(
            f"global-{score}",
            ka.GlobalAttention,
            score,
            score,
            UNITS,
            settings={"max_length": 19},
            size=UNITS,
        )
        for score in global_attention.SCORES
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
        for score in local_attention.SCORES
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
    _heads("window", sliding_window=2, seen=band(1, 1)),
    _heads("window-pair", sliding_window=(2, 0), seen=band(2, 0)),
    _heads("soft-cap", soft_cap=0.7),
    _heads("gate", use_gate=True),
    _heads("talking", talking_heads=True),
    _heads(
        "everything",
        soft_cap=1.3,
        use_gate=True,
        talking_heads=True,
        num_key_value_heads=2,
    ),
    _heads(
        "rotary",
        position=ka.RotaryEmbedding,
        scheme=position_oracle.Rotary([(0, 3), (1, 4), (2, 5)]),
        key_dim=6,
    ),
    _heads(
        "rotary-interleaved-partial",
        position=partial(ka.RotaryEmbedding, layout="interleaved", rotary_dim=4),
        scheme=position_oracle.Rotary([(0, 1), (2, 3)]),
        key_dim=6,
        num_key_value_heads=2,
    ),
    _heads(
        "rotary-window",
        position=ka.RotaryEmbedding,
        scheme=position_oracle.Rotary([(0, 2), (1, 3)]),
        key_dim=4,
        sliding_window=(2, 1),
        seen=band(2, 1),
    ),
    _heads(
        "alibi",
        position=partial(ka.AlibiBias, symmetric=True),
        scheme=position_oracle.Alibi(),
    ),
    _heads(
        "t5-buckets",
        position=partial(ka.RelativePositionBias, 8, 4),
        scheme=position_oracle.Buckets(8, 4),
        sliding_window=(3, 2),
        seen=band(3, 2),
    ),
    _heads(
        "shaw",
        position=partial(ka.RelativePositionRepresentation, 2, value_dim=5),
        scheme=position_oracle.Shaw(2),
        value_dim=5,
    ),
    _heads(
        "longformer",
        layer=ka.LongformerAttention,
        sliding_window=(1, 2),
        dilation=2,
        global_tokens=GLOBAL,
        seen=with_global(band(1, 2, step=2)),
    ),
    _heads(
        "longformer-projections",
        layer=ka.LongformerAttention,
        sliding_window=2,
        global_tokens=GLOBAL,
        global_projections=True,
        num_key_value_heads=2,
        seen=with_global(band(1, 1)),
    ),
    _heads(
        "big-bird",
        layer=ka.BigBirdAttention,
        block_size=BLOCK,
        num_random_blocks=0,
        num_global_blocks=1,
        seen=blocks,
    ),
    *(
        _kind(
            f"monotonic-{mode}",
            ka.MonotonicAttention,
            _monotonic,
            settings={"mode": mode, "units": UNITS},
            sums_to_one=False,
            by_content=False,
        )
        for mode in ("parallel", "recursive")
    ),
]
BY_NAME = {kind.name: kind for kind in KINDS}


def _first_of_each(path):
    """The first kind of each value of `path(layer)`."""
    return list({path(kind.make()): kind for kind in reversed(KINDS)}.values())[::-1]


# Arguments are checked, masks combined and call forms unpacked before a kind's own
# equations begin, by code that only the method `call` and these two attributes choose.
# What is tested there is tested on one kind of each.
CALL_PATHS = _first_of_each(
    lambda layer: (
        type(layer).call,
        getattr(layer, "pattern", None) is not None,
        getattr(layer, "position", None) is not None,
    )
)

# Tests that take seconds per kind (graphs, XLA, ONNX) run on these in `make test`, and
# on all others too in `make test-all`.
FIRST = {
    "additive",
    "dot-product-general",
    "local-predictive-general",
    "longformer",
    "monotonic-parallel",
    "multi-head-everything",
    "multi-head-grouped",
    "multi-head-rotary",
    "multi-head-window",
}


def costly(kind):
    """The marks of a case that takes seconds."""
    return () if kind.name in FIRST else pytest.mark.slow


def relative_error(actual, expected):
    """The largest error over the largest expected number."""
    actual, expected = to_numpy((actual, expected))
    actual, expected = actual.astype("float64"), expected.astype("float64")
    assert actual.shape == expected.shape
    scale = abs(expected).max(initial=0.0)
    error = abs(actual - expected).max(initial=0.0)
    return error / (scale if scale else 1.0)


def is_identity(x):
    """Whether it is an identity matrix, which is not drawn."""
    return x.ndim == 2 and x.shape[0] == x.shape[1] and (x == np.eye(len(x))).all()


def weights_that_are_copies(layer):
    """Pairs of weights whose first numbers were drawn from one initializer."""
    drawn = [
        (w.path, np.array(w).ravel())
        for w in layer.weights
        if np.unique(np.array(w)).size > 1 and not is_identity(np.array(w))
    ]
    return [
        (left, right)
        for i, (left, x) in enumerate(drawn)
        for right, y in drawn[:i]
        if np.corrcoef(x[: len(y)], y[: len(x)])[0, 1] > 0.99
    ]
