"""A causal decoder with the shape of GPT-2 or of Llama."""

from typing import Any, Literal

import keras

from keras_attention.blocks.decoder_block import DecoderBlock
from keras_attention.blocks.residual import make_normalization
from keras_attention.layers.checks import check_optional_sizes, check_sizes
from keras_attention.layers.feed_forward import FeedForward
from keras_attention.layers.multi_head_attention import MultiHeadAttention
from keras_attention.layers.position_embedding import PositionEmbedding
from keras_attention.layers.projection import Projection
from keras_attention.layers.rotary_embedding import RotaryEmbedding
from keras_attention.layers.token_embedding import TokenEmbedding
from keras_attention.models.common import (
    base_config,
    documents_mask,
    from_base_config,
    initializer,
    run_block,
    table_rows,
    token_positions,
)
from keras_attention.models.decoder_options import (
    check_head,
    head_size,
    plain,
    rotary_settings,
    standardize_biases,
    use_attention_bias,
    windows_of_layers,
)
from keras_attention.models.inputs import standardize_ids
from keras_attention.ops.backend.replicas import ReplicaTraining
from keras_attention.ops.caches.growing import KVCache


@keras.saving.register_keras_serializable("keras_attention")
class GPTDecoder(ReplicaTraining, keras.Model):
    """A decoder of pre-norm causal blocks, with GPT-2's shape or Llama's.

    A call computes a whole sequence, a prompt, or one more token. For the last two,
    pass the caches of `empty_cache`: the call returns new ones that hold the new
    tokens too. Prompts of different lengths may be padded on either side.

    Reference: Radford et al., "Language Models are Unsupervised Multitask Learners",
    2019; Touvron et al., "LLaMA", 2023 (arXiv:2302.13971). Defaults are GPT-2 small;
    Llama's shape is `position="rotary", normalization="rms", activation="silu",
    gated=True, use_bias=False`.

    Args:
        vocabulary_size: The number of tokens in the vocabulary.
        num_layers: The number of decoder blocks.
        num_heads: The number of query heads in each block.
        hidden_dim: The size of the token vectors.
        intermediate_dim: The size inside the feed-forward networks.
        num_key_value_heads: The number of key and value heads; `num_heads` when
            `None`.
        max_sequence_length: The number of positions that have a vector. With rotary
            positions it is the length the model was trained on, and not a limit.
        dropout: The dropout rate after the embeddings and after each sub-layer.
        activation: The activation of the feed-forward networks.
        layer_norm_epsilon: The epsilon of the normalisations.
        key_dim: The size of a head's queries, keys and values;
            `hidden_dim / num_heads` when `None`.
        position: The kind of positions: `"learned"` (one vector per position),
            `"rotary"`, or a dict of the arguments of `RotaryEmbedding`.
        normalization: The kind of every normalisation layer: `"layer"` or `"rms"`.
        gated: Whether the feed-forward networks have a gate.
        use_bias: Whether the projections have biases, or a tuple of the parts that
            have them: `"query_key_value"`, `"attention_output"`, `"feed_forward"`.
        sliding_window: The number of tokens that a token can attend to, itself
            included; itself and all earlier ones when `None`. A list has one entry
            per layer.
        head: The matrix that makes the logits: `"tied"` for the table of the token
            vectors, `"own"` for a separate matrix, `None` for no logits.
        attention_dropout: The dropout rate on attention weights; `dropout` when
            `None`.
        remat: Whether the blocks are computed a second time in the backward pass of a
            training, which saves most of its memory. It can be set later too:
            `model.remat = True`.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of all inputs with `[B, T]`.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at non-padding tokens.
        cache: A list of one cache per layer, from `empty_cache` or from the last
            call.
        training: Whether dropout is active.
        document_ids: Int `[B, T]`, the document that a token is of, for rows packed
            with several: a token attends only to its document's tokens, and positions
            begin anew in each. The tokens of a document are next to each other. Not
            with a `cache`.
        return_hidden_states: Whether the vectors after each layer are returned too.

    Returns:
        A dict: `sequence_output` `[B, T, hidden_dim]`, `logits`
        `[B, T, vocabulary_size]` if the model has a head, and the new `cache` if one
        was passed. With `return_hidden_states=True` also `hidden_states`, a tuple of
        the vectors `[B, T, hidden_dim]` before the first block and after each block;
        the last one is the `sequence_output`.

    Example:
    >>> decoder = ka.GPTDecoder(
    ...     vocabulary_size=100,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> prompt = decoder(np.array([[1, 2, 3]]), cache=decoder.empty_cache(1))
    >>> step = decoder(np.array([[4]]), cache=prompt["cache"])
    >>> whole = decoder(np.array([[1, 2, 3, 4]]))
    >>> bool(np.allclose(step["logits"][:, 0], whole["logits"][:, 3], atol=1e-5))
    True
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int = 12,
        num_heads: int = 12,
        hidden_dim: int = 768,
        intermediate_dim: int = 3072,
        *,
        num_key_value_heads: int | None = None,
        max_sequence_length: int = 1024,
        dropout: float = 0.1,
        activation: Any = "gelu_tanh",
        layer_norm_epsilon: float = 1e-5,
        key_dim: int | None = None,
        position: Literal["learned", "rotary"] | dict = "learned",
        normalization: Literal["layer", "rms"] = "layer",
        gated: bool = False,
        use_bias: bool | tuple[str, ...] = True,
        sliding_window: int | list[int | None] | None = None,
        head: Literal["tied", "own"] | None = "tied",
        attention_dropout: float | None = None,
        remat: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_sizes(
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            max_sequence_length=max_sequence_length,
        )
        check_optional_sizes(num_key_value_heads=num_key_value_heads, key_dim=key_dim)
        self.vocabulary_size = vocabulary_size
        self.num_layers, self.num_heads = num_layers, num_heads
        self.hidden_dim, self.intermediate_dim = hidden_dim, intermediate_dim
        self.num_key_value_heads = num_key_value_heads or num_heads
        self.max_sequence_length = max_sequence_length
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.remat = remat
        self.key_dim = head_size(key_dim, hidden_dim, num_heads)
        self.position, self.rotary = position, rotary_settings(position)
        self.normalization: Literal["layer", "rms"] = normalization
        self.gated = gated
        self.use_bias = standardize_biases(use_bias)
        self.sliding_window = sliding_window
        self.head = check_head(head)
        self._make_outer_layers()
        windows = windows_of_layers(sliding_window, num_layers)
        self.blocks = [self._make_block(*each) for each in enumerate(windows)]
        self.build()

    def _make_outer_layers(self):
        """Makes the layers before and after the blocks."""
        table = {"initializer": initializer(), "dtype": self.dtype_policy}
        self.token_embedding = TokenEmbedding(
            self.vocabulary_size, self.hidden_dim, name="token_embedding", **table
        )
        self.position_embedding = None
        if self.rotary is None:
            table["initializer"] = initializer()
            self.position_embedding = PositionEmbedding(
                self.max_sequence_length, name="position_embedding", **table
            )
        self.embedding_dropout = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy
        )
        self.final_normalization = make_normalization(
            self.normalization,
            epsilon=self.layer_norm_epsilon,
            name="final_normalization",
            dtype=self.dtype_policy,
        )
        self.head_projection = None
        if self.head == "own":
            self.head_projection = Projection(
                (self.vocabulary_size,),
                use_bias=False,
                kernel_initializer=initializer(),
                name="head",
                dtype=self.dtype_policy,
            )

    def _make_block(self, index, window):
        dropout = self.attention_dropout
        position = None
        if self.rotary is not None:
            position = RotaryEmbedding(**self.rotary, dtype=self.dtype_policy)
        return DecoderBlock(
            attention=MultiHeadAttention(
                self.num_heads,
                self.key_dim,
                num_key_value_heads=self.num_key_value_heads,
                sliding_window=window,
                position=position,
                use_bias=use_attention_bias(self.use_bias),
                dropout=self.dropout if dropout is None else dropout,
                kernel_initializer=initializer(),
                name="attention",
                dtype=self.dtype_policy,
            ),
            feed_forward=FeedForward(
                self.intermediate_dim,
                self.activation,
                gated=self.gated,
                use_bias="feed_forward" in self.use_bias,
                kernel_initializer=initializer(),
                name="feed_forward",
                dtype=self.dtype_policy,
            ),
            norm="pre",
            normalization=self.normalization,
            epsilon=self.layer_norm_epsilon,
            dropout=self.dropout,
            name=f"block_{index}",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape=None):
        shape = (None, None, self.hidden_dim)
        self.token_embedding.build()
        if self.position_embedding is not None:
            self.position_embedding.build(shape)
        for block in self.blocks:
            block.build(shape)
        self.final_normalization.build(shape)
        if self.head_projection is not None:
            self.head_projection.build(shape)
        self.built = True

    def empty_cache(
        self, batch_size: int, kind: Any = KVCache, **settings: Any
    ) -> list[Any]:
        """Returns one empty cache per layer, for the `cache` argument.

        Args:
            batch_size: The number of rows.
            kind: The class of the caches: `ka.KVCache`, `ka.FixedKVCache` or
                `ka.RollingKVCache`.
            **settings: The arguments of its `empty`, for example `capacity=64`,
                `window=128` or `dtype="int8"`.
        """
        heads = self.num_key_value_heads
        size = heads * self.key_dim
        settings = {"dtype": self.compute_dtype, "num_heads": heads, **settings}
        sizes = {"batch_size": batch_size, "key_size": size, "value_size": size}
        return [kind.empty(**sizes, **settings) for _ in self.blocks]

    def call(
        self,
        token_ids,
        padding_mask=None,
        cache=None,
        training=None,
        *,
        document_ids=None,
        return_hidden_states=False,
    ):
        inputs = standardize_ids(
            token_ids, {"padding_mask": padding_mask, "document_ids": document_ids}
        )
        token_ids, padding_mask, document_ids = inputs.values()
        positions = token_positions(token_ids, padding_mask, cache, document_ids)
        x = self.token_embedding(token_ids)  # [B, T, E]
        if self.position_embedding is not None:
            x = self.position_embedding(x, positions=table_rows(positions))
        x = self.embedding_dropout(x, training=training)
        caches = [None] * self.num_layers if cache is None else cache
        states, new_caches = [], []
        mask = documents_mask(document_ids)
        for block, past in zip(self.blocks, caches, strict=True):
            states.append(x)
            x = run_block(
                block,
                x,
                padding_mask=padding_mask,
                attention_mask=mask,
                cache=past,
                positions=positions,
                training=training,
                remat=self.remat and past is None,
            )
            if past is not None:
                x, past = x  # noqa: PLW2901
            new_caches.append(past)
        x = self.final_normalization(x)  # [B, T, E]
        outputs = {"sequence_output": x, **self._logits(x)}
        if return_hidden_states:
            outputs["hidden_states"] = (*states, x)
        return outputs if cache is None else {**outputs, "cache": new_caches}

    def _logits(self, x):
        if self.head is None:
            return {}
        if self.head_projection is None:
            return {"logits": self.token_embedding(x, reverse=True)}  # [B, T, V]
        return {"logits": self.head_projection(x)}  # [B, T, V]

    def get_config(self):
        config = {
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "num_key_value_heads": self.num_key_value_heads,
            "max_sequence_length": self.max_sequence_length,
            "dropout": self.dropout,
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "key_dim": self.key_dim,
            "position": plain(self.position),
            "normalization": self.normalization,
            "gated": self.gated,
            "use_bias": self.use_bias,
            "sliding_window": plain(self.sliding_window),
            "head": self.head,
            "attention_dropout": self.attention_dropout,
            "remat": self.remat,
        }
        return {**base_config(self), **config}

    @classmethod
    def from_config(cls, config):
        return from_base_config(cls, config)
