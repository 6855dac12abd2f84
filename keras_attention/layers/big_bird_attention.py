"""BigBird attention: global, neighbouring and random blocks."""

from typing import Any

import keras

from keras_attention.layers.multi_head_attention import MultiHeadAttention
from keras_attention.ops.sparse.patterns import BlockPattern


@keras.saving.register_keras_serializable("keras_attention")
class BigBirdAttention(MultiHeadAttention):
    """Multi-head attention of blocks to a few other blocks, for long sequences.

    A query sees the blocks around its own, the first blocks, and some drawn at random;
    queries of the first blocks see everything. A long sequence that attends to itself
    is computed block by block, in time T · (blocks seen) · block_size; with weights
    asked for, an explicit mask or a cache, the same mask is applied to dense attention.

    The global blocks are the first ones (the paper's code takes the first and the last)
    and the random ones are drawn among blocks with a real token, by a hash that all
    heads share: so padding behind a sequence and other rows of the batch change
    nothing. With `use_causal_mask=True` they are drawn among earlier blocks, and a
    later token changes nothing either.

    Reference: Zaheer et al., "Big Bird", 2020 (arXiv:2007.14062).

    Args:
        num_heads: Number of query heads.
        key_dim: Size of each query and key head.
        value_dim: Size of each value head; `key_dim` when `None`.
        block_size: Positions in a block.
        num_random_blocks: Blocks drawn for each block of queries.
        num_window_blocks: Blocks around the query's own, it included; odd.
        num_global_blocks: First blocks, which look at all and are seen by all.
        block_seed: Of the draw; give each layer of a model its own.
        **kwargs: Those of `MultiHeadAttention`, but for `sliding_window`.

    Call arguments: those of `MultiHeadAttention`.

    Example:
    >>> layer = ka.BigBirdAttention(num_heads=2, key_dim=4, block_size=16)
    >>> x = np.random.rand(1, 500, 8).astype("float32")
    >>> tuple(layer(x, x).shape)
    (1, 500, 8)
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        *,
        block_size: int = 64,
        num_random_blocks: int = 3,
        num_window_blocks: int = 3,
        num_global_blocks: int = 2,
        block_seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(num_heads, key_dim, value_dim, **kwargs)
        if self.sliding_window is not None:
            raise ValueError(
                "`BigBirdAttention` has a window of blocks, `num_window_blocks`, and "
                "takes no `sliding_window`. "
                f"Received: sliding_window={self.sliding_window}"
            )
        self.block_size = block_size
        self.num_random_blocks = num_random_blocks
        self.num_window_blocks = num_window_blocks
        self.num_global_blocks = num_global_blocks
        self.block_seed = block_seed
        self.pattern = BlockPattern(
            block_size,
            num_random_blocks,
            num_window_blocks,
            num_global_blocks,
            block_seed,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "block_size": self.block_size,
            "num_random_blocks": self.num_random_blocks,
            "num_window_blocks": self.num_window_blocks,
            "num_global_blocks": self.num_global_blocks,
            "block_seed": self.block_seed,
        }
