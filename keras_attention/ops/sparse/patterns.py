"""Who may look at whom in a sequence that attends to itself, computed sparsely.

A pattern is a mask with a faster way to the same numbers: `attend` returns what dense
attention under `mask` (under `causal_mask`, if causal) returns.
"""

from collections.abc import Callable
from typing import Any

from keras_attention.ops import masks
from keras_attention.ops.sparse.block_sparse import block_sparse_attention
from keras_attention.ops.sparse.global_tokens import global_token_attention
from keras_attention.ops.sparse.windows import Bias, width_of, window_attention


class Pattern:
    """A mask and the sparse way to compute attention under it.

    Attributes:
        mask: Who may look at whom, a mask of the algebra.
    """

    mask: masks.Mask

    def __repr__(self) -> str:
        return repr(self.mask)

    @property
    def causal_mask(self) -> masks.Mask:
        """The mask with keys after the query hidden."""
        return masks.causal & self.mask

    def pays(self, length: int | None) -> bool:
        """Whether the sparse way is worth it; `None` is a length not known yet.

        Args:
            length: T.
        """
        return length is None or length >= 2 * self.keys_per_query

    @property
    def keys_per_query(self) -> int:
        """How many keys are scored for a query, whatever the length."""
        raise NotImplementedError

    def attend(
        self,
        *,
        query: Any,
        key: Any,
        value: Any,
        num_heads: int,
        num_key_value_heads: int,
        scale: float,
        soft_cap: float | None = None,
        causal: bool = False,
        key_mask: Any = None,
        bias: Bias | None = None,
        dropout: Callable | None = None,
    ) -> Any:
        """Multi-head self-attention under the mask.

        Args:
            query: `[B, T, N * H]`.
            key: `[B, T, K * H]`.
            value: `[B, T, K * V]`.
            num_heads: N.
            num_key_value_heads: K.
            scale: Multiplies the scores.
            soft_cap: See `cap_scores`.
            causal: Whether keys after the query are hidden.
            key_mask: Bool `[B, T]`, `True` at real tokens.
            bias: `(query positions [t], key positions [s]) -> [1, N, t, s]`, added to
                the scores; it may depend on the positions' differences only.
            dropout: Called with the weights, or `None`.

        Returns:
            `[B, T, N * V]`; 0 where a query may look at nothing.
        """
        arguments = {
            "query": query,
            "key": key,
            "value": value,
            "num_heads": num_heads,
            "num_key_value_heads": num_key_value_heads,
            "scale": scale,
            "soft_cap": soft_cap,
            "key_mask": key_mask,
            "bias": bias,
            "dropout": dropout,
        }
        return self._attend(arguments, causal=causal)

    def _attend(self, arguments: dict[str, Any], *, causal: bool) -> Any:
        raise NotImplementedError


class WindowPattern(Pattern):
    """A sliding window, possibly dilated.

    Args:
        behind: Keys before the query.
        ahead: Keys after it.
        dilation: Positions from one of these keys to the next.
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

    def _attend(self, arguments, *, causal):
        window = (self.behind, 0 if causal else self.ahead)
        return window_attention(window=window, dilation=self.dilation, **arguments)


class GlobalTokensPattern(Pattern):
    """A sliding window, and tokens that look at all and are seen by all.

    Args:
        window: The pattern of the other tokens.
        positions: Of the global tokens; those beyond the end are ignored.
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

    def _attend(self, arguments, *, causal):
        return global_token_attention(
            window=(self.window.behind, self.window.ahead),
            dilation=self.window.dilation,
            positions=self.positions,
            causal=causal,
            **arguments,
        )


class BlockPattern(Pattern):
    """BigBird's blocks: around the query's own, the first ones, and some at random.

    Args:
        block_size: Positions in a block.
        num_random_blocks: Blocks drawn for each block of queries.
        num_window_blocks: Blocks around the query's own, it included; odd.
        num_global_blocks: Blocks at the start that look at all and are seen by all.
        seed: Of the draw.
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
        self.blocks_seen = num_random_blocks + num_window_blocks + num_global_blocks
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
        return (self.blocks_seen + self.num_global_blocks) * self.block_size

    def _attend(self, arguments, *, causal):
        block_mask = self._block_masks[causal]
        return block_sparse_attention(
            block_mask=masks.causal & block_mask if causal else block_mask,
            block_size=self.block_size,
            blocks_seen=self.blocks_seen,
            num_global_blocks=self.num_global_blocks,
            causal=causal,
            **arguments,
        )
