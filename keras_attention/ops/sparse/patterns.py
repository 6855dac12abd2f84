"""Masks of a sequence that attends to itself, with a sparse way to compute them.

A pattern is a mask with a faster way to the same numbers: `attend` returns what dense
attention under `mask` (under `causal_mask`, if causal) returns.
"""

from typing import Any

from keras_attention.ops import masks
from keras_attention.ops.sparse.block_sparse import block_sparse_attention
from keras_attention.ops.sparse.global_tokens import global_token_attention
from keras_attention.ops.sparse.inputs import SelfAttentionInputs
from keras_attention.ops.sparse.windows import width_of, window_attention


class Pattern:
    """A mask and the sparse way to compute attention under it.

    Attributes:
        mask: Which keys each query can attend to, a mask of the algebra.
    """

    mask: masks.Mask

    def __repr__(self) -> str:
        return repr(self.mask)

    @property
    def causal_mask(self) -> masks.Mask:
        """The mask that also hides keys after the query."""
        return masks.causal & self.mask

    def pays(self, length: int | None) -> bool:
        """Whether the sparse way is faster than the dense one.

        Args:
            length: T, or `None` if it is not known yet.
        """
        return length is None or length >= 2 * self.keys_per_query

    @property
    def keys_per_query(self) -> int:
        """The number of keys that are scored for a query, at any length."""
        raise NotImplementedError

    def attend(self, inputs: SelfAttentionInputs, *, causal: bool = False) -> Any:
        """Multi-head self-attention under the mask.

        Args:
            inputs: The tensors and settings.
            causal: Whether keys after the query are hidden.

        Returns:
            `[B, T, N * V]`; 0 for a query without a visible key.
        """
        raise NotImplementedError


class WindowPattern(Pattern):
    """A sliding window, possibly dilated.

    Args:
        behind: The number of visible keys before the query.
        ahead: The number of visible keys after it.
        dilation: The distance from one of these keys to the next, in positions.
    """

    def __init__(self, behind: int, ahead: int, dilation: int = 1):
        if dilation < 1:
            raise ValueError(
                "`dilation` is the distance from one key of the window to the next, 1 "
                f"or more. Received: dilation={dilation}"
            )
        self.behind, self.ahead, self.dilation = behind, ahead, dilation
        self.mask = masks.window(behind * dilation, ahead * dilation)
        if dilation != 1:
            self.mask = self.mask & masks.dilated(dilation)

    @property
    def keys_per_query(self) -> int:
        return width_of(self.behind, self.ahead) * self.dilation

    def attend(self, inputs, *, causal=False):
        window = (self.behind, 0 if causal else self.ahead)
        return window_attention(inputs, window=window, dilation=self.dilation)


class GlobalTokensPattern(Pattern):
    """A sliding window, and global tokens, which see all tokens and which all see.

    Args:
        window: The pattern of the other tokens.
        positions: The positions of the global tokens; those beyond the end are ignored.
    """

    def __init__(self, window: WindowPattern, positions: tuple[int, ...]):
        self.window, self.positions = window, tuple(sorted(set(positions)))
        if not self.positions or self.positions[0] < 0:
            raise ValueError(
                "Global tokens are listed by their positions, one or more, counted "
                f"from 0. Received: positions={positions}"
            )
        self.mask = window.mask | masks.global_tokens(self.positions)

    @property
    def keys_per_query(self) -> int:
        return self.window.keys_per_query + 2 * len(self.positions)

    def attend(self, inputs, *, causal=False):
        return global_token_attention(
            inputs,
            window=(self.window.behind, self.window.ahead),
            dilation=self.window.dilation,
            positions=self.positions,
            causal=causal,
        )


class BlockPattern(Pattern):
    """BigBird's blocks: those around the query's own, the first ones, and random ones.

    Args:
        block_size: The number of positions in a block.
        num_random_blocks: The number of blocks drawn for each block of queries.
        num_window_blocks: The number of blocks around and with the query's own; odd.
        num_global_blocks: The number of blocks at the start that see all blocks, and
            that all blocks see.
        seed: The draw's seed.
    """

    def __init__(
        self,
        block_size: int = 64,
        num_random_blocks: int = 3,
        num_window_blocks: int = 3,
        num_global_blocks: int = 2,
        seed: int = 0,
    ):
        self.block_size, self.num_global_blocks = block_size, num_global_blocks
        self.num_visible_blocks = (
            num_random_blocks + num_window_blocks + num_global_blocks
        )
        counts = (num_random_blocks, num_window_blocks, num_global_blocks, seed)
        self.mask = masks.big_bird(block_size, *counts)
        self._causal_mask = masks.big_bird(block_size, *counts, causal=True)
        self._block_masks = {
            causal: masks.big_bird(1, *counts, causal=causal)
            for causal in (False, True)
        }

    @property
    def causal_mask(self) -> masks.Mask:
        return masks.causal & self._causal_mask

    @property
    def keys_per_query(self) -> int:
        return (self.num_visible_blocks + self.num_global_blocks) * self.block_size

    def attend(self, inputs, *, causal=False):
        block_mask = self._block_masks[causal]
        return block_sparse_attention(
            inputs,
            block_mask=masks.causal & block_mask if causal else block_mask,
            block_size=self.block_size,
            num_visible_blocks=self.num_visible_blocks,
            num_global_blocks=self.num_global_blocks,
            causal=causal,
        )
