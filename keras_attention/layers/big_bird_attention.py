"""BigBird attention: global, neighbouring and random blocks."""

from typing import Any

import keras

from keras_attention.layers.multi_head_attention import MultiHeadAttention
from keras_attention.ops.sparse.patterns import BlockPattern


@keras.saving.register_keras_serializable("keras_attention")
class BigBirdAttention(MultiHeadAttention):
    """Multi-head attention of blocks to a few other blocks, for long sequences.

    A query can attend to the blocks around its own, the first blocks, and some random
    blocks; queries of the first blocks can attend to everything. A long sequence that
    attends to itself is computed block by block, in time
    T · (visible blocks) · block_size. If weights are returned, or with an explicit mask
    or a cache, the same mask is applied to dense attention.

    The global blocks are the first ones (the paper's code takes the first and the
    last). The random ones are drawn from the blocks with a non-padding token, by a hash
    that all heads share, so that padding after a sequence and other rows of the batch
    do not change the result. With `use_causal_mask=True` they are drawn from earlier
    blocks, so that later tokens do not change it either.

    Reference: Zaheer et al., "Big Bird", 2020 (arXiv:2007.14062).

    Args:
        num_heads: Number of query heads.
        key_dim: Size of each query and key head.
        value_dim: Size of each value head; `key_dim` when `None`.
        block_size: Positions in a block.
        num_random_blocks: Blocks drawn for each block of queries.
        num_window_blocks: Blocks around and including the query's own; odd.
        num_global_blocks: First blocks, which can attend to all blocks and are visible
            to all.
        block_seed: Seed of the random blocks; use a different one for each layer.
        **kwargs: Arguments of `MultiHeadAttention`, except `sliding_window`.

    Call arguments: the same as for `MultiHeadAttention`.

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
