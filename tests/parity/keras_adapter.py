"""Keras' own tests of its attention layers, with our classes in the place of Keras'.

The tests are read from the installed Keras. They see a module `layers` in which the
attention layers are ours. The adapters rename arguments, attributes and entries of
configs, and an expected error text also matches ours; what is computed is ours. They do
one thing more: a mask of numbers becomes bool, as our error asks.
"""

import importlib.util
import re
import unittest
from pathlib import Path

import keras

import keras_attention as ka

FOLDER = Path(keras.__file__).parent / "src" / "layers" / "attention"

# Keras' text: ours, which says the same.
TEXTS = {
    "must be called on a list": "Attention needs a query and a value",
    "length 2 or 3": r"needs a query and a value|`\[query_mask, value_mask\]`",
    "layer mask must be a list": "`mask` must be a list of padding masks",
    r"must be equal": "must have the same|must have shape",
    "argument `num_heads`": "`num_heads` must be a whole number",
    "argument `key_dim`": "`key_dim` must be a whole number",
    "argument `value_dim`": "`value_dim` must be a whole number",
    r"Invalid `output_shape`": "`output_shape` must be",
    "Invalid value for argument score_mode. Expected one of {'dot', 'concat'}": (
        "`score` must be one of"
    ),
}


def renamed(ours, theirs):
    """A property that reads the attribute `ours`, which Keras calls `theirs`."""
    return property(lambda layer: getattr(layer, ours), doc=theirs)


PROJECTIONS = {
    "query_dense": "query_projection",
    "key_dense": "key_projection",
    "value_dense": "value_projection",
    "gate_dense": "gate_projection",
    "output_dense": "output_projection",
}


@keras.saving.register_keras_serializable("keras_attention_adapter")
class MultiHeadAttention(ka.MultiHeadAttention):
    """Ours, with the names of Keras' attributes."""

    def __call__(self, *args, attention_mask=None, **kwargs):
        if attention_mask is not None and "bool" not in str(attention_mask.dtype):
            attention_mask = keras.ops.not_equal(attention_mask, 0)
            if len(attention_mask.shape) == 2:
                attention_mask = attention_mask[None]
        return super().__call__(*args, attention_mask=attention_mask, **kwargs)

    _sliding_window = renamed("sliding_window", "_sliding_window")


@keras.saving.register_keras_serializable("keras_attention_adapter")
class GroupedQueryAttention(MultiHeadAttention):
    """Ours, with Keras' names of the arguments."""

    def __init__(self, head_dim, num_query_heads, num_key_value_heads, **kwargs):
        kwargs["num_key_value_heads"] = num_key_value_heads
        super().__init__(num_query_heads, head_dim, **kwargs)

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def get_config(self):
        config = super().get_config()
        config["num_query_heads"] = config.pop("num_heads")
        config["head_dim"] = config.pop("key_dim")
        return config


for theirs, ours in PROJECTIONS.items():
    for name in (theirs, f"_{theirs}"):
        setattr(MultiHeadAttention, name, renamed(ours, name))


@keras.saving.register_keras_serializable("keras_attention_adapter")
class DotAttention(ka.DotProductAttention):
    """Ours, with Keras' arguments."""

    def __init__(self, use_scale=False, score_mode="dot", **kwargs):
        super().__init__(score=score_mode, use_scale=use_scale, **kwargs)
        self.score_mode = score_mode

    def build(self, input_shape):
        super().build(input_shape)

    def compute_mask(self, inputs, mask=None):
        return super().compute_mask(inputs, mask)

    def compute_output_shape(self, input_shape):
        return super().compute_output_shape(input_shape)

    def get_config(self):
        config = super().get_config()
        config["score_mode"] = config.pop("score")
        config.pop("logits_soft_cap")
        return config


@keras.saving.register_keras_serializable("keras_attention_adapter")
class ConvertedAttention(keras.layers.Layer):
    """What `from_keras` makes of Keras' additive layers; theirs are never called."""

    def __init__(self, kind="AdditiveAttention", *, dropout=0.0, seed=None, **options):
        names = ("name", "dtype", "trainable")
        super().__init__(
            **{name: options.pop(name) for name in names if name in options}
        )
        self.supports_masking = True
        self.kind, self.options = kind, {"dropout": dropout, "seed": seed, **options}
        self.ours = None

    def build(self, input_shape):
        theirs = getattr(keras.layers, self.kind)(**self.options)
        listed = isinstance(input_shape[0], list | tuple)
        features = (input_shape[0] if listed else input_shape)[-1]
        theirs.build([(None, None, features)] * 2)
        self.ours = ka.from_keras(theirs)
        self.built = True

    def call(self, inputs, mask=None, return_attention_scores=False, training=None):
        call = {"return_attention_scores": return_attention_scores}
        return self.ours(inputs, mask=mask, training=training, **call)

    def compute_output_spec(self, *args, **kwargs):
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind, **self.options}


@keras.saving.register_keras_serializable("keras_attention_adapter")
class AdditiveAttention(ConvertedAttention):
    """Ours, made from Keras'."""

    def __init__(self, use_scale=True, **kwargs):
        super().__init__(**{"use_scale": use_scale, **kwargs})


class Attention:
    """`DotProductAttention`, or the `AdditiveAttention` of `score_mode="concat"`."""

    def __new__(cls, *args, **kwargs):
        if kwargs.get("score_mode") == "concat":
            return ConvertedAttention("Attention", **kwargs)
        return DotAttention(*args, **kwargs)

    @staticmethod
    def from_config(config):
        kind = ConvertedAttention if "kind" in config else DotAttention
        return kind(**config)


class Layers:
    """The module `keras.layers`, with our classes under Keras' names."""

    MultiHeadAttention = MultiHeadAttention
    GroupedQueryAttention = GroupedQueryAttention
    GroupQueryAttention = GroupedQueryAttention
    Attention = Attention
    AdditiveAttention = AdditiveAttention

    def __getattr__(self, name):
        return getattr(keras.layers, name)


def cases():
    """Every test of Keras as `{"file::test": case of unittest}`."""
    found = {}
    for path in sorted(FOLDER.glob("*_test.py")):
        name = f"keras_attention_adapter_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.layers = Layers()
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, unittest.TestCase):
                kind.assertRaisesRegex = knows_both_texts
                for case in unittest.defaultTestLoader.loadTestsFromTestCase(kind):
                    test = case.id().split(".")[-1]
                    found[f"{path.stem.removesuffix('_test')}::{test}"] = case
    return found


def knows_both_texts(case, error, text, *args, **kwargs):
    """`assertRaisesRegex` that accepts Keras' text or ours."""
    if text in TEXTS:
        text = re.compile(f"{text}|{TEXTS[text]}")
    raises = unittest.TestCase.assertRaisesRegex
    return raises(case, error, text, *args, **kwargs)


def run(case):
    """Runs a test; returns what it raised, as text, or `None`."""
    result = unittest.TestResult()
    case.run(result)
    if result.skipped:
        return "skipped: " + result.skipped[0][1]
    problems = result.failures + result.errors
    return problems[0][1] if problems else None
