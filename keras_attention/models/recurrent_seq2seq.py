"""A recurrent encoder and a recurrent decoder with attention."""

from typing import Any, Literal

import keras
from keras import ops

from keras_attention.layers.additive_attention import AdditiveAttention
from keras_attention.layers.attention_cell import AttentionCell
from keras_attention.layers.attention_rnn import AttentionRNN
from keras_attention.layers.global_attention import GlobalAttention
from keras_attention.layers.projection import Projection
from keras_attention.layers.token_embedding import TokenEmbedding
from keras_attention.models.common import base_config
from keras_attention.models.encoder_decoder import EncoderDecoder

CELLS = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}
ATTENTIONS = ("bahdanau", "luong")


@keras.saving.register_keras_serializable("keras_attention")
class RecurrentSeq2Seq(EncoderDecoder):
    """A bidirectional RNN as the encoder, and an RNN with attention as the decoder.

    For generation call `encode` once, `empty_cache` with its result, and `decode`
    with one more token in each step. The cache is the decoder's state.

    Reference: Bahdanau et al., 2014 (arXiv:1409.0473); Luong et al., 2015
    (arXiv:1508.04025).

    Args:
        vocabulary_size: The number of tokens in the vocabulary, which both sides
            share.
        embedding_dim: The size of the token vectors.
        hidden_dim: The size of the decoder's state; each direction of the encoder
            has half of it.
        attention: `"bahdanau"`: an additive score of the state before the step, whose
            context is an input of the cell. `"luong"`: a product with the state after
            the step, whose context is an input of the next step.
        cell: The recurrent cell, `"gru"` or `"lstm"`.
        dropout: The dropout rate on the token vectors and on the head's input.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        encoder_token_ids: Int `[B, S]`, or a dict of the first four inputs.
        encoder_padding_mask: Bool or 0 / 1 `[B, S]`, `True` at non-padding tokens.
        decoder_token_ids: Int `[B, T]`: a start token, then the target so far.
        decoder_padding_mask: Bool or 0 / 1 `[B, T]`. Padding does not change the
            state.
        cache: The cache that `empty_cache` or the last call returned. With a cache,
            the encoder is not run.
        training: Whether dropout is active.
        return_hidden_states: Whether the vectors after each layer are returned too.

    Returns:
        A dict: `encoder_sequence_output` `[B, S, hidden_dim]`, `sequence_output`
        `[B, T, E]` and `logits` `[B, T, vocabulary_size]`. If a `cache` was passed,
        the new `cache` takes the place of the encoder's. With
        `return_hidden_states=True` also `encoder_hidden_states` and
        `decoder_hidden_states`, each the embedded tokens and the sequence.

    Example:
    >>> model = ka.RecurrentSeq2Seq(100, embedding_dim=8, hidden_dim=16)
    >>> source, target = np.array([[5, 6, 7, 2]]), np.array([[1, 8, 9]])
    >>> whole = model(source, decoder_token_ids=target)
    >>> cache = model.empty_cache(model.encode(source))
    >>> first = model.decode(target[:, :2], cache=cache)
    >>> step = model.decode(target[:, 2:], cache=first["cache"])
    >>> bool(np.allclose(step["logits"][:, 0], whole["logits"][:, 2], atol=1e-5))
    True
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_dim: int = 256,
        hidden_dim: int = 512,
        *,
        attention: Literal["bahdanau", "luong"] = "bahdanau",
        cell: Literal["gru", "lstm"] = "gru",
        dropout: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        _check(attention, cell, hidden_dim)
        self.vocabulary_size = vocabulary_size
        self.embedding_dim, self.hidden_dim = embedding_dim, hidden_dim
        self.attention, self.cell = attention, cell
        self.dropout = dropout
        self.num_layers, self.max_sequence_length = 1, None
        named = {"dtype": self.dtype_policy}
        self.token_embedding = TokenEmbedding(
            vocabulary_size, embedding_dim, name="token_embedding", **named
        )
        self.embedding_dropout = keras.layers.Dropout(dropout, **named)
        self.encoder = keras.layers.Bidirectional(
            CELLS[cell](
                hidden_dim // 2, return_sequences=True, return_state=True, **named
            ),
            name="encoder",
            **named,
        )
        cells = {"gru": keras.layers.GRUCell, "lstm": keras.layers.LSTMCell}
        attend_first = attention == "bahdanau"
        if attend_first:
            layer = AdditiveAttention(hidden_dim, name="attention", **named)
        else:
            layer = GlobalAttention(
                "general", attentional_vector=False, name="attention", **named
            )
        self.decoder = AttentionRNN(
            AttentionCell(
                cells[cell](hidden_dim, **named),
                layer,
                attend_first=attend_first,
                attention_vector_size=hidden_dim,
                return_attention_scores=True,
                **named,
            ),
            return_sequences=True,
            return_state=True,
            name="decoder",
            **named,
        )
        self.head_dropout = keras.layers.Dropout(dropout, **named)
        self.head = Projection((vocabulary_size,), name="head", **named)
        self.head.supports_masking = True  # the decoder's outputs have a mask
        self.build()

    def build(self, input_shape=None):
        self.token_embedding.build()
        embedded = (None, None, self.embedding_dim)
        self.encoder.build(embedded)
        self.decoder.build(embedded, (None, None, self.hidden_dim))
        self.head.build((None, None, self.hidden_dim))
        self.built = True

    def empty_cache(self, encoded: dict[str, Any]) -> list[Any]:
        """Returns the decoder's state before the first token.

        It holds the projected keys of the encoder's output too.

        Args:
            encoded: The dict that `encode` returned.
        """
        return self.decoder.cell.initial_state(
            encoded["encoder_sequence_output"],
            encoded["encoder_padding_mask"],
            encoded["encoder_states"],
        )

    def _encode(self, token_ids, padding_mask, training):
        x = self.token_embedding(token_ids)  # [B, S, E]
        x = self.embedding_dropout(x, training=training)
        sequence, *states = self.encoder(x, mask=padding_mask, training=training)
        half = len(states) // 2
        joined = [
            ops.concatenate([forward, backward], axis=-1)  # [B, hidden_dim]
            for forward, backward in zip(states[:half], states[half:], strict=True)
        ]
        outputs = {"encoder_sequence_output": sequence, "encoder_states": joined}
        return outputs, [x]

    def _decode(self, token_ids, padding_mask, encoded, cache, training):
        states = self.empty_cache(encoded) if cache is None else cache
        x = self.token_embedding(token_ids)  # [B, T, E]
        embedded = self.embedding_dropout(x, training=training)
        x, _, *states = self.decoder(
            embedded, initial_state=list(states), mask=padding_mask, training=training
        )
        return embedded, self.head_dropout(x, training=training), states

    def _logits(self, x):
        return self.head(x)  # [B, T, V]

    def get_config(self):
        names = (
            "vocabulary_size",
            "embedding_dim",
            "hidden_dim",
            "attention",
            "cell",
            "dropout",
        )
        return {**base_config(self), **{name: getattr(self, name) for name in names}}


def _check(attention, cell, hidden_dim):
    if attention not in ATTENTIONS:
        raise ValueError(
            f"`attention` must be one of {', '.join(ATTENTIONS)}. "
            f"Received: attention={attention!r}"
        )
    if cell not in CELLS:
        raise ValueError(
            f"`cell` must be one of {', '.join(CELLS)}. Received: cell={cell!r}"
        )
    if hidden_dim % 2:
        raise ValueError(
            "`hidden_dim` must be even: each direction of the encoder has half of it. "
            f"Received: hidden_dim={hidden_dim}"
        )
