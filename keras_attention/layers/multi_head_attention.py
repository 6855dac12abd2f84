"""Multi-head attention: full, cross, causal, grouped, windowed, cached."""

from typing import Any, Literal

import keras
from keras import ops

from keras_attention.layers._arguments import check_bias, clear_padding
from keras_attention.layers._axes import axes_of, resolve_axes, standardize_axes
from keras_attention.layers._conversions import (
    from_keras_multi_head,
    with_fewer_key_value_heads,
)
from keras_attention.layers._heads import (
    Heads,
    with_new_positions,
    with_positions,
)
from keras_attention.layers._multi_head_arguments import (
    check_heads,
    check_memory,
    check_position,
    config_of,
    make_gate,
    make_mixing,
    make_projection,
    mask_heads,
    standardize_bias,
    standardize_sizes,
    standardize_window,
)
from keras_attention.layers._multi_head_paths import (
    AttentionCall,
    attend_over,
    is_plain_self_attention,
    pattern_mask,
)
from keras_attention.layers._visibility import visibility
from keras_attention.layers.base import AttentionInputs, AttentionLayer
from keras_attention.layers.position_scheme import PositionScheme
from keras_attention.ops.caches.static import StaticKVCache
from keras_attention.ops.sparse.patterns import WindowPattern


@keras.saving.register_keras_serializable("keras_attention")
class MultiHeadAttention(AttentionLayer):
    """Several scaled dot-product attentions in parallel, each with projections.

    Arguments, call and weights are those of `keras.layers.MultiHeadAttention`, whose
    layers `from_keras` converts. The numbers differ only for a query that can attend
    to no key: its attention is 0 here, and depends on the call in Keras.

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
            keeps that many keys `(behind, ahead)`. Long sequences that attend to
            themselves are then computed in blocks, in time T · window.
        position: The position scheme: a `RotaryEmbedding`, `AlibiBias`,
            `RelativePositionBias` or `RelativePositionRepresentation`.
        talking_heads: Whether heads mix their scores and their weights (Shazeer et
            al., 2020, arXiv:2003.02436); the mixing starts as the identity.
        use_gate: Whether a sigmoid of the query scales each feature of the heads'
            outputs (Qiu et al., 2025, arXiv:2505.06708), as in Keras.
        chunked: Whether attention is computed in chunks that never hold all T · S
            scores, with the same numbers; chosen by size when `None`.
        dropout: Rate of dropout on the attention weights.
        logits_soft_cap: Scores s become cap · tanh(s / cap), so that none is larger
            (Gemma 2); `None` does not change them.
        scale: Factor on the products of queries and keys; 1/sqrt(key_dim) when `None`,
            1 in T5.
        use_bias: Whether the projections have biases; with `"query_key_value"` only
            these three have (Qwen2).
        output_shape: Size of the output, or a tuple of sizes; the query's size when
            `None`.
        attention_axes: Axes of images and videos `[B, ..., E]` that attention runs
            over, an int or a tuple; all but batch and features when `None`.
        kernel_initializer, bias_initializer: Initializers of the projections' weights.
        kernel_regularizer, bias_regularizer: Regularizers of these weights.
        activity_regularizer: Regularizer of each projection's output.
        kernel_constraint, bias_constraint: Constraints of these weights.
        seed: Seed of the dropout.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        query: `[B, T, E]`, or a list `[query, value]` or `[query, value, key]`. In
            images and videos `[B, ..., E]`, T and S below are all attention axes.
        value: `[B, S, E']`.
        key: `[B, S, E'']`; `value` when not given.
        query_mask, value_mask, key_mask: Bool `[B, T]` / `[B, S]`, `True` at
            non-padding tokens. Masks that Keras carries on the tensors are used too.
        attention_mask: Bool `[B, T, S]` or `[B, N, T, S]`, `True` where a query can
            attend to a key; or a mask of `ka.masks`.
        attention_bias: Float of the same shapes, added to the scores.
        use_causal_mask: Whether keys after the query are hidden.
        return_attention_scores: Whether the weights are returned too.
        cache: A `KVCache` of past tokens. The new keys and values are appended, and
            the masks `[..., S]` then cover past and new keys.
        positions: Int `[T]` or `[B, T]`, the queries' positions, and the keys' too if
            their number is the same and there is no cache. When not given, positions
            continue the cache, or start at 0.
        memory: Projected keys and values, which `remember` returned, with their mask.
            They replace `value`, `key`, `value_mask` and `key_mask`, which must not be
            given with them; nor must `cache`.
        head_mask: Float `[N]` or `[B, N]`, the factor on each head's weights.
        training: Whether dropout is active.

    Returns:
        The output `[B, T, output_shape]`. With `return_attention_scores=True` also the
        weights `[B, N, T, S]`; with a `cache` also the new cache, as the last. A
        `memory` is not returned. Axes of an image that attention does not run over
        come after B, in masks too.

    Example:
    >>> layer = ka.MultiHeadAttention(num_heads=4, key_dim=8, num_key_value_heads=2)
    >>> x = np.random.rand(2, 5, 32).astype("float32")
    >>> causal = {"use_causal_mask": True, "return_attention_scores": True}
    >>> output, weights = layer(x, x, **causal)
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
        position: PositionScheme | None = None,
        talking_heads: bool = False,
        use_gate: bool = False,
        chunked: bool | None = None,
        dropout: float = 0.0,
        logits_soft_cap: float | None = None,
        scale: float | None = None,
        use_bias: bool | Literal["query_key_value"] = True,
        output_shape: int | tuple[int, ...] | None = None,
        attention_axes: int | tuple[int, ...] | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        soft_cap = {"logits_soft_cap": logits_soft_cap}
        super().__init__(dropout=dropout, seed=seed, **soft_cap, **kwargs)
        check_heads(num_heads, key_dim, value_dim, num_key_value_heads, scale)
        self.num_heads, self.key_dim = num_heads, key_dim
        self.value_dim = value_dim or key_dim
        self.num_key_value_heads = num_key_value_heads or num_heads
        # JSON has no tuples: a loaded layer must have the config of the saved one.
        pair = isinstance(sliding_window, list)
        self.sliding_window = tuple(sliding_window) if pair else sliding_window
        self.position = check_position(position)
        self.talking_heads, self.use_gate = talking_heads, use_gate
        self.chunked, self.scale = chunked, scale
        self.use_bias = standardize_bias(use_bias)
        self.output_sizes = standardize_sizes(output_shape)
        self.attention_axes = standardize_axes(attention_axes)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        # Not `activity_regularizer`: Keras would apply that to the layer's results too.
        self.projection_regularizer = keras.regularizers.get(activity_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        window = standardize_window(sliding_window)
        self.pattern = None if window is None else WindowPattern(*window)

    @classmethod
    def from_keras(cls, layer: Any) -> "MultiHeadAttention":
        """Converts a layer of Keras; its weights are copied.

        Args:
            layer: A built `keras.layers.MultiHeadAttention` or `GroupQueryAttention`.

        Raises:
            ValueError: If `layer` is something else, or has options that are not
                supported.
        """
        return from_keras_multi_head(cls, layer)

    def to_grouped(self, num_key_value_heads: int) -> "MultiHeadAttention":
        """Returns a copy with fewer key/value heads, each the mean of a group of heads.

        Use it on a trained layer, and train the copy a little more.

        Reference: Ainslie et al., 2023 (arXiv:2305.13245), section 2.1.

        Args:
            num_key_value_heads: A divisor of this layer's number of key/value heads.
        """
        return with_fewer_key_value_heads(self, num_key_value_heads)

    def build_weights(self, query_shape, value_shape, key_shape):
        resolve_axes(self.attention_axes, len(query_shape))
        heads, groups = self.num_heads, self.num_key_value_heads
        # The order of Keras' layer, so that `from_keras` can copy its list of weights.
        self.query_projection = make_projection(self, "query", (heads, self.key_dim))
        self.key_projection = make_projection(self, "key", (groups, self.key_dim))
        self.gate_projection = make_gate(self, query_shape) if self.use_gate else None
        self.value_projection = make_projection(self, "value", (groups, self.value_dim))
        self.output_projection = make_projection(
            self,
            "attention_output",
            self.output_sizes or (query_shape[-1],),
            input_axes=(heads, self.value_dim),
        )
        self.query_projection.build(query_shape)
        self.key_projection.build(key_shape)
        self.value_projection.build(value_shape)
        self.output_projection.build((None, None, heads * self.value_dim))
        if self.position is not None and not self.position.built:
            self.position.build((None, None, heads, self.key_dim))
        self.mixing = make_mixing(self) if self.talking_heads else None

    def output_sizes_of(self, query_shape, value_shape, key_shape):
        return self.output_sizes or (query_shape[-1],)

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
        memory=None,
        head_mask=None,
        training=None,
    ):
        masks = {"value_mask": value_mask, "key_mask": key_mask}
        check_memory(memory, cache, query=query, value=value, key=key, **masks)
        axes = axes_of(self.attention_axes, query, value, key)
        axes.check(cache=cache, positions=positions)
        if memory is not None:
            value, key, value_mask = memory.value, memory.key, memory.keep
        query, value, key, query_mask, _, key_mask = axes.unpack(
            query,
            value,
            key,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            name=self.name,
        )
        query = clear_padding(query, query_mask)
        heads, cache, key_mask = with_positions(
            self._project(query, key, value, key_mask, memory),
            cache=cache,
            key_mask=key_mask,
            scheme=self.position,
            positions=positions,
            inputs=(query, key),
        )
        visible = visibility(
            query,
            heads.key,
            patterns=(pattern_mask(self.pattern, use_causal_mask), heads.mask),
            query_mask=query_mask,
            key_mask=key_mask,
            attention_mask=axes.fold_mask(attention_mask, "attention_mask"),
            use_causal_mask=use_causal_mask,
            query_positions=heads.query_positions,
            key_positions=heads.key_positions,
        )
        call = AttentionCall(
            heads=heads,
            visibility=visible,
            bias=check_bias(
                axes.fold_mask(attention_bias, "attention_bias"), query, heads.key
            ),
            causal=use_causal_mask,
            is_plain_self_attention=is_plain_self_attention(
                query, key, attention_mask, cache, positions, memory
            ),
            dropout=self.active_dropout(training),
            need_weights=self.needs_weights(return_attention_scores),
        )
        inputs = {"query": query, "key": key, "value": value}
        cached = cache is not None or memory is not None
        context, weights = self.attend_heads(call, **inputs, cached=cached)
        if head_mask is not None:
            head_mask = axes.fold_head_mask(head_mask)
            context, weights = mask_heads(head_mask, self.num_heads, context, weights)
        weights = axes.unfold_weights(weights)
        self.report(weights)
        results = [axes.unfold(self._project_output(query, context))]
        results += [weights] if return_attention_scores else []
        results += [cache] if cache is not None else []
        return results[0] if len(results) == 1 else tuple(results)

    def attend_to(self, inputs: AttentionInputs) -> tuple[Any, Any]:
        query, key, value = inputs.query, inputs.key, inputs.value
        heads = with_new_positions(
            self._project(query, key, value, None, None),
            scheme=self.position,
            positions=None,
            inputs=(query, key),
        )
        masks = {"query_mask": inputs.query_mask, "key_mask": inputs.key_mask}
        masks["attention_mask"] = inputs.mask
        pattern = pattern_mask(self.pattern, False)
        call = AttentionCall(
            heads=heads,
            visibility=visibility(query, heads.key, patterns=(pattern,), **masks),
            bias=inputs.bias,
            causal=False,
            is_plain_self_attention=is_plain_self_attention(query, key, inputs.mask),
            dropout=self.active_dropout(inputs.training),
            need_weights=inputs.need_weights,
        )
        context, weights = self.attend_heads(
            call, query=query, key=key, value=value, cached=False
        )
        return self._project_output(query, context), weights

    def remember(self, value: Any, key: Any = None, value_mask: Any = None) -> Any:
        """Projects keys and values of a sequence that several calls attend to.

        Args:
            value: `[B, S, E']`, an encoder's sequence.
            key: `[B, S, E'']`; `value` when not given.
            value_mask: Bool `[B, S]`, `True` at non-padding tokens.

        Returns:
            A `StaticKVCache`, the `memory` of calls without a `value`.
        """
        key = clear_padding(value if key is None else key, value_mask)
        return StaticKVCache.of(
            key=self.key_projection(key),  # [B, S, K * H]
            value=self.value_projection(clear_padding(value, value_mask)),
            keep=value_mask,
        )

    def _project(self, query, key, value, key_mask, memory):
        if memory is not None:
            return Heads(self.query_projection(query), memory.key, memory.value)
        return Heads(
            query=self.query_projection(query),  # [B, T, N * H]
            key=self.key_projection(clear_padding(key, key_mask)),  # [B, S, K * H]
            value=self.value_projection(clear_padding(value, key_mask)),
        )

    def attend_heads(
        self, call: AttentionCall, *, query: Any, key: Any, value: Any, cached: bool
    ) -> tuple[Any, Any]:
        """Computes attention of all heads: `(context [B, T, N * V], weights or None)`.

        Args:
            call: The call, with projected heads.
            query: `[B, T, E]`, the tensor that the query heads were projected from.
            key: `[B, S, E'']`, likewise; not cleared at padding.
            value: `[B, S, E']`, likewise; not cleared at padding.
            cached: Whether the heads hold tokens of a cache or a memory.
        """
        return attend_over(self, call)

    def _project_output(self, query, context):
        """The layer's output, from the outputs of the heads `[B, T, N * V]`."""
        if self.gate_projection is not None:
            context = context * self.gate_projection(query)
        output = self.output_projection(context)  # [B, T, E]
        if self.output_sizes is None or len(self.output_sizes) == 1:
            return output
        return ops.reshape(output, (*ops.shape(output)[:2], *self.output_sizes))

    def get_config(self):
        return {**super().get_config(), **config_of(self)}

    @classmethod
    def from_config(cls, config):
        position = keras.saving.deserialize_keras_object(config["position"])
        return cls(**{**config, "position": position})
