"""Multi-head attention: full, cross, causal, grouped, windowed, cached."""

from typing import Any

import keras
from keras import ops

from keras_attention.layers._arguments import (
    cached_positions,
    check_bias,
    clear_padding,
    combine_masks,
    unpack,
)
from keras_attention.layers.base import AttentionInputs, AttentionLayer
from keras_attention.layers.projection import Projection, fresh_initializer
from keras_attention.ops.attend import dot_product_attention
from keras_attention.ops.positions import standardize_positions
from keras_attention.ops.windows import width_of, window_attention


@keras.saving.register_keras_serializable("keras_attention")
class MultiHeadAttention(AttentionLayer):
    """Several scaled dot-product attentions side by side, each with projections.

    Arguments, call and weights are those of `keras.layers.MultiHeadAttention`
    (`from_keras` takes them over); the numbers differ only where Keras gives two
    answers for one question: a query that may look at nothing gets attention 0.

    Reference: Vaswani et al., 2017 (arXiv:1706.03762); grouped heads: Ainslie et
    al., 2023 (arXiv:2305.13245); one key/value head: Shazeer, 2019
    (arXiv:1911.02150).

    Args:
        num_heads: Number of query heads.
        key_dim: Size of each query and key head.
        value_dim: Size of each value head; `key_dim` when `None`.
        num_key_value_heads: Number of key/value heads, a divisor of `num_heads`,
            each shared by a group of query heads; `num_heads` when `None`.
        sliding_window: An int w keeps keys with |i - j| < w, as in Keras; a pair
            keeps that many keys `(behind, ahead)`.
        dropout: Rate of dropout on the attention weights.
        use_bias: Whether the projections have biases.
        output_shape: Size of the output; the query's size when `None`.
        kernel_initializer: Of the projections' kernels.
        bias_initializer: Of their biases.
        seed: Seed of the dropout.
        **kwargs: Those of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        query: `[B, T, E]`, or a list `[query, value]` or `[query, value, key]`.
        value: `[B, S, E']`.
        key: `[B, S, E'']`; `value` when not given.
        query_mask, value_mask, key_mask: Bool `[B, T]` / `[B, S]`, `True` at real
            tokens. Masks that Keras carries on the tensors are found by themselves.
        attention_mask: Bool `[B, T, S]` or `[B, N, T, S]`, or a mask of `ka.masks`;
            `True` = may look.
        attention_bias: Float of the same shapes, added to the scores.
        use_causal_mask: Whether keys after the query are hidden.
        return_attention_scores: Whether the weights are returned too.
        cache: A `KVCache` of past tokens; the new keys and values are appended and
            the masks `[..., S]` then cover past and new keys.
        positions: Int `[T]` or `[B, T]`, the queries' positions, and the keys' if
            there are as many and there is no cache; they continue the
            cache, or start at 0, when not given.
        training: Whether dropout is active.

    Returns:
        The output `[B, T, output_shape]`; then, each only if asked for, the weights
        `[B, N, T, S]` and the new cache.

    Example:
    >>> layer = ka.MultiHeadAttention(num_heads=4, key_dim=8, num_key_value_heads=2)
    >>> x = np.random.rand(2, 5, 32).astype("float32")
    >>> output, weights = layer(
    ...     x, x, use_causal_mask=True, return_attention_scores=True
    ... )
    >>> tuple(output.shape), tuple(weights.shape)
    ((2, 5, 32), (2, 4, 5, 5))
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        *,
        num_key_value_heads: int | None = None,
        sliding_window: int | tuple[int, int] | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: int | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(dropout=dropout, seed=seed, **kwargs)
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = value_dim or key_dim
        self.num_key_value_heads = num_key_value_heads or num_heads
        # JSON has no tuples: a loaded layer says what the saved one said.
        pair = isinstance(sliding_window, list)
        self.sliding_window = tuple(sliding_window) if pair else sliding_window
        self.use_bias = use_bias
        self.output_size = output_shape
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self._window = _standardize_window(sliding_window)
        _check_heads(num_heads, self.num_key_value_heads, key_dim)

    @classmethod
    def from_keras(cls, layer: Any) -> "MultiHeadAttention":
        """The same attention as a `keras.layers.MultiHeadAttention`.

        Args:
            layer: A built `keras.layers.MultiHeadAttention`.

        Returns:
            A built layer with copies of its weights.

        Raises:
            ValueError: If `layer` uses something this class does not have.
        """
        config = layer.get_config()
        taken = {"num_heads", "key_dim", "value_dim", "dropout", "use_bias", "seed"}
        taken |= {"sliding_window", "kernel_initializer", "bias_initializer"}
        taken |= {"name", "trainable", "dtype", "output_shape"}
        ignored = {"query_shape", "key_shape", "value_shape", "flash_attention"}
        ignored |= (
            {"attention_axes"} if layer._attention_axes in (None, (1,)) else set()
        )
        unknown = {k for k, v in config.items() if v} - taken - ignored
        if (
            isinstance(config["output_shape"], tuple)
            and len(config["output_shape"]) > 1
        ):
            unknown.add("output_shape")
        if unknown or not layer.built:
            raise ValueError(
                "`from_keras` needs a built keras.layers.MultiHeadAttention without "
                "options this class lacks (regularizers, constraints, gates, other "
                f"attention axes). Received: built={layer.built}, "
                f"not supported: {sorted(unknown)}"
            )
        size = config["output_shape"]  # Keras keeps an int in a tuple
        config["output_shape"] = size[0] if isinstance(size, list | tuple) else size
        ours = cls(**{name: config[name] for name in taken & set(config)})
        projections = (layer.query_dense, layer.value_dense, layer.key_dense)
        ours.build(*((None, None, each.kernel.shape[0]) for each in projections))
        ours.set_weights(layer.get_weights())
        return ours

    def build_weights(self, query_shape, value_shape, key_shape):
        heads, groups = self.num_heads, self.num_key_value_heads
        self.query_projection = self._projection("query", (heads, self.key_dim))
        self.key_projection = self._projection("key", (groups, self.key_dim))
        self.value_projection = self._projection("value", (groups, self.value_dim))
        self.output_projection = self._projection(
            "attention_output",
            (self.output_size or query_shape[-1],),
            input_axes=(heads, self.value_dim),
        )
        self.query_projection.build(query_shape)
        self.key_projection.build(key_shape)
        self.value_projection.build(value_shape)
        self.output_projection.build((None, None, heads * self.value_dim))

    def _projection(self, name, output_axes, **kwargs):
        return Projection(
            output_axes,
            use_bias=self.use_bias,
            kernel_initializer=fresh_initializer(self.kernel_initializer),
            bias_initializer=fresh_initializer(self.bias_initializer),
            name=name,
            dtype=self.dtype_policy,
            **kwargs,
        )

    def call(
        self,
        query,
        value=None,
        key=None,
        *,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        attention_bias=None,
        use_causal_mask=False,
        return_attention_scores=False,
        cache=None,
        positions=None,
        training=None,
    ):
        query, value, key, query_mask, value_mask, key_mask = unpack(
            query,
            value,
            key,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            name=self.name,
        )
        query_heads = self.query_projection(clear_padding(query, query_mask))
        key_heads = self.key_projection(clear_padding(key, key_mask))
        value_heads = self.value_projection(clear_padding(value, value_mask))
        everything = (attention_mask, attention_bias, cache, positions)
        dense = return_attention_scores or any(x is not None for x in everything)
        window = _self_window(self._window, query, key, use_causal_mask)
        if window is not None and not self.needs_weights(dense):
            return self._attend_by_blocks(
                (query_heads, key_heads, value_heads),
                window,
                query_mask=query_mask,
                key_mask=key_mask,
                training=training,
            )
        key_positions = None
        if cache is not None:
            positions, new = cached_positions(cache, positions, query, key, key_mask)
            cache = cache.append(key=key_heads, value=value_heads, positions=new)
            key_heads, value_heads, key_positions = cache
            key_mask = None  # the cache's positions say which slots are empty
        elif positions is not None:
            positions = standardize_positions(positions, length=None)
            key_positions = _same_positions(positions, query, key)
        mask = combine_masks(
            query,
            key_heads,
            query_mask=query_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            use_causal_mask=use_causal_mask,
            window=self._window,
            query_positions=positions,
            key_positions=key_positions,
        )
        output, weights = self.attend_to(
            AttentionInputs(
                query=query_heads,
                key=key_heads,
                value=value_heads,
                mask=_with_heads(mask),
                bias=_with_heads(check_bias(attention_bias, query, key_heads)),
                training=training,
                need_weights=self.needs_weights(return_attention_scores),
            )
        )
        self.report(weights)
        results = [output]
        results += [weights] if return_attention_scores else []
        results += [cache] if cache is not None else []
        return results[0] if len(results) == 1 else tuple(results)

    def attend_to(self, inputs: AttentionInputs) -> tuple[Any, Any]:
        output, weights = dot_product_attention(
            query=inputs.query,
            key=inputs.key,
            value=inputs.value,
            num_heads=self.num_heads,
            num_key_value_heads=self.num_key_value_heads,
            scale=self.key_dim**-0.5,
            mask=inputs.mask,
            bias=inputs.bias,
            dropout=self.active_dropout(inputs.training),
            return_weights=inputs.need_weights,
        )
        return self.output_projection(output), weights

    def _attend_by_blocks(self, heads, window, *, query_mask, key_mask, training):
        query, key, value = heads
        output = window_attention(
            query=query,
            key=key,
            value=value,
            window=window,
            num_heads=self.num_heads,
            num_key_value_heads=self.num_key_value_heads,
            scale=self.key_dim**-0.5,
            key_mask=key_mask,
            dropout=self.active_dropout(training),
        )
        return self.output_projection(clear_padding(output, query_mask))

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "num_key_value_heads": self.num_key_value_heads,
            "sliding_window": self.sliding_window,
            "use_bias": self.use_bias,
            "output_shape": self.output_size,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


def _check_heads(num_heads, num_key_value_heads, key_dim):
    if min(num_heads, num_key_value_heads, key_dim) < 1:
        raise ValueError(
            "`num_heads`, `num_key_value_heads` and `key_dim` must be 1 or more. "
            f"Received: num_heads={num_heads}, "
            f"num_key_value_heads={num_key_value_heads}, key_dim={key_dim}"
        )
    if num_heads % num_key_value_heads:
        raise ValueError(
            "`num_heads` must be a multiple of `num_key_value_heads`: each key/value "
            "head serves a group of query heads of one size. Received: "
            f"num_heads={num_heads}, num_key_value_heads={num_key_value_heads}"
        )


def _standardize_window(window):
    if window is None:
        return None
    pair = (window - 1, window - 1) if isinstance(window, int) else tuple(window)
    if len(pair) != 2 or min(pair) < 0:
        raise ValueError(
            "`sliding_window` must be an int of 1 or more (keys with |i - j| < w) or "
            "a pair of counts `(behind, ahead)` of 0 or more. "
            f"Received: sliding_window={window!r}"
        )
    return pair


def _self_window(window, query, key, use_causal_mask):
    """The window, where attention by blocks is right and pays; else `None`.

    It is right for a sequence that attends to itself, and pays from twice the keys
    that a block scores.
    """
    length = query.shape[1]
    same = query is key or (length is not None and length == key.shape[1])
    if window is None or not same:
        return None
    behind, ahead = window[0], 0 if use_causal_mask else window[1]
    short = length is not None and length < 2 * width_of(behind, ahead)
    return None if short else (behind, ahead)


def _same_positions(positions, query, key):
    """Keys stand where the queries stand if they are the same sequence."""
    if query.shape[1] == key.shape[1]:
        return positions
    length = ops.shape(key)[1]
    return ops.arange(length, dtype="int32")


def _with_heads(x):
    """Puts the head axis into a mask or bias that has none."""
    return x[:, None] if x is not None and len(x.shape) == 3 else x
