"""One small model of each kind, for tests of what becomes of them in runtimes."""

import numpy as np

import keras_attention as ka

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
    """Weights so large that nothing is nearly constant."""
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(rng.normal(scale=0.4, size=weight.shape))
    return model
