"""ViT's checkpoints in Hugging Face's format: config.json and tensor names."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from keras_attention.models.vit import VisionTransformer
from keras_attention.weights import configs
from keras_attention.weights.parts_hf import attention, linear, norm
from keras_attention.weights.rules import FLAT, Layout, Rule

MODEL_TYPES = ("vit",)
PREFIXES = ("vit.",)
IGNORED = {
    "embeddings.mask_token": "of masked image modelling, which is not supported here"
}
# Parts of names in checkpoints -> in the modules of transformers 5, for adapters.
MODULE_NAMES = {
    "encoder.layer.": "layers.",
    "attention.query": "q_proj",
    "attention.key": "k_proj",
    "attention.value": "v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
# config.json entry -> constructor argument.
ARGUMENTS = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "num_channels": "num_channels",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "layer_norm_epsilon",
}
# Options that change the numbers, with the only value that is supported.
COMPUTED = {"qkv_bias": True, "pooler_act": "tanh"}


def build(config: dict, names: Collection[str]) -> VisionTransformer:
    """Builds the model of a config.json, with a pooler if the tensors have one."""
    configs.refuse_others(config, COMPUTED)
    sizes = configs.take(config, ARGUMENTS)
    configs.refuse_others(config, {"pooler_output_size": (sizes["hidden_dim"], None)})
    return VisionTransformer(
        **sizes,
        activation=configs.activation(config, "hidden_act"),
        pooler="pooler.dense.weight" in names,
        name="vit",
    )


def header(config: dict) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Returns the numbers of layers, and the shapes that limit the model's size."""
    configs.require(config, ARGUMENTS)
    width = config["hidden_size"]
    image, patch = (
        size if isinstance(size, list) else [size, size]
        for size in (config["image_size"], config["patch_size"])
    )
    patches = (image[0] // patch[0]) * (image[1] // patch[1])
    projection = (width, config["num_channels"], *patch)
    block = "encoder.layer.{}"
    return {"encoder.layer.": config["num_hidden_layers"]}, {
        "embeddings.position_embeddings": (1, 1 + patches, width),
        "embeddings.patch_embeddings.projection.weight": projection,
        f"{block}.attention.attention.query.weight": (width, width),
        f"{block}.intermediate.dense.weight": (config["intermediate_size"], width),
    }


def config_of(model: VisionTransformer) -> dict[str, Any]:
    """Returns the config.json of a model, the inverse of `build`."""
    ours = model.get_config()
    for name in ("image_size", "patch_size"):
        height, width = ours[name]
        ours[name] = height if height == width else [height, width]
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_act": configs.activation_name(model.activation),
        "qkv_bias": True,
        **{theirs: ours[name] for theirs, name in ARGUMENTS.items()},
    }


def rules(model: VisionTransformer) -> Iterator[Rule]:
    """Yields a rule for every tensor of the checkpoint and every variable."""
    yield Rule("embeddings.cls_token", model.class_token)
    yield Rule(
        "embeddings.position_embeddings", model.position_embedding.embeddings, TABLE
    )
    name, patches = "embeddings.patch_embeddings.projection", model.patch_embedding
    height, width = patches.patch_size
    layout = _convolution(height, width, model.num_channels)
    yield Rule(f"{name}.weight", patches.projection.kernel, layout)
    yield Rule(f"{name}.bias", patches.projection.bias, FLAT)
    for index, block in enumerate(model.blocks):
        yield from _block(f"encoder.layer.{index}", block)
    yield from norm("layernorm", model.final_normalization)
    if model.pooler is not None:
        yield from linear("pooler.dense", model.pooler.projection)


TABLE = Layout(
    "with an axis of 1", lambda x, shape: x.reshape(shape), lambda x: x[None]
)


def _convolution(height: int, width: int, channels: int) -> Layout:
    """Returns PyTorch's `[outputs, channels, height, width]` as a patch projection."""
    return Layout(
        "a convolution",
        lambda x, shape: x.transpose(2, 3, 1, 0).reshape(shape),
        lambda x: np.ascontiguousarray(
            x.reshape(height, width, channels, -1).transpose(3, 2, 0, 1)
        ),
    )


def _block(prefix: str, block: Any) -> Iterator[Rule]:
    yield from attention(
        block.attention,
        query=f"{prefix}.attention.attention.query",
        key=f"{prefix}.attention.attention.key",
        value=f"{prefix}.attention.attention.value",
        output=f"{prefix}.attention.output.dense",
    )
    before = block.attention_residual.normalization
    yield from norm(f"{prefix}.layernorm_before", before)
    yield from linear(f"{prefix}.intermediate.dense", block.feed_forward.intermediate)
    yield from linear(f"{prefix}.output.dense", block.feed_forward.output_projection)
    before = block.feed_forward_residual.normalization
    yield from norm(f"{prefix}.layernorm_after", before)
