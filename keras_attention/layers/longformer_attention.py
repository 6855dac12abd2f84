"""Longformer attention: a sliding window and a few global tokens."""

from dataclasses import replace
from typing import Any

import keras
from keras import ops

from keras_attention.layers._arguments import clear_padding
from keras_attention.layers._heads import Heads, with_new_positions
from keras_attention.layers._multi_head_arguments import (
    make_projection,
    standardize_window,
)
from keras_attention.layers._multi_head_paths import head_settings
from keras_attention.layers.multi_head_attention import MultiHeadAttention
from keras_attention.ops.sparse.global_tokens import attend_from, replace_rows, rows_at
from keras_attention.ops.sparse.inputs import SelfAttentionInputs
from keras_attention.ops.sparse.patterns import GlobalTokensPattern, WindowPattern


@keras.saving.register_keras_serializable("keras_attention")
class LongformerAttention(MultiHeadAttention):
    """Multi-head attention in a window, with a few global tokens.

    Global tokens can attend to all tokens and are visible to all. Use it for long
    sequences: one that attends to itself is computed in blocks, in time
    T · (window + global tokens). If weights are returned, or with an explicit mask or a
    cache, the same mask is applied to dense attention.

    Reference: Beltagy et al., "Longformer", 2020 (arXiv:2004.05150).

    Args:
        num_heads: Number of query heads.
        key_dim: Size of each query and key head.
        value_dim: Size of each value head; `key_dim` when `None`.
        sliding_window: An int w keeps keys with |i - j| < w; a pair keeps that many
            keys `(behind, ahead)`. A window w of the paper is `(w // 2, w // 2)`.
        dilation: Distance between neighbouring keys of the window.
        global_tokens: Positions of the global tokens, the same in each row; those
            beyond the end are ignored. `()` for none.
        global_projections: Whether queries at global tokens use projections of their
            own, as in the paper. Other queries use the common ones for all keys.
        **kwargs: Arguments of `MultiHeadAttention`.

    Call arguments: the same as for `MultiHeadAttention`; no
    `cache` or `memory` with `global_projections`.

    Example:
    >>> layer = ka.LongformerAttention(num_heads=2, key_dim=4, sliding_window=(8, 8))
    >>> x = np.random.rand(1, 500, 8).astype("float32")
    >>> tuple(layer(x, x).shape)
    (1, 500, 8)
    >>> print(layer.pattern)
    (window(behind=8, ahead=8) | globaltokens(positions=[0]))
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        *,
        sliding_window: int | tuple[int, int] | None = (256, 256),
        dilation: int = 1,
        global_tokens: tuple[int, ...] = (0,),
        global_projections: bool = False,
        **kwargs: Any,
    ):
        window = {"sliding_window": sliding_window}
        super().__init__(num_heads, key_dim, value_dim, **window, **kwargs)
        self.dilation = dilation
        self.global_tokens = tuple(global_tokens)
        self.global_projections = global_projections
        window = standardize_window(sliding_window)
        if window is None or (global_projections and not self.global_tokens):
            raise ValueError(
                "`LongformerAttention` needs a `sliding_window`, and `global_tokens` "
                "for `global_projections`. Received: "
                f"sliding_window={sliding_window}, global_tokens={global_tokens}"
            )
        self.pattern = pattern = WindowPattern(*window, dilation)
        if self.global_tokens:
            self.pattern = GlobalTokensPattern(pattern, self.global_tokens)

    def build_weights(self, query_shape, value_shape, key_shape):
        super().build_weights(query_shape, value_shape, key_shape)
        if not self.global_projections:
            return
        sizes = {
            "query": (self.num_heads, self.key_dim),
            "key": (self.num_key_value_heads, self.key_dim),
            "value": (self.num_key_value_heads, self.value_dim),
        }
        query, key, value = (
            make_projection(self, f"global_{name}", size)
            for name, size in sizes.items()
        )
        self.global_query_projection = query
        self.global_key_projection = key
        self.global_value_projection = value
        self.global_query_projection.build(query_shape)
        self.global_key_projection.build(key_shape)
        self.global_value_projection.build(value_shape)

    def attend_heads(self, call, *, query, key, value, cached):
        context, weights = super().attend_heads(
            call, query=query, key=key, value=value, cached=cached
        )
        if not self.global_projections:
            return context, weights
        if cached:
            raise ValueError(
                "A cache or memory holds keys of the common projections only. Use "
                "`global_projections=False`, or call without `cache=` and `memory=`. "
                "Received: global_projections=True"
            )
        key_mask = call.visibility.key_mask
        key_heads = self.global_key_projection(clear_padding(key, key_mask))
        value_heads = self.global_value_projection(clear_padding(value, key_mask))
        if self._only_rows(call):
            rows = self._rows(call, query, key_heads, value_heads)
            return replace_rows(context, rows, self.global_tokens), weights
        heads = Heads(self.global_query_projection(query), key_heads, value_heads)
        positions = call.heads.query_positions
        heads = with_new_positions(
            heads, scheme=self.position, positions=positions, inputs=(query, key)
        )
        others = super().attend_heads(
            replace(call, heads=heads),
            query=query,
            key=key,
            value=value,
            cached=cached,
        )
        return self._merge(heads, (context, weights), others)

    def _only_rows(self, call):
        """Whether attention of the global queries alone can be computed densely."""
        plain = self.position is None and not self.talking_heads and call.bias is None
        return plain and call.is_plain_self_attention and not call.need_weights

    def _rows(self, call, query, key_heads, value_heads):
        positions = self.global_tokens
        inputs = SelfAttentionInputs(
            query=self.global_query_projection(rows_at(query, positions)),
            key=key_heads,
            value=value_heads,
            heads=head_settings(self),
            key_mask=call.visibility.key_mask,
            dropout=call.dropout,
        )
        rows = attend_from(positions, inputs, causal=call.causal)
        mask = call.visibility.query_mask
        return rows if mask is None else clear_padding(rows, rows_at(mask, positions))

    def _merge(self, heads, common, others):
        """Takes rows of global queries from `others` and the rest from `common`."""
        at = heads.all_positions()[0]  # [T] or [B, T]
        listed = ops.convert_to_tensor(self.global_tokens, dtype="int32")
        chosen = ops.any(at[..., None] == listed, axis=-1)[..., None]
        context = ops.where(chosen, others[0], common[0])
        if common[1] is None:
            return context, None
        chosen = chosen[:, None] if len(chosen.shape) == 3 else chosen
        return context, ops.where(chosen, others[1], common[1])

    def get_config(self):
        return {
            **super().get_config(),
            "dilation": self.dilation,
            "global_tokens": self.global_tokens,
            "global_projections": self.global_projections,
        }
