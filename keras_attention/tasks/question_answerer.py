"""Answers to questions, as places in a text."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.blocks.heads import ClassificationHead
from keras_attention.models.common import initializer
from keras_attention.models.inputs import standardize_ids
from keras_attention.tasks.batches import PaddedBatches, padded_rows
from keras_attention.tasks.common import (
    batches_by_length,
    check_same_number,
    check_texts,
    freeze_unread_pooler,
    padding_of,
    parts_config,
    probabilities,
    run_backbone,
    with_parts,
)
from keras_attention.tasks.words import (
    frame_of,
    room_for,
    windows,
    words_of_texts,
)

PARTS = ("backbone", "tokenizer")
MAX_ANSWER_TOKENS = 30


@keras.saving.register_keras_serializable("keras_attention")
class QuestionAnswerer(keras.Model):
    """Where in a text the answer to a question stands: its first and its last token.

    A context longer than the model is read in windows that overlap, and the best span
    of all windows is the answer.

    Reference: Devlin et al., 2018 (arXiv:1810.04805), section 4.2.

    Args:
        backbone: A `BertEncoder`, or another encoder of this library.
        tokenizer: The backbone's, for `answer` and `batches`; or `None`.
        overlap: Tokens that a window of the context shares with the one before.
        dropout: Rate, in the head.
        **kwargs: Those of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of all inputs: question, then context.
        segment_ids: Int `[B, T]`, where the backbone takes them.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at real tokens.
        training: Whether dropout is active.

    Returns:
        Logits `[B, 2, T]`: of each token to be the first, and to be the last.

    Example:
    >>> backbone = ka.BertEncoder(
    ...     vocabulary_size=100,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> model = ka.QuestionAnswerer(backbone)
    >>> tuple(model(np.array([[1, 2, 3, 4]])).shape)
    (1, 2, 4)
    """

    def __init__(
        self,
        backbone: keras.Model,
        tokenizer: Any = None,
        *,
        overlap: int = 64,
        dropout: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.backbone, self.tokenizer = backbone, tokenizer
        self.overlap, self.dropout = overlap, dropout
        self.head = ClassificationHead(
            2,
            dropout=dropout,
            kernel_initializer=initializer(),
            name="head",
            dtype=self.dtype_policy,
        )
        freeze_unread_pooler(self)
        self.build()

    def build(self, input_shape=None):
        self.head.build((None, None, self.backbone.hidden_dim))
        self.built = True

    def call(self, token_ids, segment_ids=None, padding_mask=None, training=None):
        inputs = standardize_ids(
            token_ids, {"segment_ids": segment_ids, "padding_mask": padding_mask}
        )
        outputs = run_backbone(self.backbone, inputs, training)
        logits = self.head(outputs["sequence_output"], training=training)  # [B, T, 2]
        return ops.transpose(logits, (0, 2, 1))  # [B, 2, T]

    def answer(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        *,
        no_answer_threshold: float | None = None,
        max_answer_tokens: int = MAX_ANSWER_TOKENS,
        batch_size: int = 16,
        verbose: bool | str = "auto",
    ) -> list[dict[str, Any]]:
        """The answer to each question, as it stands in its context.

        Args:
            questions: Any number of questions.
            contexts: The text to each question.
            no_answer_threshold: For models trained on questions without an answer:
                how far the logits of "no answer" may lie above those of the best
                span. `None` always gives a span.
            max_answer_tokens: Longest answer.
            batch_size: Windows computed at a time.
            verbose: Whether to show a progress bar; `"auto"` from 10 batches on.

        Returns:
            A dict a question: `text`, `start` and `end` in characters of the context,
            and `score`, the probability of its two ends. Without an answer the text
            is empty, and start and end are `None`.
        """
        questions = check_texts(self, questions, "questions", "answer")
        contexts = check_texts(self, contexts, "contexts", "answer")
        check_same_number(questions=questions, contexts=contexts)
        rows, found, spans = self._windows(questions, contexts)
        logits: list[np.ndarray] = [np.zeros(0)] * len(rows)
        lengths = [len(row["token_ids"]) for row in rows]
        for chosen in batches_by_length(lengths, batch_size, verbose):
            inputs = padded_rows([rows[i] for i in chosen], padding_of(self.tokenizer))
            for index, one in zip(chosen, self.predict_on_batch(inputs), strict=True):
                logits[index] = np.asarray(one, "float32")[:, : lengths[index]]
        of_question: list[list[int]] = [[] for _ in questions]
        for index, (number, _, _) in enumerate(found):
            of_question[number].append(index)
        return [
            _best_span(
                context,
                places,
                [(*found[i][1:], logits[i]) for i in mine],
                max_answer_tokens,
                no_answer_threshold,
            )
            for context, places, mine in zip(contexts, spans, of_question, strict=True)
        ]

    def batches(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        answers: Sequence[Mapping[str, Any] | None],
        *,
        batch_size: int = 16,
        shuffle: bool = True,
    ) -> PaddedBatches:
        """Questions, contexts and answers as batches for `fit` and `evaluate`.

        A window that does not hold the answer is taught to point at its first token.

        Args:
            questions: One or more questions.
            contexts: The text to each.
            answers: A dict of `text` and `start` (in characters of the context) to
                each, or `None` where the context has no answer.
            batch_size: Windows at a time.
            shuffle: Whether they come in another order each epoch.
        """
        questions = check_texts(self, questions, "questions", "batches")
        contexts = check_texts(self, contexts, "contexts", "batches")
        check_same_number(questions=questions, contexts=contexts, answers=answers)
        rows, found, spans = self._windows(questions, contexts)
        targets = []
        for number, offset, word_of in found:
            answer, target = answers[number], np.zeros(2, "int32")
            if answer is not None:
                target = _target(answer, contexts[number], spans[number], word_of)
                target = target + offset if (target >= 0).all() else target * 0
            targets.append(target)
        return PaddedBatches(
            rows,
            targets,
            batch_size=batch_size,
            shuffle=shuffle,
            padding=padding_of(self.tokenizer),
        )

    def _windows(self, questions: list[str], contexts: list[str]):
        """Rows; of each its question, the place of its context and its words; spans."""
        frame = frame_of(self.tokenizer)
        special = len(frame.before) + len(frame.between) + len(frame.after)
        asked = words_of_texts(self.tokenizer, questions)
        read = words_of_texts(self.tokenizer, contexts)
        rows, found = [], []
        for number, (question, context) in enumerate(zip(asked, read, strict=True)):
            room = room_for(self, special + len(question.token_ids))
            offset = len(frame.before) + len(question.token_ids) + len(frame.between)
            overlap = min(self.overlap, room - 1)
            for ids, word_of in windows(context, room, overlap):
                rows.append(frame.pair(question.token_ids, ids))
                found.append((number, offset, word_of))
        return rows, found, [context.spans for context in read]

    def compile_arguments(self) -> dict[str, Any]:
        """Loss and metrics for `compile`."""
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"loss": loss}

    def get_config(self):
        config = {"overlap": self.overlap, "dropout": self.dropout}
        return {**parts_config(self, PARTS), **config}

    @classmethod
    def from_config(cls, config):
        return cls(**with_parts(config, PARTS))


def _target(answer, context, spans, word_of) -> np.ndarray:
    """First and last token of an answer in a window; -1 where it is not there."""
    start, text = answer["start"], answer["text"]
    end = start + len(text)
    if context[start:end] != text or not text:
        raise ValueError(
            "An answer must stand in its context where it says. Received: "
            f"{text!r} at {start}, where the context has {context[start:end]!r}"
        )
    inside = [i for i, (s, e) in enumerate(spans) if s < end and e > start]
    first = np.nonzero(word_of == inside[0])[0]
    last = np.nonzero(word_of == inside[-1])[0]
    if not len(first) or not len(last):
        return np.array([-1, -1], "int32")
    return np.array([first[0], last[-1]], "int32")


def _best_span(context, spans, parts, longest, threshold) -> dict[str, Any]:
    """The span with the largest sum of logits, over all windows of one context."""
    best, place = None, (0, 0)
    no_answer = min(float(logits[0, 0] + logits[1, 0]) for *_, logits in parts)
    for offset, word_of, logits in parts:
        if not len(word_of):
            continue
        first, last = logits[:, offset : offset + len(word_of)]
        sums = first[:, None] + last[None, :]  # [T, T]
        ahead = np.subtract.outer(np.arange(len(first)), np.arange(len(first)))
        allowed = (ahead <= 0) & (ahead > -longest)
        rows, columns = np.nonzero(allowed)
        at = int(np.argmax(sums[rows, columns]))
        value = float(sums[rows[at], columns[at]])
        if best is None or value > best:
            best, place = value, (int(word_of[rows[at]]), int(word_of[columns[at]]))
    if best is None or (threshold is not None and no_answer - best > threshold):
        return {"text": "", "start": None, "end": None, "score": 0.0}
    start, end = spans[place[0]][0], spans[place[1]][1]
    score = _probability(parts, best)
    return {"text": context[start:end], "start": start, "end": end, "score": score}


def _probability(parts, best: float) -> float:
    """Of two ends whose logits sum to `best`, among the tokens of all windows."""
    total = best
    for which in (0, 1):
        logits = np.concatenate(
            [logits[which, o : o + len(words)] for o, words, logits in parts]
        )
        top = float(logits.max())
        share = float(ops.convert_to_numpy(probabilities(logits)).max())
        total -= top - np.log(share)  # log of the sum of exponentials
    return float(np.exp(total))
