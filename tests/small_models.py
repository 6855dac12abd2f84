"""One small model of each kind, for tests of artifacts and of saved files."""

import functools
import inspect

import numpy as np
from samples import VOCABULARY, small_bert

import keras_attention as ka
from keras_attention.models.loading import register_classes
from keras_attention.tasks.base import BackboneTask

SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 24}
LLAMA = {
    "position": "rotary",
    "normalization": "rms",
    "activation": "silu",
    "gated": True,
    "use_bias": False,
}
MODELS = {
    "bert": lambda: ka.BertEncoder(61, **SIZES),
    "gpt2": lambda: ka.GPTDecoder(61, **SIZES),
    "llama": lambda: ka.GPTDecoder(61, **SIZES, **LLAMA, num_key_value_heads=1),
    "vit": lambda: ka.VisionTransformer((8, 8), 4, **SIZES),
}


def with_random_weights(model):
    """Draws weights so large that no output is nearly constant."""
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(rng.normal(scale=0.4, size=weight.shape))
    return model


def small_tasks():
    """A function that makes a small model of each task, by the name of its class.

    These are all tasks that are a head on a backbone: the list is derived from their
    common base, so that a new task is tested without being named here.
    """
    register_classes()
    kinds = sorted(BackboneTask.__subclasses__(), key=lambda kind: kind.__name__)
    return {kind.__name__: functools.partial(_small_task, kind) for kind in kinds}


def _small_task(kind):
    names = inspect.signature(kind).parameters
    settings = {"labels": ["O", "B-one", "I-one"]} if "labels" in names else {}
    if "tokenizer" not in names:
        return kind(MODELS["vit"](), **settings)
    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    return kind(small_bert(num_layers=1), tokenizer=tokenizer, **settings)
