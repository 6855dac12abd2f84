"""Any small functional model exports and agrees, or is refused with a reason.

Drawn at random: see random_models.py.
"""

import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from export.random_models import functional_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_attention as ka
from keras_attention.export.signatures.catalogue import signatures_of

pytestmark = [
    pytest.mark.tensorflow,
    # Keras warns of layers that drop a mask: such models are users' models too.
    pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning"),
    # Keras draws the seeds of initializers when a model is built.
    pytest.mark.filterwarnings(
        "ignore:Do not use the `random` module:"
        "hypothesis.errors.HypothesisDeprecationWarning"
    ),
]
CHECKS = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "derandomize": True,
}


def examples(few, many):
    """Few models in the slow tier, and many with `make fuzz`."""
    tiers = [
        pytest.param(few, marks=pytest.mark.slow),
        pytest.param(many, marks=pytest.mark.fuzz),
    ]
    return pytest.mark.parametrize("examples", tiers)


def inputs_of(model, signature, random):
    """A batch whose lengths are drawn, or `None` if Keras refuses these lengths."""
    sizes = {"batch": int(random.integers(1, 4))}
    arrays = {}
    for name, info in signature.inputs.items():
        shape = []
        for axis in info.shape:
            if isinstance(axis, str) and axis not in sizes:
                known = signature.lengths.get(axis, (3,))
                most = min(signature.max_lengths.get(axis, 20), 20)
                drawn = int(random.integers(1, most + 1))
                few = [size for size in known if size <= 40] or [known[0]]
                sizes[axis] = (
                    drawn if random.random() < 0.5 else int(random.choice(few))
                )
            shape.append(sizes[axis] if isinstance(axis, str) else axis)
        if "int" in info.dtype:
            limit = signature.limits.get(name, 2)
            arrays[name] = random.integers(0, limit, shape).astype("int32")
        else:
            arrays[name] = random.normal(size=shape).astype("float32")
    return arrays


def answers_of(model, arrays):
    """What Keras answers, in the order of the outputs; `None` where it refuses."""
    try:
        found = model([tf.constant(arrays[x.name]) for x in model.inputs])
    except Exception:  # lengths that a stride or a shape does not allow
        return None
    return [np.asarray(x) for x in keras.tree.flatten(found)]


def assert_refused_with_a_reason(error, model):
    """The error names a layer, an operator or an input of the model, and a remedy."""
    text = str(error)
    assert isinstance(error, ValueError), f"{type(error).__name__}: {text}"
    assert len(text) <= 2000
    assert "Received: " in text, text
    names = {layer.name for layer in model.layers}
    names |= {type(layer).__name__ for layer in model.layers}
    assert any(name in text for name in names), text


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for got, wanted in zip(found, expected, strict=True):
        assert got.shape == wanted.shape
        assert np.array_equal(np.isfinite(got), np.isfinite(wanted))
        largest = max(1.0, np.abs(wanted).max(initial=0, where=np.isfinite(wanted)))
        error = np.abs(np.nan_to_num(got) - np.nan_to_num(wanted)).max(initial=0)
        assert error <= 1e-5 * largest, error


def described(model):
    """The signature of a model, or `None` if it is refused with a reason."""
    try:
        (signature,) = signatures_of(model)
    except Exception as error:
        assert_refused_with_a_reason(error, model)
        return None
    return signature


def check_traced(model, seed):
    """The function that every format is written from, with free axes."""
    signature = described(model)
    if signature is None:
        return "refused"
    function = tf.function(signature.function).get_concrete_function(
        **signature.tensor_specs()
    )
    random, asked = np.random.default_rng(seed), 0
    for _ in range(4):
        arrays = inputs_of(model, signature, random)
        expected = answers_of(model, arrays)
        if expected is None:
            continue
        found = function(**{name: tf.constant(x) for name, x in arrays.items()})
        assert_equal([found[name].numpy() for name in signature.outputs], expected)
        for name, info in signature.outputs.items():
            shape = tuple(found[name].shape)
            fixed = [(a, b) for a, b in zip(info.shape, shape, strict=True)]
            assert all(a == b for a, b in fixed if isinstance(a, int)), name
        asked += 1
    return "asked" if asked else "no length fits"


def check_exported(model, seed, format):
    """The file, opened by its runtime."""
    with tempfile.TemporaryDirectory() as place:
        try:
            folder = ka.export_model(model, Path(place) / "m", format, warmup=False)
        except Exception as error:
            assert_refused_with_a_reason(error, model)
            return "refused"
        random = np.random.default_rng(seed)
        with ka.open_artifact(folder) as artifact:
            signature = artifact.signatures["serving_default"]
            (own,) = signatures_of(model)
            for _ in range(4):
                arrays = inputs_of(model, own, random)
                expected = answers_of(model, arrays)
                if expected is None:
                    continue
                found = artifact.run("serving_default", **arrays)
                assert_equal([found[name] for name in signature.outputs], expected)
    return "exported"


@settings(max_examples=4, **CHECKS)
@given(model=functional_models(), seed=st.integers(0, 99))
def test_a_random_model_is_traced_as_keras_computes_it(model, seed):
    check_traced(model, seed)


@pytest.mark.timeout(0)
@examples(60, 10_000)
def test_many_random_models(examples, record_property):
    told = {}

    @settings(max_examples=examples, **CHECKS)
    @given(model=functional_models(), seed=st.integers(0, 99))
    def check(model, seed):
        result = check_traced(model, seed)
        told[result] = told.get(result, 0) + 1
        keras.backend.clear_session()

    check()
    record_property("summary", f"random models, traced: {told}")


@pytest.mark.timeout(0)
@examples(10, 300)
@pytest.mark.parametrize("format", ["onnx", "saved_model"])
def test_some_random_models_are_written_to_files(format, examples, record_property):
    if format == "onnx":
        pytest.importorskip("tf2onnx")
        pytest.importorskip("onnxruntime")
    told = {}

    @settings(max_examples=examples, **CHECKS)
    @given(model=functional_models(), seed=st.integers(0, 99))
    def check(model, seed):
        result = check_exported(model, seed, format)
        told[result] = told.get(result, 0) + 1
        keras.backend.clear_session()

    check()
    record_property("summary", f"random models as {format}: {told}")
