"""llama2.c's `.bin` files, version 0: seven numbers, then one array after another.

They are read as Llama in Hugging Face's format, so that `save_pretrained` writes files
for transformers. The two features that are rotated together are adjacent here; Hugging
Face has them half a head apart.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_attention import untrusted
from keras_attention.models.gpt import GPTDecoder
from keras_attention.weights import llama_hf
from keras_attention.weights.files import Tensor
from keras_attention.weights.rules import Layout, Rule

HEADER = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
)
MODEL_TYPES = ("llama2.c",)
PREFIXES = ()
IGNORED = {
    "freq_cis_real": "a buffer, cosines of the angles",
    "freq_cis_imag": "a buffer, sines of the angles",
}


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the config of a file and its tensors, without reading these.

    Raises:
        ValueError: If the file is not of version 0, or incomplete.
    """
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", len(HEADER)).tolist()
    if len(header) != len(HEADER) or not _plausible(header):
        raise ValueError(
            "The file is not one of llama2.c in version 0: the first seven numbers "
            "must be its sizes. Later versions begin with a magic number and are not "
            f"supported. Received: {untrusted.clip(path)} of {size} bytes with {header}"
        )
    config: dict[str, Any] = dict(zip(HEADER, header, strict=True))
    shared = header[5] > 0  # a negative vocabulary means that the head is untied
    config["vocab_size"] = abs(header[5])
    tensors, start = {}, 4 * len(HEADER)
    for name, shape in _shapes(config, shared):
        tensors[name] = Tensor(path, shape, "float32", start)
        start += 4 * math.prod(shape)
    if start != size:
        raise ValueError(
            f"A file of these sizes has {start} bytes: this one is damaged or "
            f"incomplete. Nothing was loaded. Received: {untrusted.clip(path)} of "
            f"{size} bytes with {config}"
        )
    config |= {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": shared,
    }
    return config, _of_layers(tensors)


def _plausible(header):
    dim, hidden, layers, heads, groups, vocabulary, length = header
    positive = min(dim, hidden, layers, heads, groups, abs(vocabulary), length) > 0
    return positive and dim % heads == 0 and heads % groups == 0 and layers < 10_000


def _shapes(config, shared):
    dim, hidden, layers, heads, groups, vocabulary, length = (
        config[name] for name in HEADER
    )
    keys, half = dim // heads * groups, dim // heads // 2
    yield "token_embedding", (vocabulary, dim)
    yield "attention_norm", (layers, dim)
    yield "wq", (layers, dim, dim)
    yield "wk", (layers, keys, dim)
    yield "wv", (layers, keys, dim)
    yield "wo", (layers, dim, dim)
    yield "ffn_norm", (layers, dim)
    yield "w1", (layers, hidden, dim)
    yield "w2", (layers, dim, hidden)
    yield "w3", (layers, hidden, dim)
    yield "norm", (dim,)
    yield "freq_cis_real", (length, half)
    yield "freq_cis_imag", (length, half)
    if not shared:
        yield "output", (vocabulary, dim)


def _of_layers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns one tensor per layer, `"layers.0.wq"`, of arrays of all layers."""
    found = {}
    for name, tensor in tensors.items():
        if name not in _NAMES:
            found[name] = tensor
            continue
        shape, step = tensor.shape[1:], 4 * math.prod(tensor.shape[1:])
        for layer in range(tensor.shape[0]):
            start = tensor.start + layer * step
            part = Tensor(tensor.path, shape, tensor.dtype, start)
            found[f"layers.{layer}.{name}"] = part
    return found


build = llama_hf.build
config_of = llama_hf.config_of
# Names in these files -> Hugging Face's, of tensors of a layer.
_NAMES = {
    "attention_norm": "input_layernorm.weight",
    "wq": "self_attn.q_proj.weight",
    "wk": "self_attn.k_proj.weight",
    "wv": "self_attn.v_proj.weight",
    "wo": "self_attn.o_proj.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "w1": "mlp.gate_proj.weight",
    "w2": "mlp.down_proj.weight",
    "w3": "mlp.up_proj.weight",
}
# Hugging Face's names -> those in these files, of the other tensors.
_OTHERS = {
    "embed_tokens.weight": "token_embedding",
    "norm.weight": "norm",
    "lm_head.weight": "output",
}


def rules(model: GPTDecoder) -> Iterator[Rule]:
    """Yields Llama's rules with the names and the order of features of these files."""
    theirs = {theirs: ours for ours, theirs in _NAMES.items()}
    for rule in llama_hf.rules(model):
        layer, _, name = rule.tensor.partition(".")[2].partition(".")
        if rule.tensor in _OTHERS:
            yield Rule(_OTHERS[rule.tensor], rule.variable, rule.layout)
            continue
        ours = theirs[name]
        layout = rule.layout
        if ours in ("wq", "wk"):
            layout = _reordered(layout, model.key_dim)
        yield Rule(f"layers.{layer}.{ours}", rule.variable, layout)


def _reordered(layout: Layout, key_dim: int) -> Layout:
    """Returns a layout that first moves adjacent pairs of rows half a head apart."""

    def halves(x):
        heads = x.reshape(-1, key_dim // 2, 2, x.shape[-1])
        return heads.swapaxes(1, 2).reshape(x.shape)

    def adjacent(x):
        heads = x.reshape(-1, 2, key_dim // 2, x.shape[-1])
        return heads.swapaxes(1, 2).reshape(x.shape)

    return Layout(
        "reordered pairs, transposed",
        lambda x, shape: layout.read(halves(x), shape),
        lambda x: adjacent(layout.write(x)),
    )
