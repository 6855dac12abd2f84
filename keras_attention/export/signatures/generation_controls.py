"""Generation settings that are inputs of an artifact: one value per row."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_attention.export.signatures.signature import TensorInfo
from keras_attention.generation.filters import Temperature, TopK, TopP
from keras_attention.generation.history import History
from keras_attention.generation.settings import GenerationSettings
from keras_attention.models.recurrent_seq2seq import RecurrentSeq2Seq
from keras_attention.ops.attend import BLOCKED
from keras_attention.tasks.seq2seq_lm import Seq2SeqLM

CONTROLS = {
    "max_new_tokens": TensorInfo("int32", ("batch",)),
    "temperature": TensorInfo("float32", ("batch",)),
    "top_k": TensorInfo("int32", ("batch",)),
    "top_p": TensorInfo("float32", ("batch",)),
    "seed": TensorInfo("int32", ("batch",)),
}
"""The inputs that choose how a row is generated.

Temperature 0 is greedy; `top_k` 0 and `top_p` 1 cut nothing.
"""


@dataclass(frozen=True)
class PerRowControls:
    """Processes logits with one temperature, top-k and top-p per row.

    Attributes:
        temperature: Float `[B]`; 0 is greedy.
        top_k: Int `[B]`; 0 cuts nothing.
        top_p: Float `[B]`; 1 cuts nothing.
    """

    temperature: Any
    top_k: Any
    top_p: Any

    def __call__(self, history: History, logits: Any) -> Any:
        size = logits.shape[-1]
        greedy = self.temperature == 0

        def most_likely():
            first = tf.argmax(logits, axis=-1)[:, None]
            return tf.where(tf.range(size, dtype=first.dtype) == first, 0.0, BLOCKED)

        def filtered():
            k = tf.where(self.top_k == 0, size, self.top_k)
            changed = Temperature(tf.where(greedy, 1.0, self.temperature))(
                history, logits
            )
            changed = TopK(k)(history, changed)
            cut = TopP(self.top_p)(history, changed)
            cut = tf.where(self.top_p[:, None] < 1, cut, changed)
            return tf.where(greedy[:, None], most_likely(), cut)

        return tf.cond(tf.reduce_all(greedy), most_likely, filtered)


def check_settings(
    settings: GenerationSettings, from_text: bool, controls: bool, tokenizer: Any
) -> None:
    """Refuses what a graph cannot do.

    Args:
        settings: The settings that are fixed at export.
        from_text: Whether prompts are texts.
        controls: Whether the `CONTROLS` are inputs.
        tokenizer: The tokenizer of the model, or `None`.
    """
    if from_text and tokenizer is None:
        raise ValueError(
            "Prompts of text need a tokenizer: build the model with `tokenizer=`, or "
            "pass `from_text=False`. Received: tokenizer=None"
        )
    on_host = settings.allowed_tokens is not None or settings.stop_strings
    if on_host or settings.num_return_sequences > 1:
        raise ValueError(
            "A graph ends rows by tokens and runs no Python, and `num_answers` chooses "
            "how many answers it returns: omit `stop_strings`, `allowed_tokens` and "
            f"`num_return_sequences`. Received: settings={settings}"
        )
    if settings.num_beam_groups > 1 or settings.penalty_alpha is not None:
        raise ValueError(
            "A graph searches greedily, by sampling or with beams: omit "
            f"`num_beam_groups` and `penalty_alpha`. Received: settings={settings}"
        )
    if controls and (settings.do_sample or settings.num_beams > 1):
        raise ValueError(
            "With `controls`, each request chooses how tokens are sampled, and beam "
            "search is not possible: omit `do_sample` and `num_beams`, or pass "
            f"`controls=False`. Received: settings={settings}"
        )


def check_answers(
    model: Any, settings: GenerationSettings, num_answers: int, alignments: bool
) -> None:
    """Refuses numbers of answers and alignments that the model does not have.

    Args:
        model: A `CausalLM` or a `Seq2SeqLM`.
        settings: The settings that are fixed at export.
        num_answers: The number of answers of each prompt.
        alignments: Whether the weights between target and source are asked for.
    """
    if not 1 <= num_answers <= settings.num_beams:
        raise ValueError(
            "`num_answers` is from 1 to the number of beams; without beams send the "
            "prompt several times, each with its `seed`. "
            f"Received: num_answers={num_answers}, num_beams={settings.num_beams}"
        )
    if not alignments:
        return
    if not isinstance(model, Seq2SeqLM) or isinstance(model.backbone, RecurrentSeq2Seq):
        raise ValueError(
            "`alignments` are the weights between target and source of a `Seq2SeqLM`; "
            "a recurrent decoder keeps them inside its loop. Omit `alignments`. "
            f"Received: model={model!r}"
        )
    if num_answers > 1:
        raise ValueError(
            "`alignments` are those of one answer per source: omit `num_answers`. "
            f"Received: num_answers={num_answers}"
        )
