"""A recurrent encoder and a recurrent decoder with attention."""

from typing import Any

import keras
from keras import ops

from keras_attention.layers.additive_attention import AdditiveAttention
from keras_attention.layers.attention_cell import AttentionCell
from keras_attention.layers.attention_rnn import AttentionRNN
from keras_attention.layers.global_attention import GlobalAttention
from keras_attention.layers.projection import Projection
from keras_attention.layers.token_embedding import TokenEmbedding
from keras_attention.models.bert import base_config
from keras_attention.models.encoder_decoder import EncoderDecoder

CELLS = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}
ATTENTIONS = ("bahdanau", "luong")


@keras.saving.register_keras_serializable("keras_attention")
class RecurrentSeq2Seq(EncoderDecoder):
    """A bidirectional RNN reads the source, an RNN with attention writes the target.

    For generation call `encode` once, `empty_cache` with what it returned, and
    `decode` with one more token a step: the cache is the decoder's state.

    Reference: Bahdanau et al., 2014 (arXiv:1409.0473); Luong et al., 2015
    (arXiv:1508.04025).

    Args:
        vocabulary_size: Number of tokens, those of both sides together.
        embedding_dim: Size of the token vectors.
        hidden_dim: Size of the decoder's state; the encoder has half of it in each
            direction.
        attention: `"bahdanau"`, an additive score of the state before, read by the
            cell; or `"luong"`, a product with the state after, fed to the next step.
        cell: `"gru"` or `"lstm"`.
        dropout: Rate of dropout on token vectors and on what the head reads.
        **kwargs: Those of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        encoder_token_ids: Int `[B, S]`, or a dict of the first four inputs.
        encoder_padding_mask: Bool or 0 / 1 `[B, S]`, `True` at real tokens.
        decoder_token_ids: Int `[B, T]`: what was written so far, a start token first.
        decoder_padding_mask: Bool or 0 / 1 `[B, T]`; the state passes padding by.
        cache: Of `empty_cache`; the encoder is not run then.
        training: Whether dropout is active.

    Returns:
        A dict: `encoder_sequence_output` `[B, S, hidden_dim]`, `sequence_output`
        `[B, T, E]`, `logits` `[B, T, vocabulary_size]` and, with a `cache` and in
        place of the first, the new `cache`.

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
        attention: str = "bahdanau",
        cell: str = "gru",
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
        self.head.supports_masking = True  # the decoder's outputs carry a mask
        self.build()

    def build(self, input_shape=None):
        self.token_embedding.build()
        embedded = (None, None, self.embedding_dim)
        self.encoder.build(embedded)
        self.decoder.build(embedded, (None, None, self.hidden_dim))
        self.head.build((None, None, self.hidden_dim))
        self.built = True

    def empty_cache(self, encoded: dict[str, Any]) -> list[Any]:
        """The decoder's state before the first token, the memory's keys projected.

        Args:
            encoded: What `encode` returned.
        """
        return self.decoder.cell.initial_state(
            encoded["encoder_sequence_output"],
            encoded["encoder_padding_mask"],
            encoded["encoder_states"],
        )

    def _encode(self, token_ids, keep, training):
        x = self.token_embedding(token_ids)  # [B, S, E]
        x = self.embedding_dropout(x, training=training)
        sequence, *states = self.encoder(x, mask=keep, training=training)
        half = len(states) // 2
        joined = [
            ops.concatenate([forward, backward], axis=-1)  # [B, hidden_dim]
            for forward, backward in zip(states[:half], states[half:], strict=True)
        ]
        return {"encoder_sequence_output": sequence, "encoder_states": joined}

    def _decode(self, token_ids, keep, encoded, cache, training):
        states = self.empty_cache(encoded) if cache is None else cache
        x = self.token_embedding(token_ids)  # [B, T, E]
        x = self.embedding_dropout(x, training=training)
        x, _, *states = self.decoder(
            x, initial_state=list(states), mask=keep, training=training
        )
        return self.head_dropout(x, training=training), states

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
            "`hidden_dim` must be even: the encoder's two directions have half each. "
            f"Received: hidden_dim={hidden_dim}"
        )
