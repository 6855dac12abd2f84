"""An encoder and a decoder as one reader of texts, for classifiers."""

from typing import Any

import keras
from keras import ops

from keras_attention.blocks.pooling import EndTokenPooler
from keras_attention.models.common import base_config, from_base_config
from keras_attention.models.inputs import standardize_ids
from keras_attention.ops.backend.replicas import ReplicaTraining


@keras.saving.register_keras_serializable("keras_attention")
class Seq2SeqFeatures(ReplicaTraining, keras.Model):
    """The decoder's vectors of a text that the encoder and the decoder both read.

    The decoder reads a start token and then the text without its last token, as in
    training. It makes an encoder-decoder a backbone of tasks such as
    `ka.TextClassifier`: BART classifies with the vector at the end of the text.

    Reference: Lewis et al., "BART", 2019 (arXiv:1910.13461), section 3.1.

    Args:
        seq2seq: A `Seq2SeqTransformer` or a `T5EncoderDecoder`.
        start_token_id: The first token that the decoder reads.
        end_token_id: The id of the token that ends a text; the pooler reads the last
            non-padding token when `None`.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of `token_ids` and `padding_mask`.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at non-padding tokens.
        training: Whether dropout is active.
        return_hidden_states: Whether the vectors after each layer are returned too.

    Returns:
        A dict: `sequence_output` `[B, T, hidden_dim]` and `pooled_output`
        `[B, hidden_dim]`, the vector at the last end token. With
        `return_hidden_states=True` also `encoder_hidden_states` and
        `decoder_hidden_states`, as `seq2seq` returns them.

    Example:
    >>> model = ka.Seq2SeqTransformer(100, 2, 2, 16, 32)
    >>> reader = ka.Seq2SeqFeatures(model, start_token_id=2, end_token_id=2)
    >>> classifier = ka.TextClassifier(reader, ["no", "yes"])
    >>> tuple(classifier(np.array([[0, 5, 6, 2]])).shape)
    (1, 2)
    """

    def __init__(
        self,
        seq2seq: keras.Model,
        start_token_id: int,
        end_token_id: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.seq2seq = seq2seq
        self.start_token_id, self.end_token_id = start_token_id, end_token_id
        self.vocabulary_size = seq2seq.vocabulary_size
        self.hidden_dim = seq2seq.hidden_dim
        self.max_sequence_length = seq2seq.max_sequence_length
        self.pooler = EndTokenPooler(end_token_id, name="pooler")
        self.built = True

    def call(
        self, token_ids, padding_mask=None, training=None, *, return_hidden_states=False
    ):
        inputs = standardize_ids(token_ids, {"padding_mask": padding_mask})
        ids, mask = inputs["token_ids"], inputs["padding_mask"]
        how = {"training": training, "return_hidden_states": return_hidden_states}
        encoded = self.seq2seq.encode(ids, mask, **how)
        shifted = self._shifted(ids, mask)
        decoded = self.seq2seq.decode(shifted, mask, encoded=encoded, **how)
        sequence = decoded["sequence_output"]  # [B, T, E]
        pooled = self.pooler(sequence, ids, mask)  # [B, E]
        outputs = {"sequence_output": sequence, "pooled_output": pooled}
        if return_hidden_states:
            for name, found in (("encoder", encoded), ("decoder", decoded)):
                outputs[f"{name}_hidden_states"] = found[f"{name}_hidden_states"]
        return outputs

    def _shifted(self, ids, mask):
        """Returns the ids one place later, with the start token before the first."""
        start = ops.full_like(ids[:, :1], self.start_token_id)
        shifted = ops.concatenate([start, ids[:, :-1]], axis=1)  # [B, T]
        if mask is None:
            return shifted
        before = ops.concatenate([ops.zeros_like(mask[:, :1]), mask[:, :-1]], axis=1)
        return ops.where(before, shifted, start)

    def get_config(self):
        return {
            **base_config(self),
            "seq2seq": keras.saving.serialize_keras_object(self.seq2seq),
            "start_token_id": self.start_token_id,
            "end_token_id": self.end_token_id,
        }

    @classmethod
    def from_config(cls, config):
        seq2seq = keras.saving.deserialize_keras_object(config["seq2seq"])
        return from_base_config(cls, {**config, "seq2seq": seq2seq})
