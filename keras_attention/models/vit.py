"""The Vision Transformer: an encoder of images."""

from typing import Any

import keras
from keras import ops

from keras_attention.blocks.encoder_block import EncoderBlock
from keras_attention.blocks.heads import FirstTokenPooler
from keras_attention.layers.checks import check_sizes
from keras_attention.layers.feed_forward import FeedForward
from keras_attention.layers.layer_normalization import LayerNormalization
from keras_attention.layers.multi_head_attention import MultiHeadAttention
from keras_attention.layers.patch_embedding import PatchEmbedding
from keras_attention.layers.position_embedding import PositionEmbedding
from keras_attention.models.common import (
    base_config,
    check_divisible,
    from_base_config,
    initializer,
    run_encoder,
)
from keras_attention.ops.backend.replicas import ReplicaTraining
from keras_attention.ops.backend.shapes import describe


@keras.saving.register_keras_serializable("keras_attention")
class VisionTransformer(ReplicaTraining, keras.Model):
    """An encoder of image patches behind a class token, of pre-norm blocks.

    Reference: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020
    (arXiv:2010.11929). Defaults are ViT-B/16.

    Args:
        image_size: The height and width of the images, an int or a pair.
        patch_size: The height and width of the patches, an int or a pair. They must
            divide those of the images.
        num_layers: The number of encoder blocks.
        num_heads: The number of attention heads in each block.
        hidden_dim: The size of the patch vectors, a multiple of `num_heads`.
        intermediate_dim: The size inside the feed-forward networks.
        num_channels: The number of channels of the images.
        dropout: The dropout rate after the embeddings and after each sub-layer.
        attention_dropout: The dropout rate on attention weights.
        activation: The activation of the feed-forward networks; `"gelu"` is the exact
            one.
        layer_norm_epsilon: The epsilon of the layer normalisations.
        pooler: Whether the model has a pooler.
        remat: Whether the blocks are computed a second time in the backward pass of a
            training, which saves most of its memory. It can be set later too:
            `model.remat = True`.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        images: `[B, height, width, channels]`, or a dict of `images`. They must be
            scaled as in training; Hugging Face's processor scales to -1 … 1.
        training: Whether dropout is active.
        return_hidden_states: Whether the vectors after each layer are returned too.

    Returns:
        A dict: `sequence_output` `[B, 1 + patches, hidden_dim]`, the class token
        first, and, with a pooler, `pooled_output` `[B, hidden_dim]`. With
        `return_hidden_states=True` also `hidden_states`, a tuple of the vectors
        `[B, 1 + patches, hidden_dim]` before the first block and after each block; the
        last ones are not normalised yet.

    Example:
    >>> model = ka.VisionTransformer(
    ...     image_size=8,
    ...     patch_size=4,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> outputs = model(np.zeros((2, 8, 8, 3), "float32"))
    >>> tuple(outputs["sequence_output"].shape)
    (2, 5, 16)
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        num_layers: int = 12,
        num_heads: int = 12,
        hidden_dim: int = 768,
        *,
        intermediate_dim: int = 3072,
        num_channels: int = 3,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation: Any = "gelu",
        layer_norm_epsilon: float = 1e-12,
        pooler: bool = True,
        remat: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_sizes(
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            num_channels=num_channels,
        )
        check_divisible(hidden_dim, num_heads)
        self.image_size, self.patch_size = _pair(image_size), _pair(patch_size)
        self.num_channels = num_channels
        self.num_layers, self.num_heads = num_layers, num_heads
        self.hidden_dim, self.intermediate_dim = hidden_dim, intermediate_dim
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.pooler_wanted = pooler
        self.remat = remat
        self.max_sequence_length = 1 + self._num_patches()
        named = {"dtype": self.dtype_policy}
        self.patch_embedding = PatchEmbedding(
            self.patch_size,
            hidden_dim,
            kernel_initializer=initializer(),
            name="patch_embedding",
            **named,
        )
        self.position_embedding = PositionEmbedding(
            self.max_sequence_length,
            initializer=initializer(),
            name="position_embedding",
            **named,
        )
        self.embedding_dropout = keras.layers.Dropout(dropout, **named)
        self.blocks = [self._make_block(index) for index in range(num_layers)]
        self.final_normalization = LayerNormalization(
            epsilon=layer_norm_epsilon, name="final_normalization", **named
        )
        self.pooler = None
        if pooler:
            self.pooler = FirstTokenPooler(
                kernel_initializer=initializer(), name="pooler", **named
            )
        self.build()

    def _num_patches(self):
        counts = [s // p for s, p in zip(self.image_size, self.patch_size, strict=True)]
        return counts[0] * counts[1]

    def _make_block(self, index):
        return EncoderBlock(
            attention=MultiHeadAttention(
                self.num_heads,
                self.hidden_dim // self.num_heads,
                dropout=self.attention_dropout,
                kernel_initializer=initializer(),
                name="attention",
                dtype=self.dtype_policy,
            ),
            feed_forward=FeedForward(
                self.intermediate_dim,
                self.activation,
                kernel_initializer=initializer(),
                name="feed_forward",
                dtype=self.dtype_policy,
            ),
            norm="pre",
            epsilon=self.layer_norm_epsilon,
            dropout=self.dropout,
            name=f"block_{index}",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape=None):
        shape = (None, None, self.hidden_dim)
        self.patch_embedding.build((None, *self.image_size, self.num_channels))
        self.class_token = self.add_weight(
            name="class_token", shape=(1, 1, self.hidden_dim), initializer="zeros"
        )
        self.position_embedding.build(shape)
        for block in self.blocks:
            block.build(shape)
        self.final_normalization.build(shape)
        if self.pooler is not None:
            self.pooler.build(shape)
        self.built = True

    def call(self, images, training=None, *, return_hidden_states=False):
        x = self._patches(images)
        first = ops.cast(self.class_token, x.dtype)
        first = ops.broadcast_to(first, (ops.shape(x)[0], 1, self.hidden_dim))
        x = ops.concatenate([first, x], axis=1)  # [B, 1 + P, E]
        x = self.embedding_dropout(self.position_embedding(x), training=training)
        how = {"training": training, "remat": self.remat}
        states = run_encoder(self.blocks, x, padding_mask=None, **how)
        x = self.final_normalization(states[-1])
        outputs: dict[str, Any] = {"sequence_output": x}
        if self.pooler is not None:
            outputs["pooled_output"] = self.pooler(x)  # [B, E]
        if return_hidden_states:
            outputs["hidden_states"] = tuple(states)
        return outputs

    def _patches(self, images):
        if isinstance(images, dict):
            if list(images) != ["images"]:
                raise ValueError(
                    "The inputs must be a dict of `images` alone, or the images. "
                    f"Received: {', '.join(images) or 'nothing'}"
                )
            images = images["images"]
        images = ops.convert_to_tensor(images)
        sizes = (*self.image_size, self.num_channels)
        if len(images.shape) != 4 or tuple(images.shape[1:]) != sizes:
            raise ValueError(
                f"`images` must have shape [batch, {sizes[0]}, {sizes[1]}, {sizes[2]}],"
                f" channels last: resize them. Received: images={describe(images)}"
            )
        images = ops.cast(images, self.compute_dtype)
        return self.patch_embedding(images)  # [B, P, E]

    def get_config(self):
        names = (
            "image_size",
            "patch_size",
            "num_channels",
            "num_layers",
            "num_heads",
            "hidden_dim",
            "intermediate_dim",
            "dropout",
            "attention_dropout",
            "activation",
            "layer_norm_epsilon",
            "remat",
        )
        config = {name: getattr(self, name) for name in names}
        return {**base_config(self), **config, "pooler": self.pooler_wanted}

    @classmethod
    def from_config(cls, config):
        return from_base_config(cls, config)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
