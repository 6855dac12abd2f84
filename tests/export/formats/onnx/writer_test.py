"""The ONNX writer: translated regions, refused signatures, equal numbers.

Every number is compared with the same function run eagerly in TensorFlow. Models are
small, built once, and run by ONNX Runtime on many shapes.
"""

import collections
import logging
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_attention as ka
from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.formats.errors import ExportError
from keras_attention.export.formats.onnx import writer
from keras_attention.export.formats.onnx.writer import write_onnx
from keras_attention.export.signatures.signature import Signature
from keras_attention.layers.rms_normalization import RMSNormalization
from keras_attention.ops.attend import dot_product_attention
from keras_attention.ops.backend.regions import region
from keras_attention.ops.heads import HeadSettings
from keras_attention.ops.linear import linear

onnx = pytest.importorskip("onnx")
pytest.importorskip("tf2onnx")
onnxruntime = pytest.importorskip("onnxruntime")

N, K, H, V = 6, 2, 5, 7  # grouped heads, values of another size
E = 4
SEQUENCE = TensorInfo("float32", ("batch", "sequence", E))
IDS = TensorInfo("int32", ("batch", "sequence"))
EMBEDDING = np.arange(11 * 3, dtype="float32").reshape(11, 3)

ATTENTION_INPUTS = {
    "query": TensorInfo("float32", ("batch", "target", N * H)),
    "key": TensorInfo("float32", ("batch", "source", K * H)),
    "value": TensorInfo("float32", ("batch", "source", K * V)),
}
MASK = TensorInfo("bool", ("mask_b", "mask_n", "mask_t", "mask_s"))
BIAS = TensorInfo("float32", ("bias_b", "bias_n", "bias_t", "bias_s"))


def attention_signature(*, mask=False, bias=False, weights=False):
    inputs = dict(ATTENTION_INPUTS)
    if mask:
        inputs["mask"] = MASK
    if bias:
        inputs["bias"] = BIAS
    outputs = {"output": TensorInfo("float32", ("batch", "target", N * V))}
    if weights:
        outputs["weights"] = TensorInfo("float32", ("batch", N, "target", "source"))

    def function(**tensors):
        results = dot_product_attention(
            **tensors,
            heads=HeadSettings(N, K, scale=H**-0.5),
            return_weights=weights,
        )
        return dict(zip(outputs, results, strict=False))

    return Signature("attend", function, inputs, outputs)


def signature_of(function, inputs, name="serving_default"):
    """A signature whose outputs are described by tracing the function once."""
    specs = Signature(name, function, inputs, {}).tensor_specs()
    traced = tf.function(function, autograph=False).get_concrete_function(**specs)
    outputs = {
        key: TensorInfo(
            tensor.dtype.name,
            tuple(
                f"{key}_{i}" if size is None else size
                for i, size in enumerate(tensor.shape)
            ),
        )
        for key, tensor in traced.structured_outputs.items()
    }
    return Signature(name, function, inputs, outputs)


class Exported:
    """A signature, its ONNX file, and a session that runs it."""

    def __init__(self, signature, folder, **options):
        self.signature = signature
        self.file = folder / f"{signature.name}.onnx"
        write_onnx(signature, self.file, **options)
        self.model = onnx.load(self.file)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        settings.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            self.file, settings, providers=["CPUExecutionProvider"]
        )

    def operators(self):
        return collections.Counter(node.op_type for node in self.model.graph.node)

    def run(self, **feed):
        values = self.session.run(None, feed)
        return dict(zip(self.signature.outputs, values, strict=True))

    def compare(self, tolerance=1e-6, **feed):
        """Run both; return the ONNX results after comparing them with eager ones."""
        found = self.run(**feed)
        tensors = {name: tf.constant(value) for name, value in feed.items()}
        for name, wanted in self.signature.function(**tensors).items():
            wanted = wanted.numpy()  # noqa: PLW2901
            assert found[name].dtype == wanted.dtype
            assert found[name].shape == wanted.shape
            if wanted.dtype == bool or tolerance == 0:
                np.testing.assert_array_equal(found[name], wanted)
            else:
                np.testing.assert_allclose(found[name], wanted, 0, tolerance)
        return found


@pytest.fixture
def export(tmp_path):
    def make(function, inputs, **options):
        return Exported(signature_of(function, inputs), tmp_path, **options)

    return make


@pytest.fixture(scope="module")
def attentions(tmp_path_factory):
    """Every combination of mask, bias and weights, exported once."""
    folder, made = tmp_path_factory.mktemp("attention"), {}

    def get(**options):
        key = tuple(sorted(options.items()))
        if key not in made:
            inner = folder / str(len(made))
            inner.mkdir()
            opset = options.pop("opset", 23)
            signature = attention_signature(**options)
            made[key] = Exported(signature, inner, opset=opset)
        return made[key]

    return get


def normal(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


def attention_feed(batch, target, source):
    return {
        "query": normal(batch, target, N * H),
        "key": normal(batch, source, K * H),
        "value": normal(batch, source, K * V),
    }


def random_mask(*shape):
    mask = np.random.default_rng(sum(shape)).random(shape) < 0.6
    mask[0, 0, 0] = False  # at least one query is fully masked
    return mask


LENGTHS = [(1, 1, 1), (1, 7, 33), (3, 1, 7), (3, 33, 1), (3, 7, 7), (1, 33, 7)]


def mask_shapes(b, t, s):
    full = (b, N, t, s)
    kept = [(1, 1, 1, 1), (1, 1, 1, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0)]
    kept += [(0, 0, 0, 1), (0, 0, 1, 0), (1, 0, 0, 1), (0, 1, 1, 1)]
    return {
        tuple(n if keep else 1 for n, keep in zip(full, axes, strict=True))
        for axes in kept
    }


@pytest.mark.parametrize("weights", [False, True], ids=["output", "weights"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
def test_attention_is_one_operator_that_equals_eager(attentions, mask, bias, weights):
    exported = attentions(mask=mask, bias=bias, weights=weights)
    assert exported.operators()["Attention"] == 1
    assert not {"Softmax", "MatMul"} & set(exported.operators())
    for lengths in LENGTHS:
        feed = attention_feed(*lengths)
        for shape in sorted(mask_shapes(*lengths)) if mask or bias else [None]:
            if mask:
                feed["mask"] = random_mask(*shape)
            if bias:
                feed["bias"] = normal(*shape)
            exported.compare(**feed)


@pytest.mark.parametrize("bias", [False, True], ids=["mask", "mask and bias"])
@pytest.mark.parametrize("opset", [18, 23])
def test_a_fully_masked_query_gets_exact_zeros(attentions, bias, opset):
    exported = attentions(mask=True, bias=bias, weights=True, opset=opset)
    feed = attention_feed(3, 5, 7)
    feed["mask"] = np.ones((3, 1, 5, 7), bool)
    feed["mask"][1, :, 2] = False
    feed["mask"][0, :, :, 4:] = False
    if bias:
        feed["bias"] = normal(1, N, 5, 7)
    found = exported.compare(**feed)
    assert (found["output"][1, 2] == 0).all()
    assert (found["weights"][1, :, 2] == 0).all()
    assert (found["weights"][0, ..., 4:] == 0).all()
    assert np.isfinite(found["output"]).all()


def test_minus_infinity_in_a_bias_hides_a_key_without_nan(attentions):
    feed = attention_feed(1, 3, 3)
    hidden = np.triu(np.full((3, 3), -np.inf, "float32"), k=1)
    for value in (hidden, np.full((3, 3), -np.inf, "float32")):
        feed["bias"] = value[None, None]
        attentions(mask=False, bias=True, weights=True).compare(**feed)


def test_before_opset_23_attention_is_composed_and_equal(attentions):
    exported = attentions(mask=True, bias=True, weights=True, opset=18)
    assert exported.operators()["Attention"] == 0
    assert exported.operators()["Softmax"] == 1
    feed = attention_feed(3, 5, 7)
    exported.compare(**feed, mask=random_mask(3, 1, 5, 7), bias=normal(1, N, 5, 7))


@pytest.mark.parametrize("opset", [19, 20, 21, 22, 24, 25, 26])
def test_every_opset_from_18_to_26_loads_and_agrees(attentions, opset):
    exported = attentions(mask=True, weights=False, opset=opset)
    (used,) = [o for o in exported.model.opset_import if o.domain == ""]
    assert used.version == opset
    assert exported.operators()["Attention"] == (opset >= 23)
    exported.compare(**attention_feed(3, 5, 7), mask=random_mask(3, 1, 5, 7))


def test_layers_with_different_numbers_of_keys_do_not_share_memory(export):
    """ONNX infers weights of shape [B, N, T, 0]; see `_with_hidden_sizes`."""

    def function(x, memory):
        def largest_weight(query, keys):
            tensors = {"query": query, "key": keys, "value": keys}
            return ops.max(
                dot_product_attention(
                    **tensors, heads=HeadSettings(2), return_weights=True
                )[1]
            )

        x = x + largest_weight(x, x)
        return {"y": x + largest_weight(x, memory)}

    memory = TensorInfo("float32", ("batch", "source", E))
    exported = export(function, {"x": SEQUENCE, "memory": memory})
    assert exported.operators()["Attention"] == 2
    exported.compare(x=normal(2, 5, E), memory=normal(2, 17, E))


@pytest.mark.tensorflow
def test_only_the_weights_may_be_used_and_arguments_may_be_constant(export):
    mask = tf.constant(np.tri(5, dtype=bool)[None, None])

    def function(x):
        tensors = {"query": x, "key": x, "value": x, "mask": mask}
        _, weights = dot_product_attention(
            **tensors, heads=HeadSettings(2), return_weights=True
        )
        return {"weights": weights, "y": linear(x, tf.ones((E, 3)), tf.ones(3))}

    exported = export(function, {"x": TensorInfo("float32", ("batch", 5, E))})
    assert exported.operators() == {"Attention": 1, "MatMul": 1, "Add": 1}
    exported.compare(x=normal(2, 5, E))


def test_half_precision_is_computed_in_float32(export):
    def function(x):
        x = ops.cast(x, "float16")
        tensors = {"query": x, "key": x, "value": x}
        return {"y": dot_product_attention(**tensors, heads=HeadSettings(2))[0]}

    exported = export(function, {"x": SEQUENCE})
    assert exported.operators()["Attention"] == 1
    exported.compare(tolerance=1e-3, x=normal(2, 5, E))


@pytest.mark.tensorflow
def test_attention_inside_a_loop_becomes_an_operator_too(export):
    def function(x):
        def step(i, x):
            return i + 1, dot_product_attention(query=x, key=x, value=x)[0]

        more = lambda i, x: i < tf.shape(x)[1]  # noqa: E731
        return {"y": tf.while_loop(more, step, (tf.constant(0), x))[1]}

    exported = export(function, {"x": SEQUENCE})
    (loop,) = [n for n in exported.model.graph.node if n.op_type == "Loop"]
    (body,) = [a.g for a in loop.attribute if a.name == "body"]
    assert "Attention" in {node.op_type for node in body.node}
    exported.compare(x=normal(2, 5, E))
    exported.compare(x=normal(1, 2, E))


def layer_norm(x, gamma, beta, *, epsilon):
    mean, variance = ops.moments(x, -1, keepdims=True)
    y = (x - mean) * ops.rsqrt(variance + epsilon)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def rms_norm(x, gamma, *, epsilon):
    return x * ops.rsqrt(ops.mean(x * x, -1, keepdims=True) + epsilon) * gamma


def gelu(x, *, approximate):
    return ops.gelu(x, approximate)


GAMMA, BETA = tf.Variable(normal(E)), tf.Variable(normal(E) + 1)
KERNEL = keras.Variable(normal(E, 3))
REGIONS = {
    "layer_normalization": lambda x: region(
        "layer_normalization", layer_norm, x, GAMMA, BETA, epsilon=1e-3
    ),
    "layer_normalization without weights": lambda x: region(
        "layer_normalization", layer_norm, x, None, None, epsilon=1e-3
    ),
    "rms_normalization": lambda x: region(
        "rms_normalization", rms_norm, x, GAMMA, epsilon=1e-3
    ),
    "gelu exact": lambda x: region("gelu", gelu, x, approximate=False),
    "gelu tanh": lambda x: region("gelu", gelu, x, approximate=True),
    "linear": lambda x: linear(x, KERNEL, tf.constant(normal(3))),
    "linear without bias": lambda x: linear(x, KERNEL),
    "a name nobody knows": lambda x: region("unheard_of", ops.square, x),
}
BECOMES = {
    "layer_normalization": {"LayerNormalization": 1},
    "layer_normalization without weights": {"LayerNormalization": 1},
    "rms_normalization": {"RMSNormalization": 1},
    "gelu exact": {"Gelu": 1},
    "gelu tanh": {"Gelu": 1},
    "linear": {"MatMul": 1, "Add": 1},
    "linear without bias": {"MatMul": 1},
    "a name nobody knows": {"Mul": 1},
}


@pytest.mark.parametrize("opset", [22, 23])
def test_rms_normalization_is_one_operator_from_opset_23_on(export, opset):
    layer = RMSNormalization(epsilon=0.1)
    layer.build((None, None, E))
    layer.gamma.assign(normal(E))
    exported = export(lambda x: {"y": layer(x)}, {"x": SEQUENCE}, opset=opset)
    operators = exported.operators()
    assert ("RMSNormalization" in operators) == (opset >= 23)
    assert ("ReduceMean" in operators) == (opset < 23)
    exported.compare(x=normal(2, 5, E))
    exported.compare(x=normal(1, 1, E))


@pytest.mark.parametrize("name", REGIONS)
def test_each_region_becomes_its_operator(export, name):
    exported = export(lambda x: {"y": REGIONS[name](x)}, {"x": SEQUENCE})
    assert exported.operators() == BECOMES[name]
    exported.compare(x=normal(2, 5, E))
    exported.compare(x=normal(1, 1, E))


def test_opset_18_composes_the_regions_that_it_has_no_operator_for(export):
    def function(x):
        return {f"y{i}": make(x) for i, make in enumerate(REGIONS.values())}

    exported = export(function, {"x": SEQUENCE}, opset=18)
    assert not {"Gelu", "RMSNormalization"} & set(exported.operators())
    assert exported.operators()["LayerNormalization"] == 2
    exported.compare(x=normal(2, 5, E))


@pytest.mark.parametrize("fill", [0.0, -1e30])
@pytest.mark.parametrize("opset", [18, 23])
def test_nan_and_infinity_do_not_pass_through_where(export, fill, opset):
    inputs = {"x": SEQUENCE, "mask": TensorInfo("bool", ("batch", "sequence", E))}
    exported = export(
        lambda x, mask: {"y": ops.where(mask, x, fill)}, inputs, opset=opset
    )
    x, mask = normal(2, 5, E), np.ones((2, 5, E), bool)
    x[0, 0], x[1, 1], mask[0, 0], mask[1, 1] = np.nan, np.inf, False, False
    y = exported.compare(x=x, mask=mask, tolerance=0)["y"]
    assert (y[0, 0] == np.float32(fill)).all()
    assert (y[1, 1] == np.float32(fill)).all()


def positions(ids):
    return ops.arange(ops.shape(ids)[1], dtype="int32")


INTEGER_FUNCTIONS = {
    "take": lambda ids: ops.take(tf.constant(EMBEDDING), ids, axis=0),
    "gather": lambda ids: tf.gather(tf.constant(EMBEDDING), ids),
    "cumsum": lambda ids: ops.cumsum(ids, axis=1),
    "argmax": lambda ids: ops.argmax(ids, axis=-1),
    "argmax of floats": lambda ids: ops.argmax(ops.cast(ids, "float32"), axis=-1),
    "modulo of negatives": lambda ids: (ids - 5) % 4,
    "floor division of negatives": lambda ids: (ids - 5) // 4,
    "arange of a dynamic length": lambda ids: positions(ids)[None] + ids,
    "causal mask": lambda ids: positions(ids)[:, None] >= positions(ids)[None],
    "concatenate": lambda ids: ops.concatenate([ids, ids + 1], axis=1),
    "one_hot": lambda ids: ops.one_hot(ids, 13),
    "where": lambda ids: ops.where(ids > 4, ids, -1),
    "where of bools": lambda ids: ops.where(ids > 4, ids > 7, ids < 2),
    "and, or, not": lambda ids: ~((ids > 2) & (ids <= 8)) | (ids == 5),
    "not equal": lambda ids: ids != 3,
    "any": lambda ids: ops.any(ids >= 9, axis=-1),
    "maximum": lambda ids: ops.maximum(ids, 5) - ops.minimum(ids, 7),
}


@pytest.mark.parametrize("name", INTEGER_FUNCTIONS)
def test_int32_operations_equal_eager(export, name):
    function = INTEGER_FUNCTIONS[name]
    exported = export(lambda ids: {"y": function(ids)}, {"ids": IDS})
    ids = np.random.default_rng(1).integers(0, 11, (3, 7), "int32")
    for few in (ids, ids[:1, :1], ids[:2]):
        exported.compare(ids=few, tolerance=0)


def test_argmax_treats_minus_zero_as_keras_does(export):
    exported = export(lambda x: {"y": ops.argmax(x, axis=-1)}, {"x": SEQUENCE})
    x = np.array([[[-0.0, 0.0, -1, -2], [0.0, -0.0, -1, -2]]], "float32")
    exported.compare(x=x, tolerance=0)


FLOAT_FUNCTIONS = {
    "exact gelu outside regions": lambda x: ops.gelu(x, approximate=False),
    "tanh gelu outside regions": lambda x: ops.gelu(x, approximate=True),
    "l2 normalise": lambda x: (
        x * ops.rsqrt(ops.maximum(ops.sum(x * x, -1, keepdims=True), 1e-12))
    ),
    "top_k": lambda x: ops.top_k(x, 2)[0],
    "log_softmax": ops.log_softmax,
}


@pytest.mark.parametrize("name", FLOAT_FUNCTIONS)
def test_float_operations_equal_eager(export, name):
    exported = export(lambda x: {"y": FLOAT_FUNCTIONS[name](x)}, {"x": SEQUENCE})
    exported.compare(x=normal(2, 5, E))


RECURRENT = {
    "LSTM": lambda: keras.layers.LSTM(3, return_sequences=True),
    "GRU": lambda: keras.layers.GRU(3, return_sequences=True),
    "Bidirectional": lambda: keras.layers.Bidirectional(
        keras.layers.GRU(3, return_sequences=True)
    ),
}


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_recurrent_layers_of_dynamic_length_equal_eager(export, name, masked):
    layer = RECURRENT[name]()
    layer.build((None, None, E))

    def function(x, keep):
        return {"y": layer(x, mask=keep if masked else None)}

    keep = TensorInfo("bool", ("batch", "sequence"))
    exported = export(function, {"x": SEQUENCE, "keep": keep})
    for batch, length in ((3, 7), (1, 1)):
        keep = np.arange(length) < np.arange(1, batch + 1)[:, None] * 2
        exported.compare(x=normal(batch, length, E), keep=keep)


def test_a_model_of_keras_own_layers_equals_eager(export):
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(11, E, mask_zero=True)(inputs)
    x = keras.layers.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True)
    x = keras.layers.Dense(5, activation="gelu")(keras.layers.LayerNormalization()(x))
    model = keras.Model(inputs, x)
    exported = export(lambda ids: {"y": model(ids)}, {"ids": IDS})
    exported.compare(ids=np.array([[3, 1, 2, 0, 0], [5, 9, 8, 7, 1]], "int32"))


def axes(info):
    dims = info.type.tensor_type.shape.dim
    return tuple(dim.dim_param or dim.dim_value for dim in dims)


def test_names_order_and_axes_are_those_of_the_signature(tmp_path):
    def function(**tensors):
        x, ids = tensors["z.x"], tensors["a.ids"]
        return {"second": x + 1.0, "first": ids * 2, "third": x}

    inputs = {"z.x": SEQUENCE, "a.ids": IDS, "unused": IDS}
    outputs = {"third": SEQUENCE, "second": SEQUENCE, "first": IDS}
    exported = Exported(Signature("many", function, inputs, outputs), tmp_path)
    graph = exported.model.graph
    assert {i.name: axes(i) for i in graph.input} == {
        name: info.shape for name, info in inputs.items()
    }
    assert [i.name for i in graph.input] == list(inputs)
    assert [(o.name, axes(o)) for o in graph.output] == [
        (name, info.shape) for name, info in outputs.items()
    ]
    ids = np.ones((2, 5), "int32")
    exported.compare(**{"z.x": normal(2, 5, E), "a.ids": ids, "unused": ids})


def test_no_axis_is_called_unknown_and_the_producer_is_named(attentions, export):
    layer = keras.layers.GRU(3)
    layer.build((None, None, E))
    exported = export(lambda x: {"y": layer(x)}, {"x": SEQUENCE})
    assert b"unk__" not in exported.file.read_bytes()
    assert exported.model.producer_name == "keras_attention"
    assert attentions(mask=True).model.producer_name == "keras_attention"


def test_an_id_outside_the_vocabulary_names_the_embedding(export):
    layer = keras.layers.Embedding(11, E, name="token_embedding")
    layer.build()
    exported = export(lambda ids: {"y": layer(ids)}, {"ids": IDS})
    with pytest.raises(Exception, match=r"token_embedding.*idx=11.*\[-11,10\]"):
        exported.run(ids=np.array([[11]], "int32"))


@pytest.mark.tensorflow
def test_operators_without_an_onnx_form_are_named_and_leave_no_file(tmp_path, caplog):
    def function(x):
        return {"y": tf.raw_ops.Digamma(x=x) + tf.raw_ops.BesselI0e(x=x)}

    signature = Signature("bad", function, {"x": SEQUENCE}, {"y": SEQUENCE})
    with pytest.raises(ExportError, match=r"SavedModel.*Received: .*Digamma") as error:
        write_onnx(signature, tmp_path / "model.onnx")
    assert "BesselI0e" in str(error.value)
    assert list(tmp_path.iterdir()) == []
    told = [record for record in caplog.records if record.name.startswith("tf2onnx")]
    assert told == []  # it would have logged the failure


@pytest.mark.tensorflow
def test_a_failed_translation_names_the_node(tmp_path):
    def function(x):
        bits = tf.bitcast(x, tf.int32, name="peek")
        return {"y": tf.cast(bits, tf.float32)}

    signature = Signature("bad", function, {"x": SEQUENCE}, {"y": SEQUENCE})
    with pytest.raises(ExportError, match=r"could not be translated.*peek"):
        write_onnx(signature, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_check_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("not today")

    file = tmp_path / "model.onnx"
    file.write_bytes(b"the old one")
    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(ExportError, match="not today"):
        write_onnx(attention_signature(), file)
    assert file.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [file]


def test_tf2onnx_is_unchanged_afterwards(attentions):
    from tf2onnx import constants

    attentions(mask=True)
    assert 23 not in constants.OPSET_TO_IR_VERSION
    assert logging.getLogger("tf2onnx").propagate


@pytest.mark.tensorflow
def test_large_weights_go_to_a_file_next_to_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "EXTERNAL_WEIGHTS_BYTES", 1000)
    kernel = tf.Variable(normal(E, 300))
    for name in ("encode", "decode"):
        exported = Exported(
            signature_of(lambda x: {"y": linear(x, kernel)}, {"x": SEQUENCE}, name),
            tmp_path,
        )
        exported.compare(x=normal(2, 5, E))
    files = {"encode.onnx", "weights.bin", "decode.onnx", "decode.weights.bin"}
    assert {path.name for path in tmp_path.iterdir()} == files


def refused(function=None, inputs=None, outputs=None):
    function = function or (lambda x: {"y": x})
    return Signature("s", function, inputs or {"x": SEQUENCE}, outputs or {"y": IDS})


@pytest.mark.parametrize(
    ("signature", "opset", "message"),
    [
        (refused(inputs={"x": TensorInfo("string", ("b",))}), 23, "takes text"),
        (refused(outputs={"x": SEQUENCE}), 23, "Rename one of them"),
        (refused(), 17, "from 18 to 26"),
        (refused(), 27, "from 18 to 26"),
        (
            refused(),
            23,
            r"as declared. Expected: int32 \[batch, sequence\]",
        ),
        (refused(outputs={"z": SEQUENCE}), 23, r"declared outputs. Expected: \['z'\]"),
        (refused(lambda x: x, outputs={"z": SEQUENCE}), 23, "must return a dict"),
    ],
)
def test_a_signature_that_cannot_be_exported_is_refused(
    tmp_path, signature, opset, message
):
    with pytest.raises(ExportError, match=f"(?s){message}.*Received: "):
        write_onnx(signature, tmp_path / "model.onnx", opset=opset)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_of_more_than_two_gigabytes(tmp_path):
    sizes = {"num_layers": 5, "num_heads": 8, "hidden_dim": 4096}
    decoder = ka.GPTDecoder(1009, **sizes, intermediate_dim=8192, max_sequence_length=9)
    folder = ka.export_model(decoder, tmp_path / "onnx", "onnx")  # verified in it
    assert (folder / "weights.bin").stat().st_size > 2.6e9
    shutil.rmtree(folder)
