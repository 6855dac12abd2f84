"""Answers to questions, as spans of a text."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.blocks.heads import ClassificationHead
from keras_attention.tasks.base import BackboneTask
from keras_attention.tasks.batches import PaddedBatches
from keras_attention.tasks.common import (
    check_same_number,
    check_texts,
    cross_entropy,
    probabilities,
)
from keras_attention.tasks.words import (
    frame_of,
    room_for,
    windows,
    words_of_texts,
)

MAX_ANSWER_TOKENS = 30


@keras.saving.register_keras_serializable("keras_attention")
class QuestionAnswerer(BackboneTask):
    """The first and the last token of the answer to a question, in a text.

    A context that is longer than the model is read in windows that overlap. The best
    span of all windows is the answer.

    Reference: Devlin et al., 2018 (arXiv:1810.04805), section 4.2.

    Args:
        backbone: A `BertEncoder`, or another encoder of this library.
        tokenizer: The backbone's tokenizer, or `None`. `answer` and `batches` need it.
        overlap: The number of tokens that a window of the context shares with the
            window before.
        dropout: The dropout rate in the head.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, the question, then the context; or a dict of all
            inputs.
        segment_ids: Int `[B, T]`, if the backbone takes them.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at non-padding tokens.
        training: Whether dropout is active.

    Returns:
        Logits `[B, 2, T]`: of each token to be the answer's first, and its last.

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

    SETTINGS = ("overlap", "dropout")

    def __init__(
        self,
        backbone: keras.Model,
        tokenizer: Any = None,
        *,
        overlap: int = 64,
        dropout: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(backbone, tokenizer, **kwargs)
        self.overlap, self.dropout = overlap, dropout
        self._add_head(ClassificationHead, 2, dropout=dropout)

    def _logits(self, inputs, training):
        logits = super()._logits(inputs, training)  # [B, T, 2]
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
        """Returns the answer to each question, as a span of its context.

        Args:
            questions: Any number of questions.
            contexts: One text per question.
            no_answer_threshold: How much the sum of the logits of "no answer" may
                exceed that of the best span, for models that were trained on questions
                without an answer. With `None` the answer is always a span.
            max_answer_tokens: The largest number of tokens in an answer.
            batch_size: The number of windows that are computed together.
            verbose: Whether to show a progress bar; `"auto"` shows it from 10 batches
                on.

        Returns:
            A dict per question: `text`, `start` and `end` in characters of the
            context, and `score`, the probability of its first and last token. If there
            is no answer, the text is empty, and start and end are `None`.
        """
        questions = check_texts(self, questions, "questions", "answer")
        contexts = check_texts(self, contexts, "contexts", "answer")
        check_same_number(questions=questions, contexts=contexts)
        rows, found, spans = self._windows(questions, contexts)
        logits: list[np.ndarray] = [np.zeros(0)] * len(rows)
        for chosen, _, batch in self._predict(rows, batch_size, verbose):
            for index, one in zip(chosen, batch, strict=True):
                length = len(rows[index]["token_ids"])
                logits[index] = np.asarray(one, "float32")[:, :length]
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
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
    ) -> PaddedBatches:
        """Returns questions, contexts and answers as batches for `fit` and `evaluate`.

        The target of a window that does not hold the answer is its first token.

        Args:
            questions: One or more questions.
            contexts: One text per question.
            answers: One dict per question, of `text` and `start` (in characters of the
                context); `None` if the context has no answer.
            batch_size: The number of windows per batch.
            shuffle: Whether the order of the windows changes each epoch.
            seed: The seed of the order.
            pad_to_multiple_of: The number whose multiples the lengths of batches are.
                When `None`, they are a few lengths, 4 between two powers of 2, so that
                XLA compiles few shapes; 1 pads to the longest row only.
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
        return self._padded_batches(
            rows,
            targets,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            multiple=pad_to_multiple_of,
        )

    def _windows(self, questions: list[str], contexts: list[str]):
        """Splits the contexts into windows that fit behind their questions.

        Returns:
            The rows; for each row the number of its question, the index of the
            context's first token and the word of each of its tokens; and the spans of
            the words of each context.
        """
        frame = frame_of(self.tokenizer)
        special = len(frame.before) + len(frame.between) + len(frame.after)
        firsts = words_of_texts(self.tokenizer, questions)
        seconds = words_of_texts(self.tokenizer, contexts)
        rows, found = [], []
        pairs = zip(firsts, seconds, strict=True)
        for number, (question, context) in enumerate(pairs):
            room = room_for(self, special + len(question.token_ids))
            offset = len(frame.before) + len(question.token_ids) + len(frame.between)
            overlap = min(self.overlap, room - 1)
            for ids, word_of in windows(context, room, overlap):
                rows.append(frame.pair(question.token_ids, ids))
                found.append((number, offset, word_of))
        return rows, found, [context.spans for context in seconds]

    def compile_arguments(self) -> dict[str, Any]:
        """Returns the loss and the metrics for `compile`."""
        return {"loss": cross_entropy(), "metrics": ["accuracy"]}


def _target(answer, context, spans, word_of) -> np.ndarray:
    """Returns the first and last token of an answer in a window, or -1 and -1."""
    start, text = answer["start"], answer["text"]
    end = start + len(text)
    inside = [i for i, (s, e) in enumerate(spans) if s < end and e > start]
    if context[start:end] != text or not inside:
        raise ValueError(
            "An answer must be in its context, beginning at its `start`, and have a "
            f"word. Received: {text!r} at {start}, where the context has "
            f"{context[start:end]!r}"
        )
    first = np.nonzero(word_of == inside[0])[0]
    last = np.nonzero(word_of == inside[-1])[0]
    if not len(first) or not len(last):
        return np.array([-1, -1], "int32")
    return np.array([first[0], last[-1]], "int32")


def _best_span(context, spans, parts, longest, threshold) -> dict[str, Any]:
    """Returns the answer with the largest sum of logits in all windows of a context."""
    best, words = None, (0, 0)
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
            best, words = value, (int(word_of[rows[at]]), int(word_of[columns[at]]))
    if best is None or (threshold is not None and no_answer - best > threshold):
        return {"text": "", "start": None, "end": None, "score": 0.0}
    start, end = spans[words[0]][0], spans[words[1]][1]
    score = _probability(parts, best)
    return {"text": context[start:end], "start": start, "end": end, "score": score}


def _probability(parts, best: float) -> float:
    """Returns the probability of a span whose two logits have the sum `best`.

    It is the product of two softmaxes over the tokens of all windows.
    """
    total = best
    for which in (0, 1):
        logits = np.concatenate(
            [logits[which, o : o + len(words)] for o, words, logits in parts]
        )
        top = float(logits.max())
        share = float(ops.convert_to_numpy(probabilities(logits)).max())
        total -= top - np.log(share)  # log of the sum of exponentials
    return float(np.exp(total))
