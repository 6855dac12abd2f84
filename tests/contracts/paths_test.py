"""Every path of computation gives the same numbers, for every kind.

A kind joins by its line in contracts/kinds.py, a path by its line in PATHS. The judge
is the float64 oracle; a query that may look at nothing has context exactly 0.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts.kinds import BY_NAME, KINDS, B, costly, relative_error, to_numpy
from oracle import drawn

import keras_attention as ka
from keras_attention.export.formats.onnx.writer import write_onnx
from keras_attention.export.formats.saved_model import write_saved_model
from keras_attention.export.runtimes.opening import open_artifact
from keras_attention.export.signatures.signature import Signature, TensorInfo
from keras_attention.layers import _multi_head_paths

LENGTH = 11
KEEP = drawn("""
    . . 1 1 1 1 1 1 1 1 1
    1 1 1 1 1 1 1 1 . . .
""")
CAUSAL = np.tril(np.ones((1, LENGTH, LENGTH), bool))
MASKS = {"query_mask": KEEP, "value_mask": KEEP, "use_causal_mask": True}


def inputs_of(kind):
    """A sequence that attends to itself; NaN stands at padding."""
    tensors = kind.inputs(queries=LENGTH, keys=LENGTH)
    return [np.where(KEEP[..., None], x, np.nan).astype("float32") for x in tensors]


@functools.cache
def expected_of(kind):
    clean = [np.nan_to_num(x) for x in inputs_of(kind)]
    masks = {"mask": CAUSAL, "query_mask": KEEP, "key_mask": KEEP}
    return kind.oracle(kind.shared(), *clean, **masks)[0]


# --- the paths -----------------------------------------------------------------


def eager(kind, tools):
    return kind.shared()(*inputs_of(kind), **MASKS)


def with_weights(kind, tools):
    return kind.shared()(*inputs_of(kind), **MASKS, return_attention_scores=True)[0]


def graph(kind, tools, **compiled):
    layer, tensors = kind.shared(), inputs_of(kind)
    unknown = [tf.TensorSpec((None, None, x.shape[-1])) for x in tensors]

    @tf.function(input_signature=[*unknown, tf.TensorSpec((None, None), "bool")])
    def function(query, value, key, keep):
        masks = {**MASKS, "query_mask": keep, "value_mask": keep}
        return layer(query, value, key, **masks)

    return function(*tensors, KEEP)


def xla(kind, tools):
    layer, tensors = kind.shared(), inputs_of(kind)
    return tf.function(lambda *x: layer(*x, **MASKS), jit_compile=True)(*tensors)


def in_blocks(kind, tools):
    layer = kind.shared()
    tools.patch.setattr(type(layer.pattern), "pays", lambda pattern, length: True)
    attend = tools.spy(layer.pattern, "attend")
    output = layer(*inputs_of(kind), **MASKS)
    assert attend.calls == 1
    return output


def in_chunks(kind, tools):
    layer = kind.built(chunked=True)
    small = {"query_chunk": 4, "key_chunk": 3}
    attend = tools.spy(_multi_head_paths, "chunked_attention", **small)
    output = layer(*inputs_of(kind), **MASKS)
    assert attend.calls == 1
    return output


def cached(kind, tools, make, cuts):
    layer = kind.shared()
    heads = layer.num_key_value_heads
    sizes = {"key_size": heads * layer.key_dim, "value_size": heads * layer.value_dim}
    cache, outputs = make(batch_size=B, **sizes), []
    for first, end in zip([0, *cuts], [*cuts, LENGTH], strict=True):
        part = [x[:, first:end] for x in inputs_of(kind)]
        keep = KEEP[:, first:end]
        masks = {**MASKS, "query_mask": keep, "value_mask": keep}
        if kind.absolute:  # a cache counts real tokens, which may begin later
            masks["positions"] = np.arange(first, end)
        output, cache = layer(*part, **masks, cache=cache)
        outputs.append(to_numpy(output))
    assert to_numpy(cache.lengths).tolist() == KEEP.sum(axis=1).tolist()
    return np.concatenate(outputs, axis=1)


def served(kind, tools):
    return tools.saved_model.run(kind.name, **feeds(kind))["output"]


def onnx_runtime(kind, tools):
    file = tools.folder / f"{kind.name}.onnx"
    write_onnx(signature_of(kind, kind.shared()), file)
    with open_artifact(file, allow_unverified=True) as runner:
        return runner.run(kind.name, **feeds(kind))["output"]


@dataclass(frozen=True)
class Path:
    name: str
    run: Callable  # (kind, tools) -> output
    serves: Callable = lambda kind: True
    costly: bool = False  # takes seconds per kind


def has_pattern(kind):
    return kind.multi_head and kind.make().pattern is not None and not kind.mixed


def can_be_chunked(kind):  # others need all weights at once
    return kind.multi_head and not kind.mixed and "shaw" not in kind.name


def cache_path(kind):
    """The properties of a layer that the code of caches depends on."""
    layer = kind.make()
    sizes = (
        layer.num_heads == layer.num_key_value_heads,
        layer.key_dim == layer.value_dim,
    )
    return type(layer.pattern), type(layer.position), *sizes


_CACHED = {cache_path(kind): kind for kind in reversed(KINDS) if kind.cached}


def can_be_cached(kind, name):  # a rolling cache numbers its tokens anew
    one_of_its_path = kind in _CACHED.values()
    return one_of_its_path and not (kind.absolute and "rolling" in name)


EACH, SOME = list(range(1, LENGTH)), [4, 5, 9]
CACHES = {
    "growing cache": ka.KVCache.empty,
    "fixed cache": functools.partial(ka.FixedKVCache.empty, capacity=LENGTH),
    "rolling cache": functools.partial(ka.RollingKVCache.empty, window=LENGTH),
}
PATHS = [
    Path("eager", eager),
    Path("with weights", with_weights),
    Path("in blocks", in_blocks, has_pattern),
    Path("in chunks", in_chunks, can_be_chunked),
    *(
        Path(
            f"{name}, {how}",
            functools.partial(cached, make=make, cuts=cuts),
            functools.partial(can_be_cached, name=name),
            costly=cuts is EACH,  # the chunks have a step of one token too
        )
        for name, make in CACHES.items()
        for how, cuts in {"step by step": EACH, "in chunks": SOME}.items()
    ),
]
if keras.backend.backend() == "tensorflow":
    PATHS += [
        Path("graph of unknown sizes", graph, costly=True),
        Path("XLA", xla, costly=True),
        Path("SavedModel session", served, costly=True),
        Path("ONNX Runtime", onnx_runtime, costly=True),
    ]
CASES = [
    pytest.param(
        kind,
        path,
        id=f"{kind.name}-{path.name}",
        marks=costly(kind) if path.costly else (),
    )
    for kind in KINDS
    for path in PATHS
    if path.serves(kind)
]


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_every_path_gives_the_numbers_of_the_paper(kind, path, tools):
    expected, output = expected_of(kind), to_numpy(path.run(kind, tools))
    assert relative_error(output, expected) <= 1e-6
    # The context of a query without visible keys is exactly 0; a bias remains.
    assert np.array_equal(output[~KEEP], expected[~KEEP].astype("float32"))


def test_every_path_serves_several_kinds():
    served = {path.name: sum(map(path.serves, KINDS)) for path in PATHS}
    assert min(served.values()) >= 3, served


# --- artifacts -----------------------------------------------------------------


def signature_of(kind, layer):
    sizes = {"query": 0, "value": 1, "key": 2}
    widths = [x.shape[-1] for x in kind.inputs()]

    def function(query, value, key, keep):
        masks = {**MASKS, "query_mask": keep, "value_mask": keep}
        return {"output": layer(query, value, key, **masks)}

    axes = ("batch", "sequence")
    tensors = {
        name: TensorInfo("float32", (*axes, widths[i])) for name, i in sizes.items()
    }
    width = expected_of(kind).shape[-1]
    return Signature(
        kind.name,
        function,
        {**tensors, "keep": TensorInfo("bool", axes)},
        {"output": TensorInfo("float32", (*axes, width))},
    )


def feeds(kind):
    return {
        **dict(zip(("query", "value", "key"), inputs_of(kind), strict=True)),
        "keep": KEEP,
    }


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory, pytestconfig):
    """All kinds that are asked as signatures of one SavedModel, in a session."""
    folder = tmp_path_factory.mktemp("kinds") / "1"
    every = pytestconfig.getoption("--slow")
    kinds = [kind for kind in KINDS if every or not costly(kind)]
    layers = {kind.name: kind.built() for kind in kinds}
    signatures = [signature_of(BY_NAME[name], layer) for name, layer in layers.items()]
    variables = [v for layer in layers.values() for v in layer.variables]
    write_saved_model(signatures, folder, variables=variables)
    with open_artifact(folder, allow_unverified=True) as runner:
        yield runner


class Tools:
    """What paths need of pytest: artifacts, a folder, and functions watched."""

    def __init__(self, request, patch, folder):
        self.request, self.patch, self.folder = request, patch, folder

    @property
    def saved_model(self):
        return self.request.getfixturevalue("saved_model")

    def spy(self, owner, name, **settings):
        """Counts the calls of a function, with some settings of its own."""
        function = getattr(owner, name)

        def counted(*args, **kwargs):
            counted.calls += 1
            return function(*args, **{**kwargs, **settings})

        counted.calls = 0
        self.patch.setattr(owner, name, counted)
        return counted


@pytest.fixture
def tools(request, monkeypatch, tmp_path):
    return Tools(request, monkeypatch, tmp_path)
